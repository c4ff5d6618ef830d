"""Checks for the exercises of chapter 18, *One per cent*."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, compare_tensors, random_tensor


def plateau(answer: Callable[[int], float]) -> Verdict:
    """Check the smallest margin loss of a network that gives all images and classes one length.

    Args:
        answer: function of the number of classes that returns the loss, with lambda = 0.5.

    Returns:
        The verdict.

    >>> plateau(lambda classes: 0.64 * (k := 0.5 * (classes - 1)) / (1 + k)).right
    True
    """
    mistakes = {
        "All classes count there, also the right one: the others are J - 1.": lambda J: 0.64 * 0.5 * J / (1 + 0.5 * J),
        "Lambda is missing: a wrong class counts half.": lambda J: 0.64 * (J - 1) / J,
        "That is the length, not the loss.": lambda J: (0.9 + 0.05 * (J - 1)) / (1 + 0.5 * (J - 1)),
        "The margins are 0.9 and 0.1: the difference is 0.8, and its square 0.64.":
            lambda J: 0.5 * (J - 1) / (1 + 0.5 * (J - 1)),
        "That is the loss of length zero, which is not the smallest.": lambda J: 0.81,
    }  # fmt: skip
    return check_function(
        answer,
        lambda J: 0.64 * 0.5 * (J - 1) / (1 + 0.5 * (J - 1)),
        mistakes,
        [(10,), (20,), (100,), (2,)],
        "With ten classes 0.524, with a hundred 0.627: a training that stays there is blind.",
    )


def adam_step(answer: Callable[[float, float, float], float]) -> Verdict:
    """Check Adam's step for a gradient that never changes.

    Args:
        answer: function of the gradient, the learning rate and epsilon that returns the change of the weight.

    Returns:
        The verdict.

    >>> adam_step(lambda g, rate, epsilon: -rate * g / (abs(g) + epsilon)).right
    True
    """
    mistakes = {
        "Epsilon is missing. It is what matters here.": lambda g, rate, epsilon: -rate * (1 if g > 0 else -1),
        "A step goes against the gradient: the sign.": lambda g, rate, epsilon: rate * g / (abs(g) + epsilon),
        "The root of the mean square is |g|: it has no sign.": lambda g, rate, epsilon: -rate * g / (g + epsilon),
        "Epsilon is outside the root in Adam.": lambda g, rate, epsilon: -rate * g / (g**2 + epsilon) ** 0.5,
        "That is gradient descent. Adam divides by |g| + epsilon.": lambda g, rate, epsilon: -rate * g,
        "Only the size of the step is wrong: the learning rate.": lambda g, rate, epsilon: -g / (abs(g) + epsilon),
    }  # fmt: skip
    cases = [(1e-3, 1e-3, 1e-8), (-2e-8, 1e-2, 1e-8), (1e-8, 1.0, 1e-6), (-3.0, 2.0, 1.0)]
    return check_function(
        answer,
        lambda g, rate, epsilon: -rate * g / (abs(g) + epsilon),
        mistakes,
        cases,
        "Far above epsilon a step is the learning rate; far below, it is proportional to the gradient.",
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
