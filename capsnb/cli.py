"""The command line: `python -m capsnb train | evaluate | compare | data | bench | reproduce`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from capsnb import distributed
from capsnb.data import NAMES, ImageData, Preprocess, load_data
from capsnb.files import write_atomically
from capsnb.training import CHECKPOINT, OPTIMIZERS, TrainConfig

RUN = "run.json"

app = typer.Typer(
    help="Train, evaluate and measure capsule networks.", no_args_is_help=True, pretty_exceptions_enable=False
)
DataName = Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, or folder:PATH")]
Root = Annotated[Path | None, typer.Option(help="folder of the data sets; default $CAPSNB_DATA or ./data")]
Download = Annotated[bool, typer.Option(help="fetch the data set if its files are not there")]
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
DEFAULT = TrainConfig()
NETWORKS = {
    "capsnet": "CapsNet",
    "rescapsnet": "ResCapsNet",
    "mocapsnet": "MoCapsNet",
    "alexcapsnet": "AlexCapsNet",
    "resnetcapsnet": "ResNetCapsNet",
}
# Options that some networks do not have; what has a default here is written down with a run.
OPTIONS: dict[str, dict[str, Any]] = {
    "capsnet": {"blocks": 0, "channels": 256, "capsule_types": 32, "recompute": False},
    "rescapsnet": {"blocks": 1, "channels": 256, "capsule_types": 32, "recompute": False},
    "mocapsnet": {"blocks": 1, "channels": 256, "capsule_types": 32, "recompute": False, "gamma": 0.9},
    "alexcapsnet": {"capsule_types": 32},
    "resnetcapsnet": {"blocks": 3, "channels": 32, "capsule_types": 16},
}


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="folder of this run; a run that was stopped goes on")],
    data: DataName = "mnist5k",
    root: Root = None,
    download: Download = False,
    images: Annotated[int | None, typer.Option(help="train on this many images, stratified")] = None,
    epochs: int = DEFAULT.epochs,
    batch_size: int = DEFAULT.batch_size,
    learning_rate: float = DEFAULT.learning_rate,
    optimizer: Annotated[str, typer.Option(help=", ".join(OPTIMIZERS))] = DEFAULT.optimizer,
    schedule: str = DEFAULT.schedule,
    decay: float = DEFAULT.decay,
    precision: str = DEFAULT.precision,
    accumulate: int = DEFAULT.accumulate,
    seed: int = DEFAULT.seed,
    pad: Annotated[int, typer.Option(help="black pixels on each side, cropped at random in training")] = 2,
    rotate: Annotated[float, typer.Option(help="random rotation while training, in degrees")] = 0.0,
    resize: Annotated[int | None, typer.Option(help="side in pixels that images are scaled to")] = None,
    standardise: Annotated[bool, typer.Option(help="mean 0 and variance 1 for each image")] = True,
    model: Annotated[str, typer.Option(help=", ".join(NETWORKS))] = "capsnet",
    channels: Annotated[
        int | None, typer.Option(help="channels of the first convolution; default 256, resnetcapsnet 32")
    ] = None,
    capsule_types: Annotated[
        int | None, typer.Option(help="primary capsules at each location; default 32, resnetcapsnet 16")
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            help="pairs of hidden capsule layers, default 0, with shortcuts 1; resnetcapsnet: of convolutions, 3"
        ),
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(help="of mocapsnet: share of the velocity a layer leaves; default 0.9")
    ] = None,
    routing: Annotated[
        str,
        typer.Option(help="the way to agree: rba, sda (scaled distances) or em (expectation maximisation)"),
    ] = "rba",
    weight_std: Annotated[
        float | None,
        typer.Option(help="spread of the first transformation matrices; by default the layers choose"),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="train through torch.compile")] = False,
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="compute again on the way back what is cheap, instead of keeping it"
        ),
    ] = False,
) -> None:
    """Train a capsule network; write checkpoint, history and evaluation into RUN.

    Under `torchrun` or `accelerate launch` all processes train it together, and the first one writes.
    """
    import torch

    from capsnb.evaluation import evaluate
    from capsnb.profiling import versions
    from capsnb.training import fit

    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]  # TrainConfig checks the name and says which there are
        decay=decay,
        precision=precision,  # type: ignore[arg-type]
        accumulate=accumulate,
        compile=compile,
        seed=seed,
    )
    distributed.init()
    source: dict[str, Any] = {"name": data, "root": None if root is None else str(root), "images": images}
    preprocess = Preprocess(pad=pad, rotate=rotate, resize=resize, standardise=standardise)
    prepared = _load(**source, preprocess=preprocess, download=download)
    sizes = {
        "image_shape": prepared.image_shape,
        "classes": len(prepared.classes),
        "routing": routing,
        "weight_std": weight_std,
        **_options(
            model,
            blocks=blocks,
            channels=channels,
            capsule_types=capsule_types,
            gamma=gamma,
            recompute=recompute or None,
        ),
    }
    torch.manual_seed(seed)
    network = _build(model, sizes)
    distributed.from_rank0(lambda: _check_same_network(run, model, sizes))
    first = distributed.rank() == 0
    if first:
        write_atomically(
            run / RUN,
            json.dumps(
                {
                    "network": model,
                    "model": sizes,
                    "data": source,
                    "preprocess": asdict(prepared.preprocess),
                    "config": asdict(config),
                    "versions": versions(),
                    "command": ["capsnb", *sys.argv[1:]],
                },
                indent=1,
            ),
        )
    history = fit(network, prepared, config, run_dir=run)
    evaluation = evaluate(network, prepared)
    if first:
        history.save(run / "history.json")
        evaluation.save(run / "evaluation.json")
        typer.echo(
            f"{history.model}, {history.parameters:,} parameters, {config.epochs} epochs, {history.seconds:.0f} s"
        )
        _report(evaluation)
    distributed.shutdown()


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="folder that `capsnb train` wrote")],
    root: Root = None,
) -> None:
    """Evaluate a trained network on its test images."""
    from capsnb.evaluation import evaluate as evaluate_model
    from capsnb.training import load_weights

    distributed.init()
    try:
        saved = json.loads((run / RUN).read_text())
        source, sizes, preprocess = saved["data"], saved["model"], Preprocess(**saved["preprocess"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{run / RUN} does not exist; is {run} a folder that `capsnb train` wrote?"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{run / RUN} is damaged ({error}); train again into an empty folder") from error
    prepared = _load(
        **{**source, **({"root": str(root)} if root else {})}, preprocess=preprocess, download=False
    )
    model = _build(saved.get("network", "capsnet"), sizes)  # runs from before there were others do not say
    load_weights(model, run / CHECKPOINT)
    evaluation = evaluate_model(model, prepared)
    if distributed.rank() == 0:
        evaluation.save(run / "evaluation.json")
        _report(evaluation)
    distributed.shutdown()


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders that `train` wrote, or files of `reproduce`")],
    out: Annotated[Path, typer.Option(help="folder of the table and of the page")] = Path("comparison"),
) -> None:
    """Put trained networks side by side: one table, one page of figures."""
    from capsnb import compare as comparison

    rows = comparison.rows(map(comparison.read, runs))
    typer.echo(comparison.table(rows))
    typer.echo("\nwritten to " + " and ".join(map(str, comparison.save(rows, out))))


@app.command()
def data(
    name: Annotated[str, typer.Argument()] = "mnist5k", root: Root = None, download: Download = False
) -> None:
    """Load a data set, check it, and say what is in it."""
    loaded = load_data(name, root, download=download)
    channels, height, width = loaded.image_shape
    typer.echo(
        f"{loaded.name}: {len(loaded.classes)} classes, {channels}x{height}x{width} after preprocessing"
    )
    for part, split in (("train", loaded.train), ("test", loaded.test)):
        counts = split.labels.bincount(minlength=len(loaded.classes)).tolist()
        shown = ", ".join(f"{c} {n}" for c, n in zip(loaded.classes, counts, strict=True))
        typer.echo(f"  {part}: {len(split):,} images ({shown})")


@app.command("memory")
def predict_memory(
    model: Annotated[str, typer.Option(help=", ".join(NETWORKS))] = "mocapsnet",
    blocks: Annotated[
        int | None, typer.Option(help="pairs of hidden capsule layers; default as `train`")
    ] = None,
    image: Image = "1x28x28",
    batch: Annotated[int, typer.Option("--batch", "--batch-size", help="images of a step")] = 128,
    classes: int = 10,
    channels: Annotated[int | None, typer.Option(help="channels of the first convolution")] = None,
    capsule_types: Annotated[int | None, typer.Option(help="primary capsules at each place")] = None,
    backend: Annotated[str | None, typer.Option(help="eager stores all votes; default auto")] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="compute again what is cheap")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="take a step on the CPU, and compare")] = False,
) -> None:
    """Say what a training step takes, from shapes alone: whether it fits before it is tried."""
    from capsnb import memory

    sizes = {
        "image_shape": _shape(image),
        "classes": classes,
        **_options(
            model, blocks=blocks, channels=channels, capsule_types=capsule_types, recompute=recompute or None
        ),
        **({} if backend is None else {"backend": backend}),
    }
    predicted = memory.predict(lambda: _build(model, sizes), batch)
    typer.echo(predicted.table())
    if measure:
        found = memory.measure(lambda: _build(model, sizes), batch)
        typer.echo(
            f"\nmeasured: {found / 1e6:,.1f} MB; predicted over measured: {predicted.peak / found:.3f}"
        )


bench = typer.Typer(
    help="Measure ways to route, their memory, training steps, what depth costs, and processes.",
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")


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
    """Time forward and backward pass of every way to route, beside its error and what it keeps."""
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
    """Count the memory that every way to route takes."""
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
    """Time a training step of a whole network, over the same network without capsule layers."""
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
    """Measure what each block of hidden capsules adds to memory and time, in networks and in stacks alone."""
    numbers: dict[str, Any] = {"batch": batch, "rounds": rounds, "seed": seed}
    if blocks is not None:
        if not all(number.strip().isdecimal() for number in blocks.split(",")):
            raise ValueError(f"blocks must be whole numbers separated by commas, got {blocks!r}")
        numbers["blocks"] = [int(number) for number in blocks.split(",")]
    if image != "1x28x28":
        numbers["image_shape"] = _shape(image)
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
    """Compare gradients of stacks that compute backwards with autograd's."""
    _measure("gradients", case, only, device, out, batch=batch, seed=seed)


