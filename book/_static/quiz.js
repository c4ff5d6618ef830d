/* The quiz of a chapter marks its answers as they are opened, and counts how many questions were right at the first try.

   A question is a paragraph, its answers are the dropdowns behind it; the right one's explanation begins with "Yes".
   Clicks are counted, not openings: printing opens everything, and so may a search in the page. Nothing is kept. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const section = document.querySelector("section#quiz");
  if (!section) return;
  const { element, button, said } = capsnb;
  const questions = []; // each a list of answers
  for (const child of section.children) {
    if (child.matches("p")) questions.push([]);
    if (child.matches("details")) questions.at(-1).push(child);
  }
  const tried = new Map(); // question -> was the first answer that was opened the right one?
  const told = said();
  const again = button("Try again", forget);

  const isRight = (answer) => answer.querySelector(".sd-summary-content").textContent.trim().startsWith("Yes");

  function mark(answer, question) {
    const [name, symbol, word] = isRight(answer) ? ["quiz-right", "✓", "right"] : ["quiz-wrong", "✗", "wrong"];
    if (!tried.has(question)) tried.set(question, isRight(answer));
    if (!answer.querySelector(".quiz-mark")) {
      answer.classList.add(name);
      const shown = element("span", { class: "quiz-mark" }, element("span", { "aria-hidden": "true" }, symbol), ` ${word}`);
      answer.querySelector(".sd-summary-text").after(shown);
    }
    tell();
  }

  function tell() {
    const right = [...tried.values()].filter(Boolean).length;
    const done = tried.size === questions.length;
    const all = questions.length;
    told.textContent = done ? `${right} of ${all} right at the first try.` : `${tried.size} of ${all} questions answered.`;
    again.hidden = !done;
  }

  function forget() {
    tried.clear();
    for (const answer of questions.flat()) {
      answer.open = false;
      answer.classList.remove("quiz-right", "quiz-wrong");
      answer.querySelector(".quiz-mark")?.remove();
    }
    tell();
    questions[0][0].querySelector("summary").focus(); // the button is gone
  }

  for (const question of questions) {
    for (const answer of question) {
      answer.querySelector("summary").addEventListener("click", () => { if (!answer.open) mark(answer, question); });
    }
  }
  tell();
  section.append(element("div", { class: "quiz-told" }, told, again));
});
