"""Trained networks side by side: one table, one page of figures.

Used in chapter 15, *How good is it, really?* `read` takes what `capsnb train` and `capsnb reproduce` saved, `rows`
joins the runs that differ in nothing but the seed, `table` and `page` show them. A network that was trained in a
notebook is a `Trained` as well.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from capsnb import experiments, models, plots
from capsnb.data import Preprocess, load_data
from capsnb.evaluation import Evaluation, wilson_interval
from capsnb.files import write_atomically
from capsnb.tables import markdown
from capsnb.training import History, TrainConfig

RUN = "run.json"  # what `capsnb train` was asked for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GOAL = 0.9  # the test accuracy of the column that says how soon
UNKNOWN = "–"
COLUMNS = (
    *(
        "network",
        "seeds",
        "accuracy / %",
        "lowest to highest",
        "95 % interval",
        "epochs to 90 %",
        "parameters",
    ),
    *("MFLOP", "s per epoch", "peak memory / MiB", "macro AUC", "calibration error / %"),
)
NOTES = (
    "Accuracy: share of the test images that is right after the last epoch, mean over the seeds.",
    "95 % interval: where it may lie on endlessly many such images (Wilson); further seeds do not narrow it, since "
    "they are tested on the same images.",
    "MFLOP: of one image's way through the network; a multiplication and an addition count as two.",
    "Seconds: the median epoch, without the test.",
    "Peak memory: the allocator's on a GPU; elsewhere the whole process's, with all that it did before.",
    "Macro AUC and calibration error: means over the seeds.",
    f"{UNKNOWN}: not saved with the run.",
)
_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #222832; }
@media (prefers-color-scheme: dark) { :root { --page: #14181e; --ink: #ced6dd; } }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid; text-align: right; vertical-align: bottom; }
th:first-child { min-width: 8rem; text-align: left; }
"""


@dataclass(frozen=True)
class Trained:
    """One finished run.

    Attributes:
        name: what the network is called.
        history: of its training.
        evaluation: of its test images; None if only the history was kept.
        mult_adds: of one image's way through it (`models.summary`); None if not known.
        settings: what else decides the run, beside the history's configuration.
        source: where it comes from.
    """

    name: str
    history: History
    evaluation: Evaluation | None = None
    mult_adds: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = "trained here"

    @property
    def accuracy(self) -> float:
        """Share of test images that is right after the last epoch, 0 to 1."""
        return self.evaluation.accuracy if self.evaluation else self.history["test_accuracy"][-1]

    @property
    def everything_but_the_seed(self) -> dict[str, Any]:
        """What two runs must share to be two seeds of one experiment."""
        config = {name: value for name, value in asdict(self.history.config).items() if name != "seed"}
        # A network without settings is known by its size alone.
        own = self.settings or {"parameters": self.history.parameters}
        return {**own, **config, "device": self.history.device}


@dataclass(frozen=True)
class Row:
    """The seeds of one experiment, the lowest first, and a label that no other row has."""

    label: str
    runs: tuple[Trained, ...]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of all seeds, or none: a mean over some of them would not belong to the row."""
        found = [run.evaluation for run in self.runs if run.evaluation is not None]
        return found if len(found) == len(self.runs) else []


def read(path: str | os.PathLike[str]) -> Trained:
    """Read a saved run.

    Args:
        path: a folder that `capsnb train` wrote, or a file that `capsnb reproduce` wrote.

    Returns:
        The run.

    Raises:
        FileNotFoundError: a file is missing; the message names it and says what writes it.
        ValueError: a file is damaged, belongs to another run than its neighbours, or its loss did not stay finite.

    >>> read("runs/capsnet").accuracy  # doctest: +SKIP
    0.981
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: name folders that `capsnb train` wrote, or files that `capsnb reproduce` wrote"
        )
    done = experiments.load(path)
    if done.history is None:
        raise ValueError(
            f"{path} has no accuracy ({done.failure}): leave it out, and say so beside the table"
        )
    preprocess = Preprocess(**done.run.preprocess)
    try:
        data = load_data(done.run.data, preprocess=preprocess)
        work = _mult_adds(
            done.run.model, {"image_shape": data.image_shape, "classes": len(data.classes)} | done.run.sizes
        )
    except OSError:  # the sizes of its images are not known here
        work = None
    return Trained(
        done.run.label,
        done.history,
        done.evaluation,
        None if work is None else done.run.members * work,
        settings={"model": done.run.model, **done.run.sizes, **asdict(preprocess)},
        source=str(path),
    )


