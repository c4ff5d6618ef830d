"""Checks for the exercises. A check explains *why* an answer is wrong. Each chapter that has exercises has a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnb.values import plain

LARGEST = torch.finfo(torch.float64).max


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        right: True, False, or None while the exercise still holds its `...`.
        message: the explanation for the learner.
    """

    right: bool | None
    message: str

    def __repr__(self) -> str:
        mark = {True: "✓ Right.", False: "✗ Not yet.", None: "… Not answered yet."}[self.right]
        return f"{mark} {self.message}".rstrip()


def unanswered(answer: object) -> Verdict | None:
    """The verdict for an answer that is still `...` or None, so that an unchanged notebook runs to its end.

    An answer that is a verdict already, of `call`, stays this verdict.
    """
    if isinstance(answer, Verdict):
        return answer
    if answer is ... or answer is None:
        return Verdict(None, "Replace the ... with your answer and run the cell again.")
    return None


def to_number(answer: object) -> float | Verdict:
    """The answer as a finite float, or the verdict that it is not a finite number."""
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if isinstance(answer, Tensor | np.ndarray) and math.prod(answer.shape) == 1:
        answer = answer.reshape(())
    answer = plain(answer)
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not abs(answer) <= LARGEST:
        return Verdict(False, f"One finite number is expected, got {answer!r}.")
    return float(answer)


def call(answer: object, *arguments: object, **named: object) -> Any:
    """What a learner's function returns for copies of these arguments, or the verdict if it is none or stops."""
    if not callable(answer):
        expected = f"A function is expected, got {type(answer).__name__}: pass it without calling it."
        return unanswered(answer) or Verdict(False, expected)
    copies = (argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments)
    try:
        return answer(*copies, **named)
    except Exception as error:  # every error of a learner's code belongs in the verdict
        return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")


def call_answer(answer: object, *arguments: object) -> Tensor | Verdict:
    """The tensor that a learner's function returns for copies of these arguments, or the verdict if it returns none."""
    result = call(answer, *arguments)
    if (verdict := unanswered(result)) is not None:
        return verdict
    if isinstance(result, np.ndarray | np.generic) and result.dtype.kind in "biufc":
        result = torch.as_tensor(result)
    if not isinstance(result, Tensor):
        return Verdict(False, f"Your function must return a tensor, it returned {type(result).__name__}.")
    return result


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal random numbers, float64; the same seed gives the same numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=1e-5, atol=1e-7, equal_nan=True
    )


def compare_tensors(
    result: Tensor | Verdict,
    expected: Tensor,
    mistakes: dict[str, Tensor],
    praise: str,
    axes: str,
    advice: str | None = None,
) -> Verdict:
    """Compare a learner's tensor with the expected one and with the results of known mistakes.

    Args:
        result: the learner's tensor; or the verdict of `call_answer`, which is returned.
        expected: the right one.
        mistakes: for each explanation, the tensor that this mistake gives.
        praise: the message for a right answer.
        axes: the axes of `expected` in words, such as "[B, J, E]".
        advice: the message for wrong numbers that are none of the mistakes; None gives the largest difference.

    Returns:
        Right; or the explanation of the mistake that gives this result; or what is wrong with the shape; or the advice
        or the largest difference.
    """
    if isinstance(result, Verdict):
        return result
    if _close(result, expected):
        return Verdict(True, praise)
    for explanation, mistake in mistakes.items():
        if _close(result, mistake):
            return Verdict(False, explanation)
    if result.shape != expected.shape:
        shapes = f"{tuple(result.shape)}, it should be {axes}, here {tuple(expected.shape)}"
        return Verdict(False, f"The shape is {shapes}: check the axes.")
    difference = (result.double() - expected).abs().max().item()
    found = f"The shape is right, but the numbers differ by up to {difference:.3g}."
    return Verdict(False, advice or found)


def check_number(
    answer: object,
    right: Mapping[int, str] | Mapping[float, str],
    wrong: Mapping[int, str] | Mapping[float, str],
    advice: str | Callable[[float], str],
    *,
    relative: float = 1e-6,
    absolute: float = 0.0,
) -> Verdict:
    """Compare a learner's number with the right one and with known mistakes.

    Args:
        answer: a number, or `...`; or the verdict of `call`, which is returned.
        right: right number -> praise.
        wrong: number that a mistake gives -> explanation.
        advice: the message for any other number, or a function of the number that makes it.
        relative: how far a number may be from a known one, as a share of it.
        absolute: the same as a difference; the larger of both counts.

    Returns:
        Right; or the explanation of the mistake that gives this number; or the advice.
    """
    value = to_number(answer)
    if isinstance(value, Verdict):
        return value
    for is_right, known in ((True, right), (False, wrong)):
        for number, message in known.items():
            if math.isclose(value, number, rel_tol=relative, abs_tol=absolute):
                return Verdict(is_right, message)
    return Verdict(False, advice(value) if callable(advice) else advice)


def check_function(
    answer: object,
    expected: Callable[..., float],
    mistakes: dict[str, Callable[..., float]],
    cases: Sequence[tuple[float, ...]],
    praise: str,
    advice: str | None = None,
) -> Verdict:
    """Compare a learner's function with the expected one and with known mistakes.

    Args:
        answer: the learner's function, which returns a number; or `...`.
        expected: the right function.
        mistakes: for each explanation, the function that makes this mistake.
        cases: the arguments of each call.
        praise: the message if all cases are right.
        advice: the message for a wrong answer that is none of the mistakes; None names the first wrong case.

    Returns:
        Right; or the explanation of the mistake that gives these results; or the advice or the first wrong case.
    """
    results, tolerance = [], 1e-9
    for case in cases:
        returned = call(answer, *case)
        value = to_number(returned)
        if isinstance(value, Verdict):
            return value
        results.append(value)
        if "float32" in str(getattr(returned, "dtype", None)):  # which has seven digits
            tolerance = 1e-6

    def wrong_cases(function: Callable[..., float]) -> list[int]:
        exact = [function(*case) for case in cases]
        return [k for k, value in enumerate(results) if abs(value - exact[k]) > tolerance * (1 + abs(value))]

    if not (wrong := wrong_cases(expected)):
        return Verdict(True, praise)
    for explanation, mistake in mistakes.items():
        if not wrong_cases(mistake):
            return Verdict(False, explanation)
    case, found = cases[wrong[0]], results[wrong[0]]
    return Verdict(False, advice or f"For {case} it should be {expected(*case):g}, yours is {found:g}.")
