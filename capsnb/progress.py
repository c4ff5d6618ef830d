"""Progress bars that look right in a terminal and in a notebook, and wipe themselves when the work is done.

Used wherever work may last longer than some seconds, from the training loop of chapter 1, *Why capsules?*, on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

DELAY = 1.0  # seconds: shorter work shows no bar


def progress_bar(
    iterable: Iterable[Any] | None = None, label: str = "", *, shown: bool = True, **settings: Any
) -> tqdm:
    """Show progress through an iterable, or through steps that are counted by `update`.

    A terminal gets tqdm's bar on stderr. A notebook gets the same bar as an output of its own, since it draws stderr
    like an error. What took less than a second shows nothing; a finished bar wipes itself.

    Args:
        iterable: what is gone through; None where `update` counts.
        label: what is being done.
        shown: False shows nothing.
        settings: of `tqdm.tqdm`: `total`, `initial`, `unit`, ...

    Returns:
        A tqdm bar: an iterable and a context manager.

    >>> [2 * n for n in progress_bar([1, 2, 3], "doubling")]
    [2, 4, 6]
    """
    settings = {"leave": False, "delay": DELAY, **settings}
    if output := _notebook_output():
        settings |= {"file": output, "ncols": 90, "mininterval": 0.5}
    if not shown or not (output or sys.stderr):  # a Windows program without a console has no stderr
        settings["disable"] = True
    return _bar_class()(iterable, desc=label or None, **settings)


@cache
def _bar_class() -> type[tqdm]:
    from tqdm import tqdm

    class Bar(tqdm):
        """A bar that shows nothing before its delay is over, and at its end wipes whatever it has shown.

        tqdm shows a postfix at once, and then takes a bar for one that was never shown.
        """

        def display(self, *arguments: Any, **named: Any) -> Any:
            now = self._time()
            if now < getattr(self, "start_t", now) + self.delay:
                return None
            self.last_print_t = now
            return super().display(*arguments, **named)

    return Bar


def _notebook_output() -> _Output | None:
    """Return where a notebook shows a bar; None where Python runs in no notebook."""
    if not sys.modules.get("IPython"):
        return None
    from IPython import get_ipython

    return _Output() if getattr(get_ipython(), "kernel", None) else None


class _Output:
    """A file for tqdm whose last line is one output of the running cell, from the first line written to it."""

    encoding = "utf-8"  # asked by tqdm: the bar may have fine blocks

    def __init__(self) -> None:
        self.handle: Any = None

    def write(self, text: str) -> None:
        """Show a line in place of the one before; tqdm begins each with a carriage return."""
        line = {"text/plain": text.strip("\r\n").rstrip()}
        if self.handle:
            self.handle.update(line, raw=True)
        elif line["text/plain"]:
            from IPython.display import DisplayHandle

            self.handle = DisplayHandle()
            self.handle.display(line, raw=True)

    def flush(self) -> None:
        """Do nothing: each line is shown as it is written."""
