"""Checks for the exercises. A check explains *why* an answer is wrong. Each chapter that has exercises has a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capsnb.values import plain


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
    """The verdict for an answer that is still `...` or None, so that an unchanged notebook runs to its end."""
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
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
        return Verdict(False, f"One finite number is expected, got {answer!r}.")
    return float(answer)


def call_answer(answer: object, *arguments: object) -> Tensor | Verdict:
    """The tensor that a learner's function returns for copies of these arguments, or the verdict if it returns none."""
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not callable(answer):
        return Verdict(
            False, f"A function is expected, got {type(answer).__name__}: pass it without calling it."
        )
    copies = (argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments)
    try:
        result = answer(*copies)
    except Exception as error:  # every error of a learner's code belongs in the verdict
        return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
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
    return one.shape == other.shape and torch.allclose(one.double(), other, rtol=1e-5, atol=1e-7)


def compare_tensors(
    result: Tensor, expected: Tensor, mistakes: dict[str, Tensor], praise: str, axes: str
) -> Verdict:
    """Compare a learner's tensor with the expected one and with the results of known mistakes.

    Args:
        result: the learner's tensor.
        expected: the right one, float64.
        mistakes: for each explanation, the tensor that this mistake gives, float64.
        praise: the message for a right answer.
        axes: the axes of `expected` in words, such as "[B, J, E]".

    Returns:
        Right; or the explanation of the mistake that gives this result; or the largest difference.
    """
    if _close(result, expected):
        return Verdict(True, praise)
    for explanation, mistake in mistakes.items():
        if _close(result, mistake):
            return Verdict(False, explanation)
    if result.shape != expected.shape:
        shapes = f"{tuple(result.shape)}, it should be {axes}, here {tuple(expected.shape)}"
        return Verdict(False, f"The shape is {shapes}: check the axes.")
    difference = (result.double() - expected).abs().max().item()
    return Verdict(False, f"The shape is right, but the numbers differ by up to {difference:.3g}.")


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
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not callable(answer):
        return Verdict(
            False, f"A function is expected, got {type(answer).__name__}: pass it without calling it."
        )
    results, tolerance = [], 1e-9
    for case in cases:
        try:
            returned = answer(*case)
            value = to_number(returned)
        except Exception as error:  # every error of a learner's code belongs in the verdict
            return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
        if isinstance(value, Verdict):
            return value
        results.append(value)
        if "float32" in str(getattr(returned, "dtype", None)):  # which has seven digits
            tolerance = 1e-6

    def gives_results(function: Callable[..., float]) -> bool:
        return all(
            abs(v - function(*case)) <= tolerance * (1 + abs(v))
            for v, case in zip(results, cases, strict=True)
        )

    if gives_results(expected):
        return Verdict(True, praise)
    for explanation, mistake in mistakes.items():
        if gives_results(mistake):
            return Verdict(False, explanation)
    if advice:
        return Verdict(False, advice)
    first = next(k for k, v in enumerate(results) if abs(v - expected(*cases[k])) > tolerance * (1 + abs(v)))
    return Verdict(
        False, f"For {cases[first]} it should be {expected(*cases[first]):g}, yours is {results[first]:g}."
    )
