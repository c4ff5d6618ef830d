"""One measurement: its lines, their columns, how it was made, and its table."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from capsnb.files import from_json, reading, results, to_json, write_atomically
from capsnb.profiling import Timing, command, hardware, versions
from capsnb.tables import markdown
from capsnb.values import LARGEST_SEED, whole_number

Columns = dict[str, tuple[str, str]]  # name of a figure -> its unit and meaning
UNAVAILABLE = {"cpu": "triton", "cuda": "native"}  # kind of device -> the backend that it does not have
TIMING_COLUMNS = {
    "median": ("s", "median of the rounds"),
    "lower": ("s", "lower quartile"),
    "upper": ("s", "upper quartile"),
}
TABLE_UNITS = {"s": ("ms", 1e3), "B": ("MB", 1e-6), "FLOP": ("GFLOP", 1e-9)}  # stored unit -> unit of a table


@dataclass(frozen=True)
class Bench:
    """One measurement: its figures, their meaning, and how they were made.

    Attributes:
        what: "routing", "memory", "step", "depth", "gradients" or "scaling".
        columns: unit and meaning of each figure, `{name: {unit, meaning}}`.
        lines: `{case, name, failure, ...}` with the figures in their units; None where a figure does not exist,
            "non-finite" for the error of a result that is not finite. `failure` is the error of an implementation that
            could not run, or None.
        settings: batch, rounds, seed and so on.
        hardware: see `capsnb.profiling.hardware`.
        versions: see `capsnb.profiling.versions`.
        date: year-month-day.
        command: the command line.
    """

    what: str
    columns: dict[str, dict[str, str]]
    lines: list[dict[str, Any]]
    settings: dict[str, Any]
    hardware: dict[str, Any]
    versions: dict[str, str]
    date: str
    command: list[str]

    @classmethod
    def from_lines(
        cls, what: str, columns: Columns, lines: list[dict[str, Any]], device: str, **settings: Any
    ) -> Bench:
        """Make a measurement of its lines: add the machine, the versions, the date and the command line."""
        return cls(
            what=what,
            columns={name: {"unit": unit, "meaning": meaning} for name, (unit, meaning) in columns.items()},
            lines=lines,
            settings={"dtype": "float32", "device": device, **settings},
            hardware=hardware(device),
            versions=versions(),
            date=datetime.date.today().isoformat(),
            command=command(),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bench:
        """Load a measurement that `save` wrote.

        Args:
            path: the JSON file.

        Returns:
            The same measurement.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file does not hold a measurement.

        >>> print(Bench.load("results/bench-routing.json").table())  # doctest: +SKIP
        """
        try:
            with reading(path, "a measurement that capsnb saved", "measure again"):
                return cls(**from_json(Path(path).read_bytes(), path))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no measurement at {path}; make one with `capsnb bench`"
            ) from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the measurement as JSON, whole or not at all."""
        return write_atomically(path, to_json(asdict(self), indent=1))

    def __getitem__(self, key: tuple[str, str]) -> dict[str, Any]:
        """The line of a case and a name: `bench["hidden layer", "auto"]["median"]`."""
        for line in self.lines:
            if (line["case"], line["name"]) == key:
                return line
        raise KeyError(f"no line {key!r}; there are {[(x['case'], x['name']) for x in self.lines]}")

    def table(self) -> str:
        """The figures as a Markdown table that is also readable as plain text, followed by the failures."""
        units = {name: column["unit"] for name, column in self.columns.items()}
        heads = [f"{n.replace('_', ' ')} {TABLE_UNITS.get(u, ('', 1))[0]}".strip() for n, u in units.items()]
        rows = [["case", "", *heads]]
        for line in self.lines:
            rows.append([line["case"], line["name"], *(format_value(line[n], u) for n, u in units.items())])
        failed = [f"\n{x['case']}, {x['name']}: {x['failure']}" for x in self.lines if x["failure"]]
        return "\n".join([markdown(rows, left=2), *failed])

    def side_by_side(
        self, names: Iterable[str], cell: Callable[[dict[str, Any]], str], cases: Iterable[str] = ()
    ) -> str:
        """A Markdown table with a row for each case and a column for each name.

        Args:
            names: the columns.
            cell: text of a table cell, from a line of the measurement.
            cases: the rows; none for all.
        """
        names, cases = list(names), list(cases) or dict.fromkeys(line["case"] for line in self.lines)
        rows = [[case, *(cell(self[case, name]) for name in names)] for case in cases]
        return markdown([["", *names], *rows])


