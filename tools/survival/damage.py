"""Files that are damaged: each must be refused in one line that names it, or be read as what it is."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from capsnb import History, load_data
from capsnb.bench import Bench
from capsnb.data import mnist
from capsnb.evaluation import Evaluation
from capsnb.experiments import STUDIES, RunResult
from capsnb.experiments.run import RECORD
from capsnb.training import CHECKPOINT
from survival.processes import Child, Ended, Outcome, command, folder, run
from survival.runs import OPTIONS, Reference

LIMIT = 10.0  # seconds; a longer command hangs
FORMATS = ("png", "jpg", "gif", "bmp", "webp", "tif")


class Input(NamedTuple):
    """A kind of input.

    Attributes:
        name: of the kind.
        place: a folder that holds all that is read; each try damages a copy of it.
        files: those of which one is damaged, relative to `place`.
        work: what reads them, given the copy.
        what: what was read, given the copy and how the child ended; equal for all copies that are read as they are.
        donors: files that a damaged one is replaced by, relative to `place`; none for the others of `files`.
    """

    name: str
    place: Path
    files: list[str]
    work: Callable[[Path], Callable[[], object]]
    what: Callable[[Path, Ended], object] = lambda _, ended: ended.out
    donors: list[str] = []  # noqa: RUF012


def damaged(content: bytes, others: list[bytes], chance: random.Random) -> tuple[str, bytes]:
    """Damage a file in one of nine ways; return the way, and what the file now holds."""
    n = len(content)
    place, size = chance.randrange(n), chance.choice((1, 16, 512))

    def flipped(times: int) -> bytes:
        changed = bytearray(content)
        for _ in range(times):
            changed[chance.randrange(n)] ^= 1 << chance.randrange(8)
        return bytes(changed)

    ways: dict[str, Callable[[], bytes]] = {
        "one bit flipped": lambda: flipped(1),
        "20 bits flipped": lambda: flipped(20),
        "truncated": lambda: content[:place],
        "empty": lambda: b"",
        "zeros in it": lambda: content[:place] + bytes(size) + content[place + size :],
        "a piece missing": lambda: content[:place] + content[place + size :],
        "a piece twice": lambda: content[: place + size] + content[place:],
        "other bytes": lambda: chance.randbytes(min(n, 4096)),
        "swapped": lambda: chance.choice(others),
    }
    way = chance.choice(list(ways) if others else list(ways)[:-1])
    return way, ways[way]()


def inputs(count: int, chance: random.Random) -> Iterator[Outcome]:
    """Damage each kind of input in turn, and read it."""
    with folder() as place:
        kinds = list(_kinds(place))
        expected = []
        for kind in kinds:
            copy = _copy(kind, place)
            ended = Child(kind.work(copy)).end(LIMIT)
            if ended.code != 0:
                raise RuntimeError(f"{kind.name} is not read even where it is whole: {ended.err}")
            expected.append(kind.what(copy, ended))
        for number in range(count):
            kind = kinds[number % len(kinds)]
            yield _try(kind, expected[number % len(kinds)], _copy(kind, place), chance)


def _copy(kind: Input, place: Path) -> Path:
    copy = place / "copy" / kind.place.name
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(kind.place, copy)


def _try(kind: Input, expected: object, copy: Path, chance: random.Random) -> Outcome:
    chosen = chance.choice(kind.files)
    file = copy / chosen
    donors = [(copy / other).read_bytes() for other in kind.donors or kind.files if other != chosen]
    way, content = damaged(file.read_bytes(), donors, chance)
    file.write_bytes(content)
    ended = Child(kind.work(copy)).end(LIMIT)
    name = f"{kind.name}: {way}"
    if ended.code is None:
        return Outcome(name, False, f"{chosen}: still running after {LIMIT:.0f} s")
    if ended.code == 0:
        whole = kind.what(copy, ended) == expected or _other_picture(file)
        return Outcome(name, whole, "read" if whole else f"{chosen}: taken for something else", ended.memory)
    named = str(file) in ended.refusal or (way == "swapped" and str(file.parent) in ended.refusal)
    return Outcome(name, named, "refused" if named else f"{chosen}: {ended.summary}", ended.memory)


def _other_picture(file: Path) -> bool:
    """Whether a damaged file is still a whole picture, if another one, to every program that reads it."""
    if file.suffix[1:] not in FORMATS:
        return False
    with Image.open(file) as image:
        image.load()
    return True


def _kinds(place: Path) -> Iterator[Input]:
    chance = np.random.default_rng(0)
    sample = load_data()

    folders = place / "images"
    for part, per_class in (("train", 3), ("test", 1)):
        for name in ("cat", "dog"):
            (folders / part / name).mkdir(parents=True)
            for number, form in enumerate(FORMATS * per_class):
                pixels = chance.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folders / part / name / f"{number}.{form}")
    for form in FORMATS:
        files = [str(path.relative_to(folders)) for path in sorted(folders.rglob(f"*.{form}"))]
        read = partial(_read, lambda path: load_data(f"folder:{path}").fingerprint)
        yield Input(f"images, {form.upper()}", folders, files, lambda path, read=read: partial(read, path))

    published = place / "mnist"
    published.mkdir()
    for name in mnist.MNIST_MD5:
        split, count = (sample.train, 60) if name.startswith("train") else (sample.test, 20)
        pixels = "images" in name
        values = (split.images[:count, 0] if pixels else split.labels[:count]).byte().numpy()
        header = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
        content = header + values.tobytes()
        # The published files cannot be had here; the children take these for them.
        mnist.MNIST_MD5[name] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        file = published / (f"{name}.gz" if pixels else name)
        file.write_bytes(gzip.compress(content) if pixels else content)
    read = partial(_read, lambda path: load_data("mnist", path).fingerprint)
    yield Input(
        "idx",
        published,
        [path.name for path in published.iterdir()],
        lambda path, read=read: partial(read, path),
    )

    sample_file = place / "sample"
    sample_file.mkdir()
    shutil.copy(str(mnist.SAMPLE), sample_file)

    def read_sample(path: Path) -> str:
        mnist.SAMPLE = path / mnist.SAMPLE.name
        return load_data().fingerprint

    yield Input("npz", sample_file, [mnist.SAMPLE.name], lambda path: partial(_read, read_sample, path))

    runs, reference = place / "runs", Reference(place / "reference", ["CapsNet"])
    for name, options in (("a", ()), ("b", ("--seed", 1)), ("c", ("--iterations", 1))):
        run("train", runs / name, *OPTIONS, *options)
    for file in (RECORD, CHECKPOINT):
        reading = {
            "evaluate": lambda path: command("evaluate", path / "a"),
            "train": lambda path: command("train", path / "a", *OPTIONS),
        }
        if file == RECORD:
            reading["compare"] = lambda path: command("compare", path / "a", "--out", path / "comparison")
        for name, work in reading.items():
            yield Input(
                f"{file}, {name}",
                runs,
                [f"a/{file}"],
                work,
                lambda path, ended: (
                    ended.out.replace(str(path), ""),
                    reference.compare("CapsNet", path / "a"),
                ),
                [f"b/{file}", f"c/{file}"],
            )

    result = RunResult.load(runs / "a")
    study, planned, results = place / "study", list(STUDIES["depth"]()), []
    for seed in range(2):
        chosen = next(each for each in planned if each.config.seed == seed)
        results.append(replace(result, run=chosen).save(chosen.path(study)))
    files = [str(path.relative_to(study)) for path in results]
    yield Input(
        "results of a study",
        study,
        files,
        lambda path: command("reproduce", "depth", "--list", "--out", path),
    )

    saved = place / "saved"
    if result.history is None or result.evaluation is None:
        raise RuntimeError("the undisturbed run is not finished")
    result.history.save(saved / "history.json")
    result.evaluation.save(saved / "evaluation.json")
    line = {"case": "a", "name": "b", "failure": None, "median": 1.0}
    Bench.from_lines("routing", {"median": ("s", "")}, [line], "cpu").save(saved / "bench.json")
    for file, load in (("history", History.load), ("evaluation", Evaluation.load), ("bench", Bench.load)):
        read = partial(_read, lambda path, file=file, load=load: load(path / f"{file}.json"))
        yield Input(f"JSON, {file}", saved, [f"{file}.json"], lambda path, read=read: partial(read, path))


def _read(load: Callable[[Path], object], path: Path) -> None:
    """Read something as a program that reports errors in a line, and print what was read."""
    try:
        print(load(path))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