def _from_folder(folder: Path) -> Trained:
    missing = {
        RUN: f"is {folder} a folder that `capsnb train` wrote?",
        "history.json": "the run is not finished; the same `capsnb train` goes on",
        "evaluation.json": f"`capsnb evaluate {folder}` writes it",
    }
    for name, hint in missing.items():
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} does not exist: {hint}")
    history = History.load(folder / "history.json")
    evaluation = Evaluation.load(folder / "evaluation.json")
    try:
        saved = json.loads((folder / RUN).read_bytes())
        config, settings = TrainConfig(**saved["config"]), {**saved["model"], **saved["preprocess"]}
        work = _mult_adds(history.model, saved["model"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / RUN} is damaged ({error}); train again into an empty folder") from error
    if history.config != config or len(history.records) != config.epochs:
        raise ValueError(
            f"{folder / 'history.json'} belongs to another run than {RUN}: train again, into an empty folder"
        )
    if evaluation.dataset != history.data:
        raise ValueError(
            f"{folder / 'evaluation.json'} is of {evaluation.dataset}, the run of {history.data}: "
            f"`capsnb evaluate {folder}` writes the right one"
        )
    return Trained(history.model, history, evaluation, work, settings, str(folder))


def _mult_adds(model: str, sizes: dict[str, Any]) -> int:
    with torch.random.fork_rng([]):  # initial weights are drawn, and thrown away
        network = getattr(models, model)(**sizes | {"image_shape": tuple(sizes["image_shape"])})
    return models.summary(network).total_mult_adds


def rows(runs: Iterable[Trained]) -> list[Row]:
    """Join the runs that differ in nothing but the seed.

    Args:
        runs: all on the same data.

    Returns:
        A row for each experiment, in the order of their first runs. Rows whose networks have one name are told apart by
        the settings in which they differ.

    Raises:
        ValueError: there is no run, two have different data, or one experiment has the same seed twice.

    >>> rows([read("runs/seed0"), read("runs/seed1")])[0].label  # doctest: +SKIP
    'CapsNet'
    """
    runs = list(runs)
    if not runs:
        raise ValueError("there is nothing to compare: give at least one run")
    _check_same_data(runs)
    groups: dict[str, list[Trained]] = {}
    for run in runs:
        key = json.dumps([run.name, run.everything_but_the_seed], sort_keys=True)
        for twin in groups.setdefault(key, []):
            if twin.history.config.seed == run.history.config.seed:
                raise ValueError(
                    f"{twin.source} and {run.source} are the same experiment with the same seed, "
                    f"{run.history.config.seed}: leave one out, or it counts twice"
                )
        groups[key].append(run)
    firsts = [group[0] for group in groups.values()]
    labels = [_label(run, [other for other in firsts if other.name == run.name]) for run in firsts]
    by_seed = [sorted(group, key=lambda run: run.history.config.seed) for group in groups.values()]
    return [Row(label, tuple(group)) for label, group in zip(labels, by_seed, strict=True)]


def _check_same_data(runs: Sequence[Trained]) -> None:
    names = [(run.source, run.history.data) for run in runs]
    counts = [
        (run.source, {line["class"]: line["support"] for line in run.evaluation.per_class})
        for run in runs
        if run.evaluation is not None
    ]
    for what, found in (("data", names), ("test images", counts)):
        for source, value in found:
            if value != found[0][1]:
                raise ValueError(
                    f"{found[0][0]} and {source} have different {what} ({found[0][1]} and {value}): "
                    "their accuracies cannot stand in one table; compare them apart"
                )


def _label(run: Trained, alike: Sequence[Trained]) -> str:
    own = run.everything_but_the_seed
    others = [other.everything_but_the_seed for other in alike]
    differing = [
        f"{name} {own[name]}" for name in own if any(other.get(name) != own[name] for other in others)
    ]
    return ", ".join([run.name, *differing])


def _cells(row: Row) -> list[str]:
    histories, found = [run.history for run in row.runs], row.evaluations
    shares = [run.accuracy for run in row.runs]
    mean = statistics.fmean(shares)
    interval = wilson_interval(mean, found[0].count) if found else None
    work, memory = (
        row.runs[0].mult_adds,
        max(peak for history in histories for peak in history["peak_memory"]),
    )
    return [
        row.label,
        str(len(shares)),
        f"{100 * mean:.2f}",
        f"{100 * min(shares):.2f} to {100 * max(shares):.2f}",
        UNKNOWN if interval is None else "{:.2f} to {:.2f}".format(*(100 * end for end in interval)),
        _epochs_to_goal(histories),
        f"{histories[0].parameters:,}",
        UNKNOWN if work is None else f"{2 * work / 1e6:,.1f}",
        f"{statistics.median(s for history in histories for s in history['seconds']):,.1f}",
        f"{memory / 2**20:,.0f}",
        _mean([one.auc["macro"] for one in found], 1, 4),
        _mean([one.calibration_error for one in found], 100, 1),
    ]


def _epochs_to_goal(histories: Sequence[History]) -> str:
    reached = [
        next((epoch.epoch for epoch in history.records if epoch.test_accuracy >= GOAL), None)
        for history in histories
    ]
    done = [epoch for epoch in reached if epoch is not None]
    last = histories[0].config.epochs
    if not done:
        return f"not in {last}"
    first, end = str(min(done)), str(max(done)) if len(done) == len(reached) else f"over {last}"
    return first if first == end else f"{first} to {end}"


def _mean(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = [factor * value for value in values if value is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known and len(known) == len(values) else UNKNOWN


def _caption(rows: Sequence[Row]) -> str:
    counts = [row.evaluations[0].count for row in rows if row.evaluations]
    return f"{rows[0].runs[0].history.data}" + (f", {counts[0]:,} test images" if counts else "")


def table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table, a line for each.

    Args:
        rows: from `rows`.

    Returns:
        A line that names the data, and the table; what its columns mean is in `NOTES`.

    >>> print(table(rows([read("runs/capsnet")])))  # doctest: +SKIP
    """
    return f"{_caption(rows)}\n\n{markdown([list(COLUMNS), *map(_cells, rows)])}"


def figures(rows: Sequence[Row]) -> Iterator[tuple[str, Figure]]:
    """Draw the curves of all rows, then of each row's first seed what its evaluation holds.

    The first seed is the one with the lowest number, not the one with the best result.

    Args:
        rows: from `rows`.

    Yields:
        A heading, and a figure with its text alternative.

    >>> dict(figures(rows([read("runs/capsnet")])))["Training"]  # doctest: +SKIP
    """
    yield "Training", plots.curves({row.label: [run.history for run in row.runs] for row in rows})
    for row in rows:
        if not row.evaluations:
            continue
        found, which = row.evaluations[0], f"{row.label} (seed {row.runs[0].history.config.seed})"
        yield f"{which}: which class was taken for which", plots.confusion_matrix(found)
        if any(curve["fpr"] for curve in found.roc):
            yield f"{which}: each class against the rest", plots.roc(found)
        if found.calibration:
            yield f"{which}: scores and shares", plots.reliability(found)


def page(rows: Sequence[Row]) -> str:
    """Write rows as one HTML page that needs nothing from outside: the table, and every figure of `figures`.

    It is light or dark as the reader's system is, and on a narrow screen the table scrolls in its place.

    Args:
        rows: from `rows`.

    Returns:
        The page.

    >>> Path("comparison.html").write_text(page(rows([read("runs/capsnet")])))  # doctest: +SKIP
    """
    head, *body = [list(COLUMNS), *map(_cells, rows)]
    lines = ["<tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr>"]
    for name, *cells in body:
        lines.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    drawn = "\n".join(f"<h2>{escape(title)}</h2>\n{plots.to_html(fig)}" for title, fig in figures(rows))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison on {escape(rows[0].runs[0].history.data)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Comparison on {escape(_caption(rows))}</h1>
<div class="wide" role="region" aria-label="Table of all networks" tabindex="0">
<table>
{chr(10).join(lines)}
</table>
</div>
<ul>{"".join(f"<li>{escape(note)}</li>" for note in NOTES)}</ul>
{drawn}
<h2>Where the rows come from</h2>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in _sources(rows))}</ul>
</body>
</html>
"""


def _sources(rows: Sequence[Row]) -> list[str]:
    return [f"{row.label}: {', '.join(run.source for run in row.runs)}" for row in rows]


def save(rows: Sequence[Row], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `comparison.md` and `comparison.html`, each whole or not at all.

    Args:
        rows: from `rows`.
        folder: where to; it is made if it is missing.

    Returns:
        The two paths.

    Raises:
        OSError: the folder cannot be written.

    >>> save(rows([read("runs/capsnet")]), "comparison")  # doctest: +SKIP
    [PosixPath('comparison/comparison.md'), PosixPath('comparison/comparison.html')]
    """
    notes = "\n".join(f"- {line}" for line in (*NOTES, *_sources(rows)))
    contents = {"comparison.md": f"{table(rows)}\n\n{notes}\n", "comparison.html": page(rows)}
    return [write_atomically(Path(folder) / name, content) for name, content in contents.items()]
