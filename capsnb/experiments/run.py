"""One training run: what decides it, and the file that it leaves behind.

Used in chapter 17, *Reproducing the papers*.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capsnb import models
from capsnb.data import ImageData, Preprocess, load_data
from capsnb.evaluation import Evaluation, evaluate
from capsnb.files import results, write_atomically
from capsnb.profiling import command, hardware, revision, versions
from capsnb.training import History, TrainConfig, fit

MISTAKES = 100  # the most confident ones are kept; thousands of a hard data set would be most of the file


@dataclass(frozen=True)
class Run:
    """Everything that decides one training run.

    Attributes:
        study: the study or the paper's table that it belongs to.
        label: what it is called there; runs that differ in the seed alone share it.
        model: name of a class in `capsnb.models`.
        sizes: its arguments.
        config: how it is trained; its seed also draws the initial weights.
        data: name of the data set, as `load_data` takes it.
        preprocess: what is not the default of `Preprocess`.
        images: how many training images, drawn class by class; None for all.
        members: networks that are trained one after another, and whose scores are averaged; the k-th from 0 has the
            seed `members * seed + k`.
    """

    study: str
    label: str
    model: str
    sizes: dict[str, Any]
    config: TrainConfig
    data: str = "mnist5k"
    preprocess: dict[str, Any] = field(default_factory=dict)
    images: int | None = None
    members: int = 1

    @property
    def name(self) -> str:
        """Its file's name without the suffix.

        >>> Run("depth", "MoCapsNet, 3 blocks", "MoCapsNet", {}, TrainConfig(seed=1)).name
        'mocapsnet-3-blocks-seed1'
        """
        return f"{re.sub('[^a-z0-9.]+', '-', self.label.lower()).strip('-')}-seed{self.config.seed}"

    def path(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Where its file is, in a folder of results; None for the project's own."""
        return (results() if folder is None else Path(folder)) / self.study / f"{self.name}.json"


@dataclass(frozen=True)
class Finished:
    """A run, and what came of it.

    Attributes:
        run: what was asked for.
        history: what happened, epoch by epoch, to the first member if there are several; None if the loss did not stay
            finite.
        failure: why there is no history.
        seconds: wall time in all, over all times that it was gone on with.
        hardware: the machine that finished it, from `profiling.hardware`.
        versions: of the libraries.
        command: what was typed.
        date: of the measurement.
        evaluation: of the test images after the last epoch, with its hundred most confident mistakes; None if the loss
            did not stay finite, and in files from before there was one.
        revision: of the code; "" if not known.
    """

    run: Run
    history: History | None
    failure: str | None
    seconds: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    command: list[str]
    date: str
    evaluation: Evaluation | None = None
    revision: str = ""

    @property
    def accuracy(self) -> float:
        """Share of test images classified right after the last epoch, 0 to 1; NaN if there was none."""
        if self.evaluation is not None:
            return self.evaluation.accuracy
        return math.nan if self.history is None else self.history["test_accuracy"][-1]


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
        raw["run"] = Run(config=config, **raw["run"])
        if raw["history"] is not None:
            raw["history"] = History.from_json(json.dumps(raw["history"]))
        if raw.get("evaluation") is not None:
            raw["evaluation"] |= {"classes": tuple(raw["evaluation"]["classes"])}
            raw["evaluation"] = Evaluation(**raw["evaluation"])
        found = Finished(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a finished run ({error}); delete it, and run it again") from error
    if run is not None and found.run != run:
        then, now = (_flat(json.loads(json.dumps(asdict(one)))) for one in (found.run, run))
        part = next((key for key in now if then[key] != now[key]), None)
        if part is not None:
            raise ValueError(
                f"{path} belongs to another run: its {part} is {then[part]!r}, the study's is {now[part]!r}; "
                "delete the file to run it again"
            )
    return found


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration beside the others: a message names one of them, not all."""
    return {key: value for key, value in run.items() if key != "config"} | run["config"]


class Ensemble(nn.Module):
    """Networks that vote: the mean of their scores."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> scores `[B, J]`."""
        return torch.stack([member(images).lengths for member in self.members]).mean(dim=0)


def perform(
    run: Run,
    folder: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    budget: float = math.inf,
) -> Finished | None:
    """Train one run and write its file, whole or not at all. A loss that is not finite is a result too.

    What is trained is kept after each epoch in FOLDER/unfinished/STUDY/NAME until the run is finished; a run that was
    stopped goes on from there, also on another machine that was given the folder.

    Args:
        run: what to do.
        folder: where results are; None for the project's own.
        root: folder of the data sets.
        budget: seconds; an epoch that would not be over by then is not begun.

    Returns:
        What came of it; None if there was not time enough.

    Raises:
        FileNotFoundError: the data set is not there.
        ValueError: the data set is damaged, the machine lacks what the run asks for, or what is kept is of another run.
    """
    started = time.monotonic()
    data, path = _data(run.data, root, Preprocess(**run.preprocess), run.images), run.path(folder)
    unfinished = path.parents[1] / "unfinished" / run.study / run.name
    members: list[nn.Module] = []
    histories: list[History] = []
    failure, evaluation = None, None
    try:
        for k in range(run.members):
            config = replace(run.config, seed=run.members * run.config.seed + k)
            torch.manual_seed(config.seed)
            members.append(getattr(models, run.model)(data.image_shape, len(data.classes), **run.sizes))
            left = budget - (time.monotonic() - started)
            kept = unfinished / str(k)
            histories.append(fit(members[-1], data, config, run_dir=kept, progress=False, budget=left))
            if len(histories[-1].records) < config.epochs:
                return None
        whole = evaluate(Ensemble(members) if run.members > 1 else members[0], data)
        evaluation = replace(whole, mistakes=whole.mistakes[:MISTAKES])
    except FloatingPointError as error:
        failure = str(error)
    done = Finished(
        run,
        None if failure else histories[0],
        failure,
        max(time.monotonic() - started, sum(history.seconds for history in histories)),
        hardware(str(next(members[0].parameters()).device)),
        versions(),
        command(),
        datetime.date.today().isoformat(),
        evaluation,
        revision(),
    )
    write_atomically(path, json.dumps(asdict(done), allow_nan=False) + "\n")
    shutil.rmtree(unfinished, ignore_errors=True)
    return done


@lru_cache(maxsize=1)
def _data(name: str, root: str | None, preprocess: Preprocess, images: int | None) -> ImageData:
    """Loaded once for the runs that a process performs one after another."""
    found = load_data(name, root, preprocess=preprocess)
    return found if images is None else found.subset(train=images)
