"""Checks for the exercises of chapter 18, *One per cent*."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, compare_tensors, random_tensor


def plateau(answer: Callable[[int, float, float, float], float]) -> Verdict:
    """Check the smallest margin loss of a network that gives all images and classes one length.

    Args:
        answer: function of the number of classes, lambda and the two margins that returns the loss.

    Returns:
        The verdict.

    >>> plateau(lambda J, weight, high, low: (high - low) ** 2 * (k := weight * (J - 1)) / (1 + k)).right
    True
    """
    mistakes = {
        "All classes count there, also the right one: the others are J - 1.":
            lambda J, weight, high, low: (high - low) ** 2 * weight * J / (1 + weight * J),
        "Lambda is missing: it multiplies the part of the wrong classes.":
            lambda J, weight, high, low: (high - low) ** 2 * (J - 1) / J,
        "That is the length, not the loss.":
            lambda J, weight, high, low: (high + low * weight * (J - 1)) / (1 + weight * (J - 1)),
        "The margin loss squares distances: the difference of the margins enters squared.":
            lambda J, weight, high, low: (high - low) * weight * (J - 1) / (1 + weight * (J - 1)),
        "That holds for the margins 0.9 and 0.1. Here the margins are arguments.":
            lambda J, weight, high, low: 0.64 * weight * (J - 1) / (1 + weight * (J - 1)),
        "That is the loss of length zero, which is not the smallest.": lambda J, weight, high, low: high**2,
    }  # fmt: skip
    return check_function(
        answer,
        lambda J, weight, high, low: (high - low) ** 2 * weight * (J - 1) / (1 + weight * (J - 1)),
        mistakes,
        [(10, 0.5, 0.9, 0.1), (20, 1.0, 0.8, 0.1), (100, 0.25, 1.0, 0.0), (2, 0.5, 0.9, 0.3)],
        "With many classes it approaches the loss of the constant answer `low`.",
    )


def sum_over_mean(answer: Callable[[float, int, float], float]) -> Verdict:
    """Check by which factor Adam's step is longer if the losses of a batch are summed instead of averaged.

    Args:
        answer: function of the gradient of the mean, the number of images and epsilon that returns the factor.

    Returns:
        The verdict.

    >>> sum_over_mean(lambda g, B, epsilon: B * (abs(g) + epsilon) / (B * abs(g) + epsilon)).right
    True
    """
    mistakes = {
        "That holds far below epsilon alone.": lambda g, B, epsilon: B,
        "That holds far above epsilon alone.": lambda g, B, epsilon: 1,
        "The fraction is upside down: this is the mean's step over the sum's.":
            lambda g, B, epsilon: (B * abs(g) + epsilon) / (B * (abs(g) + epsilon)),
        "The root of the mean square is |g|: it has no sign.":
            lambda g, B, epsilon: B * (g + epsilon) / (B * g + epsilon),
        "That is the sum's step in units of the learning rate. Divide by the mean's step.":
            lambda g, B, epsilon: B * abs(g) / (B * abs(g) + epsilon),
        "The numerators differ, too: the sum's gradient is B times as large.":
            lambda g, B, epsilon: (abs(g) + epsilon) / (B * abs(g) + epsilon),
    }  # fmt: skip
    return check_function(
        answer,
        lambda g, B, epsilon: B * (abs(g) + epsilon) / (B * abs(g) + epsilon),
        mistakes,
        [(1e-8, 128, 1e-8), (-3e-9, 64, 1e-8), (0.5, 2, 1.0), (-2.0, 10, 0.1)],
        "It is 1 for gradients far above epsilon, and B for gradients far below it.",
    )


def variation(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check how much capsules vary between images, as a share of their size.

    Args:
        answer: function of capsules `[B, I, D]` that returns the share as a tensor.

    Returns:
        The verdict.

    >>> variation(lambda u: (u - u.mean(0)).square().mean().sqrt() / u.square().mean().sqrt()).right
    True
    """
    u = 1 + random_tensor(4, 3, 2)
    away, size = u - u.mean(0), u.square().mean().sqrt()
    mistakes = {
        "That mean is over all numbers. Only the mean over images is taken away.":
            (u - u.mean()).square().mean().sqrt() / size,
        "That is a square: take the root of both.": away.square().mean() / size**2,
        "It is a share: divide by the root mean square of u.": away.square().mean().sqrt(),
        "The standard deviation divides by B - 1. The root mean square divides by B.":
            u.var(0).mean().sqrt() / size,
        "That is the mean of absolute values, not the root mean square.": away.abs().mean() / u.abs().mean(),
        "That mean is over the capsules of an image; the question is about different images.":
            (u - u.mean(1, keepdim=True)).square().mean().sqrt() / size,
    }  # fmt: skip
    praise = "Near zero, all images look alike to the layers behind."
    return compare_tensors(call_answer(answer, u), away.square().mean().sqrt() / size, mistakes, praise, "[]")
