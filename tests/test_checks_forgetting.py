"""The checks of chapter 11: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch

from capsnb import MomentumCapsules
from capsnb.checks import forgetting


def back(dx, dv, pull, gamma):
    q = dx + dv
    return dx + pull((1 - gamma) * q), gamma * q


def backward(layer, x, gradient):
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        f = layer(x)
    dx, *rest = torch.autograd.grad(f, [x, *layer.parameters()], gradient)
    return [dx + gradient, *rest]


def without_shortcut(layer, x, gradient):
    dx, *rest = backward(layer, x, gradient)
    return [dx - gradient, *rest]


def unrecorded(layer, x, gradient):
    return torch.autograd.grad(layer(x), [x, *layer.parameters()], gradient)


def on_the_side(layer, x, gradient):
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        layer(x).backward(gradient)
    return [x.grad + gradient, *(p.grad for p in layer.parameters())]


RIGHT = [
    (forgetting.step_back, back),
    (
        forgetting.step_back,
        lambda dx, dv, pull, gamma: [dx + (1 - gamma) * pull(dv + dx), gamma * dv + gamma * dx],
    ),
    (forgetting.by_hand, backward),
    (forgetting.by_hand, lambda *arguments: tuple(backward(*arguments))),
    (forgetting.checkpoints, 16),
    (forgetting.checkpoints, 15),
    (forgetting.checkpoints, torch.tensor(16)),
    (forgetting.without_velocity, lambda gamma, k: (1 - gamma) / (1 - gamma**k)),
    (forgetting.without_velocity, lambda gamma, k: 1 / sum(gamma**i for i in range(k))),
]
WRONG = [
    (forgetting.step_back, lambda dx, dv, pull, g: (dx + pull((1 - g) * dx), g * dv), "v moves x as well"),
    (forgetting.step_back, lambda dx, dv, pull, g: (dx + pull((1 - g) * dx), g * (dx + dv)), "dx alone"),
    (forgetting.step_back, lambda dx, dv, pull, g: (dx + back(dx, dv, pull, g)[0], 0 * dv), "differ by"),
    (
        forgetting.step_back,
        lambda dx, dv, pull, g: (dv + back(dx, dv, pull, g)[0], g * (dx + dv)),
        "ended up in dx",
    ),
    (forgetting.step_back, lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0], g * dv), "more than dv"),
    (
        forgetting.step_back,
        lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0], dx + dv),
        "^gamma is missing",
    ),
    (
        forgetting.step_back,
        lambda dx, dv, pull, g: (dx + pull(dx + dv), g * (dx + dv)),
        "1 - gamma is missing",
    ),
    (
        forgetting.step_back,
        lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0] - dx, g * (dx + dv)),
        "shortcut is missing",
    ),
    (forgetting.step_back, lambda *arguments: back(*arguments)[::-1], "order"),
    (forgetting.step_back, lambda *arguments: back(*arguments)[0], "shape"),
    (forgetting.step_back, lambda dx: dx, "stopped with TypeError"),
    (forgetting.step_back, 3, "function is expected"),
    (forgetting.by_hand, without_shortcut, "shortcut is missing"),
    (
        forgetting.by_hand,
        lambda layer, x, gradient: [gradient, *backward(layer, x, gradient)[1:]],
        "layer is missing",
    ),
    (forgetting.by_hand, lambda *arguments: backward(*arguments)[1:], "gradient of x comes first"),
    (forgetting.by_hand, lambda *arguments: backward(*arguments)[:1], "parameters follow"),
    (forgetting.by_hand, unrecorded, "enable_grad"),
    (forgetting.by_hand, on_the_side, "on the side"),
    (forgetting.by_hand, lambda *arguments: [*backward(*arguments)[:1], None], "None"),
    (forgetting.by_hand, lambda *arguments: [2 * d for d in backward(*arguments)], "differ by up to"),
    (forgetting.by_hand, 3, "function is expected"),
    (forgetting.checkpoints, 64, "no checkpoints"),
    (forgetting.checkpoints, 65, "k = 1"),
    (forgetting.checkpoints, 8, "both"),
    (forgetting.checkpoints, 2, "reversible"),
    (forgetting.checkpoints, 1, "64 layers"),
    (forgetting.checkpoints, 20, "64 / k"),
    (forgetting.checkpoints, "16", "finite number"),
    (forgetting.without_velocity, lambda gamma, k: (1 - gamma**k) / (1 - gamma), "Upside down"),
    (forgetting.without_velocity, lambda gamma, k: 1 - gamma, "limit"),
    (forgetting.without_velocity, lambda gamma, k: gamma**k, "sum of powers"),
    (forgetting.without_velocity, lambda gamma, k: gamma ** (k - 1), "sum of powers"),
    (forgetting.without_velocity, lambda gamma, k: (1 - gamma) / (1 - gamma ** (k + 1)), "too many"),
    (forgetting.without_velocity, lambda gamma, k: 1 / k, "gamma = 1"),
    (forgetting.without_velocity, lambda gamma, k: 0.123, "dx = g"),
    (forgetting.without_velocity, lambda gamma: 1, "stopped with TypeError"),
]
EXERCISES = [forgetting.step_back, forgetting.by_hand, forgetting.checkpoints, forgetting.without_velocity]


def test_the_step_is_the_package_s():
    """What the exercise calls right are the gradients of `MomentumCapsules`."""
    layers = [torch.nn.Linear(4, 4, bias=False).double() for _ in range(3)]
    stack = MomentumCapsules(layers, gamma=0.8)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    dx, dv = torch.randn(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad(stack(x), x, dx)
    for layer in reversed(layers):
        dx, dv = back(dx, dv, lambda gradient, W=layer.weight: gradient @ W, stack.gamma)
    torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize("check", [check for check in EXERCISES if check is not forgetting.checkpoints])
def test_a_function_with_nothing_in_it_is_open(check):
    assert check(lambda *arguments: ...).right is None
