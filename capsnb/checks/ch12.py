"""Checks for the exercises of chapter 12, *MoCapsNet*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, call_answer, check_number, compare_tensors, to_number, unanswered
from capsnb.models import MoCapsNet, ResCapsNet

BLOCK_PARAMETERS = 2 * 32 * 32 * 8 * 8
CONVOLUTIONS, DECODER = 20_992 + 5_308_672, 1_411_344
OTHER_PARAMETERS = CONVOLUTIONS + 1152 * 32 * 8 * 8 + 32 * 10 * 16 * 8 + DECODER  # with CapsLayers 1 and 2
SIZES: dict[str, Any] = {
    "blocks": 1,
    "channels": 8,
    "capsule_types": 2,
    "hidden_capsules": 4,
    "decoder": None,
}
GAMMA = 0.3


def parameters(answer: Callable[[int], int]) -> Verdict:
    """Check a formula for the parameters of MoCapsNet for MNIST, at the paper's sizes.

    Args:
        answer: function of the number of blocks.

    Returns:
        The verdict.

    >>> parameters(lambda n: 131_072 * n).right
    False
    """
    one, three = (to_number(call(answer, n)) for n in (1, 3))
    if isinstance(one, Verdict):
        return one
    if isinstance(three, Verdict):
        return Verdict(False, f"For 3 blocks: {three.message}")
    if (one, three) == (OTHER_PARAMETERS + BLOCK_PARAMETERS, OTHER_PARAMETERS + 3 * BLOCK_PARAMETERS):
        return Verdict(
            True, "A straight line: every block adds the same number, and little compared with the rest."
        )
    slopes = {
        0.0: "It does not grow with n. What does a block add?",
        BLOCK_PARAMETERS / 2: "A block has two layers, and each has 32 x 32 matrices of 8 x 8 numbers.",
        2.0 * BLOCK_PARAMETERS: "That is two blocks for each n. A block has two layers, not four.",
    }
    slope = (three - one) / 2
    if slope != BLOCK_PARAMETERS:
        return Verdict(
            False, slopes.get(slope, f"One more block adds {slope:,.0f}; a layer has I J E D numbers.")
        )
    shifts = {
        OTHER_PARAMETERS: "The slope is right, the rest is missing: convolutions, two capsule layers, decoder.",
        -BLOCK_PARAMETERS: "One block too many: the table's total already has one.",
        BLOCK_PARAMETERS: "One block is missing: is there a network with n = 0 in your formula?",
        DECODER: "The decoder is missing.",
    }
    missing = OTHER_PARAMETERS + BLOCK_PARAMETERS - int(one)
    return Verdict(False, shifts.get(missing, f"The slope is right, the constant is off by {-missing:,}."))


def routed_layers(answer: object) -> Verdict:
    """Check the number of capsule layers that route in a MoCapsNet of 20 blocks.

    Args:
        answer: a number, or `...`.

    Returns:
        The verdict.

    >>> routed_layers(40)
    ✗ Not yet. Those are the hidden ones, which the paper counts. CapsLayer 1 and CapsLayer 2 route as well.
    """
    mistakes = {
        40: "Those are the hidden ones, which the paper counts. CapsLayer 1 and CapsLayer 2 route as well.",
        41: "There is a capsule layer before the blocks, and one behind them.",
        43: "Primary capsules are a convolution, without routing.",
        20: "A block has two layers.",
        22: "A block has two layers.",
    }
    praise = "40 hidden layers, CapsLayer 1 before them and CapsLayer 2 after them."
    advice = "Two for each block, and the capsule layers before and after the blocks."
    return check_number(answer, {42: praise}, mistakes, advice)


def welch(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check the difference of two means, in units of its standard error, when the spreads may differ.

    Args:
        answer: function of the accuracies of two networks, `[n]` and `[m]`.

    Returns:
        The verdict.

    >>> welch(lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).right
    True
    """
    a = torch.tensor([99.7, 99.2, 99.3, 99.6], dtype=torch.float64)
    b = torch.tensor([99.35, 99.3, 99.4], dtype=torch.float64)
    result = call_answer(answer, a, b)
    n, m, difference = len(a), len(b), a.mean() - b.mean()
    pooled = (a.var() * (n - 1) + b.var() * (m - 1)) / (n + m - 2)
    expected = difference / (a.var() / n + b.var() / m).sqrt()
    mistakes = {
        "That is the difference itself. Divide it by its standard error.": difference,
        "The other way round: the first network's mean minus the second's.": -expected,
        "Those are spreads of single runs. The variance of a mean of n runs is n times smaller.":
            difference / (a.var() + b.var()).sqrt(),
        "The root is missing: variances add, and the standard error is the root of their sum.":
            difference / (a.var() / n + b.var() / m),
        "Standard errors do not add, their squares do.": difference / ((a.var() / n).sqrt() + (b.var() / m).sqrt()),
        "Divided by n, a variance of few runs comes out too small: take n - 1, which is what .var() does.":
            difference / (a.var(correction=0) / n + b.var(correction=0) / m).sqrt(),
        "One common spread for both is what the pooled test assumes. Here the spreads may differ.":
            difference / (pooled * (1 / n + 1 / m)).sqrt(),
        "The second network's mean has a standard error too.": difference / (a.var() / n).sqrt(),
        "The first network's mean has a standard error too.": difference / (b.var() / m).sqrt(),
    }  # fmt: skip
    praise = "Welch's t. With three runs each, it must exceed 2.8 to 4.3 to be significant at the 5 % level."
    return compare_tensors(result, expected, mistakes, praise, "one number")


def converted(answer: object) -> Verdict:
    """Check the conversion of a residual network into a reversible one.

    Args:
        answer: function of a `ResCapsNet`, of gamma, and of the sizes that both are built with, as a dictionary.

    Returns:
        The verdict.

    >>> converted(lambda model, gamma, sizes: model).right
    False
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ResCapsNet(**SIZES)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        found = call(answer, model, GAMMA, dict(SIZES))
    if (verdict := unanswered(found)) is not None:
        return verdict
    if not isinstance(found, MoCapsNet):
        return Verdict(False, f"Your function must return a MoCapsNet, not a {type(found).__name__}.")
    if found.gamma != GAMMA:
        return Verdict(False, f"The network must have gamma={GAMMA}, and has {found.gamma}: hand gamma on.")
    weights = found.state_dict()
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in before.items()}:
        return Verdict(False, "Its weights have other shapes: build it with the given sizes.")
    if not all(torch.equal(weights[name], tensor) for name, tensor in before.items()):
        return Verdict(False, "The weights are not the model's: load_state_dict(model.state_dict()).")
    if any(weights[name].data_ptr() == tensor.data_ptr() for name, tensor in model.state_dict().items()):
        return Verdict(
            False, "Both share their memory: training one changes the other. load_state_dict copies numbers."
        )
    return Verdict(
        True,
        "Nothing but the recurrence has changed. Evaluate the network to see how much accuracy that costs.",
    )