def committed(what: str) -> Bench | None:
    """Load a measurement of the project's results folder, such as "routing" or "step-cuda"; None without a file."""
    path = results() / f"bench-{what}.json"
    return Bench.load(path) if path.exists() else None


def format_value(value: float | str | None, unit: str) -> str:
    """Format a figure for a table: three significant digits, in the table's unit.

    >>> format_value(0.0123456, "s"), format_value(2.5e9, "B"), format_value(1.25e-7, "1"), format_value(16, "")
    ('12.3', '2,500', '1.2e-07', '16')
    >>> format_value(None, "s")
    '–'
    """
    if value is None or isinstance(value, str):
        return value or "–"
    if not math.isfinite(value):
        return str(value)
    if unit == "1":
        return f"{value:.1e}"
    if unit == "":
        return f"{value:,g}"
    scaled = value * TABLE_UNITS.get(unit, ("", 1))[1]
    digits = 2 - math.floor(math.log10(abs(scaled))) if scaled else 0
    return f"{scaled:,.{min(max(digits, 0), 6)}f}"


def unavailable_backend(device: str) -> str:
    """The backend that this device does not have.

    Raises:
        ValueError: another kind of device than a CPU or a GPU, or a GPU that PyTorch does not find.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:  # no device at all
        kind = ""
    if kind not in UNAVAILABLE:
        raise ValueError(f'device is "{device}"; choose "cpu" or "cuda"')
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device is "{device}", but PyTorch finds no GPU here; choose "cpu"')
    return UNAVAILABLE[kind]


def select(
    wanted: Iterable[str], known: Iterable[str], kind: str, *, exclude: Iterable[str] = ()
) -> list[str]:
    """The wanted names; if none is given, all known ones without the excluded.

    Raises:
        ValueError: an unknown name.
    """
    wanted, known, exclude = list(wanted), list(known), set(exclude)
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; choose from: {'; '.join(known)}")
    return wanted or [name for name in known if name not in exclude]


def whole_settings(seed: int, **others: int) -> dict[str, int]:
    """The settings of a measurement that are whole numbers: a seed of 0 or more, the others of 1 or more.

    Raises:
        TypeError: no whole number.
        ValueError: a number outside its range.
    """
    checked = {name: whole_number(name, value) for name, value in others.items()}
    return checked | {"seed": whole_number("seed", seed, at_least=0, at_most=LARGEST_SEED)}


def empty_line(columns: Columns, case: str, name: str, failure: str | None = None) -> dict[str, Any]:
    """A line without figures."""
    return {"case": case, "name": name, "failure": failure, **dict.fromkeys(columns)}


def quartiles(timing: Timing) -> dict[str, float]:
    """Median and quartiles as figures of a line."""
    return {name: getattr(timing, name) for name in TIMING_COLUMNS}


def median_ratio(timings: Mapping[str, Timing], name: str, reference: str) -> float | None:
    """The median of a name over the median of the reference; None without a reference."""
    return timings[name].median / timings[reference].median if reference in timings else None


def relative_error(found: Tensor | None, exact: Tensor | None) -> float | str:
    """Largest absolute difference over the largest absolute exact value; "non-finite" if `found` is not finite."""
    found, exact = cast(Tensor, found), cast(Tensor, exact)  # of a round that ran
    if not found.isfinite().all():
        return "non-finite"
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()
