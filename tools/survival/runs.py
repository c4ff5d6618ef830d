"""Runs that are killed, and runs whose disk is full: resumed, they must end with the bits of an undisturbed one."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from capsnb.experiments import RunResult
from capsnb.experiments.run import RECORD
from capsnb.training import CHECKPOINT, checkpoint
from survival.processes import Child, Ended, Outcome, command, folder, run

# Small enough for a second a run, and a checkpoint of 10 MB, so that a good share of the time goes into writing it.
OPTIONS = ("--images", 200, "--epochs", 3, "--batch-size", 50, "--channels", 8, "--capsule-types", 2)
VARIANTS: dict[str, tuple[object, ...]] = {
    "CapsNet": (),
    "MoCapsNet": ("--model", "mocapsnet", "--blocks", 2),
    "ResCapsNet, SGD": ("--model", "rescapsnet", "--optimizer", "sgd", "--precision", "bf16"),
}
UNTIL_IT_HANGS = 120.0  # seconds
GRACE = 30.0  # seconds that torchrun gives a process to end, too


def tensors_and_numbers(path: Path) -> tuple[dict[str, Any], list[Any], Any]:
    """Of a finished run: the states in its checkpoint, its epochs but for time and memory, its evaluation."""
    saved, record = checkpoint.read(path / CHECKPOINT), RunResult.load(path)
    epochs = [replace(epoch, seconds=0.0, peak_memory=0) for epoch in saved["history"].records]
    return {name: saved[name] for name in ("model", "optimizer")}, epochs, record.evaluation


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num()) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Reference:
    """An undisturbed run of each variant: what it leaves, and how long it takes."""

    def __init__(self, place: Path, variants: Iterable[str] = tuple(VARIANTS)) -> None:
        self.left: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        for variant in variants:
            path = place / variant
            ended = run("train", path, *OPTIONS, *VARIANTS[variant], limit=UNTIL_IT_HANGS)
            if ended.code != 0:
                raise RuntimeError(f"the undisturbed run of {variant} failed: {ended.err}")
            self.left[variant], self.seconds[variant] = tensors_and_numbers(path), ended.seconds
            self.size = (path / CHECKPOINT).stat().st_size

    def compare(self, variant: str, path: Path) -> str:
        """Say in what a finished run differs from the undisturbed one; "" if in nothing."""
        found = tensors_and_numbers(path)
        names = ("weights or optimizer", "history", "evaluation")
        return ", ".join(
            name
            for name, one, other in zip(names, found, self.left[variant], strict=True)
            if not same(one, other)
        )


def _state(path: Path) -> str:
    """What a killed run left: every file must be whole."""
    if not (path / RECORD).exists():
        return "nothing"
    record = RunResult.load(path)
    if not (path / CHECKPOINT).exists():
        return "a record"
    epochs = len(checkpoint.read(path / CHECKPOINT)["history"].records)
    return f"{epochs} epoch{'s' * (epochs != 1)}" + (" and the finished record" if record.history else "")


def _resume(reference: Reference, name: str, variant: str, path: Path, before: str) -> Outcome:
    """Resume a run, and compare it."""
    try:
        left = _state(path)
    except (ValueError, OSError) as error:
        return Outcome(name, False, f"{before}; a file is not whole: {error}")
    ended = run("train", path, *OPTIONS, *VARIANTS[variant], limit=UNTIL_IT_HANGS)
    if ended.code != 0:
        return Outcome(name, False, f"{before}; left {left}; resumed: {ended.summary}")
    differs = reference.compare(variant, path)
    return Outcome(name, not differs, f"left {left}" + (f"; differs in {differs}" if differs else ""))


def kills(count: int, chance: random.Random) -> Iterator[Outcome]:
    """Kill runs of one process at random moments, some of them twice, and resume them."""
    with folder() as place:
        reference = Reference(place)
        for number in range(count):
            variant = chance.choice(list(VARIANTS))
            path = place / str(number)
            for _ in range(chance.choice((1, 1, 2))):
                child = Child(command("train", path, *OPTIONS, *VARIANTS[variant]))
                time.sleep(chance.uniform(0, reference.seconds[variant]))
                child.kill()
                child.end()
            yield _resume(reference, f"kill -9, {variant}", variant, path, "killed")
            shutil.rmtree(path, ignore_errors=True)


def _processes(path: Path, variant: str) -> list[Child]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    work = command("train", path, *OPTIONS, *VARIANTS[variant])
    return [Child(work, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in (0, 1)]


def kills_of_two(count: int, chance: random.Random) -> Iterator[Outcome]:
    """Kill one process of two, or both, and resume the run with two.

    The one that is left ends by itself when it misses the other; if they had not met yet, it would wait for half an
    hour, and is ended as `torchrun` does it.
    """
    variant = "MoCapsNet"
    with folder() as place:

        def whole(path: Path) -> list[Ended]:
            return [child.end(UNTIL_IT_HANGS) for child in _processes(path, variant)]

        reference = Reference(place, ())
        ended = whole(place / "two")
        if any(child.code for child in ended):
            raise RuntimeError(f"the undisturbed run of two processes failed: {ended[0].err}{ended[1].err}")
        reference.left[variant] = tensors_and_numbers(place / "two")
        duration = max(child.seconds for child in ended)
        for number in range(count):
            path, which = place / str(number), chance.choice(("the first", "the second", "both"))
            children = _processes(path, variant)
            time.sleep(chance.uniform(0, duration))
            for child in {"the first": children[:1], "the second": children[1:], "both": children}[which]:
                child.kill()
            left = [child.end(GRACE + time.monotonic() - child.started) for child in children]
            name = f"kill -9 of {which} of two processes"
            alone = any(child.code is None for child in left)
            how = (
                ""
                if which == "both"
                else f", the other was ended after {GRACE:.0f} s"
                if alone
                else ", the other ended"
            )
            try:
                state = _state(path)
            except (ValueError, OSError) as error:
                yield Outcome(name, False, f"a file is not whole: {error}")
                continue
            again = whole(path)
            if any(child.code for child in again):
                yield Outcome(name, False, f"left {state}; resumed: {again[0].summary}; {again[1].summary}")
            else:
                differs = reference.compare(variant, path)
                yield Outcome(
                    name, not differs, f"left {state}{how}" + (f"; differs in {differs}" if differs else "")
                )
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[bool]:
    """Mount a file system of that many bytes, where this is allowed; yield whether it was."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603 - no text from elsewhere
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S603, S607 - what was mounted above


def full_disks(count: int, chance: random.Random) -> Iterator[Outcome]:
    """Train where there is too little space, then resume where there is enough."""
    with folder() as place:
        reference = Reference(place)
        for number in range(count):
            variant = chance.choice(list(VARIANTS))
            path, room = place / str(number) / "run", chance.randrange(3 * reference.size)
            arguments = ("train", path, *OPTIONS, *VARIANTS[variant])
            with small_disk(place / str(number), max(room, 4096)) as mounted:
                ended = run(*arguments) if mounted else run(*arguments, file_limit=room)
                kind = "full disk" if mounted else "limit of file size"
                # What is left is copied to where there is space.
                shutil.copytree(place / str(number), place / f"{number} copied")
            name, path = f"{kind}, {variant}", place / f"{number} copied" / "run"
            if ended.code != 0 and not (ended.refusal and "/run/" in ended.refusal):
                yield Outcome(name, False, f"room for {room:,} bytes: {ended.summary}")
                continue
            yield _resume(reference, name, variant, path, ended.summary)
            shutil.rmtree(path.parent, ignore_errors=True)
