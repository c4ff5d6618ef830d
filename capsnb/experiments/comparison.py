"""Trained networks side by side: one table.

Used in chapter 15, *How good is it, really?* `read` takes what `capsnb train` and `capsnb reproduce` saved,
`join_seeds` joins the runs that differ only in the seed, `comparison_table` shows them. A network that was trained in a
notebook becomes a `RunResult` with `RunResult.of`. `capsnb.experiments.comparison_page` adds the figures.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from capsnb.data import Preprocess
from capsnb.evaluation import Evaluation, wilson_interval
from capsnb.experiments.run import RECORD, Run, RunResult
from capsnb.profiling import summary
from capsnb.tables import escape, markdown
from capsnb.training import CHECKPOINT, History, checkpoint

GOAL = 0.9  # the test accuracy of the column that says how soon
UNKNOWN = "–"
# fmt: off
COMPARISON_COLUMNS = (
    "network", "seeds", "accuracy / %", "lowest to highest", "95 % interval", "epochs to 90 %", "parameters", "MFLOP",
    "s per epoch", "peak memory / MiB", "macro AUC", "calibration error / %",
)
# fmt: on
NOTES = (
    "Accuracy: share of the test images classified right after the last epoch, mean over the seeds.",
    "95 % interval: of the accuracy on the population that the test images are drawn from (Wilson); further seeds do "
    "not narrow it, since they are tested on the same images.",
    "MFLOP: of one image's forward pass; a multiplication and an addition count as two.",
    "Seconds: the median epoch, without the test.",
    "Peak memory: the allocator's on a GPU; elsewhere the whole process's, since it was started.",
    "Macro AUC and calibration error: means over the seeds.",
    f"{UNKNOWN}: not saved with the run.",
)


@dataclass(frozen=True)
class ComparisonRow:
    """The seeds of one experiment, the lowest first, and a label that no other row has."""

    label: str
    results: tuple[RunResult, ...]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of all seeds, or none: a mean over some of them would not belong to the row."""
        known = [result.evaluation for result in self.results if result.evaluation is not None]
        return known if len(known) == len(self.results) else []

    @property
    def histories(self) -> list[History]:
        """Of all seeds."""
        return [_history(result) for result in self.results]


def read(path: str | os.PathLike[str]) -> RunResult:
    """Read a saved run that is finished.

    Args:
        path: a folder that `capsnb train` wrote, or a file that `capsnb reproduce` wrote.

    Returns:
        Its record. Of older records the multiplications are counted anew, if the data set is there.

    Raises:
        FileNotFoundError: there is no record.
        ValueError: the record is damaged or not that of the checkpoint beside it, the run is not finished, or its loss
            did not stay finite.

    >>> read("runs/capsnet").accuracy  # doctest: +SKIP
    0.981
    """
    result = RunResult.load(path)
    if result.failure is not None:
        raise ValueError(
            f"{path} has no accuracy ({result.failure}): leave it out, and say so beside the table"
        )
    if result.history is None:
        raise ValueError(f"{path}: the run is not finished; run the same `capsnb train` again to resume it")
    beside = Path(path) / CHECKPOINT
    if beside.exists() and checkpoint.read(beside)["history"] != result.history:
        raise ValueError(
            f"{RECORD} and {CHECKPOINT} in {path} are of two runs: put back the one that was replaced"
        )
    return result if result.mult_adds else replace(result, mult_adds=_mult_adds(result.run))


def _mult_adds(run: Run) -> int | None:
    try:
        data = run.load_data()
    except OSError:  # the shape of its images is not known here
        return None
    with torch.random.fork_rng([]):  # initial weights are drawn, and thrown away
        network = run.build(data)
    return run.members * summary(network, data.image_shape).total_mult_adds


def join_seeds(results: Iterable[RunResult]) -> list[ComparisonRow]:
    """Join the runs that differ only in the seed.

    Args:
        results: of runs that are finished, all on the same data.

    Returns:
        A row for each experiment, in the order of their first runs. The labels of rows whose networks have one name
        also say in which settings they differ.

    Raises:
        ValueError: there is no run, two have different data, or one experiment has the same seed twice.

    >>> join_seeds([read("runs/seed0"), read("runs/seed1")])[0].label  # doctest: +SKIP
    'CapsNet'
    """
    results = list(results)
    if not results:
        raise ValueError("there is nothing to compare: give at least one run")
    _check_same_data(results)
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        label, seed = result.run.label, result.run.config.seed
        group = groups.setdefault(json.dumps([label, _settings(result)], sort_keys=True), [])
        for twin in group:
            if twin.run.config.seed == seed:
                raise ValueError(
                    f"{twin.source} and {result.source} are the same experiment with the same seed, {seed}: "
                    "leave one out, or it counts twice"
                )
        group.append(result)
    firsts = [group[0] for group in groups.values()]
    labels = [
        _label(first, [other for other in firsts if other.run.label == first.run.label]) for first in firsts
    ]
    by_seed = [sorted(group, key=lambda result: result.run.config.seed) for group in groups.values()]
    return [ComparisonRow(label, tuple(group)) for label, group in zip(labels, by_seed, strict=True)]


