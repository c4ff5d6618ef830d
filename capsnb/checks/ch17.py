"""Checks for the exercises of chapter 17, *Reproducing the papers*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, function, sample


def slope(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check what each block adds, by least squares.

    Args:
        answer: function of the depths and of what was measured, `[n]` each, that returns the slope as a tensor.

    Returns:
        The verdict.

    >>> slope(lambda x, y: ((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum()).right
    True
    """
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    y = 3 * x + sample(4)
    if isinstance(result := call(answer, x, y), Verdict):
        return result
    away = x - x.mean()
    right = (away * y).sum() / away.square().sum()
    wrong = {
        "That is the line through the first and the last measurement; those between say nothing in it.":
            (y[-1] - y[0]) / (x[-1] - x[0]),
        "That is the mean of the steps between neighbours. Depths need not be equally far apart.":
            (y.diff() / x.diff()).mean(),
        "That line goes through zero: without a block there would be no network. Take the means away first.":
            (x * y).sum() / x.square().sum(),
        "That is a covariance. Divide by how far the depths themselves are spread.": (away * y).mean(),
        "The fraction is upside down: blocks per megabyte.": away.square().sum() / (away * y).sum(),
        "That is the correlation: it has no unit, and says how straight, not how steep.":
            torch.corrcoef(torch.stack([x, y]))[0, 1],
    }  # fmt: skip
    return compare(
        result, right, wrong, "Every measurement counts, and depth zero costs what it costs.", "[]"
    )


def deepest(answer: Callable[[float, float, float], float]) -> Verdict:
    """Check how many blocks fit into a memory.

    Args:
        answer: function of the memory, of what a network with one block takes, and of what each further block adds, all
            in the same unit, that returns the largest number of blocks.

    Returns:
        The verdict.

    >>> deepest(lambda memory, one, more: max((memory - one) // more, 0))
    ✗ Not yet. The network with one block is the first, not the zeroth: you are one block short.
    """
    slips = {
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
    return function(
        answer,
        lambda memory, one, more: max(1 + (memory - one) // more, 0),
        slips,
        cases,
        "Also where it fits exactly, and where nothing fits.",
    )


def ahead(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check in which share of pairs the first network is ahead, where a tie is worth a half.

    Args:
        answer: function of two tensors of accuracies, `[n]` each, that returns the share as a tensor.

    Returns:
        The verdict.

    >>> ahead(lambda a, b: (a > b).double().mean())
    ✗ Not yet. A pair that is equal is worth a half.
    """
    a = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.9], dtype=torch.float64)
    b = torch.tensor([0.8, 0.8, 0.75, 0.5, 0.5, 0.1], dtype=torch.float64)
    if isinstance(result := call(answer, a, b), Verdict):
        return result
    wins, ties = (a > b).double(), (a == b).double()
    wrong = {
        "A pair that is equal is worth a half.": wins.mean(),
        "Equal pairs count in full there. Each is worth a half.": (wins + ties).mean(),
        "That is how often the other one is ahead.": 1 - (wins + ties / 2).mean(),
        "That compares every run with every other. Runs that share a seed belong together.":
            (a[:, None] > b).double().mean() + (a[:, None] == b).double().mean() / 2,
        "That is a number of pairs. Divide by how many there are.": (wins + ties / 2).sum(),
        "That is how far the means lie apart. How often is asked.": (a - b).mean(),
    }  # fmt: skip
    return compare(
        result,
        (wins + ties / 2).mean(),
        wrong,
        "Pair by pair, so that what a seed did to both cancels.",
        "[]",
    )
