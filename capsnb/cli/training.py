"""The commands that train, evaluate, compare, and load data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from capsnb import distributed, files
from capsnb.cli.options import (
    DATA_SETS,
    DataName,
    Download,
    Model,
    Root,
    complete_sizes,
    field_options,
    network_options,
    with_options,
)
from capsnb.data import ImageData, Preprocess, load_data
from capsnb.models import NETWORKS
from capsnb.training import CHECKPOINT, TrainConfig

if TYPE_CHECKING:
    from capsnb.evaluation import Evaluation
    from capsnb.experiments import Run


# How a run ends that this machine cannot train as it was asked.
REFUSALS = (ValueError, TypeError, ModuleNotFoundError, MemoryError)


@with_options("sizes", network_options(), dict)
@with_options("preprocess", field_options(Preprocess), Preprocess)
@with_options("config", field_options(TrainConfig), TrainConfig)
def train(
    run: Annotated[Path, typer.Argument(help="folder of this run; a run that was stopped resumes")],
    config: TrainConfig,
    preprocess: Preprocess,
    sizes: dict[str, Any],
    data: DataName = "mnist5k",
    root: Root = None,
    download: Download = False,
    images: Annotated[int | None, typer.Option(help="train on this many images, stratified")] = None,
    model: Model = "capsnet",
) -> None:
    """Train a capsule network; keep checkpoint and record in RUN.

    Under `torchrun` or `accelerate launch` all processes train it together, and the first one writes.
    """
    from capsnb.experiments import Run
    from capsnb.experiments.run import RECORD, train_and_evaluate

    distributed.init()
    sizes = complete_sizes(model, sizes)
    name = NETWORKS[model].__name__
    asked = Run("", name, name, sizes, config, data, asdict(preprocess), images)
    prepared = _load(asked, root, download)
    shape = {"image_shape": prepared.image_shape, "classes": len(prepared.classes)}
    asked = replace(asked, sizes=shape | sizes)
    with torch.device("meta"):  # sizes that do not fit are refused before anything is written or allocated
        asked.build(prepared)
    new = distributed.from_rank0(lambda: _start_record(run, asked, prepared, root))
    try:
        result = train_and_evaluate(asked, prepared, run)
    except REFUSALS:
        if new and distributed.rank() == 0 and not (run / CHECKPOINT).exists():
            (run / RECORD).unlink()  # or the folder would be that of a run that was never begun
        raise
    # For the type checker: without a budget, a run is finished.
    assert result is not None and result.history is not None and result.evaluation is not None  # noqa: S101
    if distributed.rank() == 0:
        replace(result, root=root).save(run / RECORD)
        history = result.history
        typer.echo(
            f"{history.model}, {history.parameters:,} parameters, {config.epochs} epochs, {history.seconds:.0f} s"
        )
        report(result.evaluation)
    distributed.shutdown()


def evaluate(
    run: Annotated[Path, typer.Argument(help="folder that `capsnb train` wrote")],
    root: Root = None,
) -> None:
    """Evaluate a trained network on its test images, and update its record."""
    from capsnb.evaluation import evaluate as evaluate_model
    from capsnb.experiments.run import RECORD, RunResult

    distributed.init()
    record = RunResult.load(run)
    prepared = _load(record.run, root or record.root, download=False)
    record.check_data(prepared, str(run))
    model = record.load_network(prepared, run / CHECKPOINT)
    evaluation = evaluate_model(model, prepared)
    if distributed.rank() == 0:
        replace(record, evaluation=evaluation).save(run / RECORD)
        report(evaluation)
    distributed.shutdown()


def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders that `train` wrote, or files of `reproduce`")],
    out: Annotated[Path, typer.Option(help="folder of the table and of the page")] = Path("comparison"),
) -> None:
    """Put trained networks side by side: one table, one page of figures."""
    from capsnb.experiments import comparison, comparison_page

    files.check_writable(out)
    rows = comparison.join_seeds(map(comparison.read, runs))
    typer.echo(comparison.comparison_table(rows))
    typer.echo("\nwritten to " + " and ".join(map(str, comparison_page.save(rows, out))))


def data(
    name: Annotated[str, typer.Argument(**DATA_SETS)] = "mnist5k",
    root: Root = None,
    download: Download = False,
) -> None:
    """Load a data set, check it, and count its images."""
    loaded = load_data(name, root, download=download)
    channels, height, width = loaded.image_shape
    typer.echo(
        f"{loaded.name}: {len(loaded.classes)} classes, {channels}x{height}x{width} after preprocessing"
    )
    for part, split in (("train", loaded.train), ("test", loaded.test)):
        counts = split.labels.bincount(minlength=len(loaded.classes)).tolist()
        listed = ", ".join(f"{c} {n}" for c, n in zip(loaded.classes, counts, strict=True))
        typer.echo(f"  {part}: {len(split):,} images ({listed})")


def _load(run: Run, root: str | None, download: bool) -> ImageData:
    with distributed.local_rank0_first():
        return run.load_data(root, download=download)


def _start_record(folder: Path, run: Run, data: ImageData, root: str | None) -> bool:
    """Write what was asked for before training: a run that was stopped is resumed only as what it was.

    Returns:
        Whether there was none.
    """
    from capsnb.experiments.run import RECORD, RunResult

    if not (folder / RECORD).exists():
        RunResult.now(run, data, root=root).save(folder / RECORD)
        return True
    record = RunResult.load(folder)
    if changed := record.run.difference(run):
        name, then, now = changed
        raise ValueError(
            f"{folder} holds another run: {name} was {then!r} and is now {now!r}; choose another folder"
        )
    record.check_data(data, str(folder))
    return False


def report(evaluation: Evaluation) -> None:
    """Show accuracy, and precision and recall of each class."""
    typer.echo(
        f"{evaluation.dataset}: accuracy {evaluation.accuracy:.2%} of {evaluation.count:,} test images"
    )
    for line in evaluation.per_class:  # a class that was never predicted has no precision
        precision, recall = (
            "–" if line[name] is None else f"{line[name]:.2%}" for name in ("precision", "recall")
        )
        typer.echo(f"  {line['class']:>12}: precision {precision}, recall {recall}")