@bench.command("processes")
def scaling(
    case: Cases = None,
    only: Only = None,
    count: Annotated[int, typer.Option(help="processes")] = 2,
    batch: int = 128,
    rounds: int = 20,
    seed: int = 0,
    out: Out = None,
) -> None:
    """Time training steps of processes of one thread each, over those of one process."""
    numbers: dict[str, Any] = {"count": count, "batch": batch, "rounds": rounds, "seed": seed}
    _measure("processes", case, only, "cpu", out, **numbers)


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

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    names = [name.strip() for name in only.split(",")] if only else []
    result = getattr(measurements, what)(
        cases or [], only=names, device=device, progress=sys.stderr.isatty(), **numbers
    )
    typer.echo(result.table())
    where = "" if device == "cpu" else "-cuda"
    path = result.save(out or Path("results") / f"bench-{what}{kind}{where}.json")
    typer.echo(f"\nwritten to {path}")


@app.command()
def reproduce(
    study: Annotated[
        str | None,
        typer.Argument(help="a study or a table of a paper; --list without a name shows all of them"),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="these data sets alone, separated by commas")] = None,
    blocks: Annotated[
        str | None, typer.Option(help="these numbers of blocks alone, separated by commas")
    ] = None,
    model: Annotated[str | None, typer.Option(help="these networks alone, separated by commas")] = None,
    seeds: Annotated[int | None, typer.Option(help="this many seeds of each run; all by default")] = None,
    profile: Annotated[
        str, typer.Option(help="full, or quick: a table's rows with narrow networks and few images")
    ] = "full",
    budget: Annotated[
        str | None, typer.Option(help="time to stop in, such as 90s, 8m or 2h; the same command goes on")
    ] = None,
    workers: Annotated[int, typer.Option(help="runs at the same time, on one GPU too")] = 1,
    root: Annotated[Path | None, typer.Option("--data", "--root", help="folder of the data sets")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default results")] = None,
    show: Annotated[bool, typer.Option("--list", help="show what is there, and run nothing")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="see whether each file of results belongs to its row")
    ] = False,
) -> None:
    """Train the runs of a study or of a paper's table that have no result yet; show paper beside ours."""
    import math

    from capsnb import experiments

    folder = out or Path("results")
    if check:
        wrong = experiments.check(folder)
        typer.echo("\n".join(wrong) or f"every file in {folder} belongs to its row")
        raise typer.Exit(code=bool(wrong))
    if study is None:
        if not show:
            raise ValueError(f"name what to reproduce: {', '.join(experiments.STUDIES)}; or ask for --list")
        typer.echo(experiments.overview(folder))
        return
    if study in experiments.COSTS:
        if not show:
            experiments.measure(folder, progress=sys.stderr.isatty())
        typer.echo(experiments.COSTS[study](folder))
        return
    if profile not in ("full", "quick"):
        raise ValueError(f"unknown profile {profile!r}; choose full or quick")
    if profile == "quick" and f"{study}-quick" in experiments.STUDIES:
        study = f"{study}-quick"
    wanted = _Wanted(dataset, blocks, model, seeds)
    if not any(map(wanted, experiments.runs(study))):
        raise ValueError(f"no run of {study} is left with these options; see --list")
    if not show:
        seconds = math.inf if budget is None else _seconds(budget)
        left = experiments.reproduce(
            study,
            folder,
            root=None if root is None else str(root),
            budget=seconds,
            workers=workers,
            only=wanted,
        )
        if left:
            typer.echo(f"{left} runs are left; the same command goes on")
    typer.echo(experiments.table(study, folder))


