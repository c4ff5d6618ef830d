"""The measurements behind `capsnb bench`: ways to route, and training steps, side by side. Used in chapter 5."""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from capsnb.files import results, write_atomically
from capsnb.functional import squash
from capsnb.kernels import BACKENDS, Backend
from capsnb.layers import RoutingCapsules, default_weight_std
from capsnb.losses import capsule_loss
from capsnb.models import CapsNet
from capsnb.profiling import Timing, compare, flops, hardware, peak_bytes, said, saved_bytes, versions
from capsnb.routing import routing_by_agreement
from capsnb.training import OPTIMIZERS

CASES = {  # I, D, J, E of the capsule layers in the papers' networks
    "MNIST, layer 1": (1152, 8, 32, 8),
    "CIFAR-10, layer 1": (2048, 8, 32, 8),
    "digit capsules": (1152, 8, 10, 16),
    "hidden layer": (32, 8, 32, 8),
    "class layer": (32, 8, 10, 16),
}
NETWORKS = {"MNIST": (1, 28, 28), "CIFAR-10": (3, 32, 32)}  # C, H, W

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
ELSEWHERE = {"cpu": "triton", "cuda": "native"}  # the backend that a kind of device does not have
WITHOUT = "without capsule layers"
VARIANTS = (*BACKENDS, WITHOUT)
SECONDS = {
    "median": ("s", "median of the rounds"),
    "lower": ("s", "lower quartile"),
    "upper": ("s", "upper quartile"),
}
ERROR = "largest difference from the definition in float64, over the definition's largest number"
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
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
    "step": {
        **SECONDS,
        "times_floor": ("times", f"median over the median {WITHOUT}"),
        "peak": ("B", "highest point of a step: weights, gradients, Adam's moments, and what comes and goes"),
    },
}
SHOWN = {"s": ("ms", 1e3), "B": ("MB", 1e-6), "FLOP": ("GFLOP", 1e-9)}  # as people read them


@dataclass(frozen=True)
class Bench:
    """One measurement: its figures, what they mean, and how they were made.

    Attributes:
        what: "routing", "memory" or "step".
        columns: unit and meaning of each figure, `{name: {unit, meaning}}`.
        lines: `{case, name, failure, ...}` with the figures in their units; None where there is none, "non-finite" for
            the error of a result that is not finite. A competitor that could not run says why in `failure`.
        settings: batch, rounds, seed and their like.
        hardware: see `capsnb.profiling.hardware`.
        versions: see `capsnb.profiling.versions`.
        date: when, as year-month-day.
        command: what was typed.
    """

    what: str
    columns: dict[str, dict[str, str]]
    lines: list[dict[str, Any]]
    settings: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: list[str]

    def __getitem__(self, which: tuple[str, str]) -> dict[str, Any]:
        """The line of a case and a name: `bench["hidden layer", "auto"]["median"]`."""
        for line in self.lines:
            if (line["case"], line["name"]) == which:
                return line
        raise KeyError(f"no line {which!r}; there are {[(x['case'], x['name']) for x in self.lines]}")

    def table(self) -> str:
        """The figures as a Markdown table that is also readable as plain text; below it, what could not run and why."""
        units = {name: column["unit"] for name, column in self.columns.items()}
        heads = [f"{n.replace('_', ' ')} {SHOWN.get(u, ('', 1))[0]}".strip() for n, u in units.items()]
        rows = [["case", "", *heads]]
        for line in self.lines:
            rows.append([line["case"], line["name"], *(shown(line[n], u) for n, u in units.items())])
        failed = [f"\n{x['case']}, {x['name']}: {x['failure']}" for x in self.lines if x["failure"]]
        return "\n".join([_markdown(rows, left=2), *failed])

    def side_by_side(self, names: Iterable[str], cell: Callable[[dict[str, Any]], str]) -> str:
        """A Markdown table with a row for each case and a column for each name.

        Args:
            names: the columns.
            cell: what to write about a line of the measurement.
        """
        names, cases = list(names), dict.fromkeys(line["case"] for line in self.lines)
        rows = [[case, *(cell(self[case, name]) for name in names)] for case in cases]
        return _markdown([["", *names], *rows], left=1)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the measurement as JSON, whole or not at all."""
        return write_atomically(path, json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str]) -> Bench:
    """Read a measurement that `Bench.save` wrote.

    Args:
        path: the JSON file.

    Returns:
        The same measurement.

    Raises:
        FileNotFoundError: there is no such file: it has not been run yet.
        ValueError: the file is not a whole measurement.

    >>> print(read("results/bench-routing.json").table())  # doctest: +SKIP
    """
    try:
        return Bench(**json.loads(Path(path).read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no measurement at {path}; make one with `capsnb bench`") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a measurement that capsnb saved ({error}); measure again") from error


def published(what: str) -> Bench | None:
    """Read a measurement of the project's own, "routing", "memory", "step", or with "-cuda"; None: not run yet."""
    path = results() / f"bench-{what}.json"
    return read(path) if path.exists() else None


