"""The checks of chapter 7: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb import ResidualCapsules, RoutingCapsules
from capsnb.checks import ch07


def stack(step):
    def run(x, layers, alphas):
        for layer, alpha in zip(layers, alphas, strict=True):
            x = step(x, layer(x), alpha)
        return x

    return run


def parallel(x, layers, alphas):
    return x + sum(alpha * layer(x) for layer, alpha in zip(layers, alphas, strict=True))


RIGHT = [
    (ch07.length_bound, lambda n: n + 1),
    (ch07.length_bound, lambda n: torch.tensor(1.0 + n)),
    (ch07.gradient, lambda jacobian, g: g + jacobian.T @ g),
    (ch07.gradient, lambda jacobian, g: (torch.eye(len(g)).double() + jacobian).T @ g),
    (ch07.gradient, lambda jacobian, g: g + g @ jacobian),
    (ch07.paths, lambda n: 2 ** (n - 1)),
    (ch07.paths, lambda n: sum(math.comb(n - 1, k) for k in range(n))),
    (ch07.weighted, stack(lambda x, f, a: x + a * f)),
]
WRONG = [
    (ch07.length_bound, lambda n: n, "came in has a length too"),
    (ch07.length_bound, lambda n: 1, "last operation"),
    (ch07.length_bound, lambda n: 2**n, "double"),
    (ch07.length_bound, lambda n: math.sqrt(n + 1), "same way"),
    (ch07.length_bound, lambda n: n + 2, "One too many"),
    (ch07.length_bound, lambda n: 3 * n + 1, "one layer first"),
    (ch07.length_bound, lambda n: "long", "finite number"),
    (ch07.length_bound, lambda: 5, "stopped with TypeError"),
    (ch07.gradient, lambda jacobian, g: jacobian.T @ g, "without a shortcut"),
    (ch07.gradient, lambda jacobian, g: g + jacobian @ g, "transpose it"),
    (ch07.gradient, lambda jacobian, g: jacobian @ g, "must be transposed, and"),
    (ch07.gradient, lambda jacobian, g: (1 + jacobian).T @ g, "diagonal only"),
    (ch07.gradient, lambda jacobian, g: g * (jacobian.T @ g), "not multiplied"),
    (ch07.gradient, lambda jacobian, g: g, "shortcut's share alone"),
    (ch07.gradient, lambda jacobian, g: 2 * g, "differ by up to"),
    (ch07.gradient, lambda jacobian, g: jacobian, "check the axes"),
    (ch07.paths, lambda n: 2**n, "all paths"),
    (ch07.paths, lambda n: n - 1, "counts layers"),
    (ch07.paths, lambda n: 2**n - 1, "Only the path"),
    (ch07.paths, lambda n: 0, "leaves no path"),
    (ch07.paths, lambda n: (n - 1) ** 2, "n squared"),
    (ch07.paths, lambda n: 7, "Write the paths"),
    (ch07.paths, lambda n: "many", "finite number"),
    (ch07.paths, lambda: 1, "stopped with TypeError"),
    (ch07.weighted, stack(lambda x, f, a: x + f), "not used"),
    (ch07.weighted, stack(lambda x, f, a: a * (x + f)), "whole sum"),
    (ch07.weighted, stack(lambda x, f, a: a * x + f), "before the shortcut"),
    (ch07.weighted, stack(lambda x, f, a: a * f), "no shortcut"),
    (ch07.weighted, stack(lambda x, f, a: (1 - a) * x + a * f), "keeps all of x"),
    (ch07.weighted, parallel, "first input"),
    (ch07.weighted, lambda x, layers, alphas: x + alphas[0] * layers[0](x), "inside the loop"),
    (ch07.weighted, lambda x, layers, alphas: 3 * x, "differ by up to"),
]


@given(st.integers(0, 5), st.floats(0.01, 30))
def test_the_bound_holds_for_the_package(layers, std):
    """The answer to the first exercise is true of capsules that begin shorter than 1."""
    torch.manual_seed(0)
    made = [RoutingCapsules(3, 4, 3, 4, backend="eager", weight_std=std) for _ in range(layers)]
    x = torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=-1) * 0.999
    assert ResidualCapsules(made)(x).norm(dim=-1).max() < layers + 1


@given(st.integers(1, 4))
def test_the_gradient_is_autograds(layers):
    """The answer to the second exercise, layer by layer, is the gradient of the package's stack."""
    torch.manual_seed(0)
    stack = ResidualCapsules(
        RoutingCapsules(2, 3, 2, 3, backend="eager", detach=False).double() for _ in range(layers)
    )
    xs = [torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)]
    for layer in stack:
        xs.append(xs[-1] + layer(xs[-1]))
    g = torch.randn(6, dtype=torch.float64)
    (expected,) = torch.autograd.grad(stack(xs[0]), xs[0], g.view(1, 2, 3))
    for layer, x in zip(reversed(list(stack)), reversed(xs[:-1]), strict=True):
        jacobian = torch.autograd.functional.jacobian(layer, x.detach()).reshape(6, 6)
        g = g + jacobian.T @ g
    torch.testing.assert_close(g, expected.flatten())
