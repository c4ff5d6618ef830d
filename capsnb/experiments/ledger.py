"""The ledger: which runs of a study or a table are there, which are missing, and what they say together.

Used in chapters 6, 7, 12, 14 and 17.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from capsnb.experiments import papers, studies
from capsnb.experiments.papers import Published, percent
from capsnb.experiments.run import Finished, Run, load, perform
from capsnb.files import results
from capsnb.tables import markdown

STUDIES: dict[str, Callable[[], Iterator[Run]]] = {
    **studies.STUDIES,
    **papers.TABLES,
    **{f"{table}-awake": partial(papers.awake, table) for table in papers.TABLES if table != "backbones"},
    **{f"{table}-quick": partial(papers.quick, table) for table in papers.TABLES},
}


# Numbers of blocks: the paper's best ones first, then the ends, then what is between.
INFORMATIVE = (1, 7, 5, 3, 8, 2, 4, 6)


@dataclass(frozen=True)
class Row:
    """A line of a table: what the paper says, and what was run.

    Attributes:
        label: of its runs.
        published: the paper's number; None if it has none.
        runs: all that belong to the row, the lowest seed first.
        found: those that are finished.
    """

    label: str
    published: Published | None
    runs: tuple[Run, ...]
    found: tuple[Finished, ...]

    @property
    def mean(self) -> float:
        """Of the seeds' accuracies, 0 to 1; NaN if nothing is finished."""
        return statistics.fmean(done.accuracy for done in self.found) if self.found else math.nan

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(done.accuracy for done in self.found) if len(self.found) > 1 else None

    @property
    def ours(self) -> str:
        """What was run, in per cent, with the number of seeds in brackets; or "not run yet"."""
        return f"{percent(self.mean, self.spread)} ({len(self.found)})" if self.found else "not run yet"


def runs(study: str) -> list[Run]:
    """The runs of a study or a paper's table, the most informative first: every row once, then the further seeds.

    Raises:
        ValueError: there is no such study.
    """
    return sorted(
        _made(study), key=lambda run: (run.config.seed, INFORMATIVE.index(run.sizes.get("blocks", 1)))
    )


def rows(study: str, folder: str | os.PathLike[str] | None = None) -> list[Row]:
    """The rows of a study or a paper's table, with what has been run of them.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        All rows, in the study's order.

    Raises:
        ValueError: an unknown study, or a file that is damaged or belongs to another run.

    >>> rows("table1")[0].published.accuracy
    0.9941
    """
    table = study.removesuffix("-awake")
    said = papers.published(table) if table in papers.TABLES else {}
    gathered: dict[str, list[Run]] = {}
    for run in sorted(_made(study), key=lambda run: run.config.seed):
        gathered.setdefault(run.label, []).append(run)
    return [
        Row(
            label,
            said.get(label),
            tuple(alike),
            tuple(load(path, run) for run in alike if (path := run.path(folder)).exists()),
        )
        for label, alike in gathered.items()
    ]


def finished(study: str, folder: str | os.PathLike[str] | None = None) -> dict[str, list[Finished]]:
    """What has been run: the seeds of each label, in the study's order. Nothing else is in it.

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        label -> finished runs; labels that have none are left out.

    Raises:
        ValueError: as for `rows`.

    >>> finished("depth")["MoCapsNet, 8 blocks"][0].accuracy  # doctest: +SKIP
    0.979
    """
    return {row.label: list(row.found) for row in rows(study, folder) if row.found}


def check(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Whether every file in a folder of results belongs to a row.

    Args:
        folder: where results are; None for the project's own.

    Returns:
        What is wrong, a sentence for each file; empty if nothing is.
    """
    place = results() if folder is None else Path(folder)
    wrong = []
    for study in sorted(path.name for path in place.iterdir() if path.is_dir() and path.name != "unfinished"):
        known = {run.path(place): run for run in runs(study)} if study in STUDIES else {}
        for path in sorted((place / study).iterdir()):
            try:
                if path not in known:
                    raise ValueError(f"{path} belongs to no row of {study}")
                load(path, known[path])
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
        budget: seconds; nothing is begun that would not be over by then, and the next call goes on with the rest.
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
    from tqdm import tqdm

    if workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    every = [run for run in runs(study) if only(run)]
    missing = [run for run in every if not run.path(folder).exists()]
    for run in every:
        if run not in missing:
            load(run.path(folder), run)
    end = time.monotonic() + budget
    threads = max(torch.get_num_threads() // workers, 1)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,))
    waiting, running, left = list(missing), dict[Future[Finished | None], Run](), 0
    failures: list[Exception] = []
    with pool, tqdm(total=len(missing), disable=not progress, desc=study, file=sys.stderr) as bar:
        while waiting or running:
            while waiting and len(running) < workers and (remaining := end - time.monotonic()) > 0:
                run = waiting.pop(0)
                running[pool.submit(perform, run, folder, root=root, budget=remaining)] = run
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                run = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool as error:
                    raise ChildProcessError(  # an OSError
                        f"a worker was killed while {run.name} was running, perhaps for want of memory; finished "
                        "runs and checkpoints are kept: run the same command again, with fewer workers"
                    ) from error
                except Exception as error:  # whatever a run met with; the others go on
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


def table(study: str, folder: str | os.PathLike[str] | None = None) -> str:
    """A study or a paper's table: paper beside ours, mean and spread over the seeds, or "not run yet".

    Args:
        study: its name in `STUDIES`.
        folder: where results are; None for the project's own.

    Returns:
        A Markdown table, a line for each label; percent, and minutes of one run. Where a paper's numbers are shown,
        rows on other data than the paper's are there as soon as they have been run.
    """
    found = rows(study, folder)
    cited = any(row.published for row in found)
    found = [row for row in found if row.published or row.found or not cited]
    heads = ["run", *(["paper / %"] if cited else []), "ours / % (seeds)"]
    if any(row.found for row in found):
        heads += ["lowest", "highest", "minutes a run"]
    lines = [heads]
    for row in found:
        line = [row.label, *([str(row.published or "–")] if cited else []), row.ours]
        if row.found:
            shares = [done.accuracy for done in row.found]
            minutes = statistics.fmean(done.seconds for done in row.found) / 60
            line += [percent(min(shares)), percent(max(shares)), f"{minutes:.1f}"]
        lines.append(line + ["–"] * (len(heads) - len(line)))
    return markdown(lines)


def overview(folder: str | os.PathLike[str] | None = None) -> str:
    """How much of every study and table has been run, as a Markdown table; variants once they have been begun."""
    lines = [["study", "what it asks", "runs", "finished"]]
    for study, made in STUDIES.items():
        found = rows(study, folder)
        done = sum(len(row.found) for row in found)
        if study.endswith(("-quick", "-awake")) and not done:
            continue
        asked = (getattr(made, "func", made).__doc__ or "").partition("\n")[0]
        lines.append([study, asked, str(sum(len(row.runs) for row in found)), str(done)])
    return markdown(lines, left=2)


def _made(study: str) -> Iterator[Run]:
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}; choose one of {', '.join(STUDIES)}")
    return STUDIES[study]()