class _Wanted:
    """Which runs the options of `reproduce` choose."""

    def __init__(self, dataset: str | None, blocks: str | None, model: str | None, seeds: int | None) -> None:
        self.chosen = {"data": _names(dataset), "model": _names(model), "blocks": _names(blocks)}
        self.seeds = seeds

    def __call__(self, run: Any) -> bool:
        if self.seeds is not None and run.config.seed >= self.seeds:
            return False
        is_ = {
            "data": run.data.removeprefix("folder:"),
            "model": run.model.lower(),
            "blocks": str(run.sizes.get("blocks", "")),
        }
        return all(is_[what] in names for what, names in self.chosen.items() if names)


def _names(listed: str | None) -> list[str]:
    return [name.strip().lower() for name in listed.split(",")] if listed else []


def _shape(image: str) -> tuple[int, int, int]:
    """Read the shape of an image.

    >>> _shape("3x32x32")
    (3, 32, 32)
    """
    sides = image.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"an image is channels x height x width, such as 3x32x32, got {image!r}")
    channels, height, width = map(int, sides)
    return channels, height, width


def _seconds(budget: str) -> float:
    """Read a time with its unit.

    >>> _seconds("90s"), _seconds("8m"), _seconds("1.5h")
    (90.0, 480.0, 5400.0)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(budget[:-1]) * units[budget[-1]]
    except (KeyError, ValueError, IndexError):
        raise ValueError(f"budget is a time such as 90s, 8m or 2h, got {budget!r}") from None


def _load(
    name: str, root: str | None, images: int | None, *, preprocess: Preprocess, download: bool
) -> ImageData:
    with distributed.local_rank0_first():
        loaded = load_data(name, root, download=download, preprocess=preprocess)
    return loaded if images is None else loaded.subset(train=images)


def _check_same_network(run: Path, network: str, sizes: dict[str, Any]) -> None:
    """The weights of one network may fit another, or another gamma: a run goes on as what it was."""
    try:
        saved = json.loads((run / RUN).read_text())
        # runs from before there were others do not say
        then = {"network": saved.get("network", "capsnet"), "routing": "rba", "weight_std": None} | saved[
            "model"
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # there is none, or none that can be read
    now = {"network": network, **sizes, "image_shape": list(sizes["image_shape"])}
    for name in now:
        if name in then and now[name] != then[name]:
            raise ValueError(
                f"{run} holds another run: {name} was {then[name]!r} and is now {now[name]!r}; choose another folder"
            )


def _options(network: str, **given: Any) -> dict[str, Any]:
    """The sizes of this network, given or its own; None was not given. What it does not have is refused."""
    if network not in NETWORKS:
        raise ValueError(f"unknown model {network!r}; choose one of {', '.join(NETWORKS)}")
    own = OPTIONS[network]
    for name, value in given.items():
        if value is not None and name not in own:
            others = ", ".join(other for other, options in OPTIONS.items() if name in options)
            option = name.replace("_", "-")
            raise ValueError(
                f"{network} has no {name}; leave --{option} out, or give --model one of: {others}"
            )
    return own | {name: value for name, value in given.items() if value is not None}


def _build(network: str, sizes: dict[str, Any]) -> Any:
    from capsnb import models

    if network not in NETWORKS:
        raise ValueError(f"unknown model {network!r}; choose one of {', '.join(NETWORKS)}")
    return getattr(models, NETWORKS[network])(**{**sizes, "image_shape": tuple(sizes["image_shape"])})


def _report(evaluation: Any) -> None:
    typer.echo(
        f"{evaluation.dataset}: accuracy {evaluation.accuracy:.2%} of {evaluation.count:,} test images"
    )
    for line in evaluation.per_class:  # a class that was never predicted has no precision
        precision, recall = (
            "–" if line[name] is None else f"{line[name]:.2%}" for name in ("precision", "recall")
        )
        typer.echo(f"  {line['class']:>12}: precision {precision}, recall {recall}")


def main() -> NoReturn:
    """Run a command; what is wrong with the input is one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        who = f" (process {distributed.rank()})" if distributed.world_size() > 1 else ""
        typer.secho(f"capsnb{who}: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    except ExceptionGroup as group:  # runs that failed while others went on
        reasons: dict[str, list[str]] = {}
        for failed in group.exceptions:
            reasons.setdefault(str(failed), []).append(" ".join(failed.__notes__))
        for reason, where in reasons.items():
            others = f" and {len(where) - 1} more" if where[1:] else ""
            typer.secho(f"capsnb: {where[0]}{others}: {reason}", fg="red", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0)
