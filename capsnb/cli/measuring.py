"""The commands that measure: `memory`, and those of `bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from capsnb.cli.options import Model, complete_sizes, names, network_options, shape, with_options
from capsnb.files import check_writable
from capsnb.models import build

Only = Annotated[str | None, typer.Option(help="these alone, separated by commas; all by default")]
Cases = Annotated[
    list[str] | None,
    typer.Option("--case", help="this size alone (a wrong name lists them); may be repeated"),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU if there is one")]
Out = Annotated[
    Path | None,
    typer.Option(help="JSON file; default results/bench-WHAT.json, on a GPU results/bench-WHAT-cuda.json"),
]
Image = Annotated[str, typer.Option(help="CxHxW of the images")]


@with_options("sizes", network_options(), dict)
def memory_of_a_step(
    sizes: dict[str, Any],
    model: Model = "mocapsnet",
    image: Image = "1x28x28",
    batch: Annotated[int, typer.Option("--batch", "--batch-size", help="images of a step")] = 128,
    classes: int = 10,
    measure: Annotated[bool, typer.Option("--measure", help="take a step on the CPU, and compare")] = False,
) -> None:
    """Predict the memory of a training step from shapes alone: whether it fits before it is tried."""
    from capsnb.bench import peak_memory

    arguments = {"image_shape": shape(image), "classes": classes, **complete_sizes(model, sizes)}
    predicted = peak_memory.predict(lambda: build(model, **arguments), batch)
    typer.echo(predicted.table())
    if measure:
        measured = peak_memory.measure(lambda: build(model, **arguments), batch)
        ratio = predicted.peak / measured
        typer.echo(f"\nmeasured: {measured / 1e6:,.1f} MB; predicted over measured: {ratio:.3f}")


bench = typer.Typer(
    help="Measure routing backends, their memory, training steps, the cost of depth, and scaling over processes.",
    no_args_is_help=True,
)


@bench.command()
def routing(
    case: Cases = None,
    only: Only = None,
    batch: int = 128,
    iterations: int = 3,
    rounds: int = 20,
    device: Device = None,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Time the forward and backward pass of each routing backend, with its error and its saved tensors."""
    _measure("routing", case, only, device, out, batch=batch, iterations=iterations, rounds=rounds, seed=seed)


@bench.command()
def memory(
    case: Cases = None,
    only: Only = None,
    batch: int = 128,
    iterations: int = 3,
    device: Device = None,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Measure the memory of each routing backend."""
    _measure("memory", case, only, device, out, batch=batch, iterations=iterations, seed=seed)


@bench.command()
def step(
    case: Cases = None,
    only: Only = None,
    batch: int = 128,
    rounds: int = 20,
    device: Device = None,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Time a training step of a whole network, relative to the same network without capsule layers."""
    _measure("step", case, only, device, out, batch=batch, rounds=rounds, seed=seed)


@bench.command()
def depth(
    case: Cases = None,
    only: Only = None,
    blocks: Annotated[
        str | None, typer.Option(help="depths, separated by commas; by default 1 to 8, and 20")
    ] = None,
    image: Image = "1x28x28",
    batch: int = 128,
    rounds: int = 10,
    device: Device = None,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Measure the memory and time that each block of hidden capsules adds, in networks and in stacks alone."""
    numbers: dict[str, Any] = {"batch": batch, "rounds": rounds, "seed": seed}
    if blocks is not None:
        if not all(number.strip().isdecimal() for number in blocks.split(",")):
            raise ValueError(f"blocks must be whole numbers separated by commas, got {blocks!r}")
        numbers["blocks"] = [int(number) for number in blocks.split(",")]
    if image != "1x28x28":
        numbers["image_shape"] = shape(image)
    _measure("depth", case, only, device, out, f"-{image}" if "image_shape" in numbers else "", **numbers)


@bench.command()
def gradients(
    case: Cases = None,
    only: Only = None,
    batch: int = 32,
    device: Device = None,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Compare the gradients of reversible stacks with autograd's."""
    _measure("gradients", case, only, device, out, batch=batch, seed=seed)


@bench.command()
def scaling(
    case: Cases = None,
    only: Only = None,
    count: Annotated[int, typer.Option(help="processes")] = 2,
    batch: int = 128,
    rounds: int = 20,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Time training steps in several processes of one thread each, relative to one process."""
    numbers: dict[str, Any] = {"count": count, "batch": batch, "rounds": rounds, "seed": seed}
    _measure("scaling", case, only, "cpu", out, **numbers)


def _measure(
    what: str,
    cases: list[str] | None,
    only: str | None,
    device: str | None,
    out: Path | None,
    kind: str = "",
    **numbers: Any,
) -> None:
    import torch

    from capsnb import bench as measurements

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = "" if device == "cpu" else "-cuda"
    path = Path("results") / f"bench-{what}{kind}{where}.json" if out is None else out
    if path.is_dir():
        raise ValueError(f"out must be a file, got the folder {str(path)!r}")
    check_writable(path.parent)  # before there is a measurement to lose
    result = measurements.MEASUREMENTS[what](
        cases or [], only=names("only", only), device=device, progress=sys.stderr.isatty(), **numbers
    )
    typer.echo(result.table())
    typer.echo(f"\nwritten to {result.save(path)}")
