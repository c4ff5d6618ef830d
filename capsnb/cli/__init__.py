"""The command line: `python -m capsnb train | evaluate | compare | data | memory | bench | reproduce | doctor`."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from capsnb import distributed
from capsnb.cli import doctor, measuring, reproducing, training
from capsnb.compat import print_any_letter

app = typer.Typer(
    help="Train, evaluate and measure capsule networks.", no_args_is_help=True, pretty_exceptions_enable=False
)
for command in (training.train, training.evaluate, training.compare, training.data):
    app.command()(command)
app.command("memory")(measuring.memory_of_a_step)
app.add_typer(measuring.bench, name="bench")
app.command()(reproducing.reproduce)
app.command("doctor")(doctor.doctor)


@app.callback()
def common_options(
    debug: Annotated[
        bool, typer.Option("--debug", help="show where in the code an error was raised")
    ] = False,
) -> None:
    """Train, evaluate and measure capsule networks."""  # `main` reads --debug itself: it catches the errors


def main() -> NoReturn:
    """Run a command; what is wrong with the input or the machine is one line, not a traceback."""
    print_any_letter()
    debug = "--debug" in sys.argv
    try:
        app()
    except SystemExit as done:
        if done.code == INTERRUPTED:
            _complain("stopped; the same command resumes a training run from its last whole epoch")
        raise
    except EXPECTED as error:
        if debug:
            raise
        _complain(_one_line(error))
        raise SystemExit(2) from None
    except ExceptionGroup as group:  # runs that failed while others went on
        if debug:
            raise
        reasons: dict[str, list[str]] = {}
        for failed in group.exceptions:
            reasons.setdefault(_one_line(failed), []).append(" ".join(failed.__notes__))
        for reason, where in reasons.items():
            others = f" and {len(where) - 1} more" if where[1:] else ""
            _complain(f"{where[0]}{others}: {reason}")
        raise SystemExit(2) from None
    raise SystemExit(0)


INTERRUPTED = 130  # what typer makes of Ctrl-C
# What input or machine can cause. PyTorch raises RuntimeError for sizes that do not fit, and for too little memory.
EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    FloatingPointError,
    ModuleNotFoundError,
    MemoryError,
    RuntimeError,
)


def _one_line(error: Exception) -> str:
    if not isinstance(error, RuntimeError | MemoryError) or str(error).startswith("out of memory:"):
        return str(error)
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"{first} (capsnb --debug ... shows where)"


def _complain(text: str) -> None:
    who = f" (process {distributed.rank()})" if distributed.world_size() > 1 else ""
    typer.secho(f"capsnb{who}: {text}", fg="red", err=True)
