"""Kill runs, fill disks, damage files and change settings, and count what is lost: `python tools/survive.py`.

Each try ends as it should, or is listed with how it ended; the numbers go into results/survival.json, which the book's
page *What it survives* shows. With the default numbers it takes half an hour on two cores. `--seed` repeats the same
damage; random moments differ from call to call. Linux or macOS.
"""

from __future__ import annotations

import collections
import datetime
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from survival import damage, runs, states
from survival.processes import Outcome

from capsnb.files import write_atomically
from capsnb.profiling import command, hardware, revision, versions
from capsnb.progress import progress_bar


def try_settings(count: int, chance: random.Random) -> Iterator[Outcome]:
    """Try settings of the process, each once."""
    for state in chance.sample(states.STATES, min(count, len(states.STATES))):
        yield from states.try_states([state.name])


PARTS: dict[str, Callable[[int, random.Random], Iterator[Outcome]]] = {
    "kills": runs.kills,
    "kills-of-two": runs.kills_of_two,
    "full-disks": runs.full_disks,
    "damaged-inputs": damage.inputs,
    "settings": try_settings,
}
ALL_SETTINGS = len(states.STATES)
Count = Annotated[int, typer.Option(min=0)]


def survive(
    kills: Count = 100,
    kills_of_two: Count = 20,
    full_disks: Count = 20,
    damaged_inputs: Count = 500,
    settings: Count = ALL_SETTINGS,
    seed: Annotated[int, typer.Option(help="which damage; moments are random all the same")] = 0,
    minutes: Annotated[float, typer.Option(help="begin no try after this time")] = 60.0,
    out: Annotated[Path, typer.Option(help="JSON file")] = Path("results/survival.json"),
) -> None:
    """Try all parts, each as often as asked."""
    counts = dict(zip(PARTS, (kills, kills_of_two, full_disks, damaged_inputs, settings), strict=True))
    end = time.monotonic() + 60 * minutes
    found = json.loads(out.read_text(encoding="utf-8"))["parts"] if out.exists() else {}
    lost = 0
    for part, count in counts.items():
        if not count:
            continue
        started = time.monotonic()
        outcomes = []
        with progress_bar(label=part, total=count, leave=True) as bar:
            for outcome in PARTS[part](count, random.Random(f"{part} {seed}")):  # noqa: S311 - it hides nothing
                outcomes.append(outcome)
                bar.update()
                if not outcome.survived:
                    typer.echo(f"LOST {outcome.name}: {outcome.detail}", err=True)
                if time.monotonic() > end:
                    break
        found[part] = _summary(outcomes) | {"seconds": round(time.monotonic() - started, 1)}
        lost += found[part]["lost"]
        typer.echo(
            f"{part}: {len(outcomes)} tried, {found[part]['survived']} survived, {found[part]['lost']} lost"
        )
        found[part] |= {"seed": seed, "revision": revision(), "date": datetime.date.today().isoformat()}
        # Part by part: a part that is not tried keeps its last count.
        saved = {"parts": found, "hardware": hardware(), "versions": versions(), "command": command()}
        write_atomically(out, json.dumps(saved, indent=1) + "\n")
    raise typer.Exit(code=1 if lost else 0)


def _summary(outcomes: list[Outcome]) -> dict[str, object]:
    """How many were tried and lost in all and by name, how they ended, and what was lost."""
    lost = [outcome for outcome in outcomes if not outcome.survived]
    by_name: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        line = by_name.setdefault(outcome.name.partition(":")[0], {"tried": 0, "lost": 0})
        line["tried"] += 1
        line["lost"] += not outcome.survived
    ends = collections.Counter(outcome.detail for outcome in outcomes if outcome.survived)
    return {
        "tried": len(outcomes),
        "survived": len(outcomes) - len(lost),
        "lost": len(lost),
        "memory": max(outcome.memory for outcome in outcomes),
        "by_name": by_name,
        "ends": dict(ends.most_common()),
        "what_was_lost": [f"{outcome.name}: {outcome.detail}" for outcome in lost],
    }


if __name__ == "__main__":
    typer.run(survive)
