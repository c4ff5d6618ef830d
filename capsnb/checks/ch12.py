"""Checks for the exercises of chapter 12, *MoCapsNet*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from capsnb.checks import Verdict, call, compare, number, unanswered
from capsnb.models import MoCapsNet, ResCapsNet

BLOCK = 2 * 32 * 32 * 8 * 8
REST = (
    20_992 + 5_308_672 + 1152 * 32 * 8 * 8 + 32 * 10 * 16 * 8 + 1_411_344
)  # convolutions, CapsLayers, decoder
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
    if (verdict := unanswered(answer)) is not None:
        return verdict
    try:
        values = [number(answer(n)) for n in (1, 3)]
    except Exception as error:  # whatever a learner's code raises belongs into the verdict
        return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
    one, three = values
    if isinstance(one, Verdict) or isinstance(three, Verdict):
        return (
            one if isinstance(one, Verdict) else Verdict(False, "One finite number is expected for 3 blocks.")
        )
    if (one, three) == (REST + BLOCK, REST + 3 * BLOCK):
        return Verdict(
            True, "A straight line: a block costs the same at any depth, and little beside what is there."
        )
    slopes = {
        0.0: "It does not grow with n. What does a block add?",
        BLOCK / 2: "A block has two layers, and each has 32 x 32 matrices of 8 x 8 numbers.",
        2.0 * BLOCK: "That is two blocks for each n. A block has two layers, not four.",
    }
    slope = (three - one) / 2
    if slope != BLOCK:
        return Verdict(
            False, slopes.get(slope, f"One more block adds {slope:,.0f}; a layer has I J E D numbers.")
        )
    shifts = {
        REST: "The slope is right, the rest is missing: convolutions, the two other capsule layers, the decoder.",
        -BLOCK: "One block too many: the table's total already has one.",
        BLOCK: "One block is missing: is there a network with n = 0 in your formula?",
        1_411_344: "The decoder is missing.",
    }
    missing = REST + BLOCK - int(one)
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
    value = number(answer)
    if isinstance(value, Verdict):
        return value
    slips = {
        42: "40 hidden layers, CapsLayer 1 before and CapsLayer 2 behind them.",
        40: "Those are the hidden ones, which the paper counts. CapsLayer 1 and CapsLayer 2 route as well.",
        41: "There is a capsule layer before the blocks, and one behind them.",
        43: "Primary capsules are a convolution: nothing is routed to them.",
        20: "A block has two layers.",
        22: "A block has two layers.",
    }
    why = slips.get(
        int(value) if value.is_integer() else -1, "Two for each block, and what stands around the blocks."
    )
    return Verdict(value == 42, why)


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
    result = call(answer, a, b)
    if isinstance(result, Verdict):
        return result
    n, m, gap = len(a), len(b), a.mean() - b.mean()
    pooled = (a.var() * (n - 1) + b.var() * (m - 1)) / (n + m - 2)
    wrong = {
        "That is the difference itself. How far would it move by chance?": gap,
        "The other way round: the first network's mean minus the second's.":
            -gap / (a.var() / n + b.var() / m).sqrt(),
        "Those are spreads of single runs. A mean of n runs moves less, its variance is n times smaller.":
            gap / (a.var() + b.var()).sqrt(),
        "The root is missing: variances add, and the standard error is the root of their sum.":
            gap / (a.var() / n + b.var() / m),
        "Standard errors do not add, their squares do.": gap / ((a.var() / n).sqrt() + (b.var() / m).sqrt()),
        "Divided by n, a variance of few runs comes out too small: take n - 1, which is what .var() does.":
            gap / (a.var(correction=0) / n + b.var(correction=0) / m).sqrt(),
        "One common spread for both is what the pooled test assumes. Here the spreads may differ.":
            gap / (pooled * (1 / n + 1 / m)).sqrt(),
        "The second network's mean has a standard error too.": gap / (a.var() / n).sqrt(),
        "The first network's mean has a standard error too.": gap / (b.var() / m).sqrt(),
    }  # fmt: skip
    praise = (
        "Welch's t. With three runs each, it must be above 2.8 to 4.3 before it surprises one time in twenty."
    )
    return compare(result, gap / (a.var() / n + b.var() / m).sqrt(), wrong, praise, "one number")


def converted(answer: object) -> Verdict:
    """Check the conversion of a residual network into a reversible one.

    Args:
        answer: function of a `ResCapsNet`, of gamma, and of the sizes that both are built with, as a dictionary.

    Returns:
        The verdict.

    >>> converted(lambda model, gamma, sizes: model).right
    False
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    if not callable(answer):
        return Verdict(False, f"A function is expected, got {type(answer).__name__}: hand it over uncalled.")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ResCapsNet(**SIZES)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        try:
            found = answer(model, GAMMA, dict(SIZES))
        except Exception as error:  # whatever a learner's code raises belongs into the verdict
            return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
    if (verdict := unanswered(found)) is not None:
        return verdict
    if not isinstance(found, MoCapsNet):
        return Verdict(False, f"A MoCapsNet must come back, not a {type(found).__name__}.")
    if found.gamma != GAMMA:
        return Verdict(False, f"It was asked for with gamma={GAMMA}, and has {found.gamma}: hand gamma on.")
    weights = found.state_dict()
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in before.items()}:
        return Verdict(False, "Its weights have other shapes: build it with the given sizes.")
    if not all(torch.equal(weights[name], tensor) for name, tensor in before.items()):
        return Verdict(False, "The weights are not the model's: load_state_dict(model.state_dict()).")
    if any(weights[name].data_ptr() == tensor.data_ptr() for name, tensor in model.state_dict().items()):
        return Verdict(
            False, "Both share their memory: training one changes the other. load_state_dict copies numbers."
        )
    return Verdict(True, "Nothing but the recurrence has changed. What it costs, the accuracy says.")
