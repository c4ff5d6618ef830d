"""The command line: `python -m capsnb train | evaluate | compare | data | memory | bench | reproduce`."""

from __future__ import annotations

from typing import NoReturn

import typer

from capsnb import distributed
from capsnb.cli import measuring, reproducing, training

app = typer.Typer(
    help="Train, evaluate and measure capsule networks.", no_args_is_help=True, pretty_exceptions_enable=False
)
for command in (training.train, training.evaluate, training.compare, training.data):
    app.command()(command)
app.command("memory")(measuring.memory_of_a_step)
app.add_typer(measuring.bench, name="bench")
app.command()(reproducing.reproduce)


def main() -> NoReturn:
    """Run a command; what is wrong with the input is one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        who = f" (process {distributed.rank()})" if distributed.world_size() > 1 else ""
        typer.secho(f"capsnb{who}: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    except ExceptionGroup as group:  # runs that failed while others went on
        reasons: dict[str, list[str]] = {}
        for failed in group.exceptions:
            reasons.setdefault(str(failed), []).append(" ".join(failed.__notes__))
        for reason, where in reasons.items():
            others = f" and {len(where) - 1} more" if where[1:] else ""
            typer.secho(f"capsnb: {where[0]}{others}: {reason}", fg="red", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0)
