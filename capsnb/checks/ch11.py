"""Checks for the exercises of chapter 11, *Backpropagation without memory*."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from capsnb.checks import Verdict, call, call_answer, check_number, compare_tensors, random_tensor

B, J, E, GAMMA = 2, 3, 4, 0.8
LAYERS = 64

VectorJacobianProduct = Callable[[Tensor], Tensor]


def backward_step(
    answer: Callable[[Tensor, Tensor, VectorJacobianProduct, float], tuple[Tensor, Tensor]],
) -> Verdict:
    """Check one layer of the backward pass of a momentum stack.

    Args:
        answer: function of dx and dv `[B, J, E]` after the layer, of `pull`, the layer's vector-Jacobian product (it
            multiplies by the transposed Jacobian), and of gamma; it returns dx and dv before the layer.

    Returns:
        The verdict.

    >>> backward_step(lambda dx, dv, pull, gamma: (dx + pull((1 - gamma) * dx), gamma * dv)).right
    False
    """
    dx, dv, jacobian = random_tensor(B, J, E), random_tensor(B, J, E, seed=1), random_tensor(E, E, seed=2)

    def pull(gradient: Tensor) -> Tensor:
        return gradient @ jacobian

    def stacked(*arguments: object) -> object:
        pair = answer(*arguments)  # type: ignore[arg-type]  # a learner's function: whatever it takes
        return torch.stack([*map(torch.as_tensor, pair)]) if isinstance(pair, tuple | list) else pair

    result = call_answer(stacked if callable(answer) else answer, dx, dv, pull, GAMMA)
    q, rest = dx + dv, 1 - GAMMA

    def pair(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])

    expected = pair(dx + pull(rest * q), GAMMA * q)
    mistakes = {
        "dv never reaches the layer: v moves x as well, so f's output gets (1 - gamma)(dx + dv).":
            pair(dx + pull(rest * dx), GAMMA * dv),
        "dv never reaches the layer: f's output gets (1 - gamma)(dx + dv), not a share of dx alone.":
            pair(dx + pull(rest * dx), GAMMA * q),
        "The old dv ended up in dx. Before the layer, x does not contain v: start from dx alone.":
            pair(q + pull(rest * q), GAMMA * q),
        "The gradient of v after the layer is more than dv: v was added to x, so add dx before you multiply by gamma.":
            pair(dx + pull(rest * q), GAMMA * dv),
        "gamma is missing: the velocity before the layer was multiplied by it.": pair(dx + pull(rest * q), q),
        "1 - gamma is missing: the layer's output was multiplied by it.": pair(dx + pull(q), GAMMA * q),
        "The shortcut is missing: x goes around the layer too, so dx stays and the layer's share is added.":
            pair(pull(rest * q), GAMMA * q),
        "Right, in the wrong order: dx first, then dv.": expected.flip(0),
    }  # fmt: skip
    praise = "(1 - gamma)(dx + dv) goes to the layer, gamma (dx + dv) to the velocity; dx keeps its value."
    return compare_tensors(result, expected, mistakes, praise, "two tensors [B, J, E]")


def residual_backward(answer: Callable[[nn.Module, Tensor, Tensor], Sequence[Tensor]]) -> Verdict:
    """Check the backward pass of x + f(x), for which only x was saved.

    Args:
        answer: function of the layer f, of x and of the gradient of x + f(x), both `[B, J, E]`; it returns the gradient
            of x, then those of the layer's parameters. It is called as autograd calls it: with gradients switched off.

    Returns:
        The verdict.

    >>> residual_backward(lambda layer, x, gradient: [gradient]).right
    False
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(E, E), nn.Tanh()).double()
    x, gradient = random_tensor(B, J, E), random_tensor(B, J, E, seed=1)
    parameters = list(layer.parameters())

    def flat(*arguments: object) -> object:
        with torch.no_grad():
            found = answer(*arguments)  # type: ignore[arg-type]  # a learner's function: whatever it takes
        if not isinstance(found, tuple | list):
            return found
        if any(part is None for part in found):
            raise ValueError("one of the gradients is None")
        return torch.cat([torch.as_tensor(part).flatten() for part in found])

    result = call_answer(flat if callable(answer) else answer, layer, x, gradient)
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

    mistakes = {
        "The shortcut is missing: x goes around the layer, so its gradient is added to the layer's.":
            together(du),
        "The layer is missing in dx: that is the shortcut's share alone.": together(gradient),
        "Those are the parameters' gradients. The gradient of x comes first.": torch.cat(rest),
        "That is the gradient of x. Those of the layer's parameters follow it.": (gradient + du).flatten(),
    }  # fmt: skip
    praise = "One tensor was saved, one forward pass was recomputed, and the gradients were returned."
    return compare_tensors(
        result, together(gradient + du), mistakes, praise, "dx and the parameters' gradients"
    )


def checkpoints(answer: object) -> Verdict:
    """Check the smallest number of capsule tensors in memory at a time, for 64 layers with checkpoints.

    Args:
        answer: a number of tensors `[B, J, E]`, or `...`.

    Returns:
        The verdict.

    >>> checkpoints(64)
    ✗ Not yet. That is every layer's input: no checkpoints at all.
    """
    right = {
        16: "8 checkpoints and the 8 inputs of one segment: twice the square root of 64.",
        15: "8 checkpoints and 7 more inputs: the first input of a segment is its checkpoint.",
    }
    wrong = {
        LAYERS: "That is every layer's input: no checkpoints at all.",
        LAYERS
        + 1: "With k = 1 each layer is a segment of its own, and every input is saved. Try a larger k.",
        8: "Those are the checkpoints, or those of a segment. In the backward pass both are in memory at a time.",
        2: "That is what a reversible stack saves. Checkpoints cannot be inverted.",
        1: "With one checkpoint at the start, its segment has 64 layers, and all their inputs are saved.",
    }
    advice = "There are 64 / k checkpoints, and k inputs of the segment that is recomputed."
    return check_number(answer, right, wrong, advice)


def without_velocity(answer: Callable[[float, int], float]) -> Verdict:
    """Check the length of the k-th last layer's gradient without dv, relative to the right one.

    Args:
        answer: function of gamma and k, for layers that hardly change x.

    Returns:
        The verdict.

    >>> without_velocity(lambda gamma, k: (1 - gamma) / (1 - gamma**k)).right
    True
    """
    gamma, k = 0.8, 3
    expected = (1 - gamma) / (1 - gamma**k)
    praise = "One over the sum 1 + gamma + ... + gamma^(k-1). For the last layer that is one."
    one_power = "dv grows by dx and shrinks by gamma in each layer: a sum of powers, not one power."
    mistakes = {
        1 / expected: "Upside down: without dv the gradient is too short.",
        1 - gamma: "That is the limit far from the end. The last layer's gradient, k = 1, is right.",
        gamma ** (k - 1): one_power,
        gamma**k: one_power,
        (1 - gamma)
        / (1 - gamma ** (k + 1)): "One layer too many: at the last layer, k = 1, dv is still zero.",
        1 / k: "That would be gamma = 1, where dv keeps every dx.",
    }
    advice = "With dx = g throughout, write down dx + dv at the last layer, at the one before it, and so on."
    return check_number(call(answer, gamma, k), {expected: praise}, mistakes, advice)
