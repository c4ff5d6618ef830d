"""The checks of chapter 11: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb import MomentumCapsules
from capsnb.checks import ch11


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
    (ch11.backward_step, back),
    (
        ch11.backward_step,
        lambda dx, dv, pull, gamma: [dx + (1 - gamma) * pull(dv + dx), gamma * dv + gamma * dx],
    ),
    (ch11.residual_backward, backward),
    (ch11.residual_backward, lambda *arguments: tuple(backward(*arguments))),
    (ch11.checkpoints, 16),
    (ch11.checkpoints, 15),
    (ch11.checkpoints, torch.tensor(16)),
    (ch11.without_velocity, lambda gamma, k: (1 - gamma) / (1 - gamma**k)),
    (ch11.without_velocity, lambda gamma, k: 1 / sum(gamma**i for i in range(k))),
]
WRONG = [
    (ch11.backward_step, lambda dx, dv, pull, g: (dx + pull((1 - g) * dx), g * dv), "v moves x as well"),
    (ch11.backward_step, lambda dx, dv, pull, g: (dx + pull((1 - g) * dx), g * (dx + dv)), "dx alone"),
    (ch11.backward_step, lambda dx, dv, pull, g: (dx + back(dx, dv, pull, g)[0], 0 * dv), "differ by"),
    (
        ch11.backward_step,
        lambda dx, dv, pull, g: (dv + back(dx, dv, pull, g)[0], g * (dx + dv)),
        "ended up in dx",
    ),
    (ch11.backward_step, lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0], g * dv), "more than dv"),
    (
        ch11.backward_step,
        lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0], dx + dv),
        "gamma is missing: the velocity before",
    ),
    (
        ch11.backward_step,
        lambda dx, dv, pull, g: (dx + pull(dx + dv), g * (dx + dv)),
        "1 - gamma is missing",
    ),
    (
        ch11.backward_step,
        lambda dx, dv, pull, g: (back(dx, dv, pull, g)[0] - dx, g * (dx + dv)),
        "shortcut is missing",
    ),
    (ch11.backward_step, lambda *arguments: back(*arguments)[::-1], "order"),
    (ch11.backward_step, lambda *arguments: back(*arguments)[0], "shape"),
    (ch11.backward_step, lambda dx: dx, "stopped with TypeError"),
    (ch11.backward_step, 3, "function is expected"),
    (ch11.residual_backward, without_shortcut, "shortcut is missing"),
    (
        ch11.residual_backward,
        lambda layer, x, gradient: [gradient, *backward(layer, x, gradient)[1:]],
        "layer is missing",
    ),
    (ch11.residual_backward, lambda *arguments: backward(*arguments)[1:], "gradient of x comes first"),
    (ch11.residual_backward, lambda *arguments: backward(*arguments)[:1], "parameters follow"),
    (ch11.residual_backward, unrecorded, "enable_grad"),
    (ch11.residual_backward, on_the_side, "on the side"),
    (ch11.residual_backward, lambda *arguments: [*backward(*arguments)[:1], None], "None"),
    (ch11.residual_backward, lambda *arguments: [2 * d for d in backward(*arguments)], "differ by up to"),
    (ch11.residual_backward, 3, "function is expected"),
    (ch11.checkpoints, 64, "no checkpoints"),
    (ch11.checkpoints, 65, "k = 1"),
    (ch11.checkpoints, 8, "both"),
    (ch11.checkpoints, 2, "reversible"),
    (ch11.checkpoints, 1, "64 layers"),
    (ch11.checkpoints, 20, "64 / k"),
    (ch11.checkpoints, "16", "finite number"),
    (ch11.without_velocity, lambda gamma, k: (1 - gamma**k) / (1 - gamma), "Upside down"),
    (ch11.without_velocity, lambda gamma, k: 1 - gamma, "limit"),
    (ch11.without_velocity, lambda gamma, k: gamma**k, "sum of powers"),
    (ch11.without_velocity, lambda gamma, k: gamma ** (k - 1), "sum of powers"),
    (ch11.without_velocity, lambda gamma, k: (1 - gamma) / (1 - gamma ** (k + 1)), "too many"),
    (ch11.without_velocity, lambda gamma, k: 1 / k, "gamma = 1"),
    (ch11.without_velocity, lambda gamma, k: 0.123, "dx = g"),
    (ch11.without_velocity, lambda gamma: 1, "stopped with TypeError"),
]


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
