"""Studies: training runs that answer one question together, each kept as one file as soon as it is finished.

A study is a list of `Run`s, written down before anything is trained. `reproduce` trains those that have no file yet: it
can be stopped, and go on elsewhere; two machines' results are merged by copying files. Chapters read `finished`.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from capsnb import models
from capsnb.data import Preprocess, load_data
from capsnb.experiments import recipes
from capsnb.files import results, write_atomically
from capsnb.losses import Classification
from capsnb.profiling import hardware, versions
from capsnb.training import History, TrainConfig, fit


@dataclass(frozen=True)
class Run:
    """Everything that decides one training run.

    Attributes:
        study: the study that it belongs to.
        label: what it is called there; runs that differ in the seed alone share it.
        model: name of a class in `capsnb.models`.
        sizes: its arguments.
        config: how it is trained; its seed also draws the initial weights.
        data: name of the data set.
        preprocess: what is not the default of `Preprocess`.
    """

    study: str
    label: str
    model: str
    sizes: dict[str, Any]
    config: TrainConfig
    data: str = "mnist5k"
    preprocess: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its file's name without the suffix.

        >>> Run("depth", "MoCapsNet, 3 blocks", "MoCapsNet", {}, TrainConfig(seed=1)).name
        'mocapsnet-3-blocks-seed1'
        """
        return f"{re.sub('[^a-z0-9.]+', '-', self.label.lower()).strip('-')}-seed{self.config.seed}"


@dataclass(frozen=True)
class Finished:
    """A run, and what came of it.

    Attributes:
        run: what was asked for.
        history: what happened, epoch by epoch; None if the loss did not stay finite.
        failure: why there is no history.
        seconds: wall time in all.
        hardware: the machine, from `profiling.hardware`.
        versions: of the libraries.
        command: what was typed.
        date: of the measurement.
    """

    run: Run
    history: History | None
    failure: str | None
    seconds: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    command: list[str]
    date: str

    @property
    def accuracy(self) -> float:
        """Share of test images classified right after the last epoch, 0 to 1; NaN if there was none."""
        return math.nan if self.history is None else self.history["test_accuracy"][-1]


# Narrow networks that a laptop trains in a minute: the networks of chapter 4, with hidden capsules as in the paper.
NARROW = {"channels": 32, "capsule_types": 4}
TURNED = {"rotate": 10.0}  # degrees, for lack of images
QUICK = TrainConfig(epochs=8, batch_size=64, learning_rate=4e-3, schedule="one_cycle")


def _quick(study: str, label: str, model: str, seeds: int = 3, **sizes: Any) -> Iterator[Run]:
    for seed in range(seeds):
        config = replace(QUICK, seed=seed)
        yield Run(study, label, model, NARROW | sizes, config, preprocess=TURNED)


def _blocks(count: int) -> str:
    return f"{count} block{'s' * (count > 1)}"


def depth() -> Iterator[Run]:
    """Does depth hurt? Networks with 1 to 8 blocks on 5,000 digits: a quick form of the paper's table 1.

    Weights are drawn from N(0, 0.3^2): small ones learn faster, and with shortcuts no large ones are needed to live.
    Without shortcuts they are; so the networks that begin from the identity have the default weights.
    """
    for blocks in range(1, 9):
        sizes: dict[str, Any] = {"blocks": blocks, "weight_std": 0.3}
        for model in ("ResCapsNet", "MoCapsNet"):
            yield from _quick("depth", f"{model}, {_blocks(blocks)}", model, **sizes)
        label = f"CapsNet from the identity, {_blocks(blocks)}"
        yield from _quick("depth", label, "CapsNet", 1, blocks=blocks, identity=2.0)
        if blocks in (1, 2, 4, 8):
            yield from _quick("depth", f"CapsNet, {_blocks(blocks)}", "CapsNet", 1, **sizes)


