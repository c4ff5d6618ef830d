"""Checks for the exercises of chapter 13, *Memory and time*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, call_answer, check_function, check_number, compare_tensors, to_number
from capsnb.reversible import MAX_LOST_DIGITS

B, J, E = 128, 32, 8


def states(answer: object) -> Verdict:
    """Check how many megabytes weights, gradients and Adam's two moments of one block take in float32.

    Args:
        answer: a number of megabytes (10^6 bytes) for two layers from 32x8 to 32x8, or `...`.

    Returns:
        Right, or what was forgotten.

    >>> states(0.524)
    ✗ Not yet. Those are the weights alone. Their gradients and Adam's two moments are as large, each of them.
    """
    weights = 2 * (J * E) ** 2 * 4 / 1e6
    praise = "Four tensors of the size of the weights: 16 bytes for each trained number."
    mistakes = {
        weights: "Those are the weights alone. Their gradients and Adam's two moments are as large, each of them.",
        2 * weights: "Adam keeps two moments, or the gradients were forgotten: count four tensors.",
        3 * weights: "One of four is missing: weights, gradients, first moments, second moments.",
        weights / 2: "That is one layer's weights. A block has two layers, and four tensors for each.",
        8 * weights: "Those would be float64. A float32 takes four bytes.",
    }
    advice = "Count the numbers in W of one layer, two layers, four tensors, four bytes."
    return check_number(answer, {4 * weights: praise}, mistakes, advice, relative=0.005)


def slope(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    r"""Check the slope of least squares, :math:`\sum (x - \bar x)(y - \bar y) / \sum (x - \bar x)^2`.

    Args:
        answer: function of x and y, `[N]` each, that returns the slope as a tensor.

    Returns:
        The verdict.

    >>> slope(lambda x, y: torch.cov(torch.stack([x, y]))[0, 1] / x.var()).right
    True
    """
    x = torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0], dtype=torch.float64)
    y = torch.tensor([4462.0, 4612.0, 4858.0, 5204.0, 5786.0], dtype=torch.float64)
    centred = x - x.mean()
    expected = (centred * y).sum() / centred.square().sum()
    found = call_answer(answer, x, y)
    if isinstance(found, Verdict):
        return found
    if found.numel() != 1:
        return Verdict(False, f"One number is expected, got a tensor of shape {tuple(found.shape)}.")
    praise = f"{expected:.1f} MB for each block, over these five depths of the paper's first row."
    mistakes = {
        "That is the rise from the first to the last point. It ignores all points between them.":
            (y[-1] - y[0]) / (x[-1] - x[0]),
        "This line goes through the origin. A network without blocks needs memory too: subtract the means first.":
            (x * y).sum() / x.square().sum(),
        "That is the mean of y over x. It counts the memory of everything else for the blocks.": (y / x).mean(),
        "That is the mean rise between neighbours, but the last depths are further apart than the first ones.":
            y.diff().mean(),
        "This is the covariance: divide by the spread of x.": (centred * y).mean(),
        "Upside down: these are blocks for each megabyte.": 1 / expected,
    }  # fmt: skip
    value = found.reshape(())
    advice = f"For the paper's figures you give {value:.4g}; subtract both means and try again."
    return compare_tensors(value, expected, mistakes, praise, "one number", advice)


def break_even_batch(answer: Callable[[int, int], float]) -> Verdict:
    """Check the batch size at which a layer's saved input takes as much memory as its parameter states.

    Args:
        answer: function of J and E that returns B; input `[B, J, E]`, weights `[J, J, E, E]`, Adam, all float32.

    Returns:
        The verdict.

    >>> break_even_batch(lambda J, E: 4 * J * E).right
    True
    """
    mistakes = {
        "That compares with the weights alone. Adam's states are four times as many numbers.": lambda J, E: (
            J * E
        ),
        "Count four: weights, gradients, two moments.": lambda J, E: 3 * J * E,
        "J and E of the input cancel against one J and one E of the weights.": lambda J, E: 4 * (J * E) ** 2,
        "Count four tensors: weights, gradients, two moments.": lambda J, E: 2 * J * E,
        "Both sides have four bytes for each number: they cancel.": lambda J, E: 16 * J * E,
    }
    praise = f"4 J E: {4 * 32 * 8:,} images for the paper's layers, whose batch is {B}. So the states take more memory."
    advice = "Set B J E equal to 4 J² E², and solve for B."
    return check_function(answer, lambda J, E: 4 * J * E, mistakes, [(5, 3)], praise, advice)


def deepest(answer: Callable[[float], float]) -> Verdict:
    """Check how many layers may be inverted before six decimal digits are lost.

    Args:
        answer: function of gamma in (0, 1) that returns the largest whole number of layers.

    Returns:
        The verdict.

    >>> import math
    >>> deepest(lambda gamma: math.floor(6 / -math.log10(gamma))).right
    True
    """
    digits = MAX_LOST_DIGITS
    mistakes: dict[str, Callable[[float], float]] = {
        "Digits are decimal: take the logarithm to base 10, not the natural one.":
            lambda gamma: math.floor(digits / -math.log(gamma)),
        "Digits are decimal: six bits are fewer than two digits.":
            lambda gamma: math.floor(digits / -math.log2(gamma)),
        "One too many: round down, the last layer must still fit.":
            lambda gamma: math.floor(digits / -math.log10(gamma)) + 1,
    }  # fmt: skip
    for gamma in (0.9, 0.5, 0.99):
        value = to_number(call(answer, gamma))
        if isinstance(value, Verdict):
            return value
        known = {mistake(gamma): explanation for explanation, mistake in mistakes.items()}
        advice = f"At gamma {gamma} you allow {value:g} layers; n layers cost -n log10(gamma) digits."
        if value < 0:
            return Verdict(False, "The logarithm of a gamma below 1 is negative: a sign slipped.")
        if value != math.floor(digits / -math.log10(gamma)):
            return Verdict(False, known.get(value, advice))
    return Verdict(True, "131 layers at 0.9, which are 65 blocks. The limit is precision, not memory.")
