"""Checks for the exercises of chapter 9, *Momentum: a residual network with inertia*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors


def shares(answer: Callable[[int, float], Tensor]) -> Verdict:
    r"""Check the weight of each layer's output in the output of n layers, :math:`a_i = 1 - \gamma^{n-i+1}`.

    Args:
        answer: function of n and gamma that returns a tensor `[n]`, first layer first.

    Returns:
        The verdict.

    >>> shares(lambda n, gamma: 1 - gamma ** torch.arange(n, 0, -1)).right
    True
    """
    n, gamma = 5, 0.8
    found = call_answer(answer, n, gamma)
    steps = torch.arange(n, 0, -1, dtype=torch.float64)  # in which each layer's output has moved x
    expected = 1 - gamma**steps
    mistakes = {
        "The order is reversed: the *first* layer's output has moved x in the most steps: its weight is the largest.":
            expected.flip(0),
        "Off by one: the last layer's output has moved x in one step, so its weight is 1 - gamma, not at 0.":
            1 - gamma ** (steps - 1),
        "Off by one: the last layer's output has moved x in one step, not two.": 1 - gamma ** (steps + 1),
        "This is the weight of each layer in the last *velocity*. The output is the sum of all velocities.":
            (1 - gamma) * gamma ** (steps - 1),
        "This is the part that has *not* arrived yet. Subtract it from 1.": gamma**steps,
        "The factor 1 - gamma is missing: equation 3 multiplies each layer's output by it.": expected / (1 - gamma),
    }  # fmt: skip
    praise = f"Of {n} layers at gamma {gamma} the first has the weight {expected[0]:.2f}, the last {expected[-1]:.2f}."
    return compare_tensors(found, expected, mistakes, praise, "[n]")


def half_life(answer: float) -> Verdict:
    r"""Check after how many layers a layer's output has half its weight at gamma = 0.9, :math:`\ln\frac12 / \ln\gamma`.

    Args:
        answer: the number of layers, not rounded.

    Returns:
        The verdict.

    >>> half_life(math.log(0.5) / math.log(0.9)).right
    True
    """
    expected = math.log(0.5) / math.log(0.9)
    praise = f"{expected:.1f} layers: with three blocks of two layers, no weight reaches one half."
    mistakes = {
        5: "These are 5 layers, as if each brought the same tenth. The velocity fades, so later layers add less.",
        10 * math.log(2):
            "Nearly: ln 2 · 1/(1 - gamma) is the rule for gamma close to 1. Take the logarithm of 0.9.",
        10: "This is 1/(1 - gamma), the *mass*; after so many layers about two thirds have arrived.",
        9: "This is gamma/(1 - gamma), by how many layers the network is late in the long run.",
        -expected: "A sign slipped: both logarithms are negative, their ratio is not.",
        1 / expected: "Upside down: divide by the logarithm of gamma.",
        7: "Rounded up it is 7; give the number before rounding.",
    }  # fmt: skip

    def advice(layers: float) -> str:
        if layers < 0:
            return "A layer's output cannot act before it is computed: the number is positive."
        return f"After {layers:.4g} layers 1 - 0.9^k is {1 - 0.9**layers:.3f}; it should be 0.5."

    return check_number(answer, {expected: praise}, mistakes, advice, relative=0.005)


def least_slope(answer: Callable[[float], float]) -> Verdict:
    r"""Check the slope above which the paths of a spring oscillate, :math:`(1 - \sqrt\gamma) / (1 + \sqrt\gamma)`.

    Args:
        answer: function of gamma, a number, that returns the slope L, a number.

    Returns:
        The verdict.

    >>> least_slope(lambda gamma: (1 - gamma**0.5) / (1 + gamma**0.5)).right
    True
    """
    gammas = torch.tensor([0.0, 0.3, 0.5, 0.9], dtype=torch.float64)
    found = call_answer(lambda: _column(answer, gammas)) if callable(answer) else call_answer(answer)
    root = gammas.sqrt()
    expected = (1 - root) / (1 + root)
    mistakes = {
        "The roots are missing: the discriminant compares with 2√gamma.": (1 - gammas) / (1 + gammas),
        "This is (1 - √gamma)². The layer's output is multiplied by 1 - gamma: divide by it.": (
            1 - root
        ).square(),
        "This is the other edge: between the two the paths oscillate, above this one each layer overshoots. The "
        "least slope is the smaller solution, and falls as gamma grows.": 1 / expected,
    }
    praise = "At 0.9 a slope of 0.026 is enough, without momentum it takes 1."
    return compare_tensors(found, expected, mistakes, praise, "a number")


def _column(answer: Callable[[float], float], gammas: Tensor) -> Tensor | None:
    """The answers for several gammas; None while there is none."""
    found = [answer(gamma) for gamma in gammas.tolist()]
    if any(value is ... or value is None for value in found):
        return None
    return torch.tensor([torch.as_tensor(value).item() for value in found], dtype=torch.float64)
