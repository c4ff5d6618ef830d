"""Checks for the exercises of chapter 1, *Why capsules?*."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnb.checks import Verdict, unanswered

FLAG = (-0.7, 0.8, -90.0)  # where the fourth stroke sits on the seven: x, y, degrees

INVARIANT_TO = {  # for each pooling, the changes of a feature map that never change its output
    "max 2x2": {"swap", "raise"},
    "global max": {"swap", "shuffle", "raise"},
    "global mean": {"swap", "shuffle"},
}
REASONS = {
    ("max 2x2", "swap"): "inside its window a value may stand anywhere, and the largest stays the largest",
    ("max 2x2", "raise"): "a value that is not the largest of its window is never passed on",
    ("max 2x2", "shuffle"): "a value that moves to another window changes two outputs",
    ("global max", "swap"): "the largest of all values is the same, wherever it stands",
    ("global max", "shuffle"): "the largest of all values is the same in any order",
    ("global max", "raise"): "a value that is not even the largest of its window is not the largest of all",
    ("global mean", "swap"): "a sum does not depend on the order of its terms",
    ("global mean", "shuffle"): "a sum does not depend on the order of its terms",
    ("global mean", "raise"): "every value counts in a mean, so raising one raises it",
}


def _move(x: float, y: float, degrees: float) -> Tensor:
    """The chapter's matrix: move by x forwards and y to the left, then turn; it acts on poses (x, y, cos, sin)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[1, 0, x, -y], [0, 1, y, x], [0, 0, cos, -sin], [0, 0, sin, cos]])


def vote(answer: Sequence[float] | Tensor) -> Verdict:
    """Check the vote that is worked out by hand: the bar at (3, 2), turned by 90 degrees.

    Args:
        answer: the pose (x, y, cos, sin) that the bar predicts for the seven, four numbers.

    Returns:
        The verdict.

    >>> vote((4, 2, 0, 1))
    ✓ Right. The bar points up, so its right is the picture's right: from (3, 2) to (4, 2).
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    numbers = _numbers(answer)
    if numbers is None or numbers.shape != (4,):
        return Verdict(False, "Four numbers are expected: x, y, and the cosine and sine of the angle.")
    x, y, cos, sin = numbers.tolist()
    if not _close(numbers[2:], (0, 1)):
        if _close(numbers[2:], (1, 0)):
            why = "That seven is upright. The bar lies along the top of the seven, so both are turned alike."
        elif abs(cos**2 + sin**2 - 1) > 1e-3:
            why = "The last two numbers must be a cosine and a sine: their squares sum to one."
        else:
            why = "The direction is wrong. The bar's matrix does not turn: keep the bar's angle."
        return Verdict(False, why)
    mistakes = {
        (3, 1): "You moved down the *picture*. The offset is measured in the bar's own frame, which is turned.",
        (2, 2): "You turned the offset the wrong way: (0, -1) is the bar's *right*, and the bar points up.",
        (3, 2): "That is where the bar is. The vote is where the *seven* is.",
        (3, 3): "Twice the other way: the seven lies on the bar's right, measured in the bar's own frame.",
    }  # fmt: skip
    if _close(numbers[:2], (4, 2)):
        return Verdict(True, "The bar points up, so its right is the picture's right: from (3, 2) to (4, 2).")
    for place, why in mistakes.items():
        if _close(numbers[:2], place):
            return Verdict(False, why)
    return Verdict(
        False, f"The direction is right, the place ({x:g}, {y:g}) is not: multiply row by row once more."
    )


def transform(answer: Tensor) -> Verdict:
    """Check the transformation matrix of a fourth stroke: its votes must agree with those of the other strokes.

    Args:
        answer: the matrix `[4, 4]` that maps the stroke's pose to its vote for the seven.

    Returns:
        The verdict.

    >>> transform(_move(*FLAG).inverse()).right
    True
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    matrix = _numbers(answer)
    if matrix is None or matrix.shape != (4, 4):
        return Verdict(False, "A 4 x 4 matrix is expected: build it with move(x, y, degrees).")
    x, y, degrees = FLAG
    expected = _move(*FLAG).inverse()
    mistakes = {
        "This leads from the seven to the stroke. A vote goes the other way: take the inverse.": _move(*FLAG),
        "Signs alone do not invert it: the inverse offset is measured in the stroke's frame.": _move(-x, -y, -degrees),
        "The transpose inverts the turn, not the translation: the stroke votes for its own place.": _move(*FLAG).T,
        "The right matrix on the wrong side: its transpose.": expected.T,
        "The identity says: the seven is where I am.": torch.eye(4),
    }  # fmt: skip
    if _close(matrix, expected):
        return Verdict(True, "However the seven is moved and turned, this vote falls on the others.")
    for why, mistake in mistakes.items():
        if _close(matrix, mistake):
            return Verdict(False, why)
    if _close(matrix[:2], expected[:2]):
        return Verdict(False, "The place agrees, the direction does not: look at the angle.")
    if _close(matrix[2:], expected[2:]):
        return Verdict(
            False, "The direction agrees, the place does not: look at the walk back (the translation)."
        )
    return Verdict(False, "Neither place nor direction agrees with the other votes on a turned seven.")


def invariances(answer: Mapping[str, Any]) -> Verdict:
    """Check to which changes of a feature map each pooling is invariant.

    Args:
        answer: for each of "max 2x2", "global max" and "global mean" the set of changes that never change
            its output, out of "swap", "shuffle" and "raise".

    Returns:
        The verdict, with the first mistake.

    >>> invariances(INVARIANT_TO).right
    True
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not isinstance(answer, Mapping) or set(answer) != set(INVARIANT_TO):
        return Verdict(False, f"A dict with the keys {', '.join(map(repr, INVARIANT_TO))} is expected.")
    for pooling, expected in INVARIANT_TO.items():
        changes = answer[pooling]
        if (verdict := unanswered(changes)) is not None:
            return verdict
        changes = {changes} if isinstance(changes, str) else set(changes)
        if unknown := changes - {"swap", "shuffle", "raise"}:
            unknown_names = ", ".join(sorted(map(repr, unknown)))
            return Verdict(False, f"{pooling}: {unknown_names} is none of 'swap', 'shuffle', 'raise'.")
        for change in ("swap", "shuffle", "raise"):
            if (change in changes) != (change in expected):
                relation = "is invariant to" if change in expected else "is not invariant to"
                return Verdict(False, f"{pooling} {relation} '{change}': {REASONS[pooling, change]}.")
    return Verdict(
        True,
        "A maximum is invariant to positions and to all values but the largest; a mean only to positions.",
    )


def _numbers(answer: Any) -> Tensor | None:
    try:
        numbers = answer.detach().cpu() if isinstance(answer, Tensor) else np.asarray(answer)
        return torch.as_tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return None


def _close(one: Tensor, other: Tensor | Sequence[float]) -> bool:
    return torch.allclose(one, torch.as_tensor(other, dtype=one.dtype), atol=1e-2)
