"""Checks for the exercises of chapter 11, *Backpropagation without memory*."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from capsnb.checks import Verdict, call, compare, number, sample, unanswered

B, J, E, GAMMA = 2, 3, 4, 0.8
LAYERS = 64

Pull = Callable[[Tensor], Tensor]


def step_back(answer: Callable[[Tensor, Tensor, Pull, float], tuple[Tensor, Tensor]]) -> Verdict:
    """Check one step of the gradients of a momentum stack, from behind a layer to before it.

    Args:
        answer: function of dx and dv `[B, J, E]` behind the layer, of `pull`, which multiplies by the transposed
            Jacobian of the layer, and of gamma; it returns dx and dv before the layer.

    Returns:
        The verdict.

    >>> step_back(lambda dx, dv, pull, gamma: (dx + pull((1 - gamma) * dx), gamma * dv)).right
    False
    """
    dx, dv, jacobian = sample(B, J, E), sample(B, J, E, seed=1), sample(E, E, seed=2)

    def pull(gradient: Tensor) -> Tensor:
        return gradient @ jacobian

    def stacked(*arguments: object) -> object:
        pair = answer(*arguments)  # type: ignore[arg-type]  # a learner's function: whatever it takes
        return torch.stack(tuple(pair)) if isinstance(pair, tuple | list) else pair

    if (verdict := unanswered(answer)) is not None:
        return verdict
    result = call(stacked if callable(answer) else answer, dx, dv, pull, GAMMA)
    if isinstance(result, Verdict):
        return result
    q, rest = dx + dv, 1 - GAMMA

    def pair(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])

    right = pair(dx + pull(rest * q), GAMMA * q)
    wrong = {
        "The velocity's gradient never reaches the layer: v moves x as well, so f is paid with dx + dv.":
            pair(dx + pull(rest * dx), GAMMA * dv),
        "The velocity's gradient never reaches the layer: f is paid with dx + dv, not with dx alone.":
            pair(dx + pull(rest * dx), GAMMA * q),
        "The old dv ended up in dx. Before the layer, x is added to v and does not contain it: start from dx alone.":
            pair(q + pull(rest * q), GAMMA * q),
        "dv behind the layer is more than dv: x moved by v, so dx belongs to it before gamma is multiplied.":
            pair(dx + pull(rest * q), GAMMA * dv),
        "gamma is missing: only that share of the velocity came from before the layer.": pair(dx + pull(rest * q), q),
        "1 - gamma is missing: the layer was heard with that weight only.": pair(dx + pull(q), GAMMA * q),
        "The shortcut is missing: x goes around the layer too, so dx stays and the pull is added.":
            pair(pull(rest * q), GAMMA * q),
        "Right, in the wrong order: dx first, then dv.": right.flip(0),
    }  # fmt: skip
    praise = "The sum is paid to the layer and, times gamma, to the velocity before; dx keeps what it had."
    return compare(result, right, wrong, praise, "two tensors [B, J, E]")


def by_hand(answer: Callable[[nn.Module, Tensor, Tensor], Sequence[Tensor]]) -> Verdict:
    """Check the backward pass of x + f(x), of which only x was kept.

    Args:
        answer: function of the layer f, of x and of the gradient of x + f(x), both `[B, J, E]`; it returns the gradient
            of x, then those of the layer's parameters. It is called as autograd calls: with gradients switched off.

    Returns:
        The verdict.

    >>> by_hand(lambda layer, x, gradient: [gradient]).right
    False
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(E, E), nn.Tanh()).double()
    x, gradient = sample(B, J, E), sample(B, J, E, seed=1)
    parameters = list(layer.parameters())

    def flat(*arguments: object) -> object:
        with torch.no_grad():
            found = answer(*arguments)  # type: ignore[arg-type]  # a learner's function: whatever it takes
        if not isinstance(found, tuple | list):
            return found
        if any(part is None for part in found):
            raise ValueError("one of the gradients is None")
        return torch.cat([part.flatten() for part in found])

    result = call(flat if callable(answer) else answer, layer, x, gradient)
    if isinstance(result, Verdict):
        if "does not require grad" in result.message:
            hint = "In backward nothing is recorded: compute the layer again under torch.enable_grad()"
            return Verdict(False, f"{hint}, on an x that requires a gradient.")
        return result
    if any(parameter.grad is not None for parameter in parameters):
        return Verdict(
            False, "The gradients were written into .grad on the side. Return them: use torch.autograd.grad."
        )
    u = x.clone().requires_grad_()
    du, *dparameters = torch.autograd.grad(layer(u), [u, *parameters], gradient)
    rest = [d.flatten() for d in dparameters]

    def together(dx: Tensor) -> Tensor:
        return torch.cat([dx.flatten(), *rest])

    wrong = {
        "The shortcut is missing: x goes around the layer, so its gradient is added to what the layer gives.":
            together(du),
        "The layer is missing in dx: that is the shortcut's share alone.": together(gradient),
        "Those are the parameters' gradients. The gradient of x comes first.": torch.cat(rest),
        "That is the gradient of x. Those of the layer's parameters follow it.": (gradient + du).flatten(),
    }  # fmt: skip
    praise = "One tensor was kept, one forward pass was paid again, and nothing was written on the side."
    return compare(result, together(gradient + du), wrong, praise, "dx and the parameters' gradients")


