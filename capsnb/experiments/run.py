"""One training run: what decides it, and the record that it leaves behind.

Used in chapter 17, *Reproducing the papers*.
"""

from __future__ import annotations

import datetime
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

from capsnb import files, models
from capsnb.bench.peak_memory import what_fits
from capsnb.data import ImageData, Preprocess, load_data
from capsnb.defaults import default_settings
from capsnb.evaluation import Evaluation, evaluate
from capsnb.experiments import published
from capsnb.preprocess import all_settings
from capsnb.profiling import command, free_memory, hardware, revision, summary, versions
from capsnb.training import History, TrainConfig, checkpoint, fit
from capsnb.training.checkpoint import difference
from capsnb.values import plain

# What PyTorch says on a GPU, on a CPU, on Windows, and in C++.
OUT_OF_MEMORY = re.compile("out of memory|allocate memory|not enough memory|bad_alloc")
RECORD = "run.json"  # in a folder of `capsnb train`, beside the checkpoint
# A study keeps the most confident ones; thousands of a hard data set would be most of the file.
MISTAKES = 100


@dataclass(frozen=True)
class Run:
    """Everything that decides one training run.

    Attributes:
        study: the study or the paper's table that it belongs to; "" for none.
        label: what it is called there; runs that differ in the seed alone share it.
        model: name of a class in `capsnb.models`.
        sizes: its arguments.
        config: how it is trained; its seed also draws the initial weights.
        data: name of the data set, as `load_data` takes it.
        preprocess: settings of `Preprocess`; those that are left out have their defaults.
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

    def __post_init__(self) -> None:
        """Hold plain numbers, which a file can hold."""
        object.__setattr__(self, "sizes", {name: plain(value) for name, value in self.sizes.items()})

    @property
    def name(self) -> str:
        """Its file's name without the suffix.

        >>> Run("depth", "MoCapsNet, 3 blocks", "MoCapsNet", {}, TrainConfig(seed=1)).name
        'mocapsnet-3-blocks-seed1'
        """
        return f"{re.sub('[^a-z0-9.]+', '-', self.label.lower()).strip('-')}-seed{self.config.seed}"

    def path(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Where its file is, in a folder of results; None for the project's own."""
        return (files.results() if folder is None else Path(folder)) / self.study / f"{self.name}.json"

    def load_data(self, root: str | None = None, *, download: bool = False) -> ImageData:
        """Load the images that it is trained on and tested with.

        Raises:
            FileNotFoundError: the data set is not there.
        """
        return _load(self.data, root, Preprocess(**self.preprocess), self.images, download)

    def build(self, data: ImageData) -> nn.Module:
        """Make one of its networks, with initial weights from PyTorch's generator."""
        sizes = {"image_shape": data.image_shape, "classes": len(data.classes), **self.sizes}
        network = published.NETWORKS.get(self.model)
        return network(**sizes) if network else models.build(self.model, **sizes)

    def difference(self, other: Run) -> tuple[str, Any, Any] | None:
        """The first setting that another run has not in common: its name, and both values; None if there is none."""
        ours, theirs = asdict(self), asdict(other)
        for settings in (ours, theirs):
            settings["preprocess"] = all_settings(settings["preprocess"])
        for name in ("study", "label"):  # most telling if nothing else differs
            ours[name], theirs[name] = ours.pop(name), theirs.pop(name)
        return difference(ours, theirs)


