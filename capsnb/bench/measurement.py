"""One measurement: its lines, what they mean, how it was made, and the table that people read."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsnb.files import results, write_atomically
from capsnb.profiling import Timing, command, hardware, versions
from capsnb.tables import markdown

Columns = dict[str, tuple[str, str]]  # name of a figure -> its unit and meaning
ELSEWHERE = {"cpu": "triton", "cuda": "native"}  # the backend that a kind of device does not have
SECONDS = {
    "median": ("s", "median of the rounds"),
    "lower": ("s", "lower quartile"),
    "upper": ("s", "upper quartile"),
}
SHOWN = {"s": ("ms", 1e3), "B": ("MB", 1e-6), "FLOP": ("GFLOP", 1e-9)}  # as people read them


@dataclass(frozen=True)
class Bench:
    """One measurement: its figures, what they mean, and how they were made.

    Attributes:
        what: "routing", "memory", "step", "depth", "gradients" or "processes".
        columns: unit and meaning of each figure, `{name: {unit, meaning}}`.
        lines: `{case, name, failure, ...}` with the figures in their units; None where there is none, "non-finite" for
            the error of a result that is not finite. A competitor that could not run says why in `failure`.
        settings: batch, rounds, seed and their like.
        hardware: see `capsnb.profiling.hardware`.
        versions: see `capsnb.profiling.versions`.
        date: when, as year-month-day.
        command: what was typed.
    """

    what: str
    columns: dict[str, dict[str, str]]
    lines: list[dict[str, Any]]
    settings: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: list[str]

    def __getitem__(self, which: tuple[str, str]) -> dict[str, Any]:
        """The line of a case and a name: `bench["hidden layer", "auto"]["median"]`."""
        for line in self.lines:
            if (line["case"], line["name"]) == which:
                return line
        raise KeyError(f"no line {which!r}; there are {[(x['case'], x['name']) for x in self.lines]}")

    def table(self) -> str:
        """The figures as a Markdown table that is also readable as plain text; below it, what could not run and why."""
        units = {name: column["unit"] for name, column in self.columns.items()}
        heads = [f"{n.replace('_', ' ')} {SHOWN.get(u, ('', 1))[0]}".strip() for n, u in units.items()]
        rows = [["case", "", *heads]]
        for line in self.lines:
            rows.append([line["case"], line["name"], *(shown(line[n], u) for n, u in units.items())])
        failed = [f"\n{x['case']}, {x['name']}: {x['failure']}" for x in self.lines if x["failure"]]
        return "\n".join([markdown(rows, left=2), *failed])

    def side_by_side(
        self, names: Iterable[str], cell: Callable[[dict[str, Any]], str], cases: Iterable[str] = ()
    ) -> str:
        """A Markdown table with a row for each case and a column for each name.

        Args:
            names: the columns.
            cell: what to write about a line of the measurement.
            cases: the rows; all, if none is named.
        """
        names, cases = list(names), list(cases) or dict.fromkeys(line["case"] for line in self.lines)
        rows = [[case, *(cell(self[case, name]) for name in names)] for case in cases]
        return markdown([["", *names], *rows])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the measurement as JSON, whole or not at all."""
        return write_atomically(path, json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str]) -> Bench:
    """Read a measurement that `Bench.save` wrote.

    Args:
        path: the JSON file.

    Returns:
        The same measurement.

    Raises:
        FileNotFoundError: there is no such file: it has not been run yet.
        ValueError: the file is not a whole measurement.

    >>> print(read("results/bench-routing.json").table())  # doctest: +SKIP
    """
    try:
        return Bench(**json.loads(Path(path).read_bytes()))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no measurement at {path}; make one with `capsnb bench`") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a measurement that capsnb saved ({error}); measure again") from error


def published(what: str) -> Bench | None:
    """Read a measurement of the project's own: "routing", "step-cuda"; None where it has not been run yet."""
    path = results() / f"bench-{what}.json"
    return read(path) if path.exists() else None


def shown(value: float | str | None, unit: str) -> str:
    """A figure as a table shows it: three digits, in the unit that people read.

    >>> shown(0.0123456, "s"), shown(2.5e9, "B"), shown(1.25e-7, "1"), shown(16, ""), shown(None, "s")
    ('12.3', '2,500', '1.2e-07', '16', '–')
    """
    if value is None or isinstance(value, str):
        return value or "–"
    if unit == "1":
        return f"{value:.1e}"
    if unit == "":
        return f"{value:,g}"
    scaled = value * SHOWN.get(unit, ("", 1))[1]
    digits = 2 - math.floor(math.log10(abs(scaled))) if scaled else 0
    return f"{scaled:,.{min(max(digits, 0), 6)}f}"


def elsewhere(device: str) -> str:
    """The backend that this device does not have; a device that is not there is a `ValueError`."""
    kind = torch.device(device).type
    if kind not in ELSEWHERE:
        raise ValueError(f'device is "{device}"; choose "cpu" or "cuda"')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device is "{device}", but PyTorch finds no GPU here; choose "cpu"')
    return ELSEWHERE[kind]


def chosen(wanted: Iterable[str], known: Iterable[str], kind: str, *, leave: Iterable[str] = ()) -> list[str]:
    """The names that were asked for, or all but those to leave; an unknown one is a `ValueError` that lists them."""
    wanted, known, leave = list(wanted), list(known), set(leave)
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose from: {'; '.join(known)}")
    return wanted or [name for name in known if name not in leave]


def blank(columns: Columns, case: str, name: str, failures: Mapping[str, str]) -> dict[str, Any]:
    """A line without figures yet, and with what its competitor said if it could not run."""
    return {"case": case, "name": name, "failure": failures.get(name), **dict.fromkeys(columns)}


def seconds(timings: Mapping[str, Timing], name: str) -> dict[str, float]:
    """Median and quartiles of one name, as a line holds them."""
    return {quartile: getattr(timings[name], quartile) for quartile in SECONDS}


def ratio(timings: Mapping[str, Timing], name: str, reference: str) -> float | None:
    """How often the reference's median goes into that of a name; None without a reference."""
    return timings[name].median / timings[reference].median if reference in timings else None


def relative_error(found: Tensor | None, exact: Tensor | None) -> float | str:
    """Largest difference over the largest number of what is exact, or "non-finite"."""
    assert found is not None and exact is not None  # of a round that ran
    if not found.isfinite().all():
        return "non-finite"
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


def finished(what: str, columns: Columns, lines: list[dict[str, Any]], device: str, **settings: Any) -> Bench:
    """The lines with everything that says how they came about."""
    return Bench(
        what=what,
        columns={name: {"unit": unit, "meaning": meaning} for name, (unit, meaning) in columns.items()},
        lines=lines,
        settings={"dtype": "float32", "device": device, **settings},
        hardware=hardware(device),
        versions=versions(),
        date=datetime.date.today().isoformat(),
        command=command(),
    )
