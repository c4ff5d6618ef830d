"""Checks for chapter 4, *A first CapsNet*: margin loss by hand, making capsules, masking, margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors, to_number, unanswered

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
    first, second, third = HAND_LENGTHS
    present, absent = 0.9 - first, second - 0.1
    below = third - 0.1  # negative: this capsule is short enough already
    expected = present**2 + 0.5 * absent**2
    praise = "0.04 for the right class, 0.045 for the second, nothing for the third."
    mistakes = {
        present + 0.5 * absent:
            "These are the hinges before squaring. Square each one: small errors then cost little.",
        present**2 + absent**2: "The wrong classes are down-weighted: their squares are multiplied by 0.5.",
        expected + 0.5 * below**2: "The third capsule is already below 0.1: max(0, ...) makes its term zero.",
        expected / 3: "You took the mean over the classes. The margin loss is their sum; images are averaged.",
        present**2: "That is the right class alone. The second capsule is longer than 0.1 and costs something.",
        0.5 * absent**2: "Those are the wrong classes alone. The right capsule is still shorter than 0.9.",
        0.5 * (present**2 + absent**2): "Only the wrong classes are multiplied by 0.5; the right one counts in full.",
        (present + 0.5 * absent) ** 2: "Square each hinge by itself, then add. You added first.",
    }  # fmt: skip
    advice = (
        "Write the terms down one by one: (0.9 - 0.7)² for the right class, 0.5 (|v| - 0.1)² for a wrong one."
    )
    return check_number(answer, {expected: praise}, mistakes, advice, absolute=5e-5)


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
        wanted = f"For features {list(shape)} the shape [B, I, D] = {[B, I, dim]} is expected"
        return Verdict(False, f"{wanted}, got {list(result.shape)}.")
    split = features.view(B, types, dim, H, W)
    mistakes = {
        "A bare view or reshape: each capsule holds neighbouring pixels of one channel. Move the axis of the D "
        "channels to the end before you flatten.": features,
        "The D channels are last, but rows and columns changed places: keep H before W.":
            split.permute(0, 1, 4, 3, 2),
        "The capsules are right, their order is not: yours goes location by location. capsnb's goes type by type, then "
        "row by row, so the type stays in front of H and W.": features.permute(0, 2, 3, 1),
        "A capsule's D channels are neighbours: split the channels into (types, dim), not (dim, types).":
            features.view(B, dim, types, H, W).permute(0, 2, 3, 4, 1),
    }  # fmt: skip
    expected, first = split.permute(0, 1, 3, 4, 2).reshape(B, I, dim), result[0, 0].long().tolist()
    return compare_tensors(
        result,
        expected,
        {why: mistake.reshape(B, I, dim) for why, mistake in mistakes.items()},
        "Each capsule holds the D channels of one type at one location.",
        "[B, I, D]",
        f"On features that count up from 0 the first capsule should hold channels 0 to {dim - 1} of the first "
        f"location, {expected[0, 0].long().tolist()}; yours holds {first}.",
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
        return Verdict(
            False,
            "You return the E numbers of one capsule, so the decoder does not learn whose they are. Keep "
            "all J*E places and set the other capsules to zero.",
        )
    if result.shape != (B, J * E):
        return Verdict(
            False,
            "The decoder's first layer takes one vector per image, all capsules side by side: for capsules "
            f"{[B, J, E]} the shape {[B, J * E]} is expected, got {list(result.shape)}.",
        )
    labelled, predicted = torch.zeros_like(capsules), torch.zeros_like(capsules)
    labelled[images, labels], predicted[images, longest] = capsules[images, labels], capsules[images, longest]
    mistakes = {
        "You kept the longest capsule. While training that is the prediction, at first often wrong: the right capsule "
        "would not learn to describe its image. Use the labels.": predicted.flatten(1),
        "Nothing is masked: the decoder may draw from any capsule, so the right one need not describe anything.":
            capsules.flatten(1),
        "The mask is upside down: you zeroed the labelled capsule and kept the others.":
            (capsules - labelled).flatten(1),
    }  # fmt: skip
    praise = "Only the labelled capsule is left, in its own place."
    advice = (
        "Some numbers differ: the E numbers of the labelled capsule must be unchanged and in their own place, "
        "all others zero."
    )
    return compare_tensors(result, labelled.flatten(1), mistakes, praise, "[B, J*E]", advice)


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
        return Verdict(False, "Three numbers are asked for, one for each margin, as in (1.0, 2.0, 3.0).")
    numbers: list[float] = []
    for part in map(to_number, answer):
        if isinstance(part, Verdict):
            wrong = Verdict(False, f"Three numbers are asked for, got {answer!r}.")
            return part if part.right is None else wrong
        numbers.append(part)
    distances = SLOPE_LENGTH - torch.tensor(SLOPE_MARGINS, dtype=torch.float64)
    hinges = distances.clamp(min=0)
    praise = (
        "The slope falls as the margin grows, and is zero where the margin exceeds the length, as at 0.3."
    )
    mistakes = {
        "These are the losses themselves. Their slope is asked for.": 0.5 * hinges**2,
        "The wrong classes are down-weighted: multiply by 0.5.": 2 * hinges,
        "The derivative of a square brings down a factor of 2.": 0.5 * hinges,
        "That is the step of gradient descent. The slope is positive: longer costs more.": -hinges,
        "Below the margin the hinge is flat: at m- = 0.3 a capsule of length 0.2 gets no gradient.": distances,
    }
    advice = "Differentiate 0.5 max(0, |v| - m-)² with respect to |v|, then put in |v| = 0.2."
    found = torch.tensor(numbers, dtype=torch.float64)
    return compare_tensors(found, hinges, mistakes, praise, "[3]", advice)
