"""Quizzes: one form in all chapters, answers that no rule of thumb finds, and a script that marks and counts them."""

import re
from typing import NamedTuple

import chapters
import pytest

CHAPTERS = chapters.chapters()
PAGE = "02_vectors_that_squash.html"
QUESTION = re.compile(r"\*\*(\d+)\. (.+)\*\*\n\n")
ANSWER = re.compile(r"<details>\n<summary>(.+)</summary>\n\n\*\*(Yes|No)\.\*\* (.+)\n\n</details>\n\n")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


class Answer(NamedTuple):
    title: str
    right: bool
    explanation: str


def quiz(path) -> list[tuple[str, list[Answer]]]:
    """The questions of a chapter with their answers; whatever else stands in its section is an error."""
    prose = "\n\n".join(cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown")
    (text,) = re.findall(r"^## Quiz\n\n(.*?)^## ", prose, re.DOTALL | re.MULTILINE)
    questions = []
    while text:
        if found := QUESTION.match(text):
            assert int(found[1]) == len(questions) + 1
            questions.append((found[2], []))
        else:
            found = ANSWER.match(text)
            assert found, f"neither a question nor an answer: {text[:80]}"
            questions[-1][1].append(Answer(found[1], found[2] == "Yes", found[3]))
        text = text[found.end() :]
    return questions


@each_chapter
def test_each_question_has_one_right_answer(path):
    questions = quiz(path)
    assert len(questions) >= 3
    for question, answers in questions:
        assert 2 <= len(answers) <= 4, question
        assert sum(answer.right for answer in answers) == 1, question
        for answer in answers:
            assert not re.match("Yes|No[.,]", answer.title), "the explanation says that"
            assert len(answer.explanation) > 10, answer.title


def test_no_rule_of_thumb_finds_the_right_answers():
    """Who always takes the first, the last, the longest or the shortest answer fails more often than not."""

    def length(answer):
        return len(answer.title)

    every = [answers for path in CHAPTERS for _, answers in quiz(path)]
    rules = {
        "first": lambda answers: answers[0],
        "last": lambda answers: answers[-1],
        "longest": lambda answers: max(answers, key=length),
        "shortest": lambda answers: min(answers, key=length),
    }
    hits = {name: sum(rule(answers).right for answers in every) / len(every) for name, rule in rules.items()}
    assert max(hits.values()) < 0.45 and min(hits.values()) > 0.15, hits


def answers_of(page, question: int, *, right: bool):
    """The dropdowns of the right answer to a question, counted from 0, or of its wrong ones."""
    questions = quiz(chapters.BOOK / PAGE.replace(".html", ".ipynb"))
    before = sum(len(answers) for _, answers in questions[:question])
    wanted = [before + k for k, answer in enumerate(questions[question][1]) if answer.right == right]
    return [page.locator("#quiz details").nth(k) for k in wanted]


def mark(answer) -> str:
    return answer.locator(".quiz-mark").inner_text()


def told(page) -> str:
    return page.locator("#quiz [aria-live=polite]").inner_text()


def test_answers_are_marked_by_mouse(page):
    (right,), (wrong, other) = answers_of(page, 0, right=True), answers_of(page, 0, right=False)
    for answer, expected in ((wrong, "✗ wrong"), (right, "✓ right")):
        answer.locator("summary").click()
        assert answer.evaluate("answer => answer.open") and mark(answer) == expected
    assert not other.evaluate("answer => answer.open") and other.locator(".quiz-mark").count() == 0
    assert told(page) == "1 of 4 questions answered."
    wrong.locator("summary").click()
    wrong.locator("summary").click()
    assert mark(wrong) == "✗ wrong", "an answer that is opened again is marked once"
    wrong.locator("summary").click()
    assert not wrong.evaluate("answer => answer.open") and mark(wrong) == "✗ wrong", "closed, it stays marked"


def test_first_tries_are_counted_by_keyboard(page):
    """Wrong at first in the second question, right at once in the others; then everything is forgotten."""
    again = page.get_by_role("button", name="Try again")
    assert told(page) == "0 of 4 questions answered." and not again.is_visible()
    for question in range(4):
        tries = answers_of(page, question, right=True)
        if question == 1:
            tries = answers_of(page, question, right=False)[:1] + tries
        for answer, key in zip(tries, ("Enter", "Space"), strict=False):
            answer.locator("summary").focus()
            page.keyboard.press(key)
            assert mark(answer) in ("✓ right", "✗ wrong")
    assert told(page) == "3 of 4 right at the first try."
    again.focus()
    page.keyboard.press("Enter")
    assert told(page) == "0 of 4 questions answered." and not again.is_visible()
    assert (
        page.locator("#quiz details[open], #quiz .quiz-mark, #quiz .quiz-right, #quiz .quiz-wrong").count()
        == 0
    )
    assert page.evaluate("document.activeElement === document.querySelector('#quiz summary')")


def test_what_nobody_clicked_is_not_counted(page):
    page.evaluate("document.querySelectorAll('#quiz details').forEach(answer => { answer.open = true; })")
    page.locator("#quiz summary").first.click()  # which closes it
    assert page.locator(".quiz-mark").count() == 0
    assert told(page) == "0 of 4 questions answered."


def test_without_scripts_answers_open_all_the_same(pages, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / PAGE).as_uri())
    (right,) = answers_of(page, 0, right=True)
    explanation = right.locator(".sd-summary-content")
    assert not explanation.is_visible()
    right.locator("summary").click()
    assert explanation.inner_text().startswith("Yes.")
    assert page.locator(".quiz-mark, .quiz-told").count() == 0
    context.close()


@each_chapter
def test_page_has_the_questions_of_its_notebook(path, pages, tab):
    page = tab.open((pages / f"{path.stem}.html").as_uri(), "light")
    questions = quiz(path)
    titles = [answer.title for _, answers in questions for answer in answers]
    assert told(page) == f"0 of {len(questions)} questions answered."
    assert page.locator("#quiz summary").count() == len(titles)
    formulas = sum(title.count("$") for title in titles) // 2
    assert page.locator("#quiz summary math").count() == formulas
    assert "$" not in "".join(page.locator("#quiz summary").all_inner_texts())
    assert not tab.errors
