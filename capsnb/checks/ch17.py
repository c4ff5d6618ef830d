"""Checks for the exercises of chapter 17, *Reproducing the papers*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, compare_tensors, random_tensor


def slope(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check the memory that each block adds, a slope by least squares.

    Args:
        answer: function of the depths and of what was measured, `[n]` each, that returns the slope as a tensor.

    Returns:
        The verdict.

    >>> slope(lambda x, y: ((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum()).right
    True
    """
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    y = 3 * x + random_tensor(4)
    result = call_answer(answer, x, y)
    centred = x - x.mean()
    expected = (centred * y).sum() / centred.square().sum()
    mistakes = {
        "That is the line through the first and the last measurement; it ignores the measurements between them.":
            (y[-1] - y[0]) / (x[-1] - x[0]),
        "That is the mean of the steps between neighbours. Depths need not be equally far apart.":
            (y.diff() / x.diff()).mean(),
        "That line goes through zero: without a block there would be no network. Subtract the means first.":
            (x * y).sum() / x.square().sum(),
        "That is a covariance. Divide by the mean square of the centred depths.": (centred * y).mean(),
        "The fraction is upside down: these are blocks per megabyte.": centred.square().sum() / (centred * y).sum(),
        "That is the correlation: it has no unit, and measures how straight the line is, not how steep.":
            torch.corrcoef(torch.stack([x, y]))[0, 1],
    }  # fmt: skip
    praise = "Every measurement counts, and the line need not go through zero."
    return compare_tensors(result, expected, mistakes, praise, "[]")


def deepest(answer: Callable[[float, float, float], float]) -> Verdict:
    """Check how many blocks fit into a memory.

    Args:
        answer: function of the memory, of the memory of a network with one block, and of the memory that each further
            block adds, all in the same unit, that returns the largest number of blocks.

    Returns:
        The verdict.

    >>> deepest(lambda memory, one, more: max((memory - one) // more, 0))
    ✗ Not yet. The network with one block is the first, not the zeroth: you are one block short.
    """
    mistakes = {
        "The network with one block is the first, not the zeroth: you are one block short.":
            lambda memory, one, more: max((memory - one) // more, 0),
        "Where not even one block fits, the answer is 0.": lambda memory, one, more: 1 + (memory - one) // more,
        "Half a block cannot be built: round down.": lambda memory, one, more: max(1 + (memory - one) / more, 0),
        "The first block comes with the whole network around it: take that away first.":
            lambda memory, one, more: memory // more,
        "Rounded up: the last block does not fit any more.":
            lambda memory, one, more: max(1 - (one - memory) // more, 0),
    }  # fmt: skip
    cases = [(1000.0, 400.0, 130.0), (850.0, 400.0, 150.0), (100.0, 400.0, 150.0)]
    praise = "Also where it fits exactly, and where nothing fits."
    return check_function(answer, lambda m, one, more: max(1 + (m - one) // more, 0), mistakes, cases, praise)


def win_rate(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check in which share of the pairs the first network has the higher accuracy; a tie counts one half.

    Args:
        answer: function of two tensors of accuracies, `[n]` each, that returns the share as a tensor.

    Returns:
        The verdict.

    >>> win_rate(lambda a, b: (a > b).double().mean())
    ✗ Not yet. A pair that is equal is worth a half.
    """
    a = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.9], dtype=torch.float64)
    b = torch.tensor([0.8, 0.8, 0.75, 0.5, 0.5, 0.1], dtype=torch.float64)
    result = call_answer(answer, a, b)
    wins, ties = (a > b).double(), (a == b).double()
    mistakes = {
        "A pair that is equal is worth a half.": wins.mean(),
        "Equal pairs count in full there. Each is worth a half.": (wins + ties).mean(),
        "That is how often the other one is ahead.": 1 - (wins + ties / 2).mean(),
        "That compares every run with every other. Runs that share a seed belong together.":
            (a[:, None] > b).double().mean() + (a[:, None] == b).double().mean() / 2,
        "That is a number of pairs. Divide by how many there are.": (wins + ties / 2).sum(),
        "That is the difference of the means. How often is the first one ahead? That is the question.": (a - b).mean(),
    }  # fmt: skip
    praise = "The comparison is paired, so the effect of a seed on both networks cancels."
    return compare_tensors(result, (wins + ties / 2).mean(), mistakes, praise, "[]")