def collapse() -> Iterator[Run]:
    """Why do ten capsule layers without shortcuts learn nothing? Four blocks, and one thing changed at a time."""
    four = {"blocks": 4}
    changes: dict[str, dict[str, Any]] = {
        "the paper's weights": {"weight_std": 0.01},
        "weights that keep lengths": {},
        "weights that keep lengths, R = 1": {"iterations": 1},
        "from the identity": {"identity": 2.0},
        "from the identity, R = 1": {"identity": 3.0, "iterations": 1},
    }
    for label, change in changes.items():
        yield from _quick("collapse", f"CapsNet, {label}", "CapsNet", **four | change)
    for model in ("ResCapsNet", "MoCapsNet"):
        yield from _quick("collapse", f"{model}, the paper's weights", model, **four, weight_std=0.01)


def routings() -> Iterator[Run]:
    """Does it matter how capsules agree? Each way from weights with which CapsNet's training loss falls fast."""
    for routing, weight_std in (("rba", 0.1), ("sda", None), ("em", None)):
        way: dict[str, Any] = {"routing": routing, "weight_std": weight_std}
        yield from _quick("routings", f"CapsNet, {routing.upper()}", "CapsNet", **way)
        yield from _quick("routings", f"ResCapsNet 1 block, {routing.upper()}", "ResCapsNet", blocks=1, **way)


def heads() -> Iterator[Run]:
    """Does the capsule head help at all? Each backbone with capsules, and with a linear head that replaces them.

    With the margin loss the linear head changes one thing, capsules. With the cross-entropy it is what one would have
    taken without having heard of capsules: the baseline to beat.
    """
    changes: dict[str, tuple[dict[str, Any], Classification]] = {
        "capsules": ({}, "margin"),
        "linear head, margin loss": ({"head": "sigmoid"}, "margin"),
        "linear head, cross-entropy": ({"head": "softmax"}, "cross_entropy"),
    }
    for recipe in recipes.QUICK.values():
        for label, (head, loss) in changes.items():
            for seed in range(3):
                config = replace(recipe.config, seed=seed, loss=loss)
                what = "heads", f"{recipe.model}, {label}", recipe.model, recipe.sizes | head
                yield Run(*what, config, preprocess=recipe.preprocess_changes)


STUDIES: dict[str, Callable[[], Iterator[Run]]] = {
    "depth": depth,
    "collapse": collapse,
    "routings": routings,
    "heads": heads,
}


def runs(study: str) -> list[Run]:
    """The runs of a study, the most informative first: every label once, then the further seeds.

    Raises:
        ValueError: there is no such study.
    """
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}; choose one of {', '.join(STUDIES)}")
    return sorted(STUDIES[study](), key=lambda run: run.config.seed)


def finished(study: str, folder: str | os.PathLike[str] | None = None) -> dict[str, list[Finished]]:
    """What has been run of a study: the seeds of each label, in the study's order. Nothing else is in it.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        label -> finished runs; labels that have none are left out.

    Raises:
        ValueError: an unknown study, or a file that is damaged or belongs to another run.

    >>> finished("depth")["MoCapsNet, 8 blocks"][0].accuracy  # doctest: +SKIP
    0.979
    """
    found: dict[str, list[Finished]] = {}
    for run in runs(study):
        if (path := _path(run, folder)).exists():
            found.setdefault(run.label, []).append(load(path, run))
    return found


def load(path: str | os.PathLike[str], run: Run | None = None) -> Finished:
    """Read one finished run.

    Args:
        path: a file that `reproduce` wrote.
        run: what it must be a run of.

    Returns:
        The run and its history.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or belongs to another run.
    """
    try:
        raw = json.loads(Path(path).read_bytes())
        config = TrainConfig(**raw["run"].pop("config"))
        history = None if raw["history"] is None else History.from_json(json.dumps(raw["history"]))
        found = Finished(**raw | {"run": Run(config=config, **raw["run"]), "history": history})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a finished run ({error}); delete it, and run it again") from error
    if run is not None and found.run != run:
        then, now = asdict(found.run), json.loads(json.dumps(asdict(run)))
        part = next((key for key in now if then[key] != now[key]), None)
        if part is not None:
            raise ValueError(
                f"{path} belongs to another run: its {part} is {then[part]!r}, the study's is {now[part]!r}; "
                "delete the file to run it again"
            )
    return found


