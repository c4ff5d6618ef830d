"""Ways to route side by side: their time, their error, and their memory. Used in chapter 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import cast

import torch
from torch import Tensor, nn

from capsnb.bench.measurement import (
    SECONDS,
    Bench,
    Columns,
    blank,
    chosen,
    elsewhere,
    finished,
    ratio,
    relative_error,
    seconds,
)
from capsnb.functional import squash
from capsnb.kernels import BACKENDS, Backend
from capsnb.layers import RoutingCapsules, default_weight_std
from capsnb.profiling import compare, flops, peak_bytes, said, saved_bytes
from capsnb.routing import routing_by_agreement

CASES = {  # I, D, J, E of the capsule layers in the papers' networks
    "MNIST, layer 1": (1152, 8, 32, 8),
    "CIFAR-10, layer 1": (2048, 8, 32, 8),
    "digit capsules": (1152, 8, 10, 16),
    "hidden layer": (32, 8, 32, 8),
    "class layer": (32, 8, 10, 16),
}

Route = Callable[[Tensor], Tensor]  # u [B, I, D] -> v [B, J, E]


def expanded(weight: nn.Parameter, iterations: int) -> Route:
    """Votes as published code computes them: the broadcasting `matmul` copies W for every element of the batch."""

    def route(u: Tensor) -> Tensor:
        votes = torch.matmul(weight[None], u[:, :, None, :, None]).squeeze(-1)  # [B, I, J, E]
        return routing_by_agreement(votes, iterations)

    return route


def materialised(weight: nn.Parameter, iterations: int) -> Route:
    """Votes by one batched product over I, then routing with plain autograd."""
    I, J, E, D = weight.shape

    def route(u: Tensor) -> Tensor:
        votes = torch.bmm(u.transpose(0, 1), weight.view(I, J * E, D).transpose(1, 2))  # [I, B, J*E]
        return routing_by_agreement(votes.view(I, -1, J, E).transpose(0, 1), iterations)

    return route


def compiled(weight: nn.Parameter, iterations: int) -> Route:
    """`materialised` through `torch.compile`, for these sizes alone."""
    torch.compiler.reset()  # another size's code would count against the limit of recompilations
    return torch.compile(materialised(weight, iterations), dynamic=False)


def checkpointed(weight: nn.Parameter, iterations: int) -> Route:
    """`materialised`, computed again in the backward pass instead of kept."""
    from torch.utils.checkpoint import checkpoint

    return partial(checkpoint, materialised(weight, iterations), use_reentrant=False)


def of_package(backend: Backend) -> Callable[[nn.Parameter, int], Route]:
    """The package's layer with this backend."""

    def build(weight: nn.Parameter, iterations: int) -> Route:
        I, J, E, D = weight.shape
        layer = RoutingCapsules(I, D, J, E, iterations=iterations, backend=backend)
        layer.weight = weight
        return layer

    return build


COMPETITORS: dict[str, Callable[[nn.Parameter, int], Route]] = {
    "expanded": expanded,
    "materialised": materialised,
    "compiled": compiled,
    "checkpoint": checkpointed,
    **{backend: of_package(cast(Backend, backend)) for backend in BACKENDS},
}
ERROR = "largest difference from the definition in float64, over the definition's largest number"
COLUMNS: dict[str, Columns] = {
    "routing": {
        **SECONDS,
        "times_auto": ("times", "median over the median of auto"),
        "work": ("FLOP", "arithmetic of one round: votes, agreements, weighted sums and their gradients"),
        "saved": ("B", "kept for the backward pass besides inputs and weights"),
        "error_v": ("1", f"outputs: {ERROR}"),
        "error_du": ("1", f"gradients of the inputs: {ERROR}"),
        "error_dW": ("1", f"gradients of the weights: {ERROR}"),
    },
    "memory": {
        "saved": ("B", "kept for the backward pass besides inputs and weights"),
        "peak": ("B", "highest point of forward and backward pass, above inputs and weights"),
        "working": ("B", "the peak without outputs and gradients"),
        "largest": ("B", "largest single allocation"),
    },
}


