"""The command `reproduce`: studies, and the papers' tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capsnb.cli.options import names, seconds
from capsnb.values import whole_number

if TYPE_CHECKING:
    from capsnb.experiments import Run


def reproduce(
    study: Annotated[
        str | None,
        typer.Argument(help="a study or a table of a paper; --list without a name shows all of them"),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="these data sets alone, separated by commas")] = None,
    blocks: Annotated[
        str | None, typer.Option(help="these numbers of blocks alone, separated by commas")
    ] = None,
    model: Annotated[str | None, typer.Option(help="these networks alone, separated by commas")] = None,
    seeds: Annotated[int | None, typer.Option(help="this many seeds of each run; all by default")] = None,
    profile: Annotated[
        str, typer.Option(help="full, or quick: a table's rows with narrow networks and few images")
    ] = "full",
    budget: Annotated[
        str | None,
        typer.Option(help="stop before this time, such as 90s, 8m or 2h; the same command continues"),
    ] = None,
    workers: Annotated[int, typer.Option(help="runs at the same time, on one GPU too")] = 1,
    root: Annotated[
        str | None, typer.Option("--data", "--root", metavar="PATH", help="folder of the data sets")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results; default results")] = None,
    show: Annotated[bool, typer.Option("--list", help="show what is finished, and run nothing")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="check that each file of results belongs to its row")
    ] = False,
) -> None:
    """Train the runs of a study or of a paper's table that have no result yet; show the paper's numbers beside ours."""
    from capsnb import experiments

    folder = out or Path("results")
    if check:
        wrong = experiments.check(folder)
        typer.echo("\n".join(wrong) or f"every file in {folder} belongs to its row")
        raise typer.Exit(code=bool(wrong))
    if study is None:
        if not show:
            raise ValueError(f"name what to reproduce: {', '.join(experiments.STUDIES)}; or ask for --list")
        typer.echo(experiments.overview(folder))
        return
    if study in experiments.COSTS:
        if not show:
            experiments.measure_costs(folder, progress=sys.stderr.isatty())
        typer.echo(experiments.COSTS[study](folder))
        return
    if profile not in ("full", "quick"):
        raise ValueError(f"unknown profile {profile!r}; choose full or quick")
    if profile == "quick" and f"{study}-quick" in experiments.STUDIES:
        study = f"{study}-quick"
    runs = experiments.runs(study)
    chosen = _chooser(runs, seeds, dataset=dataset, model=model, blocks=blocks)
    if not any(map(chosen, runs)):
        raise ValueError(f"no run of {study} is left with these options; see --list")
    if not show:
        left = experiments.reproduce(
            study,
            folder,
            root=root,
            budget=math.inf if budget is None else seconds(budget),
            workers=workers,
            only=chosen,
        )
        if left:
            typer.echo(f"{left} runs are left; the same command continues")
    typer.echo(experiments.study_table(study, folder))


def _values(run: Run) -> dict[str, str]:
    """What the options of `reproduce` choose by."""
    return {
        "dataset": run.data,
        "model": run.model.lower(),
        "blocks": str(run.sizes.get("blocks", "")),
    }


def _chooser(runs: list[Run], seeds: int | None, **options: str | None) -> Callable[[Run], bool]:
    """Which of a study's runs the options of `reproduce` choose.

    Raises:
        ValueError: a value that no run has.
    """
    seeds = whole_number("seeds", seeds) if seeds is not None else None
    wanted = {
        option: names(option, listed.lower()) for option, listed in options.items() if listed is not None
    }
    for option, chosen in wanted.items():
        known = sorted({_values(run)[option] for run in runs}, key=lambda value: (len(value), value))
        for value in chosen:
            if value not in known:
                raise ValueError(f"{option} must be among {', '.join(known)}, got {value!r}")

    def chosen_by_all(run: Run) -> bool:
        values = _values(run)
        return (seeds is None or run.config.seed < seeds) and all(
            values[option] in chosen for option, chosen in wanted.items()
        )

    return chosen_by_all
