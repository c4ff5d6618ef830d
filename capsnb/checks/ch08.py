"""Checks for the exercises of chapter 8, *Other ways to agree*."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from capsnb.checks import Verdict, call_answer, compare_tensors, random_tensor
from capsnb.routing import clip_votes

B, I, J, E, D = 2, 5, 3, 4, 6  # all different, so that a mixed-up axis shows in the shape
P = 0.8


def scale(answer: Callable[[Tensor, Tensor, int, float], Tensor]) -> Verdict:
    """Check the factor that turns distances into logits.

    Args:
        answer: function of the distances d_p of the nearest parent and d_o of the others, both `[B]`, of the number J
            of parents and of the coupling p that the nearest one shall get; it returns t `[B]`.

    Returns:
        The verdict.

    >>> scale(lambda d_p, d_o, J, p: d_p - d_o).right
    False
    """
    d_o = 1 + random_tensor(B).abs()
    d_p, odds = d_o / 4, P / (1 - P)
    result = call_answer(answer, d_p, d_o, J, P)
    top = math.log(P * (J - 1)) - math.log(1 - P)
    expected = top / (d_p - d_o)
    mistakes = {
        "The sign is wrong: t must be negative, so that a near vote gets a large coupling.": -expected,
        "Parentheses are missing below the line, in the denominator: divide by (d_p - d_o), not by d_p alone.":
            top / d_p - d_o,
        "Parentheses are missing above the line, in the numerator: log(1 - p) alone was divided.":
            math.log(P * (J - 1)) - math.log(1 - P) / (d_p - d_o),
        "J - 1 is missing: that is right for two parents only. The others together take 1 - p.":
            math.log(odds) / (d_p - d_o),
        "There are J - 1 other parents, not J.": math.log(odds * J) / (d_p - d_o),
        "The odds are missing a logarithm: couplings are exponentials of logits.": odds * (J - 1) / (d_p - d_o),
    }  # fmt: skip
    return compare_tensors(result, expected, mistakes, "One parent at d_p, J - 1 at d_o: it gets p.", "[B]")


def shorten(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check votes that are at most as long as the capsules that cast them.

    Args:
        answer: function of votes `[B, I, J, E]` and capsules `[B, I, D]` that returns the shortened votes.

    Returns:
        The verdict.

    >>> shorten(lambda votes, u: votes).right
    False
    """
    votes, u = random_tensor(B, I, J, E), random_tensor(B, I, D, seed=1)
    u[:, 0] *= 9  # longer than its votes, which must stay as they are
    result = call_answer(answer, votes, u)
    length = u.norm(dim=-1)[:, :, None, None]
    mistakes = {
        "Nothing was shortened.": votes,
        "All votes have their capsule's length now. A vote that is shorter keeps its own: use clamp(max=1).":
            votes * length / votes.norm(dim=-1, keepdim=True),
        "All votes were made longer than they may be: the factor is at most 1, not at least.":
            votes * (length / votes.norm(dim=-1, keepdim=True)).clamp(min=1),
        "Each *number* was clipped, which turns the vote. Multiply the whole vector by one factor.":
            votes.clamp(-length, length),
        "All votes were clipped to length 1. The limit is the length of the capsule that votes.":
            votes * (1 / votes.norm(dim=-1, keepdim=True)).clamp(max=1),
    }  # fmt: skip
    praise = "A vote keeps its direction, and is at most as long as its capsule."
    return compare_tensors(result, clip_votes(votes, u), mistakes, praise, "[B, I, J, E]")


def e_step(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Check one E-step.

    Args:
        answer: function of votes `[B, I, J, E]`, of the clouds' means and variances `[B, J, E]` and of their
            activations `[B, J]` that returns the assignments `[B, I, J]`.

    Returns:
        The verdict.

    >>> e_step(lambda votes, mean, variance, a: votes.sum(-1)).right
    False
    """
    votes, mean = random_tensor(B, I, J, E), random_tensor(B, J, E, seed=1)
    variance, a = 0.5 + random_tensor(B, J, E, seed=2).abs(), random_tensor(B, J, seed=3).sigmoid()
    result = call_answer(answer, votes, mean, variance, a)
    squares = ((votes - mean[:, None]).square() / variance[:, None]).sum(-1)
    log_sigma, log_a = variance.log().sum(-1)[:, None] / 2, a.log()[:, None]
    logits = log_a - squares / 2 - log_sigma
    mistakes = {
        "These are logarithms. The softmax over J makes assignments of them.": logits,
        "The softmax ran over I. Each vote is divided among the clouds: dim=2.": logits.softmax(1),
        "The activations are missing: a cloud with activation 0 must get no votes.": (logits - log_a).softmax(2),
        "The width of the clouds is missing: a wide Gaussian is lower at its top. Subtract sum of log sigma.":
            (log_a - squares / 2).softmax(2),
        "log of the variance is *twice* log sigma: halve it.": (logits - log_sigma).softmax(2),
        "The factor 1/2 in front of the squares is missing.": (logits - squares / 2).softmax(2),
        "The activation itself was added; its logarithm belongs here.": (logits - log_a + a[:, None]).softmax(2),
    }  # fmt: skip
    praise = "Each vote is divided in proportion to density times activation."
    return compare_tensors(result, logits.softmax(2), mistakes, praise, "[B, I, J]")


def activation(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    r"""Check the activations of the clouds (at :math:`\lambda = 1`).

    Args:
        answer: function of each cloud's mass, as a multiple of I/J, `[B, J]`, of the variances `[B, J, E]`, of beta_u
            and of beta_a `[J]` that returns the activations `[B, J]`.

    Returns:
        The verdict.

    >>> activation(lambda shares, variance, beta_u, beta_a: shares).right
    False
    """
    shares, variance = 0.3 + random_tensor(B, J).abs(), 0.2 + random_tensor(B, J, E, seed=1).abs()
    beta_u, beta_a = random_tensor(J, seed=2), random_tensor(J, seed=3)
    result = call_answer(answer, shares, variance, beta_u, beta_a)
    log_sigma = variance.log().sum(-1) / 2
    cost = shares * (E * beta_u + log_sigma)
    expected = (beta_a - cost).sigmoid()
    mistakes = {
        "This is the logit. The logistic function makes an activation of it.": beta_a - cost,
        "The sign is wrong: a cloud with a high cost is *not* active.": (cost - beta_a).sigmoid(),
        "beta_u is paid for each of the E numbers, not once.": (beta_a - shares * (beta_u + log_sigma)).sigmoid(),
        "log of the variance is *twice* log sigma: halve it.": (beta_a - cost - shares * log_sigma).sigmoid(),
        "The shares are missing: each vote that belongs to the cloud has to be described.":
            (beta_a - E * beta_u - log_sigma).sigmoid(),
    }  # fmt: skip
    praise = "A cloud with a low cost is active: small variances give large activations."
    return compare_tensors(result, expected, mistakes, praise, "[B, J]")