@dataclass(frozen=True)
class RunResult:
    """The record of a run: what was asked for, and what came of it. `train`, `reproduce` and `compare` share it.

    Attributes:
        run: what was asked for.
        history: what happened, epoch by epoch, to the first member if there are several; None if the run is not
            finished, or the loss did not stay finite.
        failure: why a finished run has no history.
        seconds: wall time in all, over all times that it was resumed.
        hardware: the machine that finished it, from `profiling.hardware`.
        versions: of the libraries.
        command: what was typed.
        date: of the measurement.
        evaluation: of the test images after the last epoch; a study keeps its hundred most confident mistakes. None
            if there is no history, and in files from before evaluations were kept.
        revision: of the code; "" if not known.
        root: folder of the data sets, as it was given to `capsnb train`.
        classes: names of the classes of the data; empty in files from before they were kept.
        fingerprint: `ImageData.fingerprint` of the data; "" in files from before it was kept.
        mult_adds: multiply-adds of one image's forward pass; None if not known.
        source: where it was read, for messages; not saved.
    """

    run: Run
    history: History | None = None
    failure: str | None = None
    seconds: float = 0.0
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    date: str = ""
    evaluation: Evaluation | None = None
    revision: str = ""
    root: str | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str = ""
    mult_adds: int | None = None
    source: str = field(default="trained here", compare=False)

    @classmethod
    def now(cls, run: Run, data: ImageData, **outcome: Any) -> RunResult:
        """A record with its data's identity, and the machine, versions, command, revision and date of this moment."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(
            run,
            hardware=hardware(device),
            versions=versions(),
            command=command(),
            date=datetime.date.today().isoformat(),
            revision=revision(),
            classes=data.classes,
            fingerprint=data.fingerprint,
            **outcome,
        )

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: ImageData,
        history: History,
        evaluation: Evaluation | None = None,
        label: str | None = None,
    ) -> RunResult:
        """The record of a network that was trained with `fit`, such as in a notebook, to compare it with others.

        Args:
            model: the trained network.
            data: what it was trained on.
            history: from `fit`.
            evaluation: from `evaluate`.
            label: what the network is called; None for the name of its class.
        """
        name, config = history.model, history.config
        run = Run("", label or name, name, {}, config, history.data, asdict(data.preprocess))
        work = summary(model, data.image_shape).total_mult_adds
        outcome = {"history": history, "evaluation": evaluation, "seconds": history.seconds}
        return cls.now(run, data, **outcome, mult_adds=work)

    @property
    def accuracy(self) -> float:
        """Share of test images classified right after the last epoch, 0 to 1; NaN if there was none."""
        if self.evaluation is not None:
            return self.evaluation.accuracy
        return math.nan if self.history is None else self.history["test_accuracy"][-1]

    def check_data(self, data: ImageData, where: str) -> None:
        """Refuse data that are not those of this record; records from before they were kept say nothing.

        Raises:
            ValueError: other classes, or other images; names both.
        """
        if self.classes and data.classes != self.classes:
            raise ValueError(
                f"{where} was trained on the classes {', '.join(self.classes)}; the data now has "
                f"{', '.join(data.classes)}. Name the folders as they were, or train into another folder"
            )
        if self.fingerprint and data.fingerprint != self.fingerprint:
            raise ValueError(
                f"the images or labels of {self.run.data} are not those that {where} was trained on: put them back as "
                "they were, or train into another folder"
            )

    def load_network(self, data: ImageData, path: Path) -> nn.Module:
        """Build the network and give it the weights of the run's checkpoint.

        Args:
            data: what the run was trained on.
            path: the checkpoint.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, or another run's.
        """
        network = self.run.build(data)
        saved = checkpoint.read(path)
        checkpoint.check_run(path, saved, checkpoint.identity(network, data, self.run.config))
        checkpoint.load_state(network, saved, path)
        return network

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as JSON, whole or not at all."""
        saved = {name: value for name, value in asdict(self).items() if name != "source"}
        return files.write_atomically(path, files.to_json(saved))

    @classmethod
    def load(cls, path: str | os.PathLike[str], run: Run | None = None) -> RunResult:
        """Read a record.

        Args:
            path: a file that `capsnb reproduce` wrote, or a folder that `capsnb train` wrote.
            run: what it must be a record of.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or belongs to another run.
        """
        source, path = str(path), Path(path)
        if path.is_dir():
            path = path / RECORD
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist: name a folder that `capsnb train` wrote, or a file of `capsnb reproduce`"
            )
        again = "train again, into an empty folder" if path.name == RECORD else "delete it, and run it again"
        with files.reading(path, "the record of a run", again):
            raw = files.from_json(path.read_bytes(), path)
            if "run" not in raw and "config" in raw:
                raise ValueError("capsnb 0.1 wrote it, and kept a run in several files")
            config = TrainConfig(**raw["run"].pop("config"))
            raw["run"] = Run(config=config, **raw["run"])
            if raw["history"] is not None:
                raw["history"] = History.from_dict(raw["history"])
            if raw.get("evaluation") is not None:
                raw["evaluation"] = Evaluation.from_dict(raw["evaluation"])
            raw["classes"] = tuple(raw.get("classes", ()))
            result = cls(**raw, source=source)
        if run is not None and (changed := result.run.difference(run)):
            name, then, now = changed
            raise ValueError(
                f"{path} belongs to another run: its {name} is {then!r}, the study's is {now!r}; "
                "delete the file to run it again"
            )
        return result


