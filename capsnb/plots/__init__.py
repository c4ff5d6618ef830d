"""The book's figures: one style, for light and dark pages, each with a text alternative.

Used in every chapter; what the figures of a trained network tell is asked in chapter 15, *How good is it, really?*
Every function returns a matplotlib figure that carries a text alternative (`describe`). In a notebook, after
`use_style()`, a figure is shown as an SVG or, where nobody trusts the notebook yet, as a PNG, on white, with the text
alternative as its caption. In a page its ink is the page's own (`currentColor`), its text is in the page's font, and
the same figure always gives the same bytes, whatever `rcParams`, PyTorch and NumPy are set to. Only what a caller draws
on the axes of `figure` follows the caller's `rcParams`, which `use_style()` sets.
"""

from capsnb.plots.charts import bars, lines, points
from capsnb.plots.drawings import diagram, heatmaps, vectors
from capsnb.plots.embed import Live, live, packed, to_html, to_svg, unpacked, use_style
from capsnb.plots.images import image_grid, mistakes, perturbations, reconstructions
from capsnb.plots.results import confusion_matrix, curves, reliability, roc, tint
from capsnb.plots.routing import couplings
from capsnb.plots.style import COLOURS, INK, LINES, MARKERS, WIDTH, describe, figure

__all__ = [
    "COLOURS", "INK", "LINES", "MARKERS", "WIDTH", "Live", "bars", "confusion_matrix", "couplings", "curves",
    "describe", "diagram", "figure", "heatmaps", "image_grid", "lines", "live", "mistakes", "packed", "perturbations",
    "points", "reconstructions", "reliability", "roc", "tint", "to_html", "to_svg", "unpacked", "use_style",
    "vectors",
]  # fmt: skip
