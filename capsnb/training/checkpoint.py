"""Checkpoints: weights, optimizer, history and configuration in one file, so that all parts always match.

Taught in chapter 4, *A first CapsNet*.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from capsnb.data import ImageData
from capsnb.files import FORMAT, NewerFormatError, check_format, write_atomically
from capsnb.preprocess import all_settings
from capsnb.training.config import TrainConfig
from capsnb.training.history import Epoch, History

CHECKPOINT = "checkpoint.pt"
SAME_NUMBERS = ("graph",)  # settings with which a run may be resumed that had others


def identity(model: nn.Module, data: ImageData, config: TrainConfig) -> dict[str, Any]:
    """What decides a run. The network is part of it: the weights of another one may fit."""
    return {
        "model": type(model).__name__,
        "modules": architecture(model),
        "data": data.name,
        "classes": list(data.classes),
        "fingerprint": data.fingerprint,
        "preprocess": asdict(data.preprocess),
        "config": {name: value for name, value in asdict(config).items() if name not in SAME_NUMBERS},
    }


def architecture(model: nn.Module) -> dict[str, str]:
    """The class and the settings of each module, by name: what a network computes, but for its weights.

    >>> architecture(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()))["0"]
    'Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1))'
    """
    return {
        name or "network": f"{type(module).__name__}({_settings(module)})"
        for name, module in model.named_modules()
    }


def _settings(module: nn.Module) -> str:
    if not any(kind.__module__.startswith("capsnb.") for kind in type(module).__mro__):
        return module.extra_repr()
    simple = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name}={value!r}"
        for name, value in simple.items()
        if name != "training" and not name.startswith("_")
    )


def save(path: Path, run: dict[str, Any], history: History, **parts: Any) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        run: what decides the run; it is resumed only by a run of which all of this is the same.
        history: the run's history so far.
        parts: what has a `state_dict`: "model", "optimizer", "scaler"; None for a part that the run has not.
    """
    states = {name: part.state_dict() for name, part in parts.items() if part is not None}
    buffer = io.BytesIO()
    torch.save({**FORMAT, "run": run, "history": history.to_json(), **states}, buffer)
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote, on the CPU; nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or a newer capsnb wrote it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; train first, with run_dir={str(path.parent)!r}")
    try:
        with zipfile.ZipFile(path) as archive:  # PyTorch does not compare the checksums in it
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} in it is wrong")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        check_format(saved, path)
        return saved | {"history": History.from_json(saved["history"])}
    except NewerFormatError:
        raise
    except Exception as error:  # a damaged file fails in zipfile, pickle, json or in PyTorch
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a whole checkpoint ({reason}); delete it to start this run again"
        ) from error


def resume(path: Path, saved: dict[str, Any], run: dict[str, Any], **parts: Any) -> list[Epoch]:
    """Put the states of a checkpoint back, as `save` took them.

    Args:
        path: where the checkpoint was read.
        saved: from `read`.
        run: what decides this run.
        parts: as in `save`.

    Returns:
        The finished epochs.

    Raises:
        ValueError: the checkpoint belongs to another run; names the first difference.
    """
    check_run(path, saved, run)
    load_state(parts.pop("model"), saved, path)
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(saved[name])
    return saved["history"].records


def check_run(path: Path, saved: dict[str, Any], run: dict[str, Any]) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: names the first difference.
    """
    # A setting that did not exist then had the value that is its default now.
    settings = asdict(TrainConfig()) | saved["run"]["config"]
    then = saved["run"] | {
        "config": {name: x for name, x in settings.items() if name not in SAME_NUMBERS},
        "preprocess": all_settings(saved["run"]["preprocess"]),
    }
    if changed := difference(then, run):
        name, then, now = changed
        raise ValueError(
            f"{path} belongs to another run: {name} was {then!r} and is now {now!r}; choose another run_dir"
        )


def load_weights(model: nn.Module, path: str | Path) -> History:
    """Put the weights of a checkpoint that `fit(..., run_dir=...)` wrote into a model.

    Args:
        model: a model of the same sizes.
        path: the checkpoint, `RUN_DIR/checkpoint.pt`, or its folder.

    Returns:
        The history of the run up to this checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or belongs to a network of other layers or settings.
    """
    path = Path(path)
    path = path / CHECKPOINT if path.is_dir() else path
    saved = read(path)
    then, now = saved["run"].get("modules", {}), architecture(model)
    if then:
        then["network"] = now["network"]  # a subclass, for example, may have another name
    if then and (changed := difference(then, now)):
        name, before, after = changed
        raise ValueError(
            f"{path} belongs to another network: its {name} was {before} and is now {after}; "
            "build the network as it was trained"
        )
    load_state(model, saved, path)
    return saved["history"]


def load_state(model: nn.Module, saved: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into a model.

    Raises:
        ValueError: they belong to another model.
    """
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error


def difference(then: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first value in which two nested dictionaries differ, with its name; None if they are equal as JSON.

    >>> difference({"data": "mnist", "config": {"epochs": 1}}, {"data": "mnist", "config": {"epochs": 3}})
    ('config.epochs', 1, 3)
    """
    before, after = (json.loads(json.dumps(side)) for side in (then, now))
    for name in before | after:
        a, b = before.get(name), after.get(name)
        if a != b:
            if not (isinstance(a, dict) and isinstance(b, dict)):
                return name, a, b
            if inner := difference(a, b):
                return f"{name}.{inner[0]}", *inner[1:]
    return None
