r"""The book's pictures: one style, read on light and dark pages, by eye and by ear.

Every function returns a matplotlib figure that carries a text alternative (`describe`). In a notebook, after
`use_style()`, a figure is shown as an SVG inside the page: its ink is the page's text colour (`currentColor`), its
letters are the page's letters, and the same figure always gives the same bytes.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = (
    "#010203"  # never seen: on a page it becomes the page's text colour; nearly black where there is no page
)
COLOURS = ("#2B83C6", "#D55E00", "#0B8F6A", "#B05CA0", "#A37400", "#808590")  # >= 3:1 on white and on #14181e
LINES = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (1, 1)),
)  # with the colours: colour is never the only cue
MARKERS = ("o", "s", "^", "D", "v", "X")
WIDTH = 6.2  # inches; at 320 pixels, on a phone, 12 points are still 8.6 pixels

_STYLE: dict[str, Any] = {
    "figure.figsize": (WIDTH, 3.3),
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",  # matplotlib's own, and wide: the page's font fits where it did
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "figure.titlesize": 13,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "hatch.color": INK,
    "patch.edgecolor": INK,
    "boxplot.boxprops.color": INK,
    "boxplot.capprops.color": INK,
    "boxplot.whiskerprops.color": INK,
    "boxplot.flierprops.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
    "image.cmap": "cividis",
    "image.interpolation": "none",  # an image goes into the SVG with its own few pixels
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "capsnb",
}


def _rc() -> Any:
    from cycler import cycler

    return _STYLE | {"axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=LINES)}


def use_style() -> None:
    """Draw in the book's style from now on; in IPython, also show figures as SVG with their text alternative.

    Outside IPython only matplotlib's `rcParams` change. Calling it again changes nothing.

    >>> use_style()
    """
    import matplotlib

    matplotlib.rcParams.update(_rc())
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None:
        # This formatter comes before all others: no PNG is stored beside the SVG, in any backend.
        shell.display_formatter.ipython_display_formatter.for_type_by_name(
            "matplotlib.figure", "Figure", _show
        )


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


def figure(
    title: str | None = None,
    *,
    rows: int = 1,
    columns: int = 1,
    height: float | None = None,
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Make an empty figure in the book's style that is shown once, where a cell ends with it.

    Args:
        title: stands above the whole figure.
        rows: rows of axes.
        columns: columns of axes; three at most stay readable on a phone.
        height: inches for the whole figure, which is 6.2 inches wide; None gives each row its share.
        subplots: further arguments of `matplotlib.figure.Figure.subplots` (`sharey=True`, ...).

    Returns:
        The figure, and its axes as `subplots` gives them: one, or an array of `rows` x `columns`.

    >>> fig, (left, right) = figure("Two panels", columns=2)
    >>> left.set_xlabel("epoch").get_text()
    'epoch'
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_rc()):
        tall = height or rows * {1: 3.3, 2: 2.9}.get(columns, 2.3) + (0.3 if title else 0)
        # Not pyplot's: the notebook would show it a second time at the end of the cell.
        fig = Figure(figsize=(WIDTH, tall), layout="constrained")
        axes = fig.subplots(rows, columns, **subplots)
        if title:
            fig.suptitle(title)
    return fig, axes


def to_html(fig: Figure) -> str:
    """Write a figure as it stands in a page: an SVG in a `<figure>`, with role, label and the page's own ink.

    Args:
        fig: a matplotlib figure, described with `describe`.

    Returns:
        HTML that needs nothing from outside, the same bytes for the same figure.

    Warns:
        UserWarning: the figure has no text alternative.

    >>> fig, axes = figure()
    >>> to_html(describe(fig, "Empty axes."))[:30]
    '<figure class="capsnb-figure" '
    """
    import matplotlib

    alt = getattr(fig, "alt", "")
    if not alt:
        warnings.warn(
            "this figure has no text alternative, so nobody who cannot see it learns what it shows: "
            'call capsnb.plots.describe(fig, "what it shows, with its numbers") before it is shown',
            stacklevel=2,
        )
    with matplotlib.rc_context(_rc()):
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        fig.set_layout_engine("none")  # laying out a second time would move everything by a hair
    svg = _inline(buffer.getvalue(), alt)
    return (
        f'<figure class="capsnb-figure" style="margin:0;color:inherit;background:transparent">{svg}</figure>'
    )


def _inline(document: str, alt: str) -> str:
    """Make a lone SVG document of matplotlib's fit to stand among others in a page."""
    width, height = document.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    body = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(
        r"<style[^>]*>.*?</style>", "", body, flags=re.S
    )  # a rule for *: it would rule the whole page
    body = body.replace("xlink:href", "href").replace(INK, "currentColor")
    body = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)
    prefix = "f" + hashlib.sha256(f"{alt}{body}".encode()).hexdigest()[:10] + "-"
    body = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", body)
    body = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', lambda found: _short(found[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body).replace("base64,\n", "base64,")
    pixels = round(float(width) * 96 / 72)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(alt)}" style="width:{pixels}px;max-width:100%;height:auto;color:inherit;'
        f'background:transparent;stroke-linejoin:round;stroke-linecap:butt">{body}</svg>'
    )


def _short(attribute: str) -> str:
    """A thousandth of a point is enough; a rotation by nothing says nothing."""
    if attribute.startswith(' transform="rotate(-0 '):
        return ""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3f}".rstrip("0").rstrip("."), attribute)


def _show(fig: Figure) -> None:
    """Display once: pyplot's figures are closed, or the notebook would show them again as the cell ends."""
    from IPython.display import display

    bundle = {"text/html": to_html(fig), "text/plain": getattr(fig, "alt", "") or repr(fig)}
    display(bundle, raw=True)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)
