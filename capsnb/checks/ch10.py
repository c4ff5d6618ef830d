"""Checks for the exercises of chapter 10, *Running backwards*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors, random_tensor, to_number


def inverse_step(answer: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor], float], Tensor]) -> Verdict:
    r"""Check the inverse of one momentum layer (Gugglberger et al. 2022, eqs. 5 and 6).

    Args:
        answer: function of x and velocity after the layer `[B, J, E]`, of the layer and of gamma that returns x and
            velocity before the layer, stacked, `[2, B, J, E]`.

    Returns:
        The verdict.

    >>> inverse_step(lambda x, v, f, gamma: torch.stack([x - v, (v - (1 - gamma) * f(x - v)) / gamma])).right
    True
    """
    x, v, gamma = random_tensor(2, 3, 4, seed=1), random_tensor(2, 3, 4, seed=2), 0.8
    after = gamma * v + (1 - gamma) * x.sin()
    x_after = x + after
    found = call_answer(answer, x_after, after, torch.sin, gamma)

    def pair(velocity: Tensor, place: Tensor = x) -> Tensor:
        return torch.stack([place, velocity])

    mistakes = {
        "The velocity is right; x still holds what came out of the layer.": pair(v, x_after),
        "x is right, but the layer was evaluated at x_{n+1}. Equation 6 needs f(x_n), the x that equation 5 found.":
            pair((after - (1 - gamma) * x_after.sin()) / gamma),
        "x is right, but the division by gamma is missing.": pair(after - (1 - gamma) * x.sin()),
        "x is right, but to invert you *divide* by gamma.": pair((after - (1 - gamma) * x.sin()) * gamma),
        "x is right; f(x_n) was added with the factor 1 - gamma, so subtract it with the same factor.":
            pair((after - x.sin()) / gamma),
        "x is right; in the velocity you add f(x_n). Equation 6 takes it off.":
            pair((after + (1 - gamma) * x.sin()) / gamma),
        "x is right; divide the whole difference by gamma, not only the velocity.":
            pair(after / gamma - (1 - gamma) * x.sin()),
        "You added the velocity once more: x_n = x_{n+1} - v_{n+1}, with the velocity *after* the layer.":
            pair((after - (1 - gamma) * (x_after + after).sin()) / gamma, x_after + after),
        "Both are right, but in the other order: stack x first.": torch.stack([v, x]),
    }  # fmt: skip
    praise = "The layer is evaluated once, at the same x as in the forward pass."
    return compare_tensors(found, pair(v), mistakes, praise, "[2, B, J, E]")


def deepest(answer: float) -> Verdict:
    r"""Check how many layers at gamma = 0.95 cost at most six digits, :math:`\lfloor 6 / {-\log_{10} 0.95} \rfloor`.

    Args:
        answer: the number of layers.

    Returns:
        The verdict.

    >>> deepest(269).right
    True
    """
    layers = to_number(answer)
    if isinstance(layers, Verdict):
        return layers
    if layers == 269:
        return Verdict(
            True, "269 layers cost 5.99 digits. At 0.9 it is 131: twice the loss per layer, half the depth."
        )
    if layers == 270:
        return Verdict(False, "270 layers cost 6.01 digits: round down.")
    if 269 < layers < 270:
        return Verdict(False, "The number is right; but how many *whole* layers can be inverted?")
    mistakes = {
        "These are digits to the base e. log10, not log: a decimal digit is a factor of 10.": 6
        / -math.log(0.95),
        "This is the depth for six *bits*: log10, not log2.": 6 / -math.log2(0.95),
        "That is the answer for gamma = 0.9.": 131,
        "The sign: log10 of a number below 1 is negative, a depth is not.": -269,
    }
    for explanation, mistake in mistakes.items():
        if abs(layers - mistake) < 1:
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
    expected = math.log2(4 / 3)
    praise = f"{expected:.3f} bits: after 24 layers ten bits of every number are gone."
    mistakes = {
        -expected: "The sign: this many bits are *lost*, so count them positive.",
        math.log(4 / 3): "These are natural units. Bits are counted with the logarithm to the base 2.",
        math.log10(4 / 3): "These are decimal digits. Bits are counted with the logarithm to the base 2.",
        2: "A buffer that stored each remainder as it is would need two bits. It also *gives* digits to the base 3 "
        "back: subtract log2(3).",
        math.log2(3):
            "This is what comes back out of the buffer, log2(3). What is written is log2(4); the difference is lost.",
        math.log2(10 / 9): "That is gamma = 0.9. Here four states become three.",
        0.25: "A quarter of the *values* is lost; how many bits is that?",
    }  # fmt: skip

    def advice(found: float) -> str:
        states = f"bits would tell {2**found:.3g} states apart" if abs(found) < 64 else "is far off"
        return f"{found:g} {states}; here four become three, a ratio of 1.33."

    return check_number(answer, {expected: praise}, mistakes, advice, relative=0.005)


def iterations_needed(answer: float) -> Verdict:
    r"""Check after how many fixed-point iterations with :math:`L = \frac12` an error of 1 is at most 1e-6.

    Args:
        answer: the number of iterations.

    Returns:
        The verdict.

    >>> iterations_needed(20).right
    True
    """
    found = to_number(answer)
    if isinstance(found, Verdict):
        return found
    if found == 20:
        return Verdict(True, "Twenty halvings are a factor of a million: each iteration gains one bit.")
    if 19 <= found < 20:
        return Verdict(
            False, f"After 19 iterations the error may still be {0.5**19:.1e}: round up to a whole number."
        )
    if math.isclose(found, 6):
        return Verdict(
            False,
            "Six iterations would be enough if each gained a decimal *digit*. A factor of 1/2 gains one bit.",
        )
    if math.isclose(found, 6 / math.log(2), rel_tol=0.06):
        return Verdict(False, "The logarithms do not match: take log10 of both, or the natural one of both.")
    if found > 20:
        return Verdict(False, f"{found:g} iterations are enough, but fewer would do.")
    error = f"{0.5**found:.2g}" if found > -100 else "huge"
    return Verdict(
        False, f"After {found:g} iterations the error may still be {error}; it should be at most 1e-6."
    )
