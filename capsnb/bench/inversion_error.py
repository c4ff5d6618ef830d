r"""Rounding errors of inverting layers: gradients of reversible stacks against autograd's, and reconstructed inputs.

Used in chapter 13, *Memory and time*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from capsnb.bench.depth import Stack, hidden_layers, momentum_autograd, momentum_layers, momentumnet
from capsnb.bench.measurement import (
    Bench,
    Columns,
    empty_line,
    relative_error,
    select,
    unavailable_backend,
    whole_settings,
)
from capsnb.profiling import format_error
from capsnb.progress import progress_bar
from capsnb.reversible import MomentumCapsules
from capsnb.values import finite_number, whole_number

WEIGHT_SCALES = {"default weights": 1.0, "weights times 0.1": 0.1}
SWEEPS = (*((n, 0.9) for n in (2, 4, 8, 16, 32, 40)), *((16, gamma) for gamma in (0.5, 0.7, 0.99)))
RELATIVE = "largest difference from autograd's, over autograd's largest value"
GRADIENT_COLUMNS: Columns = {
    "layers": ("", "hidden capsule layers"),
    "gamma": ("", "momentum: factor of the velocity in each layer"),
    "error_dx": ("1", f"gradient of the input: {RELATIVE}"),
    "error_dW": ("1", "gradients of the weights: the largest such error of a layer"),
    "inversion_error": ("1", "reconstructed input: largest difference over the input's largest value"),
}


class Textbook(torch.autograd.Function):
    r"""Algorithms 1 and 2 of Gugglberger et al. (2022) as printed, x and velocity in the dtype of the layers."""

    @staticmethod
    def forward(ctx: Any, layers: list[nn.Module], gamma: float, x: Tensor, *weights: Tensor) -> Tensor:
        """Algorithm 1: compute x through all layers; save the last x and the last velocity."""
        x, velocity = momentum_layers(layers, gamma, x, torch.zeros_like(x))
        ctx.layers, ctx.gamma = layers, gamma
        ctx.save_for_backward(x, velocity)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        """Algorithm 2: invert the layers from the last to the first, and differentiate each of them."""
        (x, velocity), gamma, gradients = ctx.saved_tensors, ctx.gamma, []
        dvelocity = torch.zeros_like(dx)
        for layer in reversed(ctx.layers):
            x = (x - velocity).detach().requires_grad_()
            with torch.enable_grad():
                f = layer(x)
            velocity = (velocity - (1 - gamma) * f.detach()) / gamma
            dvelocity = dvelocity + dx
            du, dW = torch.autograd.grad(f, (x, layer.weight), (1 - gamma) * dvelocity)
            dx, dvelocity = dx + du, gamma * dvelocity
            gradients.append(dW)
        return None, None, dx, *reversed(gradients)


def textbook(layers: list[nn.Module], gamma: float) -> Stack:
    """The printed algorithms; in float32 they lose digits that `MomentumCapsules` keeps."""
    return lambda x: Textbook.apply(layers, gamma, x, *(layer.weight for layer in layers))


def loop(layers: list[nn.Module], gamma: float) -> Stack:
    """The recurrence in the dtype of the layers, for autograd."""

    return lambda x: momentum_layers(layers, gamma, x, torch.zeros_like(x))[0]


class Variant(NamedTuple):
    """A reversible stack, the same recurrence for autograd, and the dtype of the layers."""

    reversible: Callable[[list[nn.Module], float], Stack]
    autograd: Callable[[list[nn.Module], float], Stack]
    dtype: torch.dtype


INVERSION_VARIANTS = {
    "MomentumCapsules, float64": Variant(MomentumCapsules, momentum_autograd, torch.float64),
    "MomentumCapsules, float32": Variant(MomentumCapsules, momentum_autograd, torch.float32),
    "textbook, float64": Variant(textbook, loop, torch.float64),
    "textbook, float32": Variant(textbook, loop, torch.float32),
    "momentumnet, float32": Variant(momentumnet, loop, torch.float32),
}


def measure_gradients(
    cases: Iterable[str] = (),
    *,
    sweeps: Iterable[tuple[int, float]] = SWEEPS,
    batch: int = 32,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Compare the gradients of reversible stacks with autograd's, for the same recurrence in the same dtype.

    Args:
        cases: names in `WEIGHT_SCALES`; none for all.
        sweeps: pairs of a number of layers, >= 1, and gamma.
        batch: B, the images or inputs of a batch, >= 1.
        only: names in `INVERSION_VARIANTS`; none for all.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show a progress bar.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that does not exist.
    """
    unavailable_backend(device)
    settings = whole_settings(batch=batch, seed=seed)
    batch, seed = settings.values()
    names = select(only, INVERSION_VARIANTS, "name")
    pairs = [(whole_number("layers", n), finite_number("gamma", g, above=0, at_most=1)) for n, g in sweeps]
    whole_number("sweeps", len(pairs))
    lines = []
    for case in select(cases, WEIGHT_SCALES, "case"):
        for n, gamma in progress_bar(pairs, case, shown=progress):
            for name in names:
                lines.append(line := empty_line(GRADIENT_COLUMNS, f"{n} layers, gamma {gamma}, {case}", name))
                line |= {"layers": n, "gamma": gamma}
                variant, scale = INVERSION_VARIANTS[name], WEIGHT_SCALES[case]
                try:
                    line |= _errors(variant, n, gamma, scale, batch, device, seed)
                except Exception as error:  # not installed, or a gamma that is refused
                    line["failure"] = format_error(error)
    return Bench.from_lines("gradients", GRADIENT_COLUMNS, lines, device, **settings, dtype="both")


def _errors(
    variant: Variant, n: int, gamma: float, scale: float, batch: int, device: str, seed: int
) -> dict[str, float | str]:
    x, g, layers = hidden_layers(batch, n, device, seed)
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(scale)
    x, g = x.detach().to(variant.dtype).requires_grad_(), g.to(variant.dtype)
    modules: list[nn.Module] = [layer.to(variant.dtype) for layer in layers]
    inputs = [x, *(layer.weight for layer in layers)]
    exact = torch.autograd.grad(variant.autograd(modules, gamma)(x), inputs, g)
    first_inputs: list[Tensor] = []
    with layers[0].register_forward_pre_hook(lambda _, inputs: first_inputs.append(inputs[0].detach())):
        found = torch.autograd.grad(variant.reversible(modules, gamma)(x), inputs, g)
    dx, *dW = (relative_error(a, b.double()) for a, b in zip(found, exact, strict=True))
    return {
        "error_dx": dx,
        "error_dW": "non-finite" if "non-finite" in dW else max(dW),
        # The first layer sees the input in the forward pass, and the reconstructed input in the backward pass.
        "inversion_error": relative_error(first_inputs[-1], first_inputs[0].double()),
    }