def shown(value: float | str | None, unit: str) -> str:
    """A figure as a table shows it: three digits, in the unit that people read.

    >>> shown(0.0123456, "s"), shown(2.5e9, "B"), shown(1.25e-7, "1"), shown(None, "s")
    ('12.3', '2,500', '1.2e-07', '–')
    """
    if value is None or isinstance(value, str):
        return value or "–"
    if unit == "1":
        return f"{value:.1e}"
    scaled = value * SHOWN.get(unit, ("", 1))[1]
    digits = 2 - math.floor(math.log10(scaled)) if scaled else 0
    return f"{scaled:,.{min(max(digits, 0), 6)}f}"


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
    names = _chosen(only, COMPETITORS, "competitor", leave=("checkpoint", _elsewhere(device)))
    lines = []
    for case in _chosen(cases, CASES, "case"):
        problem = _Problem(CASES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        turns = {name: problem.turns(route) for name, route in routes.items()}
        timings = compare(turns, rounds=rounds, device=device, progress=case if progress else None)
        failures |= timings.errors
        exact = problem.definition(iterations)
        for name in names:
            lines.append(line := _line("routing", case, name, failures))
            if name in timings:
                route, u = routes[name], problem.inputs[0]
                work = partial(problem.round, route, u)
                line |= _seconds(timings, name) | {"times_auto": _ratio(timings, name, "auto")}
                # Compiled code has no operators left to count; under the counter, what was compiled runs as it is.
                line["work"] = flops(work)
                line["saved"] = saved_bytes(partial(route, u), ignore=(problem.weight, u))
                for part, found, wanted in zip(("v", "du", "dW"), work(), exact, strict=True):
                    line[f"error_{part}"] = _relative_error(found, wanted)
    return _bench("routing", lines, device, batch=batch, iterations=iterations, rounds=rounds, seed=seed)


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

    names = _chosen(only, COMPETITORS, "competitor", leave=(_elsewhere(device),))
    lines = []
    for case in _chosen(cases, CASES, "case"):
        problem = _Problem(CASES[case], batch, device, seed)
        routes, failures = problem.build(names, iterations)
        u = problem.inputs[0]
        # Outputs and gradients, v, du and dW, are there when a round ends, whoever computed them. They are subtracted
        # as a whole: too much where the highest point comes before the last of them is made, hence never below zero.
        results = problem.g.nbytes + u.nbytes + problem.weight.nbytes
        for name in tqdm(names, desc=case, disable=not progress, leave=False):
            lines.append(line := _line("memory", case, name, failures))
            if name in routes:
                try:
                    peak, largest = peak_bytes(partial(problem.round, routes[name], u), device)
                    saved = saved_bytes(partial(routes[name], u), ignore=(problem.weight, u))
                except Exception as error:  # as in `compare`: no compiler, too little memory
                    line["failure"] = said(error)
                else:
                    working = max(peak - results, 0)
                    line |= {"saved": saved, "peak": peak, "working": working, "largest": largest}
    return _bench("memory", lines, device, batch=batch, iterations=iterations, seed=seed)


def step(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    rounds: int = 20,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Time one training step of a CapsNet with one block: images, loss, gradients, Adam.

    The floor is the same network without capsules: convolutions, decoder and Adam alone. Its decoder draws from as many
    numbers of the second feature map as the class capsules would have.

    Args:
        cases: names in `NETWORKS`; none for all.
        batch: B, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `VARIANTS`, backends and the floor; none for "auto", "fused", "eager" and the floor.
        device: "cpu" or "cuda".
        seed: of weights and images.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    _elsewhere(device)
    names = _chosen(only, VARIANTS, "variant", leave=ELSEWHERE.values())
    lines = []
    for case in _chosen(cases, NETWORKS, "case"):
        models = {name: _network(name, NETWORKS[case], seed).to(device) for name in names}
        steps = {name: _training_step(model, batch, seed) for name, model in models.items()}
        timings = compare(steps, rounds=rounds, device=device, progress=case if progress else None)
        for name in names:
            lines.append(line := _line("step", case, name, timings.errors))
            if name in timings:
                line |= _seconds(timings, name) | {"times_floor": _ratio(timings, name, WITHOUT)}
                # Weights and Adam's two moments are there when a step begins; gradients come and go within it.
                states = 3 * sum(p.nbytes for p in models[name].parameters())
                line["peak"] = states + peak_bytes(steps[name], device).peak
    return _bench("step", lines, device, batch=batch, blocks=1, rounds=rounds, seed=seed)


def _markdown(rows: list[list[str]], *, left: int) -> str:
    """A table that is also readable as plain text; the first columns are aligned left, the others right."""
    widths = [max(3, *map(len, cells)) for cells in zip(*rows, strict=True)]
    rules = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    padded = [
        [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in [rows[0], rules, *rows[1:]]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


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


class _FirstNumbers(nn.Module):
    """In place of capsules: the first numbers of the feature map, in the shape of class capsules."""

    def forward(self, u: Tensor) -> Tensor:
        return u.flatten(1)[:, : 10 * 16].unflatten(1, (10, 16))


def _network(name: str, image_shape: tuple[int, int, int], seed: int) -> CapsNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CapsNet(image_shape, blocks=1)
    if name == WITHOUT:
        model.add_module("primary", model.primary.conv)
        model.capsules = nn.Sequential(_FirstNumbers())
    for layer in model.capsule_layers:
        layer.backend = cast(Backend, name)
    return model


def _training_step(model: CapsNet, batch: int, seed: int) -> Callable[[], object]:
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    generator, device = torch.Generator().manual_seed(seed), model.conv.weight.device
    images = torch.randn(batch, *model.image_shape, generator=generator).to(device)
    targets = torch.rand(batch, *model.image_shape, generator=generator).to(device)
    labels = torch.randint(10, (batch,), generator=generator).to(device)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)

    def training_step() -> None:
        capsule_loss(model(images, labels), targets, labels).total.backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end: the step's memory includes its gradients

    return training_step


def _elsewhere(device: str) -> str:
    kind = torch.device(device).type
    if kind not in ELSEWHERE:
        raise ValueError(f'device is "{device}"; choose "cpu" or "cuda"')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device is "{device}", but PyTorch finds no GPU here; choose "cpu"')
    return ELSEWHERE[kind]


def _chosen(
    wanted: Iterable[str], known: Iterable[str], kind: str, *, leave: Iterable[str] = ()
) -> list[str]:
    wanted, known, leave = list(wanted), list(known), set(leave)
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose from: {'; '.join(known)}")
    return wanted or [name for name in known if name not in leave]


def _line(what: str, case: str, name: str, failures: dict[str, str]) -> dict[str, Any]:
    return {"case": case, "name": name, "failure": failures.get(name), **dict.fromkeys(COLUMNS[what])}


def _seconds(timings: dict[str, Timing], name: str) -> dict[str, float]:
    return {quartile: getattr(timings[name], quartile) for quartile in SECONDS}


def _ratio(timings: dict[str, Timing], name: str, reference: str) -> float | None:
    return timings[name].median / timings[reference].median if reference in timings else None


def _relative_error(found: Tensor | None, exact: Tensor | None) -> float | str:
    assert found is not None and exact is not None  # of a round that ran
    if not found.isfinite().all():
        return "non-finite"
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def _bench(what: str, lines: list[dict[str, Any]], device: str, **settings: int) -> Bench:
    columns = {name: {"unit": unit, "meaning": meaning} for name, (unit, meaning) in COLUMNS[what].items()}
    return Bench(
        what=what,
        columns=columns,
        lines=lines,
        settings={**settings, "dtype": "float32", "device": device},
        hardware=hardware(device),
        versions=versions(),
        date=datetime.date.today().isoformat(),
        command=["capsnb", *sys.argv[1:]],
    )
