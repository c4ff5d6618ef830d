"""Checks for the exercises of chapter 3, *Routing by agreement*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, compare_tensors, random_tensor
from capsnb.functional import squash
from capsnb.routing import routing_by_agreement

B, I, J, E = 2, 5, 3, 4  # all different, so that a mixed-up axis shows in the shape


def update(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check the agreement step.

    Args:
        answer: function of logits `[B, I, J]`, votes `[B, I, J, E]` and v `[B, J, E]` that returns the new
            logits.

    Returns:
        The verdict.

    >>> update(lambda logits, votes, v: logits + torch.einsum("bije,bje->bij", votes, v)).right
    True
    """
    logits, votes, v = (
        random_tensor(B, I, J),
        random_tensor(B, I, J, E, seed=1),
        random_tensor(B, J, E, seed=2),
    )
    result = call_answer(answer, logits, votes, v)
    agreement = torch.einsum("bije,bje->bij", votes, v)
    cosine = torch.cosine_similarity(votes, v[:, None], dim=-1)
    mistakes = {
        "This is the agreement of this iteration alone. Logits *collect* agreement: add it to the old ones.":
            agreement,
        "The agreement is subtracted: the coupling to a whole that agrees with the part would fall.":
            logits - agreement,
        "These are couplings already. The softmax is the first step of the next iteration; return the logits.":
            (logits + agreement).softmax(dim=-1),
        "This is the cosine. Agreement is the plain inner product: long votes and outputs count for more.":
            logits + cosine,
        "The agreement was averaged over E; the inner product is a sum.": logits + agreement / E,
    }  # fmt: skip
    praise = "Agreement is an inner product, and logits collect it."
    return compare_tensors(result, logits + agreement, mistakes, praise, "[B, I, J]")


def shift(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check a shift of the logits that leaves the couplings unchanged.

    Args:
        answer: function of logits `[B, I, J]` and one constant for each input capsule, `[B, I]`, that returns
            the logits with each constant added to all logits of its input capsule.

    Returns:
        The verdict.

    >>> shift(lambda logits, constants: logits + constants[:, :, None]).right
    True
    """
    side = 3  # B = I = J, so that any broadcasting goes through, also the wrong one
    logits, constants = random_tensor(side, side, side), 1 + random_tensor(side, side, seed=3)
    result = call_answer(answer, logits, constants)
    per_input = constants[:, :, None]
    mistakes = {
        "Nothing was added. Add each input capsule's constant to its logits.": logits,
        "One constant was added for each *output* capsule of an image. That changes the "
        "softmax over J. Put the new axis last, constants[:, :, None].":
            logits + constants[:, None, :],
        "Broadcasting put the constants on the axes I and J. Put the new axis last, constants[:, :, None].":
            logits + constants,
        "The constant was multiplied. A factor sharpens or softens couplings; a sum does not change them.":
            logits * per_input,
        "These are couplings. Return the shifted logits, and compute their softmax yourself.":
            (logits + per_input).softmax(dim=-1),
    }  # fmt: skip
    praise = "The couplings stay: e^constant cancels in the softmax. Only differences over J matter."
    return compare_tensors(result, logits + per_input, mistakes, praise, "[B, I, J]")


def single_round(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check what one iteration of routing computes, written without couplings.

    Args:
        answer: function of votes `[B, I, J, E]` that returns v `[B, J, E]` for R = 1.

    Returns:
        The verdict.

    >>> single_round(lambda votes: squash(votes.sum(dim=1) / votes.shape[2])).right
    True
    """
    votes = random_tensor(B, I, J, E, seed=4)
    result = call_answer(answer, votes)
    total = votes.sum(dim=1)
    mistakes = {
        "The squash is missing: these vectors may be longer than 1.": total / J,
        "You divide by I, the plain mean of the votes. Each coupling is 1/J, since each part shares out one "
        "unit among J wholes.": squash(votes.mean(dim=1)),
        "The coupling is missing: each vote counts 1/J, not 1.": squash(total),
        "Each vote was squashed by itself. Sum first: votes that disagree must be able to cancel.":
            squash(votes).sum(dim=1) / J,
        "The sum runs over J. An output capsule sums the votes of all *input* capsules, dim=1.":
            squash(votes.sum(dim=2) / J),
    }  # fmt: skip
    praise = "All couplings are 1/J: one iteration is a fixed average and a squash, with nothing routed."
    return compare_tensors(result, routing_by_agreement(votes, 1), mistakes, praise, "[B, J, E]")


def softmax_axis(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check couplings of logits that are laid out with the output capsules first.

    Args:
        answer: function of logits `[J, B, I]`; returns the couplings in the same layout.

    Returns:
        The verdict.

    >>> softmax_axis(lambda logits: logits.softmax(dim=0)).right
    True
    """
    logits = random_tensor(J, B, I, seed=5)
    result = call_answer(answer, logits)
    mistakes = {
        "Here the couplings of one *output* capsule sum to one: the softmax ran over I, the last axis here.":
            logits.softmax(dim=2),
        "This softmax runs over the batch: an image's couplings would depend on the other images beside it.":
            logits.softmax(dim=1),
        "This softmax runs over all axes at once; each input capsule of each image needs its own.":
            logits.flatten().softmax(dim=0).reshape(J, B, I),
        "These sum to one, but negative logits may give negative couplings: take the softmax.":
            logits / logits.sum(dim=0, keepdim=True),
    }  # fmt: skip
    praise = (
        "The softmax runs over J, at whatever position J is. The meaning of the axis matters, not its number."
    )
    return compare_tensors(result, logits.softmax(dim=0), mistakes, praise, "[J, B, I]")
