"""The registry: which runs of a study or a table are finished, which are missing, and their tables.

Used in chapters 6, 7, 12, 14 and 17.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from capsnb import files
from capsnb.experiments import papers, studies
from capsnb.experiments.papers import ReportedAccuracy, percent
from capsnb.experiments.run import Run, RunResult, execute
from capsnb.progress import progress_bar
from capsnb.tables import markdown
from capsnb.values import one_of, whole_number

STUDIES: dict[str, Callable[[], Iterator[Run]]] = {
    **studies.STUDIES,
    **papers.TABLES,
    **{
        f"{table}-trainable": partial(papers.with_trainable_initialisation, table)
        for table in papers.TABLES
        if table != "backbones"
    },
    **{f"{table}-quick": partial(papers.quick, table) for table in papers.TABLES},
}

FORMS = {  # of a paper's table -> what the study's name ends with
    "as printed": "",
    f"from N(0, {papers.TRAINABLE_STD}²)": "-trainable",
    "quick form": "-quick",
}
# Numbers of blocks: the paper's best ones first, then the ends, then those between.
INFORMATIVE = (1, 7, 5, 3, 8, 2, 4, 6)


@dataclass(frozen=True)
class StudyRow:
    """A line of a table: what the paper reports, and what was run.

    Attributes:
        label: of its runs.
        reported: the paper's accuracy; None if it has none.
        runs: all that belong to the row, the lowest seed first.
        results: of those that are finished.
    """

    label: str
    reported: ReportedAccuracy | None
    runs: tuple[Run, ...]
    results: tuple[RunResult, ...]

    @property
    def mean(self) -> float:
        """Of the seeds' accuracies, 0 to 1; NaN if nothing is finished."""
        return statistics.fmean(result.accuracy for result in self.results) if self.results else math.nan

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(result.accuracy for result in self.results) if len(self.results) > 1 else None

    @property
    def ours(self) -> str:
        """What was run, in per cent, with the number of seeds in brackets; or "not run yet"."""
        return f"{percent(self.mean, self.spread)} ({len(self.results)})" if self.results else "not run yet"

    @property
    def minutes(self) -> str:
        """Of one run, the mean; a dash if nothing is finished."""
        seconds = [result.seconds for result in self.results]
        return f"{statistics.fmean(seconds) / 60:.1f}" if seconds else "–"


def runs(study: str) -> list[Run]:
    """The runs of a study or a paper's table, the most informative first: each row once, then the further seeds.

    Raises:
        ValueError: there is no such study.
    """
    place = {blocks: k for k, blocks in enumerate(INFORMATIVE)}
    return sorted(
        _runs_of(study),
        key=lambda run: (run.config.seed, place.get(run.sizes.get("blocks", 1), len(INFORMATIVE))),
    )


def study_rows(study: str, folder: str | os.PathLike[str] | None = None) -> list[StudyRow]:
    """The rows of a study or a paper's table, with what has been run of them.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        All rows, in the study's order.

    Raises:
        ValueError: an unknown study, or a file that is damaged or belongs to another run.

    >>> study_rows("table1")[0].reported.accuracy
    0.9941
    """
    table = study.removesuffix("-trainable")
    reported = papers.reported_accuracies(table) if table in papers.TABLES else {}
    by_label: dict[str, list[Run]] = {}
    for run in sorted(_runs_of(study), key=lambda run: run.config.seed):
        by_label.setdefault(run.label, []).append(run)
    return [
        StudyRow(
            label,
            reported.get(label),
            tuple(same_label),
            tuple(RunResult.load(path, run) for run in same_label if (path := run.path(folder)).exists()),
        )
        for label, same_label in by_label.items()
    ]


def results(study: str, folder: str | os.PathLike[str] | None = None) -> dict[str, list[RunResult]]:
    """What has been run: the seeds of each label, in the study's order.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        label -> results; labels that have none are left out.

    Raises:
        ValueError: as for `study_rows`.

    >>> results("depth")["MoCapsNet, 8 blocks"][0].accuracy  # doctest: +SKIP
    0.979
    """
    return {row.label: list(row.results) for row in study_rows(study, folder) if row.results}


