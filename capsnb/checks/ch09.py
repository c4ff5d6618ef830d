"""Checks for the exercises of chapter 9, *Momentum: a residual network with inertia*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, number


def shares(answer: Callable[[int, float], Tensor]) -> Verdict:
    r"""Check how much of each layer's push is in the output of n layers, :math:`a_i = 1 - \gamma^{n-i+1}`.

    Args:
        answer: function of n and gamma that returns a tensor `[n]`, first layer first.

    Returns:
        The verdict.

    >>> shares(lambda n, gamma: 1 - gamma ** torch.arange(n, 0, -1)).right
    True
    """
    n, gamma = 5, 0.8
    found = call(answer, n, gamma)
    if isinstance(found, Verdict):
        return found
    steps = torch.arange(n, 0, -1, dtype=torch.float64)  # that each push has had
    right = 1 - gamma**steps
    wrong = {
        "The order is reversed: the *first* layer's push has had the most time to arrive.": right.flip(0),
        "Off by one: the last layer's push has had one step, so it stands at 1 - gamma, not at 0.":
            1 - gamma ** (steps - 1),
        "Off by one: the last layer's push has had one step, not two.": 1 - gamma ** (steps + 1),
        "This is what is left of each push in the last *velocity*. The output has added up all velocities.":
            (1 - gamma) * gamma ** (steps - 1),
        "This is what has *not* arrived yet. Take it from 1.": gamma**steps,
        "The factor 1 - gamma is missing: equation 3 hears a push with it.": right / (1 - gamma),
    }  # fmt: skip
    praise = f"Of {n} layers at gamma {gamma} the first is heard with {right[0]:.2f}, the last with {right[-1]:.2f}."
    return compare(found, right, wrong, praise, "[n]")


def half_life(answer: float) -> Verdict:
    r"""Check after how many layers half of a push has arrived at gamma = 0.9, :math:`\ln\frac12 / \ln\gamma`.

    Args:
        answer: the number of layers, not rounded.

    Returns:
        The verdict.

    >>> half_life(math.log(0.5) / math.log(0.9)).right
    True
    """
    layers = number(answer)
    if isinstance(layers, Verdict):
        return layers
    right = math.log(0.5) / math.log(0.9)
    if math.isclose(layers, right, rel_tol=0.005):
        return Verdict(True, f"{right:.1f} layers: with three blocks of two layers, less than half is heard.")
    wrong = {
        "These are 5 layers, as if each brought the same tenth. The velocity fades, so later ones bring less.": 5,
        "Nearly: ln 2 · 1/(1 - gamma) is the rule for gamma close to 1. Take the logarithm of 0.9.":
            10 * math.log(2),
        "This is 1/(1 - gamma), the *mass*; after so many layers about two thirds have arrived.": 10,
        "This is gamma/(1 - gamma), by how many layers the network is late in the long run.": 9,
        "A sign slipped: both logarithms are negative, their ratio is not.": -right,
        "Upside down: divide by the logarithm of gamma.": 1 / right,
    }  # fmt: skip
    for explanation, mistaken in wrong.items():
        if math.isclose(layers, mistaken, rel_tol=0.005):
            return Verdict(False, explanation)
    if layers == 7:
        return Verdict(False, "Rounded up it is 7; give the number before rounding.")
    if layers < 0:
        return Verdict(False, "A push cannot arrive before it is given: the number is positive.")
    return Verdict(False, f"After {layers:.4g} layers 1 - 0.9^k is {1 - 0.9**layers:.3f}; it should be 0.5.")


def least_slope(answer: Callable[[float], float]) -> Verdict:
    r"""Check the slope above which a spring's paths oscillate, :math:`(1 - \sqrt\gamma) / (1 + \sqrt\gamma)`.

    Args:
        answer: function of gamma, a number, that returns the slope L, a number.

    Returns:
        The verdict.

    >>> least_slope(lambda gamma: (1 - gamma**0.5) / (1 + gamma**0.5)).right
    True
    """
    gammas = torch.tensor([0.0, 0.3, 0.5, 0.9], dtype=torch.float64)
    found = call(lambda: _column(answer, gammas)) if callable(answer) else call(answer)
    if isinstance(found, Verdict):
        return found
    root = gammas.sqrt()
    right = (1 - root) / (1 + root)
    wrong = {
        "The roots are missing: the discriminant compares with 2√gamma.": (1 - gammas) / (1 + gammas),
        "This is (1 - √gamma)². The push comes with a factor 1 - gamma: divide by it.": (1 - root).square(),
        "This is the other edge: between the two the paths oscillate, above this one each layer overshoots. The "
        "least slope is the smaller solution, and falls as gamma grows.": 1 / right,
    }
    return compare(
        found, right, wrong, "At 0.9 a slope of 0.026 is enough, without momentum it takes 1.", "a number"
    )


def _column(answer: Callable[[float], float], gammas: Tensor) -> Tensor | None:
    """The answers for several gammas; None while there is none."""
    found = [answer(gamma) for gamma in gammas.tolist()]
    if any(value is ... or value is None for value in found):
        return None
    return torch.tensor([float(value) for value in found], dtype=torch.float64)