def perform(run: Run, folder: str | os.PathLike[str] | None = None, *, root: str | None = None) -> Finished:
    """Train one run and write its file, whole or not at all. A loss that is not finite is a result too.

    Args:
        run: what to do.
        folder: where results are; None for the project's own.
        root: folder of the data sets.

    Returns:
        What came of it.
    """
    started = time.perf_counter()
    data = load_data(run.data, root, preprocess=Preprocess(**run.preprocess))
    torch.manual_seed(run.config.seed)
    model = getattr(models, run.model)(data.image_shape, len(data.classes), **run.sizes)
    history, failure = None, None
    try:
        history = fit(model, data, run.config, progress=False)
    except FloatingPointError as error:
        failure = str(error)
    device = str(next(model.parameters()).device)
    done = Finished(
        run,
        history,
        failure,
        time.perf_counter() - started,
        hardware(device),
        versions(),
        ["capsnb", *sys.argv[1:]],
        datetime.date.today().isoformat(),
    )
    write_atomically(_path(run, folder), json.dumps(asdict(done), indent=1) + "\n")
    return done


def reproduce(
    study: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    budget: float = math.inf,
    workers: int = 1,
    only: Callable[[Run], bool] = lambda run: True,
    progress: bool = True,
) -> int:
    """Train the runs of a study that have no file yet.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.
        root: folder of the data sets.
        budget: seconds after which no further run is begun.
        workers: runs at the same time, each on its share of the cores.
        only: which runs.
        progress: show a progress bar.

    Returns:
        How many runs are still missing.

    Raises:
        ValueError: an unknown study, a number below 1, or a file in the folder that belongs to another run.
    """
    from tqdm import tqdm

    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    every = [run for run in runs(study) if only(run)]
    missing = [run for run in every if not _path(run, folder).exists()]
    for run in every:
        if run not in missing:
            load(_path(run, folder), run)
    end = time.monotonic() + budget
    threads = max(torch.get_num_threads() // workers, 1)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,))
    waiting, running = list(missing), set[Future[Finished]]()
    with pool, tqdm(total=len(missing), disable=not progress, desc=study, file=sys.stderr) as bar:
        while waiting or running:
            while waiting and len(running) < workers and time.monotonic() < end:
                running.add(pool.submit(partial(perform, waiting.pop(0), folder, root=root)))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                bar.set_postfix_str(f"{result.run.name}: {result.accuracy:.2%}")
                bar.update()
    return len(waiting)


def table(study: str, folder: str | os.PathLike[str] | None = None) -> str:
    """The state of a study as a table: mean and range of the test accuracy over the seeds, or "not run yet".

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        A Markdown table, a line for each label.
    """
    found = finished(study, folder)
    lines = ["| run | seeds | test accuracy / % | lowest | highest |", "| :-- | --: | --: | --: | --: |"]
    for label in dict.fromkeys(run.label for run in runs(study)):
        if label not in found:
            lines.append(f"| {label} | 0 | not run yet | – | – |")
            continue
        shares = [100 * done.accuracy for done in found[label]]
        mean = statistics.fmean(shares)
        lines.append(f"| {label} | {len(shares)} | {mean:.2f} | {min(shares):.2f} | {max(shares):.2f} |")
    return "\n".join(lines)


def _path(run: Run, folder: str | os.PathLike[str] | None) -> Path:
    return (results() if folder is None else Path(folder)) / run.study / f"{run.name}.json"
