"""Implementations of a routing layer, measured: time, error and memory of the backends and of baselines.

Used in chapter 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import cast

import torch
from torch import Tensor, nn

from capsnb.bench.measurement import (
    TIMING_COLUMNS,
    Bench,
    Columns,
    empty_line,
    median_ratio,
    quartiles,
    relative_error,
    select,
    unavailable_backend,
    whole_settings,
)
from capsnb.functional import squash
from capsnb.kernels import BACKENDS, Backend
from capsnb.layers import RoutingCapsules, default_weight_std
from capsnb.profiling import flops, format_error, peak_bytes, saved_bytes, time_interleaved
from capsnb.progress import progress_bar
from capsnb.routing import routing_by_agreement

LAYER_SIZES = {  # I, D, J, E of the capsule layers in the papers' networks
    "MNIST, layer 1": (1152, 8, 32, 8),
    "CIFAR-10, layer 1": (2048, 8, 32, 8),
    "digit capsules": (1152, 8, 10, 16),
    "hidden layer": (32, 8, 32, 8),
    "class layer": (32, 8, 10, 16),
}

Route = Callable[[Tensor], Tensor]  # u [B, I, D] -> v [B, J, E]


def expanded(weight: nn.Parameter, iterations: int) -> Route:
    """The baseline of published code: a broadcasting `matmul`, which copies W for every element of the batch."""

    def route(u: Tensor) -> Tensor:
        votes = torch.matmul(weight[None], u[:, :, None, :, None]).squeeze(-1)  # [B, I, J, E]
        return routing_by_agreement(votes, iterations)

    return route


def materialised(weight: nn.Parameter, iterations: int) -> Route:
    """A baseline that stores the votes, computed by one batched product over I, and routes with plain autograd."""
    I, J, E, D = weight.shape

    def route(u: Tensor) -> Tensor:
        votes = torch.bmm(u.transpose(0, 1), weight.view(I, J * E, D).transpose(1, 2))  # [I, B, J*E]
        return routing_by_agreement(votes.view(I, -1, J, E).transpose(0, 1), iterations)

    return route


def compiled(weight: nn.Parameter, iterations: int) -> Route:
    """`materialised`, compiled by `torch.compile` for these sizes alone."""
    torch.compiler.reset()  # code for another size would count against the limit of recompilations
    return torch.compile(materialised(weight, iterations), dynamic=False)


def checkpointed(weight: nn.Parameter, iterations: int) -> Route:
    """`materialised` with a checkpoint: the votes are recomputed in the backward pass instead of stored."""
    from torch.utils.checkpoint import checkpoint

    return partial(checkpoint, materialised(weight, iterations), use_reentrant=False)


def package_layer(backend: Backend) -> Callable[[nn.Parameter, int], Route]:
    """The layer of the package with this backend."""

    def build(weight: nn.Parameter, iterations: int) -> Route:
        I, J, E, D = weight.shape
        layer = RoutingCapsules(I, D, J, E, iterations=iterations, backend=backend)
        layer.weight = weight
        return layer

    return build


IMPLEMENTATIONS: dict[str, Callable[[nn.Parameter, int], Route]] = {
    "expanded": expanded,
    "materialised": materialised,
    "compiled": compiled,
    "checkpoint": checkpointed,
    **{backend: package_layer(cast(Backend, backend)) for backend in BACKENDS},
}
ERROR = "largest difference from the eager layer in float64, over the largest exact value"
SAVED = ("B", "saved for backward, without inputs and weights")
ROUTING_COLUMNS: Columns = {
    **TIMING_COLUMNS,
    "times_auto": ("times", "median over the median of auto"),
    "work": ("FLOP", "arithmetic of one round: votes, agreements, weighted sums and their gradients"),
    "saved": SAVED,
    "error_v": ("1", f"outputs: {ERROR}"),
    "error_du": ("1", f"gradients of the inputs: {ERROR}"),
    "error_dW": ("1", f"gradients of the weights: {ERROR}"),
}
MEMORY_COLUMNS: Columns = {
    "saved": SAVED,
    "peak": ("B", "peak memory of forward and backward pass, without inputs and weights"),
    "working": ("B", "the peak without outputs and gradients"),
    "largest": ("B", "largest single allocation"),
}


def measure_routing(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    iterations: int = 3,
    rounds: int = 20,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Time forward and backward pass of every implementation, and compare each with the eager layer in float64.

    All share weights, inputs and the gradient of the outputs. The rounds use three sets of inputs in turn.

    Args:
        cases: names in `LAYER_SIZES`; none for all.
        batch: B, the images or inputs of a batch, >= 1.
        iterations: R, routing iterations, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `IMPLEMENTATIONS`; none for those that the device has, without "checkpoint".
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that does not exist.
    """
    settings = whole_settings(batch=batch, iterations=iterations, rounds=rounds, seed=seed)
    batch, iterations, rounds, seed = settings.values()
    excluded = ("checkpoint", unavailable_backend(device))
    names = select(only, IMPLEMENTATIONS, "implementation", exclude=excluded)
    lines = []
    for case in select(cases, LAYER_SIZES, "case"):
        problem = _Problem(LAYER_SIZES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        turns = {name: problem.turns(route) for name, route in routes.items()}
        timings = time_interleaved(turns, rounds=rounds, device=device, progress=case if progress else None)
        failures |= timings.errors
        exact = problem.exact(iterations)
        for name in names:
            lines.append(line := empty_line(ROUTING_COLUMNS, case, name, failures.get(name)))
            if name in timings:
                line |= quartiles(timings[name]) | {"times_auto": median_ratio(timings, name, "auto")}
                line |= problem.work_and_errors(routes[name], exact)
    return Bench.from_lines("routing", ROUTING_COLUMNS, lines, device, **settings)


def measure_memory(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    iterations: int = 3,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Measure the memory of forward and backward pass of every implementation.

    Args:
        cases: names in `LAYER_SIZES`; none for all.
        batch: B, the images or inputs of a batch, >= 1.
        iterations: R, routing iterations, >= 1.
        only: names in `IMPLEMENTATIONS`; none for those that the device has.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that does not exist.
    """
    settings = whole_settings(batch=batch, iterations=iterations, seed=seed)
    batch, iterations, seed = settings.values()
    names = select(only, IMPLEMENTATIONS, "implementation", exclude=(unavailable_backend(device),))
    lines = []
    for case in select(cases, LAYER_SIZES, "case"):
        problem = _Problem(LAYER_SIZES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        for name in progress_bar(names, case, shown=progress):
            lines.append(line := empty_line(MEMORY_COLUMNS, case, name, failures.get(name)))
            if name in routes:
                try:
                    line |= problem.memory(routes[name])
                except Exception as error:  # as in `time_interleaved`: no compiler, too little memory
                    line["failure"] = format_error(error)
    return Bench.from_lines("memory", MEMORY_COLUMNS, lines, device, **settings)


class _Problem:
    """Weights, three sets of inputs and the gradient of the outputs, for one size of layer."""

    def __init__(self, sizes: tuple[int, int, int, int], batch: int, device: str, seed: int) -> None:
        I, D, J, E = sizes
        normal = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        # Drawn on the CPU: the same numbers on every device.
        self.weight = nn.Parameter((normal(I, J, E, D) * default_weight_std(I, J, E)).to(device))
        self.inputs = [squash(normal(batch, I, D)).to(device).requires_grad_() for _ in range(3)]
        self.g = normal(batch, J, E).to(device)

    def build(self, names: Iterable[str], iterations: int) -> tuple[dict[str, Route], dict[str, str]]:
        """The implementations, and the errors of those that could not be built here."""
        routes, errors = {}, {}
        for name in names:
            try:
                routes[name] = IMPLEMENTATIONS[name](self.weight, iterations)
            except Exception as error:
                errors[name] = format_error(error)
        return routes, errors

    def round(self, route: Route, u: Tensor) -> tuple[Tensor | None, ...]:
        """Forward and backward pass: v, du and dW. Inputs and weights have no gradients before and after it."""
        try:
            v = route(u)
            v.backward(self.g)
            return v.detach(), u.grad, self.weight.grad
        finally:
            u.grad = self.weight.grad = None

    def turns(self, route: Route) -> Callable[[], object]:
        """A function that computes a round, each time with the next of the inputs."""
        inputs: Iterator[Tensor] = cycle(self.inputs)
        return lambda: self.round(route, next(inputs))

    def saved(self, route: Route) -> int:
        """Bytes that are saved for backward, without inputs and weights."""
        u = self.inputs[0]
        return saved_bytes(partial(route, u), ignore=(self.weight, u))

    def work_and_errors(self, route: Route, exact: tuple[Tensor | None, ...]) -> dict[str, float | str]:
        """Arithmetic, saved bytes and errors of a round."""
        one_round = partial(self.round, route, self.inputs[0])
        # Compiled code has no operators to count; under the counter the function runs without compilation.
        found: dict[str, float | str] = {"work": flops(one_round), "saved": self.saved(route)}
        for part, value, expected in zip(("v", "du", "dW"), one_round(), exact, strict=True):
            found[f"error_{part}"] = relative_error(value, expected)
        return found

    def memory(self, route: Route) -> dict[str, int]:
        """Saved bytes and peak memory of a round."""
        peak, largest = peak_bytes(partial(self.round, route, self.inputs[0]), self.g.device)
        # Every implementation ends a round with v, du and dW. Their size is subtracted as a whole: too much where the
        # peak comes before the last of them is allocated, hence never below zero.
        results = self.g.nbytes + self.inputs[0].nbytes + self.weight.nbytes
        return {
            "saved": self.saved(route),
            "peak": peak,
            "working": max(peak - results, 0),
            "largest": largest,
        }

    def exact(self, iterations: int) -> tuple[Tensor | None, ...]:
        """v, du and dW of the eager layer in float64, computed for 16 images at a time to save memory."""
        weight = nn.Parameter(self.weight.detach().double())
        layer = package_layer("eager")(weight, iterations)
        outputs, gradients = [], []
        for u, g in zip(self.inputs[0].detach().double().split(16), self.g.double().split(16), strict=True):
            u = u.clone().requires_grad_()
            v = layer(u)
            v.backward(g)  # dW accumulates over the batch
            outputs.append(v.detach())
            gradients.append(u.grad)
        return torch.cat(outputs), torch.cat(cast(list[Tensor], gradients)), weight.grad
