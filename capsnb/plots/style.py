"""The book's style: colours, line styles and an ink that are read on light and on dark pages.

Used from chapter 1, *Why capsules?*, on, also for the figures that chapters draw themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from cycler import cycler

from capsnb.defaults import default_settings
from capsnb.values import finite_number, whole_number

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Never seen: on a page it becomes the page's text colour. Nearly black where there is no page.
INK = "#010203"
COLOURS = ("#2B83C6", "#D55E00", "#0B8F6A", "#B05CA0", "#A37400", "#808590")  # >= 3:1 on white and on #14181e
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "X")  # with the lines: colour is never the only cue
WIDTH = 6.2  # inches; at 320 pixels, on a phone, 12 points are still 8.6 pixels

_INKED = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"),
    *("grid.color", "hatch.color", "patch.edgecolor"),
    *(f"boxplot.{part}props.color" for part in ("box", "cap", "whisker", "flier")),
)
STYLE: dict[Any, Any] = {
    "figure.figsize": (WIDTH, 3.3),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(_INKED, INK),
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES),
    "font.family": "DejaVu Sans",  # matplotlib's own, and wide: the page's font fits where it did
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 12),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 11),
    "figure.titlesize": 13,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "image.cmap": "cividis",
    "image.interpolation": "none",  # an image goes into the SVG with its own few pixels
    "image.composite_image": False,
    "text.usetex": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "capsnb",
}


@contextmanager
def in_style(*libraries: str, formulas: bool = True) -> Iterator[None]:
    """Draw in the book's style inside a `with` block, or inside a function that this decorates.

    The style is complete: matplotlib's defaults, `STYLE`, and `default_settings` of PyTorch and NumPy.

    Args:
        libraries: imported before the style is set. seaborn needs it: what it finds in matplotlib's `rcParams`
            when it is imported is what `seaborn.reset_orig` restores.
        formulas: whether text between dollar signs is a formula; False for names that others have given.
    """
    import matplotlib

    for library in libraries:
        import_module(library)
    with default_settings(), matplotlib.rc_context():
        matplotlib.rcdefaults()  # or what the caller has set would show wherever STYLE says nothing
        matplotlib.rcParams.update(STYLE | {"text.parse_math": formulas})
        yield


def figure(
    title: str | None = None,
    *,
    rows: int = 1,
    columns: int = 1,
    width: float = WIDTH,
    height: float | None = None,
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Make an empty figure in the book's style that is shown once, where a cell ends with it.

    Args:
        title: stands above the whole figure.
        rows: rows of axes.
        columns: columns of axes; three at most stay readable on a phone.
        width: inches for the whole figure; on a page it shrinks to fit.
        height: inches for the whole figure; None gives each row its share.
        subplots: further arguments of `matplotlib.figure.Figure.subplots` (`sharey=True`, ...).

    Returns:
        The figure, and its axes as `subplots` gives them: one, or an array of `rows` x `columns`.

    >>> fig, (left, right) = figure("Two panels", columns=2)
    >>> left.set_xlabel("epoch").get_text()
    'epoch'
    """
    from matplotlib.figure import Figure

    rows, columns = (whole_number(name, n, at_most=99) for name, n in (("rows", rows), ("columns", columns)))
    width = finite_number("width", width, above=0)
    height = None if height is None else finite_number("height", height, above=0)
    with in_style():
        default_height = rows * {1: 3.3, 2: 2.9}.get(columns, 2.3) + (0.3 if title else 0)
        # Not pyplot's: the notebook would show it a second time at the end of the cell.
        fig = Figure(figsize=(width, height or default_height), layout="constrained")
        axes = fig.subplots(rows, columns, **subplots)
        if title:
            fig.suptitle(title)
    return fig, axes


def describe(fig: Figure, alt: str) -> Figure:
    """Give a figure its text alternative: what it shows, with its numbers, for those who cannot see it.

    Args:
        fig: any matplotlib figure.
        alt: one or two sentences; what the picture tells, not that it is a picture.

    Returns:
        The same figure.

    Raises:
        ValueError: the text is empty.

    >>> fig, axes = figure()
    >>> describe(fig, "Squash against length: rises from 0 towards 1.").alt
    'Squash against length: rises from 0 towards 1.'
    """
    if not alt.strip():
        raise ValueError(
            "the text alternative is empty: say in a sentence what the figure shows, with its numbers"
        )
    vars(fig)["alt"] = " ".join(alt.split())
    return fig


def name_ticks(axis: Axis, names: Sequence[str], *, first: float = 0, room: float = math.inf) -> None:
    """Name all classes along an axis, or every second, third, ... where all of them do not fit.

    Args:
        axis: of x or y.
        names: of all classes; their ticks are 1 apart.
        first: where the first tick is.
        room: letters that fit side by side; names that need more stand upright.
    """
    step = math.ceil(len(names) / min(20, room / 1.5))  # an upright name is as wide as 1.5 letters
    shown = names[::step]
    letters = len(shown) * max(map(len, shown))
    axis.set_ticks(first + np.arange(0, len(names), step), shown, rotation=90 if letters > room else 0)
