"""Matrices as colours, vectors as arrows, and networks as boxes.

Used from chapter 2, *Vectors that squash*, on. `heatmaps` and `vectors` take the settings of `capsnb.plots.charts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from capsnb.plots import charts
from capsnb.plots.charts import Numbers, add_alt, finish, floats, numbers, open_panel, set_axes
from capsnb.plots.style import COLOURS, INK, WIDTH, figure, in_style
from capsnb.values import finite_numbers, whole_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@in_style()
def heatmaps(
    matrices: Mapping[str, Numbers],
    *,
    axes: Any = None,
    label: str = "",
    limits: tuple[float, float] | None = None,
    bar: str | None = "right",
    cmap: str = "cividis",
    **panel: Any,
) -> Figure:
    """Draw matrices side by side as colours, all on one scale.

    Args:
        matrices: title -> [rows, columns].
        axes: as many panels of a figure; None makes one.
        label: of the colours: quantity and unit.
        limits: values of the first and the last colour; None takes the lowest and the highest of all matrices.
        bar: where the scale stands, "right" or "bottom"; None draws none.
        cmap: matplotlib's name of the colours.
        panel: settings that all charts have; `ylabel` is for the first panel, `aspect="auto"` fills the panels.

    Returns:
        The figure; its text alternative gives size, lowest, highest and mean value of each matrix.

    Raises:
        ValueError: what is no matrix, or another number of panels.

    >>> heatmaps({"in": [[0, 1]], "out": [[2, 3]]}, label="coupling").alt
    'Coupling: in: 1 × 2 values from 0.0 to 1.0, mean 0.5; out: 1 × 2 values from 2.0 to 3.0, mean 2.5.'
    """
    from matplotlib import colormaps

    drawn = {name: floats(matrix) for name, matrix in matrices.items()}
    if axes is None:
        size = {"width": panel.get("width", WIDTH), "height": panel.get("height")}
        _, axes = figure(panel.get("title"), columns=max(1, len(drawn)), squeeze=False, **size)
    panels = np.ravel(axes)
    shapes = {name: matrix.shape for name, matrix in drawn.items()}
    if len(panels) != len(shapes) or not all(len(shape) == 2 and 0 not in shape for shape in shapes.values()):
        raise ValueError(
            f"heatmaps needs {len(panels)} matrices [rows, columns], one for each panel, got {shapes}"
        )
    if limits is None:
        low, high = min(m.min() for m in drawn.values()), max(m.max() for m in drawn.values())
    else:
        low, high = finite_numbers("limits", limits, 2)
        if low > high:
            raise ValueError(f"limits must be the lower value and the higher one, got {low} and {high}")
    few_colours, told = colormaps[cmap].resampled(32), []  # each colour of the bar is a shape in the page
    for axis, (name, matrix) in zip(panels, drawn.items(), strict=True):
        picture = axis.imshow(matrix, cmap=few_colours, vmin=low, vmax=high)
        axis.grid(False)
        label_once = {} if axis is panels[0] else {"ylabel": ""}
        set_axes(axis, {**panel, "ax": axis, "title": name, **label_once})
        least, most, mean = numbers((matrix.min(), matrix.max(), matrix.mean()))
        same, spread = charts.steady(matrix), f" from {least} to {most}, mean {mean}"
        told.append(f"{len(matrix)} × {len(matrix[0])} values{f', {same}' if same else spread}")
    if bar:
        side: Any = {"location": bar, "aspect": 12 if bar == "right" else 30, "pad": 0.02}
        scale = panels[0].figure.colorbar(picture, ax=panels.tolist(), label=label, **side)
        scale.solids.set_edgecolor("face")  # or the page shows through between the colours
    sentence = charts.tell([charts.in_words(label)], list(map(charts.clause, drawn, told)))
    return add_alt(panels[0].figure, panel.get("alt", sentence))


@in_style()
def vectors(
    values: Mapping[str, Numbers],
    *,
    thickness: Mapping[str, Any] | None = None,
    tips: Mapping[str, Sequence[str]] | None = None,
    first: int = 0,
    **panel: Any,
) -> Figure:
    """Draw vectors of the plane as arrows from the origin, those of one name in one colour.

    Args:
        values: name -> [N, 2].
        thickness: name -> points, one for all arrows or [N]; 3 where there is none.
        tips: name -> N texts, written beyond the tips.
        first: place of the first name's colour.
        panel: settings that all charts have; `aspect` is "equal".

    Returns:
        The figure; its text alternative counts the arrows and says how long they are.

    Raises:
        ValueError: no name, or vectors that have not two numbers each.

    >>> vectors({"votes": [[3, 4], [0, 1]], "v": [[0.6, 0.8]]}, title="Votes").alt
    'Votes. Votes: 2 arrows, 1 to 5 long; v: 1 arrow, 1 long.'
    """
    first = whole_number("first", first, at_least=0)
    axis, told = open_panel(panel), []
    for k, (name, rows) in enumerate(values.items(), first):
        ends = floats(rows)
        if ends.ndim != 2 or ends.shape[1] != 2 or not len(ends):
            raise ValueError(
                f"vectors {name!r} are of shape {ends.shape}: give [N, 2], an end for each arrow"
            )
        look: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "inches"}
        look["color"] = COLOURS[k % len(COLOURS)]
        widths = np.broadcast_to(floats((thickness or {}).get(name, 3)), len(ends))
        for i, ((x, y), width) in enumerate(zip(ends, widths, strict=True)):
            # a head of 7 points, however thick the shaft
            head = {
                f"head{part}": 1 + more / width
                for part, more in (("width", 6), ("length", 7), ("axislength", 6))
            }
            axis.quiver(0, 0, x, y, width=width / 72, label="_" if i else name, **look, **head)
        axis.update_datalim([(0, 0), *ends])
        lengths = np.hypot(*ends.T)
        for (x, y), length, tip in zip(ends, lengths, (tips or {}).get(name, [""] * len(ends)), strict=True):
            beyond = 9 * np.array([x, y]) / max(length, 1e-12)
            axis.annotate(tip, (x, y), beyond, textcoords="offset points", ha="center", va="center")
        reach = " to ".join(dict.fromkeys(numbers((lengths.min(), lengths.max()))))
        told.append(f"{name}: {len(ends)} arrow{'s' * (len(ends) > 1)}, {reach} long")
    if not told:
        raise ValueError("vectors needs at least one name: {name: [N, 2]}")
    axis.autoscale_view()
    return finish(axis, {"aspect": "equal", **panel}, told)


@in_style()
def diagram(
    boxes: Mapping[str, Sequence[Any]],
    arrows: Sequence[Sequence[Any]] | None = None,
    *,
    title: str | None = None,
    width: float = WIDTH,
    height: float = 3,
    alt: str | None = None,
) -> Figure:
    """Draw texts in boxes, and arrows from box to box.

    Args:
        boxes: text -> (x, y), the place of its middle in inches from the lower left corner; or (x, y, k) for the
            colour in place k, (x, y, None) for no box at all.
        arrows: (from, to), each the number of a box, or (from, to, matplotlib's connection style) for one that is not
            straight; None leads from each box to the next.
        title: stands above.
        width: inches of the figure.
        height: inches of the figure, with its title.
        alt: said in place of the boxes' texts.

    Returns:
        The figure; its text alternative says what leads to what.

    Raises:
        ValueError: no box, or an arrow to or from a box that is not there.

    >>> diagram({"image": (1, 1), "capsules": (3, 1), "classes": (5, 1)}).alt
    'image → capsules → classes.'
    """
    names = [" ".join(text.split()) for text in boxes]
    lead = [(*arrow, None)[:3] for arrow in (pairwise(range(len(boxes))) if arrows is None else arrows)]
    if not boxes or not all(0 <= end < len(boxes) for start, stop, _ in lead for end in (start, stop)):
        raise ValueError(
            f"diagram needs boxes, and arrows between numbers from 0 to {len(boxes) - 1}, got {lead}"
        )
    fig, axis = figure(title, width=width, height=height)
    width, height = fig.get_size_inches()
    axis.set(xlim=(0, width), ylim=(0, height - (0.35 if title else 0)))
    axis.axis("off")
    middles, patches = [(x, y) for x, y, *_ in boxes.values()], []
    for (text, (_, _, *colour)), middle in zip(boxes.items(), middles, strict=True):
        plain, k = colour == [None], colour[0] if colour and colour[0] is not None else 0
        look: dict[str, Any] = {"alpha": 0.25, "boxstyle": f"round,pad={0.1 if plain else 0.4}"}
        look |= {"facecolor": "none", "edgecolor": "none"} if plain else {"facecolor": COLOURS[k]}
        drawn = axis.text(*middle, text, ha="center", va="center", fontsize=11, bbox=look)
        patches.append(drawn.get_bbox_patch())
    for start, stop, bend in lead:
        look = {"arrowstyle": "->", "color": INK, "connectionstyle": bend or "arc3"}
        look |= {"patchA": patches[start], "patchB": patches[stop]}
        axis.annotate("", middles[stop], middles[start], arrowprops=look)
    steps = " → ".join(names) if arrows is None else "; ".join(f"{names[a]} → {names[b]}" for a, b, _ in lead)
    return add_alt(fig, f"{steps}." if alt is None else alt)
