"""What a GPU makes of all this, in minutes: python tools/gpu.py --minutes 4 [--then "reproduce backbones --seeds 1"].

Runs in a bare checkout with PyTorch, Triton and pytest; nothing is installed or downloaded. Each part is bounded and
has a process of its own, so that one that crashes or hangs loses nothing else. After each part a table says what was
measured beside what it should be, and everything is packed into one file. `--device cpu` rehearses all of it in small;
its numbers are no GPU's. The parts that measure are in `tools/gpu_check/`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # in a bare checkout capsnb is not installed

from capsnb.files import write_atomically  # noqa: E402
from capsnb.profiling import revision  # noqa: E402
from capsnb.tables import markdown  # noqa: E402

SHORTEST = 5.0  # seconds; in less no part can even start
PACKING = 3.0  # seconds that are left for the last table and the file
BUDGET_ENDS = 20.0  # seconds that `reproduce` may take beyond its budget: the start, and what it writes
REPACKED = 30.0  # seconds after which a long part's files are packed again


class Goal(NamedTuple):
    """A figure to reach on a GPU of the H100's class.

    Attributes:
        what: in words.
        before: what it was on an H100 in November 2026, at revision 5a31af6.
        at_most: the goal.
        unit: of the goal and of the figure.
        figure: its name in the files of the parts.
        part: the part that measures it, and the last one where several do.
    """

    what: str
    before: str
    at_most: float
    unit: str
    figure: str
    part: str


GOALS = (
    Goal("step in `fit`, MoCapsNet, MNIST, B = 128, TF32", "23 to 30 ms", 3.2, "ms", "mnist_tf32_ms", "mnist"),
    Goal("the same step in bf16", "", 2.2, "ms", "mnist_bf16_ms", "mnist"),
    Goal("step in `fit` at CIFAR-10's size, TF32", "15 to 20 ms (bare)", 4.5, "ms", "cifar_tf32_ms", "cifar"),
    Goal("MNIST epoch in `fit`", "11 to 15 s", 1.8, "s", "mnist_epoch_s", "mnist"),
    Goal("layer 1, forward and backward, kernels alone", "1.28 ms", 0.35, "ms", "layer1_ms", "tuner"),
    Goal(
        "`auto` over the best of {materialised, compiled}, worst of the five layer sizes",
        "3.0 times slower", 1.0, "times", "auto_over_best", "auto",
    ),
    Goal("peak of a step, MNIST", "613 MB", 330, "MB", "mnist_peak_mb", "mnist"),
    Goal("peak of a step, CIFAR-10", "680 MB", 480, "MB", "cifar_peak_mb", "cifar"),
    Goal("each further block, time (MoCapsNet)", "6.5 ms", 0.4, "ms", "block_ms", "mnist"),
    Goal("same seed twice: bits that differ", "many", 0, "bits", "same_seed_bits", "bits"),
    Goal("resumed: bits that differ", "many", 0, "bits", "resumed_bits", "bits"),
)  # fmt: skip
SECONDS = {  # part -> its share of four minutes, in the order in which they run
    "tests": 45.0,
    "kernels": 18.0,
    "routing": 34.0,
    "networks": 24.0,
    "mnist": 26.0,
    "cifar": 18.0,
    "table4": 18.0,
    "tuner": 29.0,
    "auto": 14.0,
    "bits": 14.0,
}
INTERPRETED = ("kernels", "tuner")  # in the rehearsal: their kernels are Triton's
NOTES = (
    "No data sets are needed, since time does not depend on pixels: images of MNIST's size are the package's 5,000 "
    "digits, repeated, and those of CIFAR-10's size are random.",
    "Peaks are those of PyTorch's allocator in `fit`, first epoch included, without the data set's images on the GPU "
    "(in the rehearsal: of the whole process).",
)
REHEARSAL = "REHEARSAL ON A CPU, small networks and few images: no number here is a GPU's."


class Outcome(NamedTuple):
    """How a part ended: whether to its end, and in words."""

    finished: bool
    text: str


@dataclass
class Check:
    """One call of this program.

    Attributes:
        device: "cuda" or "cpu".
        minutes: for everything.
        out: folder of the packed file.
        folder: of all that is packed.
        commands: of `--then`.
        late: seconds of the time that are over already.
        outcomes: how each part ended.
        printed: the table of goals that was printed last.
    """

    device: str
    minutes: float
    out: Path
    folder: Path
    commands: list[str] = field(default_factory=list)
    late: float = 0.0
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    printed: str = ""

    def __post_init__(self) -> None:
        self.end = time.monotonic() + 60 * self.minutes - PACKING - self.late

    @property
    def name(self) -> str:
        """Of the packed file and the table."""
        return "gpu-rehearsal" if self.device == "cpu" else "gpu"

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def run(self, parts: list[str]) -> None:
        """Run the parts, and then the commands with the time that is left."""
        for number, part in enumerate(parts):
            limit = limit_of(parts[number:], self.left(), self.minutes, keep=bool(self.commands))
            self._one(part, command(part, self.device, self.folder, limit), limit)
        for words in self.commands:
            name, left = f"then {words}", self.left()
            self._one(name, then_command(words, self.folder, left), left)

    def _one(self, name: str, arguments: list[str], limit: float) -> None:
        print(f"{name}: at most {limit:.0f} s ...", flush=True)
        if self.left() < SHORTEST:
            self.outcomes[name] = Outcome(False, "not started, the time was used up")
        else:
            log = self.folder / "logs" / f"{re.sub('[^a-z0-9]+', '-', name)}.log"
            self.outcomes[name] = bounded(arguments, log, limit, variables(name, self.device), self.pack)
        print(f"{name}: {self.outcomes[name].text}", flush=True)
        self.pack()
        if (goals := self.goals()) != self.printed:
            print(f"\n{goals}\n", flush=True)
            self.printed = goals

    def reports(self) -> dict[str, dict[str, Any]]:
        """What the parts have written."""
        paths = [self.folder / "parts" / f"{part}.json" for part in SECONDS]
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()}

    def goals(self) -> str:
        """The table of goals."""
        figures: dict[str, float] = {}
        for report in self.reports().values():
            figures |= report["figures"]
        rows = [["what", "before", "goal", "measured", "verdict"]]
        for goal in GOALS:
            finished, reason = self.outcomes.get(goal.part, Outcome(False, "its part has not run"))
            reason = "its part ended without it, see the log" if finished else reason
            limit = f"<= {goal.at_most:g} {goal.unit}" if goal.at_most else "0"
            rows.append([goal.what, goal.before, limit, *judged(goal, figures, reason, self.device)])
        return "\n\n".join([*([REHEARSAL] if self.device == "cpu" else []), markdown(rows, left=5)])

    def page(self) -> str:
        """The goals, how each part ended, and what each said."""
        reports = self.reports()
        machine: dict[str, Any] = next((report["hardware"] for report in reports.values()), {})
        about = f"{datetime.date.today().isoformat()}, revision {revision()}, {json.dumps(machine)}"
        said = {
            name: report["notes"][-1].splitlines()[0] for name, report in reports.items() if report["notes"]
        }
        rows = [["part", "how it ended", "its last word"]]
        rows += [[name, outcome.text, said.get(name, "")] for name, outcome in self.outcomes.items()]
        notes = [
            f"## {name}\n\n" + "\n".join(f"* {note}" for note in report["notes"])
            for name, report in reports.items()
        ]
        table4 = self.folder / "table4.md"
        tables = [markdown(rows, left=3), *([table4.read_text(encoding="utf-8")] if table4.exists() else [])]
        return "\n\n".join([about, self.goals(), *tables, *NOTES, *notes]) + "\n"

    def pack(self) -> None:
        """Write the page, and everything into one file; checkpoints of unfinished runs, which are large, stay here."""
        write_atomically(self.folder / f"{self.name}.md", self.page())
        self.out.mkdir(parents=True, exist_ok=True)
        whole = self.out / f".{self.name}.zip"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(self.folder.rglob("*")):
                inside = path.relative_to(self.folder)
                if path.is_file() and "unfinished" not in inside.parts:
                    archive.write(path, f"{self.name}/{inside.as_posix()}")
        whole.replace(self.out / f"{self.name}.zip")
        for path in (self.folder / f"{self.name}.md", self.folder / "gpu-routing.json"):
            if path.exists():
                write_atomically(self.out / path.name, path.read_bytes())


def judged(goal: Goal, figures: dict[str, float], reason: str, device: str) -> tuple[str, str]:
    """The cells "measured" and "verdict" of a goal."""
    value = figures.get(goal.figure)
    measured = f"not measured: {reason}" if value is None else f"{value:,.4g} {goal.unit}"
    if device == "cpu":
        return measured, "rehearsal"
    if value is None:
        return measured, "not measured"
    return measured, "reached" if value <= goal.at_most else "missed"


def limit_of(parts: list[str], left: float, minutes: float, *, keep: bool) -> float:
    """Seconds of the first of these parts: its share of what is left, so that what one leaves is for the next.

    With `keep`, what it leaves is for the commands of `--then`.
    """
    share = left * SECONDS[parts[0]] / sum(SECONDS[part] for part in parts)
    if keep:
        share = min(share, SECONDS[parts[0]] * min(1.0, minutes / 4))
    return min(max(share, SHORTEST), max(left, 0.0))


def command(part: str, device: str, folder: Path, limit: float) -> list[str]:
    """The command line of a part."""
    if part == "tests":
        marked = [
            path
            for path in sorted(ROOT.glob("tests/test_*.py"))
            if "mark.gpu" in path.read_text(encoding="utf-8")
        ]
        # The options of pyproject.toml name a plugin that need not be here.
        options = [
            "-m",
            "gpu",
            "-o",
            "addopts=--import-mode=importlib --strict-markers",
            "-p",
            "no:cacheprovider",
        ]
        return [sys.executable, "-m", "pytest", *options, *map(str, marked)]
    return [sys.executable, "-m", "gpu_check", part, device, str(folder), f"{limit:.1f}"]


def then_command(words: str, folder: Path, left: float) -> list[str]:
    """The command line of a command of `--then`; `reproduce` gets the time that is left, and the folder."""
    given = shlex.split(words)
    if given[:1] == ["reproduce"]:
        if "--budget" not in given:
            given += ["--budget", f"{max(left - BUDGET_ENDS, 0):.0f}s"]
        if "--out" not in given:
            given += ["--out", str(folder / "reproduced")]
    return [sys.executable, "-m", "capsnb", *given]


def variables(part: str, device: str) -> dict[str, str]:
    """The environment of a part."""
    paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH")]))
    found = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    if device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
        if part in INTERPRETED:
            found["TRITON_INTERPRET"] = "1"
    return found


def bounded(
    arguments: list[str],
    log: Path,
    limit: float,
    environment: dict[str, str],
    now_and_then: Any = lambda: None,
) -> Outcome:
    """Run a command with its output in a file; kill it, and all that it started, when its time is over."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started, called = time.monotonic(), time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - this program's own parts
            arguments,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started < limit:
                time.sleep(0.05)
                if time.monotonic() - called > REPACKED:
                    now_and_then()
                    called = time.monotonic()
            status = process.poll()
        finally:
            kill(process)
    seconds = f"{time.monotonic() - started:.0f} s"
    last = next(filter(None, map(str.strip, reversed(log.read_text("utf-8", "replace").splitlines()))), "")
    summary = last.strip("= ") if re.search(r"\d+ (passed|failed|skipped|error)", last) else ""  # pytest's
    if status is None:
        return Outcome(False, f"killed after {seconds}")
    if status:
        return Outcome(False, f"failed after {seconds}, status {status}: {summary or last[:200]}")
    return Outcome(True, f"done in {seconds}{summary and f': {summary}'}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, if it still runs, and all that it started."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also those whose parent has ended
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.kill()
    process.wait()


def stop(*_: Any) -> None:
    """Let the end of the program be reached when it is told to stop."""
    raise SystemExit(143)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="for everything, `--then` included")] = 4.0,
    device: Annotated[str, typer.Option(help="cuda, or cpu for the rehearsal")] = "cuda",
    out: Annotated[
        Path | None, typer.Option(help="folder of the packed file; default $OUT, else _build")
    ] = None,
    then: Annotated[
        list[str] | None, typer.Option(help="a command of capsnb for the time that is left; may be repeated")
    ] = None,
    only: Annotated[str | None, typer.Option(help="these parts alone, separated by commas")] = None,
    folder: Annotated[Path, typer.Option(help="of what is packed")] = ROOT / "_build" / "gpu-check",
) -> None:
    """Measure what a GPU does, and print it beside the goals."""
    if device not in ("cuda", "cpu"):
        raise typer.BadParameter(f'device is "{device}"; choose "cuda" or "cpu"')
    parts = [name.strip() for name in only.split(",")] if only else list(SECONDS)
    if unknown := [part for part in parts if part not in SECONDS]:
        raise typer.BadParameter(f"unknown part {unknown[0]!r}; choose from {', '.join(SECONDS)}")
    out = out or Path(os.environ.get("OUT") or ROOT / "_build")
    late = time.time() - psutil.Process().create_time()  # importing PyTorch takes seconds
    check = Check(device, minutes, out, folder.resolve() / device, list(then or []), late)
    for old in check.folder.glob("*"):  # results of `--then` stay: the next call goes on with them
        if old.name != "reproduced":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    signal.signal(signal.SIGTERM, stop)
    try:
        check.run([part for part in SECONDS if part in parts])
    finally:
        check.pack()
        print(f"\n{check.page()}\npacked: {check.out / check.name}.zip", flush=True)
    raise typer.Exit(code=not all(outcome.finished for outcome in check.outcomes.values()))


if __name__ == "__main__":
    typer.run(main)