def check(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Whether every file in a folder of results belongs to a row.

    Args:
        folder: where results are; None for the project's own.

    Returns:
        What is wrong, a sentence for each file; empty if nothing is.
    """
    place = files.results() if folder is None else Path(folder)
    wrong = []
    for study in sorted(path.name for path in place.iterdir() if path.is_dir() and path.name != "unfinished"):
        known = {run.path(place): run for run in runs(study)} if study in STUDIES else {}
        for path in sorted((place / study).iterdir()):
            try:
                if path not in known:
                    raise ValueError(f"{path} belongs to no row of {study}")
                RunResult.load(path, known[path])
            except ValueError as error:
                wrong.append(str(error))
    return wrong


def reproduce(
    study: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    root: str | None = None,
    budget: float = math.inf,
    workers: int = 1,
    only: Callable[[Run], bool] = lambda run: True,
    progress: bool = True,
) -> int:
    """Train the runs of a study or a paper's table that have no file yet.

    A run that fails (its data are not there, the memory does not suffice) does not stop the others.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.
        root: folder of the data sets.
        budget: seconds; nothing is begun that would exceed it, and the next call continues with the rest.
        workers: runs at the same time, each on its share of the cores; a GPU is shared by all of them.
        only: which runs.
        progress: show a progress bar.

    Returns:
        How many runs are still missing.

    Raises:
        ValueError: an unknown study, a number below 1, or a file in the folder that belongs to another run.
        ChildProcessError: a worker was killed.
        ExceptionGroup: some runs failed; each exception carries the run's name as a note.
    """
    workers = whole_number("workers", workers)
    files.check_writable(files.results() if folder is None else folder)
    chosen = [run for run in runs(study) if only(run)]
    missing = [run for run in chosen if not run.path(folder).exists()]
    for run in chosen:
        if run not in missing:
            RunResult.load(run.path(folder), run)
    end = time.monotonic() + budget
    threads = max(torch.get_num_threads() // workers, 1)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,))
    waiting, running, left = list(missing), dict[Future[RunResult | None], Run](), 0
    failures: list[Exception] = []
    with pool, progress_bar(label=study, shown=progress, total=len(missing), leave=True) as bar:
        while waiting or running:
            while waiting and len(running) < workers and (remaining := end - time.monotonic()) > 0:
                run = waiting.pop(0)
                running[pool.submit(execute, run, folder, root=root, budget=remaining)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    raise ChildProcessError(  # an OSError
                        f"a worker was killed while {run.name} was running, perhaps because memory ran out; finished "
                        "runs and checkpoints are kept: run the same command again, with fewer workers"
                    ) from error
                except Exception as error:  # of any kind; the other runs continue
                    error.add_note(f"in the run {run.name}")
                    failures.append(error)
                    continue
                if result is None:
                    left += 1
                else:
                    bar.set_postfix_str(f"{run.name}: {result.accuracy:.2%}")
                    bar.update()
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(missing)} runs of {study} failed", failures)
    return len(waiting) + left


def table_forms(table: str, folder: str | os.PathLike[str] | None = None) -> dict[str, list[StudyRow]]:
    """The rows of a paper's table in each form of which something has been run.

    Args:
        table: a name in `papers.TABLES`.
        folder: where results are; None for the project's own.

    Returns:
        Name of the form ("as printed", from other initial weights, "quick form") -> all rows, in the table's order.

    Raises:
        ValueError: as for `study_rows`.
    """
    found = {
        form: study_rows(table + suffix, folder)
        for form, suffix in FORMS.items()
        if table + suffix in STUDIES
    }
    return {form: rows for form, rows in found.items() if any(row.results for row in rows)}


def study_table(study: str, folder: str | os.PathLike[str] | None = None) -> str:
    """A study: mean, spread and range over the seeds. A paper's table, in any form: the paper beside all that was run.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        A Markdown table, a line for each label; percent, how many seeds in brackets, and minutes of one run.
    """
    table = study.removesuffix("-trainable").removesuffix("-quick")
    if table in papers.TABLES:
        return _beside_paper(study_rows(table, folder), table_forms(table, folder))
    lines = [["run", "ours / % (seeds)", "lowest", "highest", "minutes a run"]]
    for row in study_rows(study, folder):
        accuracies = [result.accuracy for result in row.results]
        limits = [percent(end(accuracies)) if accuracies else "–" for end in (min, max)]
        lines.append([row.label, row.ours, *limits, row.minutes])
    return markdown(lines)


def _beside_paper(reported: list[StudyRow], forms: dict[str, list[StudyRow]]) -> str:
    head = ["run", "paper / %"]
    for form in forms:
        head += [f"{form} / % (seeds)", "minutes"]
    lines = [head]
    for number, row in enumerate(reported):
        cells = []
        for rows in forms.values():
            ours = rows[number]
            cells += [ours.ours, ours.minutes] if ours.results else ["–", "–"]
        if forms and set(cells) == {"–"}:
            cells[0] = "not run yet"
        lines.append([row.label, str(row.reported), *cells])
    return markdown(lines)


def overview(folder: str | os.PathLike[str] | None = None) -> str:
    """How much of every study and table has been run, and what a run took; of variants, those that were begun."""
    lines = [["study", "what it asks", "runs", "finished", "minutes a run"]]
    for study, make in STUDIES.items():
        rows = study_rows(study, folder)
        seconds = [result.seconds for row in rows for result in row.results]
        finished = len(seconds)
        if study.endswith(("-quick", "-trainable")) and not finished:
            continue
        question = (getattr(make, "func", make).__doc__ or "").partition("\n")[0]
        minutes = f"{statistics.fmean(seconds) / 60:.1f}" if seconds else "–"
        lines.append([study, question, str(sum(len(row.runs) for row in rows)), str(finished), minutes])
    return markdown(lines, left=2)


def _runs_of(study: str) -> Iterator[Run]:
    one_of("study", study, STUDIES)
    return STUDIES[study]()
