"""Checks for the exercises: they say *why* an answer is wrong. One module for each chapter that has exercises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        right: True, False, or None while the exercise still holds its `...`.
        message: for the learner.
    """

    right: bool | None
    message: str

    def __repr__(self) -> str:
        mark = {True: "✓ Right.", False: "✗ Not yet.", None: "… Not answered yet."}[self.right]
        return f"{mark} {self.message}".rstrip()


def unanswered(answer: object) -> Verdict | None:
    """A verdict for an answer that is still `...` or None, so that an untouched notebook runs to its end."""
    if answer is ... or answer is None:
        return Verdict(None, "Replace the ... with your answer and run the cell again.")
    return None


def number(answer: object) -> float | Verdict:
    """A finite number as a float, or the verdict that the answer is none."""
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
        return Verdict(False, f"One finite number is expected, got {answer!r}.")
    return float(answer)


def call(answer: object, *arguments: object) -> Tensor | Verdict:
    """The tensor that a learner's function returns for copies of these arguments, or the verdict that there is none."""
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not callable(answer):
        return Verdict(False, f"A function is expected, got {type(answer).__name__}: hand it over uncalled.")
    copies = (argument.clone() if isinstance(argument, Tensor) else argument for argument in arguments)
    try:
        result = answer(*copies)
    except Exception as error:  # whatever a learner's code raises belongs into the verdict
        return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
    if (verdict := unanswered(result)) is not None:
        return verdict
    if not isinstance(result, Tensor):
        return Verdict(False, f"Your function must return a tensor, it returned {type(result).__name__}.")
    return result


def sample(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers, the same each time, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double(), other, rtol=1e-5, atol=1e-7)


def compare(result: Tensor, right: Tensor, wrong: dict[str, Tensor], praise: str, axes: str) -> Verdict:
    """Right, or the known mistake that gives exactly this result, or how far off the numbers are."""
    if _same(result, right):
        return Verdict(True, praise)
    for explanation, mistaken in wrong.items():
        if _same(result, mistaken):
            return Verdict(False, explanation)
    if result.shape != right.shape:
        shapes = f"{tuple(result.shape)}, it should be {axes}, here {tuple(right.shape)}"
        return Verdict(False, f"The shape is {shapes}: check the axes.")
    distance = (result.double() - right).abs().max().item()
    return Verdict(False, f"The shape is right, but the numbers differ by up to {distance:.3g}.")


def function(
    answer: object,
    right: Callable[..., float],
    slips: dict[str, Callable[..., float]],
    cases: Sequence[tuple[float, ...]],
    praise: str,
    advice: str | None = None,
) -> Verdict:
    """Right for all cases, or the known mistake that gives just these results, or advice, or the first wrong case."""
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not callable(answer):
        return Verdict(False, f"A function is expected, got {type(answer).__name__}: hand it over uncalled.")
    found = []
    for case in cases:
        try:
            value = number(answer(*case))
        except Exception as error:  # whatever a learner's code raises belongs into the verdict
            return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
        if isinstance(value, Verdict):
            return value
        found.append(value)

    def gives(made: Callable[..., float]) -> bool:
        return all(abs(v - made(*case)) <= 1e-9 * (1 + abs(v)) for v, case in zip(found, cases, strict=True))

    if gives(right):
        return Verdict(True, praise)
    for explanation, mistaken in slips.items():
        if gives(mistaken):
            return Verdict(False, explanation)
    if advice:
        return Verdict(False, advice)
    wrong = next(k for k, v in enumerate(found) if abs(v - right(*cases[k])) > 1e-9 * (1 + abs(v)))
    return Verdict(
        False, f"For {cases[wrong]} it should be {right(*cases[wrong]):g}, yours is {found[wrong]:g}."
    )
