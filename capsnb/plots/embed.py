"""How figures get into a page: as SVG with the page's own ink, as a live figure, and with packed numbers.

The first live figure is in chapter 2, *Vectors that squash*; chapters 3, 4, 10 and 17 have one each.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from capsnb.plots.style import INK, STYLE, in_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def use_style() -> None:
    """Draw in the book's style from now on; in IPython, also show figures as SVG with their text alternative.

    Outside IPython only matplotlib's `rcParams` change. Calling it again changes nothing.

    >>> use_style()
    """
    import matplotlib

    matplotlib.rcParams.update(STYLE)
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    if shell := get_ipython():
        # This formatter comes before all others: no PNG is stored beside the SVG, in any backend.
        formatter = shell.display_formatter.ipython_display_formatter
        formatter.for_type_by_name("matplotlib.figure", "Figure", _show)


def _show(fig: Figure) -> None:
    """Display once: pyplot's figures are closed, or the notebook would show them again as the cell ends."""
    from IPython.display import display

    bundle = {"text/html": to_html(fig), "text/plain": getattr(fig, "alt", "") or repr(fig)}
    display(bundle, raw=True)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)


def to_html(fig: Figure) -> str:
    """Write a figure as it stands in a page: an SVG in a `<figure>`, with role, label and the page's own ink.

    Args:
        fig: a matplotlib figure, described with `describe`.

    Returns:
        HTML that needs nothing from outside, the same bytes for the same figure.

    Warns:
        UserWarning: the figure has no text alternative.

    >>> from capsnb import plots
    >>> fig, axes = plots.figure()
    >>> to_html(plots.describe(fig, "Empty axes."))[:30]
    '<figure class="capsnb-figure" '
    """
    alt = getattr(fig, "alt", "")
    if not alt:
        warnings.warn(
            "this figure has no text alternative, so nobody who cannot see it learns what it shows: "
            'call capsnb.plots.describe(fig, "what it shows, with its numbers") before it is shown',
            stacklevel=2,
        )
    buffer, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with in_style():
        fig.savefig(buffer, format="svg", metadata=metadata)
        fig.set_layout_engine("none")  # laying out a second time would move everything by a hair
    svg = _inline(buffer.getvalue(), alt)
    return f'<figure class="capsnb-figure" style="margin:0.75rem 0;color:inherit;background:transparent">{svg}</figure>'


def _inline(document: str, alt: str) -> str:
    """Turn matplotlib's SVG document into an element that can stand among others in a page."""
    width, height = document.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    body = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    # matplotlib's style sheet has a rule for *: it would apply to the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", body, flags=re.S)
    body = body.replace("xlink:href", "href").replace(INK, "currentColor")
    body = re.sub(r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    body = _own_identifiers(body, alt)
    body = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', lambda found: _short(found[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body).replace("base64,\n", "base64,")
    pixels = round(float(width) * 96 / 72)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(alt)}" style="width:{pixels}px;max-width:100%;height:auto;color:inherit;'
        f'background:transparent;stroke-linejoin:round;stroke-linecap:butt">{body}</svg>'
    )


def _own_identifiers(body: str, alt: str) -> str:
    """Drop identifiers that nothing refers to, and make the others different from those of every other figure."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)
    prefix = "f" + hashlib.sha256(f"{alt}{body}".encode()).hexdigest()[:10] + "-"
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", body)


def _short(attribute: str) -> str:
    """Round to a thousandth of a point, and drop a rotation by zero."""
    if attribute.startswith(' transform="rotate(-0 '):
        return ""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3f}".rstrip("0").rstrip("."), attribute)


@dataclass(frozen=True)
class Live:
    """A live figure: on the book's pages its script replaces the still picture; elsewhere the picture stays.

    Attributes:
        name: of the figure; its script is `book/_static/live_NAME.js`.
        still: the picture.
        given: the numbers that the script gets, as JSON.
    """

    name: str
    still: Figure
    given: Mapping[str, Any]

    def __repr__(self) -> str:  # a notebook stores it, so without the numbers
        return getattr(self.still, "alt", "") or repr(self.still)

    def _repr_html_(self) -> str:
        given = html.escape(json.dumps(self.given, separators=(",", ":")))
        return f'<div class="live" data-live="{self.name}" data-given="{given}">{to_html(self.still)}</div>'


def live(name: str, still: Figure, **given: Any) -> Live:
    """Make a live figure of a still one and of numbers.

    Args:
        name: of the script that draws it, `book/_static/live_NAME.js`.
        still: what is shown where there is no script, described with `describe`.
        given: what the script needs, in the types that JSON knows; round what it need not have in full.

    Returns:
        What a cell shows by ending in it.

    >>> from capsnb import plots
    >>> fig, axes = plots.figure()
    >>> live("squash", plots.describe(fig, "Empty axes."), lengths=[0.5, 1])._repr_html_()[:40]
    '<div class="live" data-live="squash" dat'
    """
    return Live(name, still, given)


def packed(rows: Tensor) -> dict[str, Any]:
    """Pack rows of numbers for a live figure: 8-bit integers in base64, and one scale per row.

    Args:
        rows: `[N, M]`, finite.

    Returns:
        What JSON can hold; `unpacked` reads it, and so does the function of that name in `book/_static/live.js`.

    >>> unpacked(packed(torch.tensor([[0.5, -1.0], [0.0, 0.0]])))
    tensor([[ 0.5039, -1.0000],
            [ 0.0000,  0.0000]])
    """
    rows = rows.detach().cpu()
    scale = [float(f"{s:.5g}") for s in (rows.abs().amax(dim=1).clamp(min=1e-6) / 127).tolist()]
    whole = (rows / torch.tensor(scale)[:, None]).round().clamp(-127, 127).to(torch.int8)
    return {"numbers": base64.b64encode(whole.numpy().tobytes()).decode(), "scale": scale}


def unpacked(given: Mapping[str, Any]) -> Tensor:
    """Return the numbers that `packed` stored, `[N, M]`, each within half a step of its row's scale.

    >>> unpacked({"numbers": "fw==", "scale": [0.5]})
    tensor([[63.5000]])
    """
    whole = torch.frombuffer(bytearray(base64.b64decode(given["numbers"])), dtype=torch.int8)
    scale = torch.tensor(given["scale"])
    return whole.view(len(scale), -1) * scale[:, None]
