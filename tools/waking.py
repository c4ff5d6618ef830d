"""Why 1 % on CIFAR-100? Small networks that wake, or do not: python tools/waking.py --root DATA.

The paper's table 2 reports about 1 % on CIFAR-100 for ResCapsNet at every depth, and 9.5 to 43 % for MoCapsNet. Each
cell here trains one small network and looks at it while it trains: how long its class capsules are, how much its
primary capsules differ between images, how large the gradient of the class capsules' weights is, and the margin loss.
The cells are combinations of network, first spread of the weights, classes, reduction of the loss, and seed. What is
finished is in results/waking.json; a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capsnb import files
from capsnb.data import ImageData, load_data
from capsnb.experiments import Run
from capsnb.losses import margin_loss
from capsnb.profiling import command, hardware, revision, versions
from capsnb.progress import progress_bar
from capsnb.training import TrainConfig, fit

NETWORKS = ("ResCapsNet", "MoCapsNet", "PublishedMoCapsNet", "DoubledResCapsNet", "DoubledCapsNet")
# Of the initial weights: the paper's; that of the ledger's quick forms; and the default, which keeps lengths in depth.
SPREADS: dict[float | None, tuple[str, ...]] = {0.01: NETWORKS, 0.3: NETWORKS[:2], None: NETWORKS}
DATA = {100: "cifar100", 10: "cifar10", 20: "cifar100-coarse"}  # by classes
SEEDS = (0, 1, 2)
SIZES: dict[str, Any] = {
    "blocks": 3,
    "channels": 16,
    "capsule_types": 4,
    "hidden_capsules": 16,
    "decoder": (128, 256),
}
IMAGES, TESTS = 10_000, 2_000
CONFIG = TrainConfig(epochs=3, batch_size=64, learning_rate=2e-3)  # 157 steps an epoch
EVERY = 20  # steps between two looks
RESULTS = "waking.json"


@dataclass(frozen=True)
class Cell:
    """One network that is trained once; `spread` is the deviation of its first weights, None for the default."""

    network: str
    spread: float | None
    classes: int
    reduction: str
    seed: int


@dataclass(frozen=True)
class Looks:
    """What was seen every `EVERY` steps, before the step.

    Attributes:
        length: of the class capsules, the mean.
        variation: between images, of the primary capsules: the root mean square about their mean over images, as a
            share of their own root mean square.
        gradient: of the class capsules' weights, the root mean square.
        margin: the margin loss of the batch.
    """

    length: list[float]
    variation: list[float]
    gradient: list[float]
    margin: list[float]


def cells() -> Iterator[Cell]:
    """All cells: those of the default weights last, and of each the first seed first."""
    for default, seed, classes, reduction in itertools.product((False, True), SEEDS, DATA, ("sum", "mean")):
        for spread, networks in SPREADS.items():
            if (spread is None) == default:
                for network in networks:
                    yield Cell(network, spread, classes, reduction, seed)


def look(model: nn.Module, every: int = EVERY) -> Looks:
    """Let a network note what it sees in training, from its next step on."""
    seen, steps = Looks([], [], [], []), itertools.count()
    looking = False

    def primary(_: nn.Module, __: Any, u: Tensor) -> None:
        nonlocal looking
        looking = model.training and next(steps) % every == 0
        if looking:
            u = u.detach()
            own = u.square().mean().sqrt().clamp(min=torch.finfo(u.dtype).tiny)
            seen.variation.append(((u - u.mean(0)).square().mean().sqrt() / own).item())

    def output(_: nn.Module, inputs: Any, found: Any) -> None:
        if looking:
            lengths = found.lengths.detach()
            seen.length.append(lengths.mean().item())
            seen.margin.append(margin_loss(lengths, inputs[1]).item())

    def gradient(found: Tensor) -> None:
        if looking:
            seen.gradient.append(found.square().mean().sqrt().item())

    model.primary.register_forward_hook(primary)
    model.register_forward_hook(output)
    model.capsule_layers[-1].weight.register_hook(gradient)
    return seen


def trained(cell: Cell, root: str) -> dict[str, Any]:
    """Train a cell's network; its record."""
    torch.set_num_threads(1)
    started, data = time.monotonic(), images(DATA[cell.classes], root)
    config = TrainConfig(**asdict(CONFIG) | {"seed": cell.seed, "reduction": cell.reduction})
    torch.manual_seed(cell.seed)
    model = Run("", "", cell.network, {**SIZES, "weight_std": cell.spread}, config).build(data)
    seen = look(model)
    history = fit(model, data, config, progress=False)
    return {
        "cell": asdict(cell),
        "test_accuracy": history["test_accuracy"],
        "loss": rounded(history["margin"]),
        "looks": {name: rounded(values) for name, values in asdict(seen).items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def rounded(values: list[float]) -> list[float]:
    """Four digits of each."""
    return [float(f"{value:.4g}") for value in values]


@cache
def images(name: str, root: str) -> ImageData:
    """The data set's first images of each class, as many of each."""
    return load_data(name, root).subset(train=IMAGES, test=TESTS)


def read(path: Path) -> list[dict[str, Any]]:
    """The records of the cells that are finished."""
    return files.from_json(path.read_bytes(), path)["cells"] if path.exists() else []


def main() -> None:
    """Train the cells that are left, and write each as it is finished."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default="data", help="folder of the data sets")
    parser.add_argument("--out", default=files.results(), type=Path, help="folder of the results")
    parser.add_argument("--workers", default=1, type=int, help="cells at the same time, each with one thread")
    parser.add_argument(
        "--budget", default=float("inf"), type=float, help="seconds; no cell begins after that"
    )
    chosen = parser.parse_args()
    path, started = chosen.out / RESULTS, time.monotonic()
    records = read(path)
    done = {json.dumps(record["cell"]) for record in records}
    left = [cell for cell in cells() if json.dumps(asdict(cell)) not in done]
    about = {
        "settings": {
            "sizes": SIZES,
            "images": IMAGES,
            "tests": TESTS,
            "every": EVERY,
            "config": asdict(CONFIG),
        },
        "hardware": hardware("cpu"),
        "versions": versions(),
        "command": ["python", "tools/waking.py", *command()[1:]],
        "revision": revision(),
    }
    pool = ProcessPoolExecutor(chosen.workers, get_context("spawn"))
    with pool, progress_bar(label="cells", total=len(left), leave=True) as bar:
        waiting = iter(left)
        running = {
            pool.submit(trained, cell, chosen.root) for cell in itertools.islice(waiting, chosen.workers)
        }
        while running:
            future = next(as_completed(running))
            running.remove(future)
            records.append(future.result())
            date = datetime.date.today().isoformat()
            files.write_atomically(path, files.to_json({"cells": records, **about, "date": date}))
            bar.update()
            if time.monotonic() - started < chosen.budget and (cell := next(waiting, None)):
                running.add(pool.submit(trained, cell, chosen.root))


if __name__ == "__main__":
    main()
