"""Checks for the exercises of chapter 5, *Routing without votes*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, call_answer, check_number, compare_tensors, random_tensor

B, T, J, E, D = 2, 5, 3, 4, 6  # all different, so that a mixed-up axis shows in the shape
CIFAR = {"B": 128, "I": 2048, "J": 32, "D": 8, "E": 8}


def votes_megabytes(answer: object) -> Verdict:
    """Check how many megabytes the votes of 128 images take between 2048 and 32 capsules of 8 numbers, in float32.

    Args:
        answer: a number of megabytes (10^6 bytes), or `...`.

    Returns:
        Right, or what was forgotten.

    >>> votes_megabytes(67.1)
    ✗ Not yet. That counts numbers. A float32 takes four bytes.
    """
    numbers = CIFAR["B"] * CIFAR["I"] * CIFAR["J"] * CIFAR["E"] / 1e6
    right = {
        4 * numbers: "B × I × J × E numbers of four bytes; W has the same I, J and E, and no batch.",
        4 * numbers * 1e6 / 2**20: "You counted in mebibytes, 2^20 bytes; in megabytes it is a little more.",
    }
    wrong = {
        numbers: "That counts numbers. A float32 takes four bytes.",
        4 * numbers / CIFAR["B"]: "That is one image. There are 128 in the batch.",
        4 * numbers / CIFAR["E"]: "Those are logits. A vote is a vector of E numbers.",
        4 * numbers * CIFAR["D"]: "D is summed over: a vote has E numbers, not E × D.",
        4 * numbers * 1e6: "Those are bytes. A megabyte has a million of them.",
        8 * numbers: "Those would be float64. A float32 takes four bytes.",
    }
    advice = "Multiply B, I, J, E and the four bytes of a float32, and divide by a million."
    return check_number(answer, right, wrong, advice, relative=0.005)


def weight_gradient(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check the gradient of the transformation matrices of one tile.

    Args:
        answer: function of couplings `[B, T, J]`, ds `[B, J, E]` and u `[B, T, D]` that returns dW, `[T, J, E, D]`.

    Returns:
        The verdict.

    >>> weight_gradient(lambda c, ds, u: torch.einsum("btj,bje,btd->tjed", c, ds, u)).right
    True
    """
    c, ds, u = (
        random_tensor(B, T, J).softmax(dim=-1),
        random_tensor(B, J, E, seed=1),
        random_tensor(B, T, D, seed=2),
    )
    result = call_answer(answer, c, ds, u)
    expected = torch.einsum("btj,bje,btd->tjed", c, ds, u)
    mistakes = {
        "The mean over the batch was taken. W is one for all images, and its gradient is their sum.": expected / B,
        "The couplings are missing: a vote with a small coupling must get a small gradient.":
            torch.einsum("bje,btd->tjed", ds, u),
        "The axes D and E are swapped. W maps D numbers to E: its gradient is [T, J, E, D].":
            expected.transpose(2, 3),
        "The batch is still there. Sum over it.": torch.einsum("btj,bje,btd->btjed", c, ds, u),
    }  # fmt: skip
    praise = "An outer product of the gradient ds and the input u, weighted by the couplings and summed over the batch."
    return compare_tensors(result, expected, mistakes, praise, "[T, J, E, D]")


def traffic(answer: Callable[..., float]) -> Verdict:
    """Check how many numbers the forward pass of the tile loop reads from u and W.

    Args:
        answer: function of B, I, J, D, E and R that returns the number of numbers.

    Returns:
        The verdict.

    >>> traffic(lambda B, I, J, D, E, R: R * (B * I * D + I * J * E * D)).right
    True
    """
    sizes = {"B": 3, "I": 11, "J": 5, "D": 7, "E": 2, "R": 4}
    B, I, J, D, E, R = sizes.values()
    u, W = B * I * D, I * J * E * D
    praise = "Both are read once a round, whatever the size of a tile. Votes are neither written nor read."
    mistakes = {
        u + W: "That is one round. Each of the R rounds (iterations) goes through all tiles again.",
        R * (u + B * W):
            "W is read once a round, for all images of the batch together: that is the purpose of the tile.",
        R * (u + W + B * I * J * E):
            "The votes of a tile are computed and used at once. They are never read back.",
        (R + 1) * (u + W): "The extra round is the backward pass. The question is about the forward pass only.",
        R * u: "Those are the capsules alone. The matrices of each tile must be read as well.",
        R * W: "Those are the matrices alone. The capsules of each tile must be read as well.",
    }  # fmt: skip
    advice = "Ask for each round: how often is each number of u and of W needed?"
    return check_number(call(answer, **sizes), {R * (u + W): praise}, mistakes, advice)
