"""The command line: `python -m capsnb train | evaluate | data`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from capsnb.data import NAMES, ImageData, Preprocess, load_data
from capsnb.files import write_atomically
from capsnb.training import CHECKPOINT, TrainConfig

app = typer.Typer(
    help="Train and evaluate capsule networks.", no_args_is_help=True, pretty_exceptions_enable=False
)
DataName = Annotated[str, typer.Option(help=f"{', '.join(NAMES)}, or folder:PATH")]
Root = Annotated[Path | None, typer.Option(help="folder of the data sets; default $CAPSNB_DATA or ./data")]
Download = Annotated[bool, typer.Option(help="fetch the data set if its files are not there")]
DEFAULT = TrainConfig()
RUN = "run.json"


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
    schedule: str = DEFAULT.schedule,
    decay: float = DEFAULT.decay,
    precision: str = DEFAULT.precision,
    accumulate: int = DEFAULT.accumulate,
    seed: int = DEFAULT.seed,
    rotate: Annotated[float, typer.Option(help="random rotation while training, in degrees")] = 0.0,
    channels: Annotated[int, typer.Option(help="channels of the first convolution")] = 256,
    capsule_types: Annotated[int, typer.Option(help="primary capsules at each location")] = 32,
    blocks: Annotated[int, typer.Option(help="pairs of hidden capsule layers")] = 0,
) -> None:
    """Train a CapsNet; write checkpoint, history and evaluation into RUN."""
    import torch

    from capsnb.evaluation import evaluate
    from capsnb.training import fit

    config = TrainConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,  # type: ignore[arg-type]  # TrainConfig checks the name and says which there are
        decay=decay,
        precision=precision,  # type: ignore[arg-type]
        accumulate=accumulate,
        seed=seed,
    )
    source: dict[str, Any] = {"name": data, "root": None if root is None else str(root), "images": images}
    prepared = _load(**source, preprocess=Preprocess(rotate=rotate), download=download)
    sizes = {
        "image_shape": prepared.image_shape,
        "classes": len(prepared.classes),
        "blocks": blocks,
        "channels": channels,
        "capsule_types": capsule_types,
    }
    write_atomically(
        run / RUN,
        json.dumps(
            {
                "model": sizes,
                "data": source,
                "preprocess": asdict(prepared.preprocess),
                "config": asdict(config),
                "versions": _versions(),
                "command": ["capsnb", *sys.argv[1:]],
            },
            indent=1,
        ),
    )
    torch.manual_seed(seed)
    model = _build(sizes)
    history = fit(model, prepared, config, run_dir=run)
    history.save(run / "history.json")
    evaluation = evaluate(model, prepared)
    evaluation.save(run / "evaluation.json")
    typer.echo(
        f"{history.model}, {history.parameters:,} parameters, {config.epochs} epochs, {history.seconds:.0f} s"
    )
    _report(evaluation)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="folder that `capsnb train` wrote")],
    root: Root = None,
) -> None:
    """Evaluate a trained network on its test images."""
    from capsnb.evaluation import evaluate as evaluate_model
    from capsnb.training import load_weights

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
    model = _build(sizes)
    load_weights(model, run / CHECKPOINT)
    evaluation = evaluate_model(model, prepared)
    evaluation.save(run / "evaluation.json")
    _report(evaluation)


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


def _load(
    name: str, root: str | None, images: int | None, *, preprocess: Preprocess, download: bool
) -> ImageData:
    loaded = load_data(name, root, download=download, preprocess=preprocess)
    return loaded if images is None else loaded.subset(train=images)


def _build(sizes: dict[str, Any]) -> Any:
    from capsnb.models import CapsNet

    return CapsNet(**{**sizes, "image_shape": tuple(sizes["image_shape"])})


def _report(evaluation: Any) -> None:
    typer.echo(
        f"{evaluation.dataset}: accuracy {evaluation.accuracy:.2%} of {evaluation.count:,} test images"
    )
    for line in evaluation.per_class:
        typer.echo(f"  {line['class']:>12}: precision {line['precision']:.2%}, recall {line['recall']:.2%}")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("capsnb", "torch", "torchvision")},
    }


def main() -> NoReturn:
    """Run a command; what is wrong with the input is one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        typer.secho(f"capsnb: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0)