def checkpoints(answer: object) -> Verdict:
    """Check the smallest number of capsule tensors that are there at a time, for 64 layers with checkpoints.

    Args:
        answer: a number of tensors `[B, J, E]`, or `...`.

    Returns:
        The verdict.

    >>> checkpoints(64)
    ✗ Not yet. That is every layer's input: no checkpoints at all.
    """
    value = number(answer)
    if isinstance(value, Verdict):
        return value
    slips: dict[float, tuple[bool, str]] = {
        16: (True, "8 checkpoints and the 8 inputs of one segment: twice the square root of 64."),
        15: (True, "8 checkpoints and 7 more inputs: the first input of a segment is its checkpoint."),
        LAYERS: (False, "That is every layer's input: no checkpoints at all."),
        LAYERS + 1: (
            False,
            "With k = 1 each layer is a segment of its own, and every input is kept. Try a larger k.",
        ),
        8: (
            False,
            "Those are the checkpoints, or those of a segment. On the way back both are there at a time.",
        ),
        2: (False, "That is what a reversible stack keeps. Checkpoints cannot be computed backwards."),
        1: (
            False,
            "One checkpoint at the start, and then? Its segment has 64 layers, whose inputs are kept.",
        ),
    }
    right, why = slips.get(
        value, (False, "There are 64 / k checkpoints, and k inputs of the segment at work.")
    )
    return Verdict(right, why)


def without_velocity(answer: Callable[[float, int], float]) -> Verdict:
    """Check how long the gradient of the k-th last layer is without dv, as a share of the right one.

    Args:
        answer: function of gamma and k, for layers that hardly change x.

    Returns:
        The verdict.

    >>> without_velocity(lambda gamma, k: (1 - gamma) / (1 - gamma**k)).right
    True
    """
    if (verdict := unanswered(answer)) is not None:
        return verdict
    gamma, k = 0.8, 3
    try:
        value = number(answer(gamma, k))
    except Exception as error:  # whatever a learner's code raises belongs into the verdict
        return Verdict(False, f"Your function stopped with {type(error).__name__}: {error}")
    if isinstance(value, Verdict):
        return value
    right = (1 - gamma) / (1 - gamma**k)
    slips = [
        (right, True, "One over the sum 1 + gamma + ... + gamma^(k-1). For the last layer that is one."),
        (1 / right, False, "Upside down: without dv the gradient is too short, so the share is below one."),
        (1 - gamma, False, "That is the limit far from the end. The last layer's gradient, k = 1, is right."),
        (gamma ** (k - 1), False, "Each layer adds to dv what gamma has left of it: a sum of powers, not one power."),
        (gamma**k, False, "Each layer adds to dv what gamma has left of it: a sum of powers, not one power."),
        (
            (1 - gamma) / (1 - gamma ** (k + 1)),
            False,
            "One layer too many: at the last layer, k = 1, dv is still zero.",
        ),
        (1 / k, False, "That would be gamma = 1, where the velocity keeps all of dx."),
    ]  # fmt: skip
    for slip, verdict_is, why in slips:
        if abs(value - slip) <= 1e-6 * slip:
            return Verdict(verdict_is, why)
    return Verdict(
        False,
        "With dx = g throughout, write down dx + dv at the last layer, at the one before it, and so on.",
    )
