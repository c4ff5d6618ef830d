"""Checks for the exercises of chapter 10, *Running backwards*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, number, sample


def undo(answer: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor], float], Tensor]) -> Verdict:
    r"""Check the inverse of one momentum layer (Gugglberger et al. 2022, eqs. 5 and 6).

    Args:
        answer: function of x, velocity `[B, J, E]`, layer and gamma that returns those before the layer, stacked,
            `[2, B, J, E]`.

    Returns:
        The verdict.

    >>> undo(lambda x, v, f, gamma: torch.stack([x - v, (v - (1 - gamma) * f(x - v)) / gamma])).right
    True
    """
    x, v, gamma = sample(2, 3, 4, seed=1), sample(2, 3, 4, seed=2), 0.8
    after = gamma * v + (1 - gamma) * x.sin()
    x_after = x + after
    found = call(answer, x_after, after, torch.sin, gamma)
    if isinstance(found, Verdict):
        return found

    def pair(velocity: Tensor, place: Tensor = x) -> Tensor:
        return torch.stack([place, velocity])

    wrong = {
        "The velocity is right; x still holds what came out of the layer.": pair(v, x_after),
        "x is right, but the layer was asked at x_{n+1}. Equation 6 needs f(x_n), the x that equation 5 found.":
            pair((after - (1 - gamma) * x_after.sin()) / gamma),
        "x is right, but the division by gamma is missing.": pair(after - (1 - gamma) * x.sin()),
        "x is right, but going home you *divide* by gamma.": pair((after - (1 - gamma) * x.sin()) * gamma),
        "x is right; the push came with the factor 1 - gamma, take it off with the same one.":
            pair((after - x.sin()) / gamma),
        "x is right; in the velocity the push is added. Equation 6 takes it off.":
            pair((after + (1 - gamma) * x.sin()) / gamma),
        "x is right; divide the whole difference by gamma, not only the velocity.":
            pair(after / gamma - (1 - gamma) * x.sin()),
        "You added the velocity once more: x_n = x_{n+1} - v_{n+1}, with the velocity that came *out*.":
            pair((after - (1 - gamma) * (x_after + after).sin()) / gamma, x_after + after),
        "Both are right, but in the other order: stack x first.": torch.stack([v, x]),
    }  # fmt: skip
    praise = "The layer is called once, forwards, at the place where it was called before."
    return compare(found, pair(v), wrong, praise, "[2, B, J, E]")


def deepest(answer: float) -> Verdict:
    r"""Check how many layers at gamma = 0.95 cost at most six digits, :math:`\lfloor 6 / {-\log_{10} 0.95} \rfloor`.

    Args:
        answer: the number of layers.

    Returns:
        The verdict.

    >>> deepest(269).right
    True
    """
    layers = number(answer)
    if isinstance(layers, Verdict):
        return layers
    if layers == 269:
        return Verdict(
            True, "269 layers cost 5.99 digits. At 0.9 it is 131: twice the friction, half the depth."
        )
    if layers == 270:
        return Verdict(False, "270 layers cost 6.01 digits: round down.")
    if 269 < layers < 270:
        return Verdict(False, "The number is right; but how many *whole* layers can be undone?")
    wrong = {
        "These are digits to the base e. log10, not log: a decimal digit is a factor of 10.": 6
        / -math.log(0.95),
        "This is the depth for six *bits*: log10, not log2.": 6 / -math.log2(0.95),
        "That is the answer for gamma = 0.9.": 131,
        "The sign: log10 of a number below 1 is negative, a depth is not.": -269,
    }
    for explanation, mistaken in wrong.items():
        if abs(layers - mistaken) < 1:
            return Verdict(False, explanation)
    return Verdict(
        False, f"{layers:g} layers would cost {-layers * math.log10(0.95):.2f} digits; six may be lost."
    )


def bits(answer: float) -> Verdict:
    r"""Check how many bits a number loses per layer at gamma = 3/4, :math:`\log_2 \frac43`.

    Args:
        answer: bits per number and layer.

    Returns:
        The verdict.

    >>> bits(math.log2(4 / 3)).right
    True
    """
    found = number(answer)
    if isinstance(found, Verdict):
        return found
    right = math.log2(4 / 3)
    if math.isclose(found, right, rel_tol=0.005):
        return Verdict(True, f"{right:.3f} bits: after 24 layers ten bits of every number are gone.")
    wrong = {
        "The sign: this many bits are *lost*, so count them positive.": -right,
        "These are natural units. Bits are counted with the logarithm to the base 2.": math.log(4 / 3),
        "These are decimal digits. Bits are counted with the logarithm to the base 2.": math.log10(4 / 3),
        "A store that wrote down each remainder as it is would need two bits. It also *gives* digits to the base 3 "
        "back: take off log2(3).": 2,
        "This is what comes back out of the store, log2(3). What goes in is log2(4); the difference stays.":
            math.log2(3),
        "That is gamma = 0.9. Here four states become three.": math.log2(10 / 9),
        "A quarter of the *values* is lost; how many bits is that?": 0.25,
    }  # fmt: skip
    for explanation, mistaken in wrong.items():
        if math.isclose(found, mistaken, rel_tol=0.005):
            return Verdict(False, explanation)
    states = (
        f"{found:g} bits would tell {2**found:.3g} states apart"
        if abs(found) < 64
        else f"{found:g} is far off"
    )
    return Verdict(False, f"{states}; here four become three, a ratio of 1.33.")


def rounds(answer: float) -> Verdict:
    r"""Check after how many rounds with :math:`L = \frac12` an error of 1 is at most 1e-6.

    Args:
        answer: the number of rounds.

    Returns:
        The verdict.

    >>> rounds(20).right
    True
    """
    found = number(answer)
    if isinstance(found, Verdict):
        return found
    if found == 20:
        return Verdict(True, "Twenty halvings are a factor of a million: each round brings one bit.")
    if 19 <= found < 20:
        return Verdict(
            False, f"After 19 rounds the error may still be {0.5**19:.1e}: round up to a whole number."
        )
    if math.isclose(found, 6):
        return Verdict(False, "Six rounds would do if each brought a decimal *digit*. A half brings one bit.")
    if math.isclose(found, 6 / math.log(2), rel_tol=0.06):
        return Verdict(False, "The logarithms do not match: take log10 of both, or the natural one of both.")
    if found > 20:
        return Verdict(False, f"{found:g} rounds are enough, but fewer would do.")
    error = f"{0.5**found:.2g}" if found > -100 else "huge"
    return Verdict(
        False, f"After {found:g} rounds the error may still be {error}; it should be at most 1e-6."
    )
