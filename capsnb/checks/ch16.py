"""Checks for the exercises of chapter 16, *Faster: mixed precision, accumulation and many devices*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, function, number


def factor(answer: object) -> Verdict:
    """Check the smallest power of two that carries a gradient of 2^-30 into fp16.

    Args:
        answer: a number, or `...`.

    Returns:
        The verdict.

    >>> factor(32)
    ✗ Not yet. 2^-25 lies halfway between zero and fp16's smallest number. The tie goes to the even one: zero.
    """
    value = number(answer)
    if isinstance(value, Verdict):
        return value
    slips = {
        2.0**6: (True, "2^-24 is the smallest number above zero that fp16 has, with one bit left of it."),
        2.0**5: (
            False,
            "2^-25 lies halfway between zero and fp16's smallest number. The tie goes to the even one: zero.",
        ),
        2.0**16: (
            False,
            "That makes it 2^-14, fp16's smallest number with all its bits. Smaller ones have fewer.",
        ),
        2.0**30: (False, "That makes it 1. It need not be as large as that."),
        6.0: (False, "That is the exponent. The factor itself is asked."),
    }
    if value in slips:
        return Verdict(*slips[value])
    if value < 2.0**5:
        return Verdict(
            False,
            "That is too small: fp16 would still make zero of it. Try torch.tensor(..., dtype=torch.half).",
        )
    return Verdict(False, "It survives with a smaller power of two as well, or your number is none.")


def weights(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check the weights of accumulated batches' mean losses.

    Args:
        answer: function of the batches' sizes, integers `[K]`, that returns a weight for each, `[K]`.

    Returns:
        The verdict.

    >>> weights(lambda sizes: sizes / sizes.sum()).right
    True
    """
    sizes = torch.tensor([20, 20, 10])
    if isinstance(result := call(answer, sizes), Verdict):
        return result
    right = sizes.double() / sizes.sum()
    wrong = {
        "Those are the shares if all batches were of one size. The images of the small one would count double.":
            torch.full((3,), 1 / 3, dtype=torch.float64),
        "That adds up means, so that the gradient grows with the number of batches.":
            torch.ones(3, dtype=torch.float64),
        "Those are numbers of images. The weights of a mean sum to one.": sizes.double(),
        "The small batch would count more than the large ones: turn the fraction round.":
            (1 / sizes.double()) / (1 / sizes.double()).sum(),
    }  # fmt: skip
    praise = "Each image counts the same, in whichever batch it is; the weights sum to one."
    return compare(result, right, wrong, praise, "[K]")


def share(answer: Callable[[int, int, int], float]) -> Verdict:
    """Check what a process multiplies its mean loss by, so that DDP's mean is the gradient of the batch.

    Args:
        answer: function of the rows of this process, the rows of the whole batch, and the number of processes.

    Returns:
        The verdict.

    >>> share(lambda mine, rows, processes: processes * mine / rows).right
    True
    """
    slips = {
        "That is its share of the batch. DDP divides the sum by the number of processes once more.":
            lambda mine, rows, processes: mine / rows,
        "That is right only where all processes have equally many rows.": lambda mine, rows, processes: 1.0,
        "That undoes DDP's mean, but a mean over few rows then counts as much as one over many.":
            lambda mine, rows, processes: processes,
        "The fraction is upside down: a process with few rows must count less.":
            lambda mine, rows, processes: rows / (processes * mine) if mine else 0.0,
        "Multiply by the number of processes, since DDP divides by it.":
            lambda mine, rows, processes: mine / (rows * processes),
    }  # fmt: skip
    cases = [(16, 31, 2), (15, 31, 2), (3, 8, 3), (0, 1, 2)]
    praise = "The processes' weights sum to their number, and an empty share counts nothing."
    return function(answer, lambda mine, rows, processes: processes * mine / rows, slips, cases, praise)


def sent(answer: Callable[[float, int], float]) -> Verdict:
    """Check how many bytes each process of a ring sends until all have the sum of everyone's gradients.

    Args:
        answer: function of the gradients' bytes and the number of processes.

    Returns:
        The verdict.

    >>> sent(lambda size, processes: 2 * (processes - 1) / processes * size).right
    True
    """
    slips = {
        "After that each process has the sum of one piece. It takes as long again until all have all pieces.":
            lambda size, processes: (processes - 1) / processes * size,
        "Those are whole gradients, sent to each of the others. In the ring only pieces travel.":
            lambda size, processes: (processes - 1) * size,
        "A piece of 1/N is sent 2(N - 1) times. You sent whole gradients.":
            lambda size, processes: 2 * (processes - 1) * size,
        "That is the limit for many processes. For a few it is less: nobody sends his own last piece.":
            lambda size, processes: 2 * size,
        "The gradients once? Two neighbours could do with that, if each of them added up one half.":
            lambda size, processes: size,
    }  # fmt: skip
    cases = [(100.0, 4), (30.0, 3), (8.0, 8)]
    praise = "Nearly 2 × the gradients, however many processes there are: that is why rings scale."
    return function(
        answer, lambda size, processes: 2 * (processes - 1) / processes * size, slips, cases, praise
    )