def _history(result: RunResult) -> History:
    if result.history is None:
        raise ValueError(f"{result.source} is not finished: only finished runs are compared")
    return result.history


def _settings(result: RunResult) -> dict[str, Any]:
    """What two runs must share to be two seeds of one experiment."""
    run, history = result.run, _history(result)
    config = {name: value for name, value in asdict(run.config).items() if name != "seed"}
    # A network whose sizes are not known is identified by the number of its parameters.
    sizes = run.sizes or {"parameters": history.parameters}
    preprocess = asdict(Preprocess(**run.preprocess))
    return {
        "model": run.model,
        **sizes,
        **preprocess,
        **config,
        "members": run.members,
        "device": history.device,
    }


def _check_same_data(results: Sequence[RunResult]) -> None:
    names = [(result.source, _history(result).data) for result in results]
    counts = [
        (result.source, {line["class"]: line["support"] for line in result.evaluation.per_class})
        for result in results
        if result.evaluation is not None
    ]
    prints = [(result.source, result.fingerprint) for result in results if result.fingerprint]
    for what, values in (("data", names), ("test images", counts), ("images or labels", prints)):
        for source, value in values:
            if value != values[0][1]:
                raise ValueError(
                    f"{values[0][0]} and {source} have different {what} ({values[0][1]} and {value}): "
                    "their accuracies cannot stand in one table; compare them apart"
                )


def _label(result: RunResult, same_name: Sequence[RunResult]) -> str:
    own, others = _settings(result), [_settings(other) for other in same_name]
    differing = [
        f"{name} {own[name]}" for name in own if any(other.get(name) != own[name] for other in others)
    ]
    return ", ".join([result.run.label, *differing])


def cells(row: ComparisonRow) -> list[str]:
    """The cells of a row, one for each of `COMPARISON_COLUMNS`."""
    histories, evaluations = row.histories, row.evaluations
    accuracies = [result.accuracy for result in row.results]
    mean, work = statistics.fmean(accuracies), row.results[0].mult_adds
    interval = wilson_interval(mean, evaluations[0].count) if evaluations else None
    memory = max(peak for history in histories for peak in history["peak_memory"])
    return [
        row.label,
        str(len(accuracies)),
        f"{100 * mean:.2f}",
        f"{100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}",
        UNKNOWN if interval is None else "{:.2f} to {:.2f}".format(*(100 * end for end in interval)),
        _epochs_to_goal(histories),
        f"{histories[0].parameters:,}",
        UNKNOWN if work is None else f"{2 * work / 1e6:,.1f}",
        f"{statistics.median(s for history in histories for s in history['seconds']):,.1f}",
        f"{memory / 2**20:,.0f}",
        _mean([evaluation.macro_auc for evaluation in evaluations], 1, 4),
        _mean([evaluation.calibration_error for evaluation in evaluations], 100, 1),
    ]


def _epochs_to_goal(histories: Sequence[History]) -> str:
    reached = [
        next((epoch.epoch for epoch in history.records if epoch.test_accuracy >= GOAL), None)
        for history in histories
    ]
    known = [epoch for epoch in reached if epoch is not None]
    last = histories[0].config.epochs
    if not known:
        return f"not in {last}"
    first, end = str(min(known)), str(max(known)) if len(known) == len(reached) else f"over {last}"
    return first if first == end else f"{first} to {end}"


def _mean(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = [factor * value for value in values if value is not None]
    return f"{statistics.fmean(known):.{digits}f}" if known and len(known) == len(values) else UNKNOWN


def caption(rows: Sequence[ComparisonRow]) -> str:
    """The data, and the number of test images."""
    counts = [row.evaluations[0].count for row in rows if row.evaluations]
    return f"{rows[0].histories[0].data}" + (f", {counts[0]:,} test images" if counts else "")


def comparison_table(rows: Sequence[ComparisonRow]) -> str:
    """Write rows as a Markdown table, a line for each.

    Args:
        rows: from `join_seeds`.

    Returns:
        A line that names the data, and the table; what its columns mean is in `NOTES`.

    >>> print(comparison_table(join_seeds([read("runs/capsnet")])))  # doctest: +SKIP
    """
    lines = [[escape(name), *values] for name, *values in map(cells, rows)]
    above = caption(rows).replace("<", "\\<")  # brackets stay, which name a subset
    return f"{above}\n\n{markdown([list(COMPARISON_COLUMNS), *lines])}"
