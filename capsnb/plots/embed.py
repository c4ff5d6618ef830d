"""How figures get into a notebook, as SVG, PNG and words, and from there into a page, also as live figures.

The first live figure is in chapter 2, *Vectors that squash*; chapters 3, 4, 10 and 17 have one each.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from capsnb.defaults import default_settings
from capsnb.plots.style import INK, STYLE, in_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# A live figure's name and numbers, beside its still picture; notebooks ignore a type that they do not know.
LIVE = "application/vnd.capsnb.live+json"
_SHARPNESS = 2  # pixels of a PNG for each that is shown, for screens of high resolution
_PALETTE = 64  # colours of a PNG: a third of the bytes, and no difference that one sees


def use_style() -> None:
    """Draw in the book's style from now on; in IPython, also show figures in every form that notebooks show.

    Outside IPython only matplotlib's `rcParams` change. Calling it again changes nothing.

    >>> use_style()
    """
    import matplotlib

    matplotlib.rcParams.update(STYLE)
    if not sys.modules.get("IPython"):
        return
    from IPython import get_ipython

    if shell := get_ipython():
        # This formatter comes before all others, in any backend.
        formatter = shell.display_formatter.ipython_display_formatter
        formatter.for_type_by_name("matplotlib.figure", "Figure", _show)


def _show(fig: Figure, **more: Any) -> None:
    """Display a figure once, and its description below: programs that open a notebook ignore a PNG's own."""
    from IPython.display import display

    data, metadata = _forms(fig)
    display({**data, **more}, metadata=metadata, raw=True)
    if alt := getattr(fig, "alt", ""):
        display({"text/markdown": caption(alt)}, raw=True)
    if "matplotlib.pyplot" in sys.modules:  # or the notebook would show it again as the cell ends
        sys.modules["matplotlib.pyplot"].close(fig)


def _forms(fig: Figure) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a figure by MIME type, and the metadata of these.

    A program shows the best that it allows: an untrusted notebook the PNG, a trusted one the SVG, a terminal the words.
    """
    svg, png, alt = to_svg(fig), _png(fig), getattr(fig, "alt", "")
    data = {"image/svg+xml": svg, "image/png": base64.b64encode(png).decode(), "text/plain": alt or repr(fig)}
    width, height = (int(part) for part in re.findall(r' (?:width|height)="(\d+)"', svg)[:2])
    return data, {"image/png": {"width": width, "height": height, "alt": alt}}


def _png(fig: Figure) -> bytes:
    """Return a figure on a white ground, which a dark page shows as well."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    with in_style():
        fig.savefig(drawn, format="png", dpi=96 * _SHARPNESS, facecolor="white")
    image = Image.open(drawn).convert("RGB")
    image.quantize(_PALETTE, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def caption(alt: str) -> str:
    r"""Return the Markdown of a figure's caption: its description in italics, no sign of it taken for Markdown.

    Args:
        alt: the description.

    >>> print(caption("a_b rises from 0 to 1."))
    *a\_b rises from 0 to 1.*
    """
    plain = re.sub(r"([*_`|~$\[\]<>#&\\])", r"\\\1", alt)
    return f"*{plain}*"


def to_svg(fig: Figure) -> str:
    """Write a figure as an SVG document of its own: dark ink on white, text in the reader's font, a label.

    Args:
        fig: a matplotlib figure, described with `describe`.

    Returns:
        A document that needs nothing from outside, the same bytes for the same figure.

    Warns:
        UserWarning: the figure has no text alternative.

    >>> from capsnb import plots
    >>> fig, axes = plots.figure()
    >>> to_svg(plots.describe(fig, "Empty axes."))[:39]
    '<svg xmlns="http://www.w3.org/2000/svg"'
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
    return _small_svg(buffer.getvalue(), alt)


def _small_svg(document: str, alt: str) -> str:
    """Leave of matplotlib's SVG document what draws, so that it can stand among others in a page."""
    width, height = document.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    body = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    # matplotlib's style sheet has a rule for *: it would apply to the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style[^>]*>.*?</style>", "", body, flags=re.S)
    body = _in_tags(
        body,
        (r"xlink:href", "href"),
        (r"font: ([^;\"]*?px) [^;\"]*", r"font: \1 system-ui, sans-serif"),
        (r"font-family: [^;\"]*", "font-family: system-ui, sans-serif"),
    )
    body = _own_identifiers(body, alt)
    body = _in_tags(
        body,
        (r' (?:d|x|y|width|height|transform)="[^"]*"', lambda found: _short(found[0])),
        (r' style="([^"]*)"', lambda found: _attributes(found[1])),
    )
    body = re.sub(r"\s*\n\s*", "\n", body).replace("base64,\n", "base64,")
    pixels = [round(float(points) * 96 / 72) for points in (width, height)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{pixels[0]}" height="{pixels[1]}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(alt)}" '
        f'stroke-linejoin="round" stroke-linecap="butt" style="max-width:100%;height:auto">{_GROUND}{body}</svg>'
    )


