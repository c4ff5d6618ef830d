r"""How well layers are undone: gradients of reversible stacks against autograd's, and x walked back to the first.

Used in chapter 13, *Memory and time*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from capsnb.bench.measurement import Bench, Columns, blank, chosen, elsewhere, finished, relative_error
from capsnb.bench.stacks import Stack, momentumnet
from capsnb.bench.ways import CASES
from capsnb.functional import squash
from capsnb.layers import RoutingCapsules
from capsnb.profiling import said
from capsnb.reversible import MomentumCapsules

WEIGHTS = {"default weights": 1.0, "a tenth of them": 0.1}
SWEEPS = (*((n, 0.9) for n in (2, 4, 8, 16, 32, 40)), *((16, gamma) for gamma in (0.5, 0.7, 0.99)))
COLUMNS: dict[str, Columns] = {
    "gradients": {
        "layers": ("", "hidden capsule layers"),
        "gamma": ("", "share of the velocity that a layer leaves"),
        "error_dx": (
            "1",
            "gradient of the input: largest difference from autograd's, over autograd's largest number",
        ),
        "error_dW": ("1", "gradients of the weights: the largest such error of a layer"),
        "recovered": ("1", "first capsules, walked back to: largest difference over the largest number"),
    },
}


class Textbook(torch.autograd.Function):
    r"""Algorithms 1 and 2 of Gugglberger et al. (2022) as they stand, x and velocity in what the layers compute in."""

    @staticmethod
    def forward(ctx: Any, layers: list[nn.Module], gamma: float, x: Tensor, *weights: Tensor) -> Tensor:
        """Algorithm 1: move x through all layers and keep the last x and the last velocity."""
        velocity = torch.zeros_like(x)
        for layer in layers:
            velocity = gamma * velocity + (1 - gamma) * layer(x)
            x = x + velocity
        ctx.layers, ctx.gamma = layers, gamma
        ctx.save_for_backward(x, velocity)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        """Algorithm 2: undo the layers from the last to the first, and differentiate each on the way."""
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
    """The algorithms as they stand; in float32 they forget what the package's do not."""
    return lambda x: Textbook.apply(layers, gamma, x, *(layer.weight for layer in layers))


def loop(layers: list[nn.Module], gamma: float) -> Stack:
    """The recurrence in what the layers compute in, for autograd."""

    def stack(x: Tensor) -> Tensor:
        velocity = torch.zeros_like(x)
        for layer in layers:
            velocity = gamma * velocity + (1 - gamma) * layer(x)
            x = x + velocity
        return x

    return stack


class Undoer(NamedTuple):
    """Who undoes, the same recurrence for autograd, and what the layers compute in."""

    build: Callable[[list[nn.Module], float], Stack]
    remembered: Callable[[list[nn.Module], float], Stack]
    dtype: torch.dtype


def _package(layers: list[nn.Module], gamma: float) -> Stack:
    return MomentumCapsules(layers, gamma)


def _plain(layers: list[nn.Module], gamma: float) -> Stack:
    return MomentumCapsules(layers, gamma).forward_plain


UNDOERS = {
    "MomentumCapsules, float64": Undoer(_package, _plain, torch.float64),
    "MomentumCapsules, float32": Undoer(_package, _plain, torch.float32),
    "textbook, float64": Undoer(textbook, loop, torch.float64),
    "textbook, float32": Undoer(textbook, loop, torch.float32),
    "momentumnet, float32": Undoer(momentumnet, loop, torch.float32),
}


def gradients(
    cases: Iterable[str] = (),
    *,
    sweeps: Iterable[tuple[int, float]] = SWEEPS,
    batch: int = 32,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Compare gradients of stacks that compute backwards with autograd's, over the same recurrence in the same dtype.

    Args:
        cases: names in `WEIGHTS`; none for all.
        sweeps: pairs of a number of layers, >= 1, and gamma.
        batch: B, >= 1.
        only: names in `UNDOERS`; none for all.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show a progress bar.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    from tqdm import tqdm

    elsewhere(device)
    names, pairs = chosen(only, UNDOERS, "name"), list(sweeps)
    for name, smallest in (("batch", batch), ("layers", min((n for n, _ in pairs), default=0))):
        if smallest < 1:
            raise ValueError(f"{name} must be 1 or more, got {smallest}")
    lines = []
    for case in chosen(cases, WEIGHTS, "case"):
        for n, gamma in tqdm(pairs, desc=case, disable=not progress, leave=False):
            label = f"{n} layers, gamma {gamma}, {case}"
            for name in names:
                lines.append(line := blank(COLUMNS["gradients"], label, name, {}))
                line |= {"layers": n, "gamma": gamma}
                try:
                    line |= _errors(UNDOERS[name], n, gamma, WEIGHTS[case], batch, device, seed)
                except Exception as error:  # not installed, or a gamma that is refused
                    line["failure"] = said(error)
    return finished("gradients", COLUMNS["gradients"], lines, device, batch=batch, seed=seed, dtype="both")


def _errors(
    undoer: Undoer, n: int, gamma: float, scale: float, batch: int, device: str, seed: int
) -> dict[str, float | str]:
    I, D, J, E = CASES["hidden layer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, g = squash(torch.randn(batch, I, D)), torch.randn(batch, J, E)
        layers = [RoutingCapsules(I, D, J, E) for _ in range(n)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(scale)
    x = x.to(device, undoer.dtype).requires_grad_()
    modules: list[nn.Module] = [layer.to(device, undoer.dtype) for layer in layers]
    wanted, g = [x, *(layer.weight for layer in layers)], g.to(device, undoer.dtype)
    exact = torch.autograd.grad(undoer.remembered(modules, gamma)(x), wanted, g)
    seen: list[Tensor] = []
    with layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach())):
        found = torch.autograd.grad(undoer.build(modules, gamma)(x), wanted, g)
    dx, *dW = (relative_error(a, b.double()) for a, b in zip(found, exact, strict=True))
    worst = "non-finite" if "non-finite" in dW else max(dW)
    return {
        "error_dx": dx,
        "error_dW": worst,
        "recovered": relative_error(seen[-1], seen[0].double()),
    }
