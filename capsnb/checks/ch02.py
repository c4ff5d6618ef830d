"""Checks for the exercises of chapter 2, *Vectors that squash*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors
from capsnb.functional import squash
from capsnb.layers import default_weight_std


def unsquash(answer: Callable[[Tensor], Tensor]) -> Verdict:
    r"""Check the inverse of the squash on lengths, :math:`|s| = \sqrt{|v| / (1 - |v|)}`.

    Args:
        answer: function of lengths :math:`|v|` in [0, 1), any shape, that returns the lengths :math:`|s|` before the
            squash.

    Returns:
        The verdict.

    >>> unsquash(lambda length: (length / (1 - length)).sqrt()).right
    True
    """
    v = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    expected = (v / (1 - v)).sqrt()
    found = call_answer(answer, v)
    if isinstance(found, Verdict):
        return found
    if found.shape != v.shape:
        got = tuple(found.shape)
        return Verdict(False, f"Return one |s| for each |v|: a tensor of shape {tuple(v.shape)}, not {got}.")
    mistakes = {
        "This is |s|², the *squared* length. One root is missing.": expected.square(),
        "This squashes once more. You need the inverse: solve |v| (1 + |s|²) = |s|² for |s|.":
            v.square() / (1 + v.square()),
        "A sign slipped: from |v| (1 + |s|²) = |s|² follows |v| = |s|² (1 - |v|), with a minus.":
            (v / (1 + v)).sqrt(),
        "Upside down: a longer v must come from a longer s.": ((1 - v) / v).sqrt(),
    }  # fmt: skip
    praise = f"Length 0.5 comes from |s| = 1, length 0.99 from {float(expected[-1]):.1f}."
    at = int((found.double() - expected).abs().nan_to_num(math.inf).argmax())
    advice = f"For |v| = {v[at]:g} you give {float(found[at]):.4g}, but squash(|s|) must return to {v[at]:g}."
    return compare_tensors(found, expected, mistakes, praise, "[N]", advice)


def weight_std(answer: float) -> Verdict:
    r"""Check the standard deviation :math:`\sigma` of W for a layer of 32 x 8 -> 32 x 8 whose inputs have length 1/2.

    Args:
        answer: the standard deviation that makes :math:`|s_j| \approx 1` under uniform couplings.

    Returns:
        The verdict.

    >>> weight_std(4.0).right
    True
    """
    expected = default_weight_std(32, 32, 8, in_length=0.5)
    praise = "σ = 32 / (1/2 · √(32·8)) = 4: much larger than the usual initial weights."
    mistakes = {
        expected / 2: "This is the answer for input length 1. Inputs of length 1/2 need W twice as large.",
        expected / 32: "The couplings are missing: each vote counts only 1/J, so W must be J = 32 times larger.",
        expected**2: "This is the variance σ². The question asks for the standard deviation.",
        32 / (0.5 * 32 * math.sqrt(8)):
            "Here I stands without its root: the votes add up as a random walk, √I long, not I.",
        32 / (0.5 * math.sqrt(32) * 8): "E stands without its root: |s|² sums E numbers, so |s| grows as √E.",
        32 / (0.5 * math.sqrt(32)): "E is missing: σ² is the variance of one *number*, and |s|² sums E of them.",
        0.01: "This is MoCapsNet's setting. How long is s_j with it, by the formula for E|s_j|²?",
    }  # fmt: skip

    def advice(sigma: float) -> str:
        length = math.sqrt(32 * 8) * sigma * 0.5 / 32
        return f"With σ = {sigma:.4g} the typical |s| is {length:.3g}; it should be 1."

    return check_number(answer, {expected: praise}, mistakes, advice, relative=0.01)


def gain(answer: float) -> Verdict:
    r"""Check the smallest gain at which :math:`n \leftarrow f(g\,n)` can hold the length 0.8.

    Args:
        answer: g with :math:`0.8 = f(0.8\,g)`.

    Returns:
        The verdict.

    >>> gain(2.5).right
    True
    """
    praise = "f(2.5 · 0.8) = f(2) = 4/5. The other fixed point, 0.2, is the length to exceed."
    mistakes = {
        2.0: "f(2) = 0.8 is right, but 2 is the length g · n after the gain. Divide it by n = 0.8.",
        1.25: "This undoes the factor 0.8 but not the squash. Which |s| gives |v| = 0.8?",
        6.25: "This is g². From g² n² - g² n + 1 = 0 take one more root.",
    }

    def advice(g: float) -> str:
        if g < 2:
            return f"With g = {g:g}, below 2, the only fixed point is 0: every length shrinks to 0."
        stays = float(squash(torch.tensor([0.8 * g], dtype=torch.float64)))
        return f"With g = {g:g}, length 0.8 becomes {stays:.3f} in the next layer: it does not stay."

    return check_number(answer, {2.5: praise}, mistakes, advice, relative=0.01)
