"""The commands that measure: `memory`, and those of `bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from capsnb.bench import MEASUREMENTS, peak_memory
from capsnb.cli.options import (
    Model,
    complete_sizes,
    names,
    network_options,
    number_options,
    shape,
    with_options,
)
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


def _command(what: str) -> Callable[..., None]:
    """The command of a measurement, whose options are the whole numbers that it takes."""

    def command(
        numbers: dict[str, Any], case: Cases = None, only: Only = None, device: Device = None, out: Out = None
    ) -> None:
        _measure(what, case, only, device, out, **numbers)

    return with_options("numbers", number_options(MEASUREMENTS[what]), dict)(command)


for what, help in {
    "routing": "Time the forward and backward pass of each routing backend, with its error and its saved tensors.",
    "memory": "Measure the memory of each routing backend.",
    "step": "Time a training step of a whole network, relative to the same network without capsule layers.",
    "gradients": "Compare the gradients of reversible stacks with autograd's.",
}.items():
    bench.command(what, help=help)(_command(what))


@bench.command()
@with_options("numbers", number_options(MEASUREMENTS["depth"]), dict)
def depth(
    numbers: dict[str, Any],
    case: Cases = None,
    only: Only = None,
    blocks: Annotated[
        str | None, typer.Option(help="depths, separated by commas; by default 1 to 8, and 20")
    ] = None,
    image: Image = "1x28x28",
    device: Device = None,
    out: Out = None,
) -> None:
    """Measure the memory and time that each block of hidden capsules adds, in networks and in stacks alone."""
    if blocks is not None:
        if not all(number.strip().isdecimal() for number in blocks.split(",")):
            raise ValueError(f"blocks must be whole numbers separated by commas, got {blocks!r}")
        numbers["blocks"] = [int(number) for number in blocks.split(",")]
    if image != "1x28x28":
        numbers["image_shape"] = shape(image)
    _measure("depth", case, only, device, out, f"-{image}" if "image_shape" in numbers else "", **numbers)


@bench.command()
@with_options("numbers", number_options(MEASUREMENTS["scaling"]), dict)
def scaling(numbers: dict[str, Any], case: Cases = None, only: Only = None, out: Out = None) -> None:
    """Time training steps in several processes of one thread each, relative to one process."""
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
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = "" if device == "cpu" else "-cuda"
    path = Path("results") / f"bench-{what}{kind}{where}.json" if out is None else out
    if path.is_dir():
        raise ValueError(f"out must be a file, got the folder {str(path)!r}")
    check_writable(path.parent)  # before there is a measurement to lose
    result = MEASUREMENTS[what](
        cases or [], only=names("only", only), device=device, progress=sys.stderr.isatty(), **numbers
    )
    typer.echo(result.table())
    typer.echo(f"\nwritten to {result.save(path)}")