class Ensemble(nn.Module):
    """Networks that vote: the mean of their scores."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> scores `[B, J]`."""
        return torch.stack([member(images).lengths for member in self.members]).mean(dim=0)


def train_and_evaluate(
    run: Run, data: ImageData, folder: Path, *, budget: float = math.inf, progress: bool = True
) -> RunResult | None:
    """Train the networks of a run, one after another, and evaluate them together.

    Args:
        run: what to do.
        data: from `run.load_data`.
        folder: of the checkpoint; if there are several networks, each has a folder in it.
        budget: seconds; an epoch that would not be over by then is not begun.
        progress: show a progress bar.

    Returns:
        The record; None if the budget was too small. The next call resumes the run.

    Raises:
        FloatingPointError: the loss did not stay finite.
        MemoryError: the memory did not suffice; says what would fit.
        ValueError: the machine lacks what the run asks for, or a checkpoint belongs to another run.
    """
    generators = torch.random.fork_rng(range(torch.cuda.device_count()))
    try:
        with generators, default_settings():
            return _train_members(run, data, folder, budget, progress)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        fits = what_fits(lambda: run.build(data), run.config.batch_size, free_memory())
        raise MemoryError(f"out of memory: {fits}") from error


def _train_members(
    run: Run, data: ImageData, folder: Path, budget: float, progress: bool
) -> RunResult | None:
    started = time.monotonic()
    networks: list[nn.Module] = []
    histories: list[History] = []
    for k in range(run.members):
        config = replace(run.config, seed=run.members * run.config.seed + k)
        torch.manual_seed(config.seed)
        networks.append(run.build(data))
        place = folder / str(k) if run.members > 1 else folder
        remaining = max(budget - (time.monotonic() - started), 0.0)
        histories.append(fit(networks[k], data, config, run_dir=place, progress=progress, budget=remaining))
        if len(histories[k].records) < config.epochs:
            return None
    evaluation = evaluate(Ensemble(networks) if run.members > 1 else networks[0], data)
    return RunResult.now(
        run,
        data,
        history=histories[0],
        seconds=max(time.monotonic() - started, sum(history.seconds for history in histories)),
        evaluation=evaluation,
        mult_adds=run.members * summary(networks[0], data.image_shape).total_mult_adds,
    )


def execute(
    run: Run,
    folder: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    budget: float = math.inf,
) -> RunResult | None:
    """Train one run of a study and write its file, whole or not at all. A loss that is not finite is a result too.

    Checkpoints are in FOLDER/unfinished/STUDY/NAME until the run is finished; a run that was stopped is resumed from
    there, also on another machine that was given the folder.

    Args:
        run: what to do.
        folder: where results are; None for the project's own.
        root: folder of the data sets.
        budget: seconds; an epoch that would not be over by then is not begun.

    Returns:
        The record; None if there was not time enough.

    Raises:
        FileNotFoundError: the data set is not there.
        ValueError: the data set is damaged, the machine lacks what the run asks for, or a checkpoint belongs to
            another run.
    """
    started, path = time.monotonic(), run.path(folder)
    data = _load_once(run.data, root, Preprocess(**run.preprocess), run.images)
    unfinished = path.parents[1] / "unfinished" / run.study / run.name
    remaining = budget - (time.monotonic() - started)
    try:
        result = train_and_evaluate(run, data, unfinished, budget=remaining, progress=False)
    except FloatingPointError as error:
        result = RunResult.now(run, data, failure=str(error), seconds=time.monotonic() - started)
    if result is None:
        return None
    if (evaluation := result.evaluation) is not None:
        result = replace(result, evaluation=replace(evaluation, mistakes=evaluation.mistakes[:MISTAKES]))
    result.save(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    return result


def _load(
    name: str, root: str | None, preprocess: Preprocess, images: int | None, download: bool = False
) -> ImageData:
    loaded = load_data(name, root, preprocess=preprocess, download=download)
    return loaded if images is None else loaded.subset(train=images)


_load_once = lru_cache(maxsize=1)(_load)  # for the runs that a process executes one after another