def routing(
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
    """Time forward and backward pass of every way to route, and compare each with the definition in float64.

    All share weights, inputs and the gradient from above. The inputs of a round are one of three sets in turn.

    Args:
        cases: names in `CASES`; none for all.
        batch: B, >= 1.
        iterations: R, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `COMPETITORS`; none for those that the device has.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    names = chosen(only, COMPETITORS, "competitor", leave=("checkpoint", elsewhere(device)))
    lines = []
    for case in chosen(cases, CASES, "case"):
        problem = _Problem(CASES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        turns = {name: problem.turns(route) for name, route in routes.items()}
        timings = compare(turns, rounds=rounds, device=device, progress=case if progress else None)
        failures |= timings.errors
        exact = problem.definition(iterations)
        for name in names:
            lines.append(line := blank(COLUMNS["routing"], case, name, failures))
            if name in timings:
                route, u = routes[name], problem.inputs[0]
                work = partial(problem.round, route, u)
                line |= seconds(timings, name) | {"times_auto": ratio(timings, name, "auto")}
                # Compiled code has no operators left to count; under the counter, what was compiled runs as it is.
                line["work"] = flops(work)
                line["saved"] = saved_bytes(partial(route, u), ignore=(problem.weight, u))
                for part, found, wanted in zip(("v", "du", "dW"), work(), exact, strict=True):
                    line[f"error_{part}"] = relative_error(found, wanted)
    return finished(
        "routing",
        COLUMNS["routing"],
        lines,
        device,
        batch=batch,
        iterations=iterations,
        rounds=rounds,
        seed=seed,
    )


def memory(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    iterations: int = 3,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Count the memory of forward and backward pass of every way to route.

    Args:
        cases: names in `CASES`; none for all.
        batch: B, >= 1.
        iterations: R, >= 1.
        only: names in `COMPETITORS`; none for those that the device has.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    from tqdm import tqdm

    names = chosen(only, COMPETITORS, "competitor", leave=(elsewhere(device),))
    lines = []
    for case in chosen(cases, CASES, "case"):
        problem = _Problem(CASES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        u = problem.inputs[0]
        # Outputs and gradients, v, du and dW, are there when a round ends, whoever computed them. They are subtracted
        # as a whole: too much where the highest point comes before the last of them is made, hence never below zero.
        results = problem.g.nbytes + u.nbytes + problem.weight.nbytes
        for name in tqdm(names, desc=case, disable=not progress, leave=False):
            lines.append(line := blank(COLUMNS["memory"], case, name, failures))
            if name in routes:
                try:
                    peak, largest = peak_bytes(partial(problem.round, routes[name], u), device)
                    saved = saved_bytes(partial(routes[name], u), ignore=(problem.weight, u))
                except Exception as error:  # as in `compare`: no compiler, too little memory
                    line["failure"] = said(error)
                else:
                    working = max(peak - results, 0)
                    line |= {"saved": saved, "peak": peak, "working": working, "largest": largest}
    return finished("memory", COLUMNS["memory"], lines, device, batch=batch, iterations=iterations, seed=seed)


class _Problem:
    """Weights, three sets of inputs and the gradient from above, for one size of layer."""

    def __init__(self, sizes: tuple[int, int, int, int], batch: int, device: str, seed: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, got {batch}")
        I, D, J, E = sizes
        normal = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
        # Drawn on the CPU: the same numbers on every device.
        self.weight = nn.Parameter((normal(I, J, E, D) * default_weight_std(I, J, E)).to(device))
        self.inputs = [squash(normal(batch, I, D)).to(device).requires_grad_() for _ in range(3)]
        self.g = normal(batch, J, E).to(device)

    def build(self, names: Iterable[str], iterations: int) -> tuple[dict[str, Route], dict[str, str]]:
        """The competitors, and what those said that do not exist here."""
        routes, errors = {}, {}
        for name in names:
            try:
                routes[name] = COMPETITORS[name](self.weight, iterations)
            except Exception as error:
                errors[name] = said(error)
        return routes, errors

    def round(self, route: Route, u: Tensor) -> tuple[Tensor | None, ...]:
        """Forward and backward pass: v, du and dW. Inputs and weights have no gradients, before as after."""
        try:
            v = route(u)
            v.backward(self.g)
            return v.detach(), u.grad, self.weight.grad
        finally:
            u.grad = self.weight.grad = None

    def turns(self, route: Route) -> Callable[[], object]:
        """A round, each time with the next of the inputs."""
        inputs: Iterator[Tensor] = cycle(self.inputs)
        return lambda: self.round(route, next(inputs))

    def definition(self, iterations: int) -> tuple[Tensor | None, ...]:
        """What the readable layer gives in float64: v, du and dW, a few images at a time to spare memory."""
        weight = nn.Parameter(self.weight.detach().double())
        layer = of_package("eager")(weight, iterations)
        outputs, gradients = [], []
        for u, g in zip(self.inputs[0].detach().double().split(16), self.g.double().split(16), strict=True):
            u = u.clone().requires_grad_()
            v = layer(u)
            v.backward(g)  # dW adds up over the batch
            outputs.append(v.detach())
            gradients.append(u.grad)
        return torch.cat(outputs), torch.cat(cast(list[Tensor], gradients)), weight.grad
