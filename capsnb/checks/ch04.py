"""Checks for chapter 4, *A first CapsNet*: margin loss by hand, making capsules, masking, margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, to_number, unanswered

HAND_LENGTHS, HAND_LABEL = (0.7, 0.4, 0.05), 0
SLOPE_LENGTH, SLOPE_MARGINS = 0.2, (0.0, 0.1, 0.3)


def margin_by_hand(answer: object) -> Verdict:
    """Check the margin loss of lengths 0.7, 0.4, 0.05 where the first class is right.

    Args:
        answer: a number, or `...`.

    Returns:
        Right, or which part of the formula was left out.

    >>> margin_by_hand(0.35)
    ✗ Not yet. These are the hinges before squaring. Square each one: small errors then cost little.
    """
    value = to_number(answer)
    if isinstance(value, Verdict):
        return value
    first, second, third = HAND_LENGTHS
    present, absent = 0.9 - first, second - 0.1
    below = third - 0.1  # negative: this capsule is short enough already
    expected = present**2 + 0.5 * absent**2
    if _close([value], [expected]):
        return Verdict(True, "0.04 for the right class, 0.045 for the second, nothing for the third.")
    mistakes = [
        (present + 0.5 * absent,
         "These are the hinges before squaring. Square each one: small errors then cost little."),
        (present**2 + absent**2, "The wrong classes are down-weighted: their squares are multiplied by 0.5."),
        (expected + 0.5 * below**2, "The third capsule is already below 0.1: max(0, ...) makes its term zero."),
        (expected / 3, "You took the mean over the classes. The margin loss is their sum; images are averaged."),
        (present**2, "That is the right class alone. The second capsule is longer than 0.1 and costs something."),
        (0.5 * absent**2, "Those are the wrong classes alone. The right capsule is still shorter than 0.9."),
        (0.5 * (present**2 + absent**2), "Only the wrong classes are multiplied by 0.5; the right one counts in full."),
        ((present + 0.5 * absent) ** 2, "Square each hinge by itself, then add. You added first."),
    ]  # fmt: skip
    for mistake, why in mistakes:
        if _close([value], [mistake]):
            return _no(why)
    return _no(
        "Write the terms down one by one: (0.9 - 0.7)² for the right class, 0.5 (|v| - 0.1)² for a wrong one."
    )


def to_capsules(answer: object) -> Verdict:
    """Check a function that reshapes features `[B, types*D, H, W]` to capsules `[B, I, D]`, without squash.

    Args:
        answer: a function of (features, types, dim), or `...`.

    Returns:
        Right, or what its capsules hold instead.

    >>> to_capsules(lambda features, types, dim: features.reshape(len(features), -1, dim)).right
    False
    """
    B, types, dim, H, W = 2, 3, 4, 5, 6
    I, shape = types * H * W, (B, types * dim, H, W)
    features = torch.arange(math.prod(shape), dtype=torch.float32).view(shape)
    result = call_answer(answer, features, types, dim)
    if isinstance(result, Verdict):
        return result
    if result.shape != (B, I, dim):
        return _no(
            f"For features {list(shape)} the shape [B, I, D] = {[B, I, dim]} is expected, "
            f"got {list(result.shape)}."
        )
    split = features.view(B, types, dim, H, W)
    if torch.equal(result, split.permute(0, 1, 3, 4, 2).reshape(B, I, dim)):
        return Verdict(True, "Each capsule holds the D channels of one type at one location.")
    mistakes = [
        (
            features,
            "A bare view or reshape: each capsule holds neighbouring pixels of one channel. Move the axis of "
            "the D channels to the end before you flatten.",
        ),
        (
            split.permute(0, 1, 4, 3, 2),
            "The D channels are last, but rows and columns changed places: keep H before W.",
        ),
        (
            features.permute(0, 2, 3, 1),
            "The capsules are right, their order is not: yours goes location by location. capsnb's goes type "
            "by type, then row by row, so the type stays in front of H and W.",
        ),
        (
            features.view(B, dim, types, H, W).permute(0, 2, 3, 4, 1),
            "A capsule's D channels are neighbours: split the channels into (types, dim), not (dim, types).",
        ),
    ]
    for mistake, why in mistakes:
        if torch.equal(result, mistake.reshape(B, I, dim)):
            return _no(why)
    expected, first = split[0, 0, :, 0, 0].long().tolist(), result[0, 0].long().tolist()
    return _no(
        f"On features that count up from 0 the first capsule should hold channels 0 to {dim - 1} of the first "
        f"location, {expected}; yours holds {first}."
    )


def masked(answer: object) -> Verdict:
    """Check a function that keeps the labelled capsule only: `[B, J, E]` and labels `[B]` to `[B, J*E]`.

    Args:
        answer: a function of (capsules, labels), or `...`.

    Returns:
        Right, or what the decoder would see instead.

    >>> masked(lambda capsules, labels: capsules.flatten(1)).right
    False
    """
    B, J, E = 3, 4, 5
    capsules = torch.randn(B, J, E, generator=torch.Generator().manual_seed(0))
    images, labels = torch.arange(B), torch.tensor([2, 0, 3])
    longest = (labels + 1) % J  # no image's longest capsule is its labelled one
    capsules[images, longest] *= 10
    result = call_answer(answer, capsules, labels)
    if isinstance(result, Verdict):
        return result
    if result.shape == (B, E):
        return _no(
            "You return the E numbers of one capsule, so the decoder does not learn whose they are. Keep "
            "all J*E places and set the other capsules to zero."
        )
    if result.shape != (B, J * E):
        return _no(
            "The decoder's first layer takes one vector per image, all capsules side by side: for capsules "
            f"{[B, J, E]} the shape {[B, J * E]} is expected, got {list(result.shape)}."
        )
    labelled, predicted = torch.zeros_like(capsules), torch.zeros_like(capsules)
    labelled[images, labels], predicted[images, longest] = capsules[images, labels], capsules[images, longest]
    if torch.allclose(result, labelled.flatten(1)):
        return Verdict(True, "Only the labelled capsule is left, in its own place.")
    mistakes = [
        (
            predicted,
            "You kept the longest capsule. While training that is the prediction, at first often wrong: the "
            "right capsule would not learn to describe its image. Use the labels.",
        ),
        (
            capsules,
            "Nothing is masked: the decoder may draw from any capsule, so the right one need not describe "
            "anything.",
        ),
        (
            capsules - labelled,
            "The mask is upside down: you zeroed the labelled capsule and kept the others.",
        ),
    ]
    for mistake, why in mistakes:
        if torch.allclose(result, mistake.flatten(1)):
            return _no(why)
    return _no(
        "Some numbers differ: the E numbers of the labelled capsule must be unchanged and in their own place, "
        "all others zero."
    )


def loss_slopes(answer: object) -> Verdict:
    """Check the slope of the loss of a wrong capsule at length 0.2, for margins m- of 0, 0.1 and 0.3.

    Args:
        answer: three numbers, or `...`.

    Returns:
        Right, or which step of the derivative was left out.

    >>> loss_slopes((0.02, 0.005, 0)).right
    False
    """
    if pending := unanswered(answer):
        return pending
    if not isinstance(answer, Sequence | Tensor | np.ndarray) or isinstance(answer, str) or len(answer) != 3:
        return _no("Three numbers are asked for, one for each margin, as in (1.0, 2.0, 3.0).")
    numbers: list[float] = []
    for part in map(to_number, answer):
        if isinstance(part, Verdict):
            return part if part.right is None else _no(f"Three numbers are asked for, got {answer!r}.")
        numbers.append(part)
    distances = [SLOPE_LENGTH - margin for margin in SLOPE_MARGINS]
    hinges = [max(0.0, distance) for distance in distances]
    if _close(numbers, hinges):
        return Verdict(
            True,
            "The slope falls as the margin grows, and is zero where the margin exceeds the length, as at 0.3.",
        )
    mistakes = [
        ([0.5 * hinge**2 for hinge in hinges], "These are the losses themselves. Their slope is asked for."),
        ([2 * hinge for hinge in hinges], "The wrong classes are down-weighted: multiply by 0.5."),
        ([0.5 * hinge for hinge in hinges], "The derivative of a square brings down a factor of 2."),
        (
            [-hinge for hinge in hinges],
            "That is the step of gradient descent. The slope is positive: longer costs more.",
        ),
        (
            distances,
            "Below the margin the hinge is flat: at m- = 0.3 a capsule of length 0.2 gets no gradient.",
        ),
    ]
    for mistake, why in mistakes:
        if _close(numbers, mistake):
            return _no(why)
    return _no("Differentiate 0.5 max(0, |v| - m-)² with respect to |v|, then put in |v| = 0.2.")


def _no(why: str) -> Verdict:
    return Verdict(False, why)


def _close(values: Sequence[float], others: Sequence[float]) -> bool:
    pairs = zip(values, others, strict=True)
    return all(math.isclose(value, other, abs_tol=5e-5) for value, other in pairs)
