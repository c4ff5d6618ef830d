"""Checks for the exercises of chapter 16, *Faster: mixed precision, accumulation and many devices*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, check_number, compare_tensors


def loss_scale(answer: object) -> Verdict:
    """Check the smallest loss scale, a power of two, with which a gradient of 2^-30 is not zero in fp16.

    Args:
        answer: a number, or `...`.

    Returns:
        The verdict.

    >>> loss_scale(32)
    ✗ Not yet. 2^-25 lies halfway between zero and fp16's smallest number. The tie goes to the even one: zero.
    """
    praise = "2^-24 is the smallest number above zero that fp16 has, with one significant bit."
    mistakes = {
        2.0
        ** 5: "2^-25 lies halfway between zero and fp16's smallest number. The tie goes to the even one: zero.",
        2.0**16: "That makes it 2^-14, fp16's smallest normal number. Smaller ones have fewer bits.",
        2.0**30: "That makes it 1. It need not be as large as that.",
        6.0: "That is the exponent. The question is about the factor itself.",
    }

    def advice(value: float) -> str:
        if value < 2.0**5:
            return "That is too small: fp16 would still make zero of it. Try torch.tensor(..., dtype=torch.half)."
        return "A smaller power of two is enough, or your number is not a power of two."

    return check_number(answer, {2.0**6: praise}, mistakes, advice)


def weights(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check the weights of the mean losses in gradient accumulation.

    Args:
        answer: function of the batches' sizes, integers `[K]`, that returns a weight for each, `[K]`.

    Returns:
        The verdict.

    >>> weights(lambda sizes: sizes / sizes.sum()).right
    True
    """
    sizes = torch.tensor([20, 20, 10])
    result = call_answer(answer, sizes)
    expected = sizes.double() / sizes.sum()
    mistakes = {
        "Those are the shares if all batches were of one size. The images of the small one would count double.":
            torch.full((3,), 1 / 3, dtype=torch.float64),
        "That adds up means, so that the gradient grows with the number of batches.":
            torch.ones(3, dtype=torch.float64),
        "Those are numbers of images. The weights of a mean sum to one.": sizes.double(),
        "The small batch would count more than the large ones: turn the fraction round.":
            (1 / sizes.double()) / (1 / sizes.double()).sum(),
    }  # fmt: skip
    praise = "Each image counts the same, in whichever batch it is; the weights sum to one."
    return compare_tensors(result, expected, mistakes, praise, "[K]")


def loss_weight(answer: Callable[[int, int, int], float]) -> Verdict:
    """Check the factor of a rank's mean loss with which DDP's mean is the gradient of the whole batch.

    Args:
        answer: function of the images of this rank, the images of the whole batch, and the number of ranks.

    Returns:
        The verdict.

    >>> loss_weight(lambda images, batch, ranks: ranks * images / batch).right
    True
    """
    mistakes = {
        "That is the rank's share of the batch. DDP divides the sum by the number of ranks once more.":
            lambda images, batch, ranks: images / batch,
        "That is right only if all ranks have equally many images.": lambda images, batch, ranks: 1.0,
        "That undoes DDP's mean, but a mean over few images then counts as much as one over many.":
            lambda images, batch, ranks: ranks,
        "The fraction is upside down: a rank with few images must count less.":
            lambda images, batch, ranks: batch / (ranks * images) if images else 0.0,
        "Multiply by the number of ranks, since DDP divides by it.":
            lambda images, batch, ranks: images / (batch * ranks),
    }  # fmt: skip
    cases = [(16, 31, 2), (15, 31, 2), (3, 8, 3), (0, 1, 2)]
    praise = "The weights of all ranks sum to their number, and a rank without images has weight 0."
    return check_function(
        answer, lambda images, batch, ranks: ranks * images / batch, mistakes, cases, praise
    )


def ring_bytes(answer: Callable[[float, int], float]) -> Verdict:
    """Check how many bytes each rank sends in a ring all-reduce of the gradients.

    Args:
        answer: function of the gradients' bytes and the number of ranks.

    Returns:
        The verdict.

    >>> ring_bytes(lambda size, ranks: 2 * (ranks - 1) / ranks * size).right
    True
    """
    mistakes = {
        "That is the reduce-scatter: each rank has the sum of one piece. The all-gather takes as long again.":
            lambda size, ranks: (ranks - 1) / ranks * size,
        "Those are whole gradients, sent to each of the others. In a ring only pieces travel.":
            lambda size, ranks: (ranks - 1) * size,
        "A piece of 1/N is sent 2(N - 1) times. You sent whole gradients.":
            lambda size, ranks: 2 * (ranks - 1) * size,
        "That is the limit for many ranks. For a few it is less: the factor is 2(N - 1)/N.":
            lambda size, ranks: 2 * size,
        "The gradients once? Two neighbours could do with that, if each of them added up one half.":
            lambda size, ranks: size,
    }  # fmt: skip
    cases = [(100.0, 4), (30.0, 3), (8.0, 8)]
    praise = "Nearly 2 × the gradients, however many ranks there are: that is why a ring all-reduce scales."
    return check_function(answer, lambda size, ranks: 2 * (ranks - 1) / ranks * size, mistakes, cases, praise)