def _in_tags(body: str, *changes: tuple[str, str | Callable[[re.Match[str]], str]]) -> str:
    """Replace patterns in the tags of a document; labels stay as they are, whatever they look like."""

    def change(tag: re.Match[str]) -> str:
        text = tag[0]
        for pattern, new in changes:
            text = re.sub(pattern, new, text)
        return text

    return re.sub(r"<[^>]+>", change, body)


_GROUND = '<rect width="100%" height="100%" fill="#fff"/>'


def _attributes(style: str) -> str:
    """Return declarations as attributes: GitHub and nbviewer have taken styles away, and all was filled with black."""
    declared = (one.partition(":") for one in style.split(";") if one.strip())
    values = {name.strip(): value.strip() for name, _, value in declared}
    rest = values.pop("font", None)  # older matplotlib's shorthand, which no attribute is
    shown = "".join(f' {name}="{value}"' for name, value in values.items())
    return shown + (f' style="font: {rest}"' if rest else "")


def to_html(fig: Figure) -> str:
    """Write a figure as it stands in a page: what `to_svg` makes of it, in a `<figure>` and in the page's own ink.

    >>> from capsnb import plots
    >>> fig, axes = plots.figure()
    >>> to_html(plots.describe(fig, "Empty axes."))[:30]
    '<figure class="capsnb-figure" '
    """
    return in_page(to_svg(fig))


def in_page(svg: str) -> str:
    """Return the HTML of a figure that a notebook holds, as `to_svg` wrote it.

    >>> in_page('<svg style="height:auto">')[:30]
    '<figure class="capsnb-figure" '
    """
    ground, size = "color:inherit;background:transparent", r' width="(\d+)" height="\d+"'
    svg = _in_tags(svg, (INK, "currentColor")).replace(_GROUND, "", 1)
    if width := re.search(size, svg):
        svg = re.sub(size, "", svg, count=1).replace(' style="', f' style="width:{width[1]}px;{ground};', 1)
    return f'<figure class="capsnb-figure" style="margin:0.75rem 0;{ground}">{svg}</figure>'


def _own_identifiers(body: str, alt: str) -> str:
    """Drop identifiers that nothing refers to, and make the others different from those of every other figure."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = _in_tags(body, (r' id="([^"]+)"', lambda found: found[0] if found[1] in used else ""))
    prefix = "f" + hashlib.sha256(f"{alt}{body}".encode()).hexdigest()[:10] + "-"
    return _in_tags(body, (r'( id="|href="#|url\(#)', rf"\g<1>{prefix}"))


def _short(attribute: str) -> str:
    """Round to a thousandth of a point, and drop a rotation by zero."""
    if attribute.startswith(' transform="rotate(-0 '):
        return ""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.3f}".rstrip("0").rstrip("."), attribute)


@dataclass(frozen=True)
class Live:
    """A live figure: on the book's pages its script replaces the still picture; a notebook shows the picture.

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

    def _ipython_display_(self) -> None:
        _show(self.still, **{LIVE: {"name": self.name, "given": self.given}})


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
    >>> live("squash", plots.describe(fig, "Empty axes."), lengths=[0.5, 1]).given
    {'lengths': [0.5, 1]}
    """
    return Live(name, still, given)


@default_settings()
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


@default_settings()
def unpacked(given: Mapping[str, Any]) -> Tensor:
    """Return the numbers that `packed` stored, `[N, M]`, each within half a step of its row's scale.

    >>> unpacked({"numbers": "fw==", "scale": [0.5]})
    tensor([[63.5000]])
    """
    whole = torch.frombuffer(bytearray(base64.b64decode(given["numbers"])), dtype=torch.int8)
    scale = torch.tensor(given["scale"])
    return whole.view(len(scale), -1) * scale[:, None]
