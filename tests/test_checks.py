"""The checks accept what is right, explain what is wrong, and leave an untouched exercise open.

The answers of each chapter stand in `test_checks_chNN.py`: `RIGHT`, pairs of a check and an answer, and `WRONG`,
with a part of the explanation as a third. What is special about a chapter is tested there.
"""

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from capsnb import checks

CHAPTERS = [
    import_module(f"test_checks_{path.stem}") for path in sorted(Path(checks.__file__).parent.glob("ch*.py"))
]
RIGHT, WRONG = (
    [case for chapter in CHAPTERS for case in getattr(chapter, name)] for name in ("RIGHT", "WRONG")
)
EXERCISES = list(dict.fromkeys(check for check, _ in RIGHT))
FUNCTIONS = list(dict.fromkeys(check for check, answer in RIGHT if callable(answer)))


def name(value):
    """How a test is called: by the chapter and the check."""
    return f"{value.__module__[-4:]}.{value.__name__}" if inspect.isfunction(value) else None


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=name)
def test_right_answers_are_accepted(check, answer):
    verdict = check(answer)
    assert verdict.right is True, verdict
    assert verdict.message


def one_in_a_row(answer):
    return np.array([answer])


FORMS = [np.float64, np.float32, np.array, one_in_a_row, torch.tensor]


def in_form(answer, form):
    """An answer with its numbers in another form, and its tensors as arrays."""
    if type(answer) in (int, float):
        return form(answer)
    if isinstance(answer, tuple | list):
        return type(answer)(in_form(part, np.array if form is one_in_a_row else form) for part in answer)
    if isinstance(answer, dict):
        return {key: in_form(part, form) for key, part in answer.items()}
    return answer.numpy() if isinstance(answer, torch.Tensor) and not answer.requires_grad else answer


@pytest.mark.parametrize("form", FORMS, ids=["float64", "float32", "0-d array", "array of one", "tensor"])
@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=name)
def test_a_right_answer_may_hold_or_return_any_library_s_numbers(check, answer, form):
    def returning(*arguments, **named):
        return in_form(answer(*arguments, **named), form)

    verdict = check(returning if callable(answer) else in_form(answer, form))
    assert verdict.right is True, verdict


@pytest.mark.parametrize(("check", "answer"), [case for case in RIGHT if type(case[1]) is tuple], ids=name)
def test_several_right_numbers_may_be_a_list_or_an_array(check, answer):
    for form in (list, np.array, torch.tensor):
        assert check(form(answer)).right is True, form


@pytest.mark.parametrize(("check", "answer", "reason"), WRONG, ids=name)
def test_wrong_answers_are_explained(check, answer, reason):
    verdict = check(answer)
    assert verdict.right is False, verdict
    assert reason in verdict.message


@pytest.mark.parametrize("check", EXERCISES, ids=name)
@pytest.mark.parametrize("blank", [..., None])
def test_an_untouched_exercise_is_open(check, blank):
    assert check(blank).right is None
    assert "Not answered yet" in repr(check(blank))


@pytest.mark.parametrize("check", FUNCTIONS, ids=name)
@pytest.mark.parametrize("blank", [..., None])
def test_a_function_with_nothing_in_it_is_open(check, blank):
    assert check(lambda *_, **__: blank).right is None


def test_every_check_of_every_chapter_has_right_and_wrong_answers():
    found = set()
    for path in Path(checks.__file__).parent.glob("ch*.py"):
        module = import_module(f"{checks.__name__}.{path.stem}")
        made_there = [
            f for f in vars(module).values() if inspect.isfunction(f) and f.__module__ == module.__name__
        ]
        found |= {function for function in made_there if not function.__name__.startswith("_")}
    assert found == set(EXERCISES) == {check for check, *_ in WRONG}
