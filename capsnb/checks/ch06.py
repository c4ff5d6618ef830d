"""Checks for the exercises of chapter 6, *Why deep capsule networks collapse*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, number, sample

J, E = 5, 3


def constant_answer(answer: object) -> Verdict:
    r"""Check the margin loss of the best answer that is the same for every image: ten classes, all of one length.

    Args:
        answer: the loss, that is the smallest value of
            :math:`(m^+ - \ell)^2 + 9 \cdot \tfrac12 (\ell - m^-)^2`, or `...`.

    Returns:
        The verdict.

    >>> constant_answer(0.81)
    ✗ Not yet. That is silence, length 0. A little length costs nine classes less than it saves the right one.
    """
    value = number(answer)
    if isinstance(value, Verdict):
        return value
    slips = [
        (
            0.5236,
            True,
            "0.524, at length 27/110. A network that stands there says the same whatever it is shown.",
        ),
        (
            27 / 110,
            False,
            "That is the best length. Put it into the loss.",
        ),
        (
            0.81,
            False,
            "That is silence, length 0. A little length costs nine classes less than it saves the right one.",
        ),
        (0.576, False, "The factor 1/2 of the wrong classes is missing."),
        (0.88, False, "That is length 1/2 for all. It is not the best one: set the derivative to zero."),
        (0.64, False, "That is length 0.1, which costs the wrong classes nothing. A little more is better still."),
        (0.64 / 3, False, "There are nine wrong classes, not one."),
        (0, False, "No single length satisfies both margins: one class must be long, and nine short."),
    ]  # fmt: skip
    for slip, right, why in slips:
        if abs(value - slip) <= 0.002:
            return Verdict(right, why)
    return Verdict(False, "Write the loss with one length for all ten, and set its derivative to zero.")


def relative_growth(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    r"""Check by which factor a layer enlarges a disturbance, measured against what is disturbed, image by image.

    Args:
        answer: function of capsules u and disturbed capsules w `[B, I, D]`, and of what a layer makes of them, f(u)
            and f(w) `[B, J, E]`, that returns the factor for each image, `[B]`.

    Returns:
        The verdict.

    >>> relative_growth(lambda u, w, fu, fw: (fw - fu).norm() / (w - u).norm()).right
    False
    """
    u, w = sample(4, 6, 2), sample(4, 6, 2, seed=1)
    fu, fw = sample(4, J, E, seed=2), sample(4, J, E, seed=3)
    if isinstance(result := call(answer, u, w, fu, fw), Verdict):
        return result

    def size(x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)

    before, after = size(w - u) / size(u), size(fw - fu) / size(fu)
    wrong = {
        "That is the growth of the bare disturbance. A layer may lengthen all capsules alike: divide each "
        "disturbance by the capsules that it disturbs.": size(fw - fu) / size(w - u),
        "Upside down: after stands above, before below.": before / after,
        "That is the disturbance after the layer. By which factor is it larger than before?": after,
        "One number for the whole batch: the norm must leave the first axis alone.":
            (fw - fu).norm() / fu.norm() / ((w - u).norm() / u.norm()),
        "That is the mean over the images. One factor for each is asked.": (after / before).mean(),
        "Squares were compared: a root is missing.": (after / before).square(),
        "The disturbed capsules were taken as the measure. Take the undisturbed ones.":
            size(fw - fu) / size(fw) / (size(w - u) / size(w)),
    }  # fmt: skip
    praise = "A factor above 1 in every layer is chaos, below 1 in every layer is forgetting."
    return compare(result, after / before, wrong, praise, "[B]")


def horizon(answer: object) -> Verdict:
    """Check after how many layers of growth 1.7 a disturbance of a thousandth has become as large as the whole.

    Args:
        answer: a number of layers, or `...`.

    Returns:
        The verdict.

    >>> horizon(math.log(1000) / math.log(1.7)).right
    True
    """
    value = number(answer)
    if isinstance(value, Verdict):
        return value
    exact = math.log(1000) / math.log(1.7)  # 13.02
    slips = [
        (exact, 0.06, True, "About 13. The growth of a single layer looks harmless; a depth is a power."),
        (14, 0.01, True, "Rounded up to whole layers. The growth of one looks harmless; a depth is a power."),
        (1000 / 1.7, 1, False, "Growth multiplies from layer to layer; it does not add up."),
        (1000 / 0.7, 1, False, "That is 70 % of a *thousandth* each time, added. Growth multiplies."),
        (math.log(1000), 0.01, False, "Divide by the logarithm of 1.7: that is how far one layer goes."),
        (math.log10(1000), 0.01, False, "Three powers of ten, yes. How many layers make one of them?"),
    ]  # fmt: skip
    for slip, slack, right, why in slips:
        if abs(value - slip) <= slack:
            return Verdict(right, why)
    if value > 0:
        return Verdict(False, f"1.7^{value:g} is {1.7 ** min(value, 1000):.3g}; it should be 1000.")
    return Verdict(False, "Solve 1.7^n = 1000 for n.")


def identity(answer: Callable[[Tensor, float], Tensor]) -> Verdict:
    r"""Check a layer's matrices to which g times the identity was added, as it must be with couplings of 1/J.

    Args:
        answer: function of weights `[J, J, E, E]` and g that returns
            :math:`W_{ij} + g J \delta_{ij} \mathbb 1`, same shape.

    Returns:
        The verdict.

    >>> eye = lambda n: torch.eye(n, dtype=torch.float64)
    >>> identity(lambda W, g: W + g * len(W) * eye(5)[:, :, None, None] * eye(3)).right
    True
    """
    W, gain = sample(J, J, E, E), 1.5
    if isinstance(result := call(answer, W, gain), Verdict):
        return result
    of_capsules, of_numbers = torch.eye(J, dtype=W.dtype)[:, :, None, None], torch.eye(E, dtype=W.dtype)
    both = of_capsules * of_numbers
    wrong = {
        "The J is missing. A vote is heard with 1/J at first, and must be J times as loud.": W + gain * both,
        "Every capsule now votes for all of them with itself: the identity belongs into W_jj alone.":
            W + gain * J * of_numbers.expand_as(W),
        "Whole matrices W_jj were raised. The identity has ones on its diagonal only.":
            W + gain * J * of_capsules.expand_as(W),
        "The random part is gone: add to W, do not replace it.":
            gain * J * both,
        "E instead of J: the number of capsules matters, since they share out one unit.": W + gain * E * both,
    }  # fmt: skip
    praise = "With uniform couplings capsule j receives g times itself, and the random part beside it."
    return compare(result, W + gain * J * both, wrong, praise, "[J, J, E, E]")
