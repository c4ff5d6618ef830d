"""Checks for the exercises of chapter 6, *Why deep capsule networks collapse*."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors, random_tensor

J, E = 5, 3


def constant_answer(answer: object) -> Verdict:
    r"""Check the margin loss of the best constant output: ten class capsules, all of one length.

    Args:
        answer: the loss, which is the smallest value of
            :math:`(m^+ - \ell)^2 + 9 \cdot \tfrac12 (\ell - m^-)^2`, or `...`.

    Returns:
        The verdict.

    >>> constant_answer(0.81)
    ✗ Not yet. That is length 0, silence. A small length costs the nine classes less than it saves the right one.
    """
    praise = "0.524, at length 27/110. A network with this loss gives the same output for every image."
    mistakes = {
        27 / 110: "That is the best length. Put it into the loss.",
        0.81:
            "That is length 0, silence. A small length costs the nine classes less than it saves the right one.",
        0.576: "The factor 1/2 of the wrong classes is missing.",
        0.88: "That is length 1/2 for all. It is not the best one: set the derivative to zero.",
        0.64: "That is length 0.1, which costs the wrong classes nothing. A little more is better still.",
        0.64 / 3: "There are nine wrong classes, not one.",
        0: "No single length satisfies both margins: one class must be long, and nine short.",
    }  # fmt: skip
    advice = "Write the loss with one length for all ten, and set its derivative to zero."
    return check_number(answer, {0.5236: praise}, mistakes, advice, absolute=0.002)


def relative_growth(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    r"""Check the growth factor of a relative perturbation in one layer, image by image.

    Args:
        answer: function of capsules u and perturbed capsules w `[B, I, D]`, and of the layer's outputs f(u) and f(w)
            `[B, J, E]`, that returns the factor for each image, `[B]`.

    Returns:
        The verdict.

    >>> relative_growth(lambda u, w, fu, fw: (fw - fu).norm() / (w - u).norm()).right
    False
    """
    u, w = random_tensor(4, 6, 2), random_tensor(4, 6, 2, seed=1)
    fu, fw = random_tensor(4, J, E, seed=2), random_tensor(4, J, E, seed=3)
    result = call_answer(answer, u, w, fu, fw)

    def size(x: Tensor) -> Tensor:
        return x.flatten(1).norm(dim=1)

    before, after = size(w - u) / size(u), size(fw - fu) / size(fu)
    mistakes = {
        "That is the growth of the absolute perturbation. A layer may lengthen all capsules alike: divide each "
        "perturbation by the norm of the unperturbed capsules.": size(fw - fu) / size(w - u),
        "Upside down: divide the value after the layer by the value before it.": before / after,
        "That is the perturbation after the layer. By which factor is it larger than before?": after,
        "One number for the whole batch: the norm must leave the first axis alone.":
            (fw - fu).norm() / fu.norm() / ((w - u).norm() / u.norm()),
        "That is the mean over the images. One factor for each is asked.": (after / before).mean(),
        "The square root is missing.": (after / before).square(),
        "You divided by the norm of the perturbed capsules. Divide by the norm of the unperturbed ones.":
            size(fw - fu) / size(fw) / (size(w - u) / size(w)),
    }  # fmt: skip
    praise = "A factor above 1 in every layer amplifies small differences; below 1 in every layer, differences vanish."
    return compare_tensors(result, after / before, mistakes, praise, "[B]")


def horizon(answer: object) -> Verdict:
    """Check after how many layers of growth 1.7 a relative perturbation of 0.001 has grown to 1.

    Args:
        answer: a number of layers, or `...`.

    Returns:
        The verdict.

    >>> horizon(math.log(1000) / math.log(1.7)).right
    True
    """
    right = {
        math.log(1000) / math.log(1.7):
            "About 13. The growth of a single layer looks harmless; a depth is a power.",
        14: "Rounded up to whole layers. The growth of one looks harmless; a depth is a power.",
    }  # fmt: skip
    wrong = {
        1000 / 1.7: "Growth multiplies from layer to layer; it does not add up.",
        1000 / 0.7: "That is 70 % of a *thousandth* each time, added. Growth multiplies.",
        math.log(1000): "Divide by the logarithm of 1.7, the growth of one layer.",
        math.log10(1000): "The growth is three powers of ten. How many layers give one power of ten?",
    }

    def advice(value: float) -> str:
        if value > 0:
            return f"1.7^{value:g} is {1.7 ** min(value, 1000):.3g}; it should be 1000."
        return "Solve 1.7^n = 1000 for n."

    return check_number(answer, right, wrong, advice, relative=0.0045)


def identity(answer: Callable[[Tensor, float], Tensor]) -> Verdict:
    r"""Check the identity initialisation: g J times the identity is added to W_jj, because the couplings start at 1/J.

    Args:
        answer: function of weights `[J, J, E, E]` and g that returns
            :math:`W_{ij} + g J \delta_{ij} \mathbb 1`, same shape.

    Returns:
        The verdict.

    >>> eye = lambda n: torch.eye(n, dtype=torch.float64)
    >>> identity(lambda W, g: W + g * len(W) * eye(5)[:, :, None, None] * eye(3)).right
    True
    """
    W, gain = random_tensor(J, J, E, E), 1.5
    result = call_answer(answer, W, gain)
    of_capsules, of_numbers = torch.eye(J, dtype=W.dtype)[:, :, None, None], torch.eye(E, dtype=W.dtype)
    both = of_capsules * of_numbers
    mistakes = {
        "The factor J is missing. The couplings start at 1/J, so the identity must be J times as large.":
            W + gain * both,
        "The identity was added to all of them: it belongs in W_jj alone.":
            W + gain * J * of_numbers.expand_as(W),
        "Whole matrices W_jj were increased. The identity has ones on its diagonal only.":
            W + gain * J * of_capsules.expand_as(W),
        "The random part is gone: add to W, do not replace it.":
            gain * J * both,
        "E instead of J: the number of capsules matters, since the couplings sum to one over them.":
            W + gain * E * both,
    }  # fmt: skip
    praise = "With uniform couplings capsule j receives g times itself plus the random part."
    return compare_tensors(result, W + gain * J * both, mistakes, praise, "[J, J, E, E]")
