"""Lines, points and bars, told apart not by colour alone, and described from the data that they show.

Used from chapter 1, *Why capsules?*, on. Each function draws a figure of its own, or a panel of one:
`fig, (left, right) = plots.figure(columns=2)`, then `plots.lines(..., ax=left)` and `plots.lines(..., ax=right)`, which
return the figure. Besides its data each takes the following, and passes on all else (`xlabel`, `ylim`, `xscale`,
`aspect`, ...) to `matplotlib.axes.Axes.set`:

- `ax`: the panel to draw in; without it a figure is made;
- `title`: of the panel or, without `ax`, of the figure; then also its `width` and `height` in inches;
- `xticks`, `yticks`: values, or value -> name. A logarithmic axis writes values as they are, not as powers of 10;
- `hlines`, `vlines`: horizontal and vertical reference lines, value -> what stands beside it ("" for nothing);
- `legend`: a place in the panel, as matplotlib names them ("best"); "below" for one legend of the whole figure, made
  once however many panels ask for it; None for none. A single name has no legend;
- `alt`: said in place of the description that is made from the data; "" adds nothing. Descriptions of several panels
  follow one another.

Labels are written "quantity / unit"; a divisor of several words, as in "entropy / log J", is read "over log J".
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from capsnb.plots.images import to_array
from capsnb.plots.style import COLOURS, INK, LINES, MARKERS, WIDTH, describe, figure, in_style
from capsnb.values import finite_number, whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Tensor | np.ndarray | Sequence[float]
# all other settings are matplotlib's
_OWN = ("ax", "title", "width", "height", "legend", "alt", "hlines", "vlines")
_HALF_UP = 1 + 1e-12  # Python rounds a half to the even digit


@in_style()
def lines(
    values: Mapping[str, Numbers | Mapping[float, float]],
    x: Numbers | Mapping[str, Numbers] | None = None,
    *,
    marks: bool | None = None,
    every: int | None = None,
    first: int = 0,
    floor: float | None = None,
    style: Mapping[str, Any] | None = None,
    **panel: Any,
) -> Figure:
    """Draw named lines, each with a colour, a line style and a marker of its own.

    Args:
        values: name -> heights, [N] or, for several lines of one look and one name, [N, lines]; or x -> height.
        x: [N], one for all lines or name -> x; None counts from 0.
        marks: markers on the points; None draws them where no line has more than 41 points.
        every: points from one marker to the next; None marks at most 20.
        first: place of the first line's colour, line style and marker; a panel may go on where another stopped.
        floor: values below it, also 0, are drawn at it, and its tick says so: for a logarithmic axis.
        style: further arguments of `matplotlib.axes.Axes.plot`, for all lines (`{"linestyle": "none"}`).
        panel: settings that all charts have, see above.

    Returns:
        The figure; its text alternative gives each line's first and last value, and its highest and lowest where
        they lie between.

    Raises:
        ValueError: no line, a line without a point, or one with another number of points than x.

    >>> lines({"house": [0.85, 0.97], "boat": [0.14, 0.83]}, [1, 10], ylabel="length", xlabel="rounds").alt
    'Length over rounds from 1 to 10: house: 0.85 to 0.97; boat: 0.14 to 0.83.'
    """
    first = whole_number("first", first, at_least=0)
    every = None if every is None else whole_number("every", every)
    floor = None if floor is None else finite_number("floor", floor)
    if not values:
        raise ValueError("lines needs at least one line: {name: heights}")
    drawn = {name: _points_of(name, heights, x) for name, heights in values.items()}
    ticks = panel.get("yticks", ())
    names = dict(ticks) if isinstance(ticks, Mapping) else {}
    if floor is not None:
        names = names or {tick: number(tick) for tick in ticks}
        panel["yticks"] = names = {floor: f"≤ {number(floor)}", **names}
    axis, told = open_panel(panel), []
    marked = max(len(across) for across, _ in drawn.values()) <= 41 if marks is None else marks
    for k, (name, (across, heights)) in enumerate(drawn.items(), first):
        heights = heights if floor is None else np.maximum(heights, floor)
        look = {**_look(k), "markevery": every or math.ceil(len(across) / 20), **(style or {})}
        look["marker"] = look["marker"] if marked else "none"
        axis.plot(across, heights, label=[name, *["_"] * (heights.shape[1] - 1)], **look)
        told.append(clause(name, _course(across, heights, names)))
    reach = np.concatenate([across for across, _ in drawn.values()])
    return finish(axis, panel, told, "over", f" from {number(reach.min())} to {number(reach.max())}")


def _points_of(name: str, values: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where a line's points are, [N], and its heights, [N, lines]."""
    if isinstance(values, Mapping):
        x, values = values.keys(), values.values()
    elif isinstance(x, Mapping):
        if name not in x:
            raise ValueError(f"line {name!r} has no x, there is one for {', '.join(x)}")
        x = x[name]
    heights = floats(values)
    across = np.arange(float(np.atleast_1d(heights).shape[0])) if x is None else floats(x)
    if not heights.size or heights.ndim > 2 or across.shape != heights.shape[:1]:
        raise ValueError(
            f"line {name!r} has heights of shape {heights.shape} and x of shape {across.shape}: "
            "give as many of one as of the other, [N] or [N, lines], and at least one"
        )
    return across, heights.reshape(len(heights), -1)


def floats(values: Any) -> np.ndarray:
    """Return numbers, tensors or sequences of either as one array on the CPU."""
    if isinstance(values, Iterable) and not isinstance(values, Tensor | np.ndarray):
        values = [to_array(value) for value in values]  # of tensors, too, on any device
    return to_array(values).astype(float)


def _course(across: np.ndarray, heights: np.ndarray, names: Mapping[float, str]) -> str:
    """Say where lines begin and end, and of a single one also how far it goes beyond that in between."""
    seen = np.isfinite(heights).any(axis=1)
    if not seen.any():
        return "nowhere"
    across, heights = across[seen], heights[seen]
    low, high, line = np.nanmin(heights, axis=1), np.nanmax(heights, axis=1), heights[:, 0]
    if same := steady(heights, names):
        return same
    turns = _turns(line) if heights.shape[1] == 1 else []
    said = numbers([low[0], high[0], low[-1], high[-1], *(line[at] for _, at in turns)], names)
    ends = [" – ".join(dict.fromkeys(said[i : i + 2])) for i in (0, 2)][: len(line)]
    inner = [f"{word} {said[i]} at {number(across[at])}" for i, (word, at) in enumerate(turns, 4)]
    return ", ".join([" to ".join(ends), *inner])


def _turns(line: np.ndarray) -> list[tuple[str, Any]]:
    """Return where a line is highest and lowest, unless it is so at an end, to a reader."""
    ends, extremes = line[[0, -1]], (("highest", line.argmax()), ("lowest", line.argmin()))
    far = [turn for turn in extremes if np.abs(line[turn[1]] - ends).min() > 0.02 * np.ptp(line)]
    return [(word, at) for word, at in far if number(line[at]) not in map(number, ends)]


@in_style()
def points(
    values: Mapping[str, Mapping[Any, Any]],
    *,
    means: str | None = None,
    intervals: Mapping[str, Mapping[Any, tuple[float, float]]] | None = None,
    apart: float = 0.2,
    horizontal: bool = False,
    first: int = 0,
    **panel: Any,
) -> Figure:
    """Draw each value as a mark, those of one name in one colour and shape: each seed of a network, say.

    Args:
        values: name -> place -> one value or several (none: not run yet). Places are numbers, or texts, which stand
            side by side in the order in which they come.
        means: "line" joins the means of the places, "bar" draws a short bar at each; None draws none.
        intervals: name -> place -> lowest and highest value, drawn as a thin line.
        apart: distance of neighbouring names' marks at one place, so that they do not hide one another.
        horizontal: values go to the right, places from top to bottom.
        first: place of the first name's colour and marker.
        panel: settings that all charts have, see above.

    Returns:
        The figure; its text alternative gives the mean at each place, with the lowest and the highest value; or, if a
        name has more than 8 places, or all have more than 20, the first, last, highest and lowest mean.

    Raises:
        ValueError: no name, or unknown `means`.

    >>> points({"CapsNet": {1: [97.0, 98.0], 2: [98.5]}}, ylabel="accuracy / %", xlabel="blocks").alt
    'Accuracy in % by blocks: CapsNet: 97.5 (97.0 to 98.0) at 1, 98.5 at 2.'
    """
    if not values or means not in (None, "line", "bar"):
        raise ValueError(
            f'points needs {{name: {{place: values}}}}, and means "line", "bar" or None, not {means!r}'
        )
    apart, first = finite_number("apart", apart, at_least=0), whole_number("first", first, at_least=0)
    axis, told = open_panel(panel), []
    at = _places(axis, panel, values, "y" if horizontal else "x")
    turn = slice(None, None, -1 if horizontal else 1)
    for k, (name, row) in enumerate(values.items()):
        colour, line, marker = _look(first + k).values()
        shift = apart * (k - (len(values) - 1) / 2)
        found = {place: some for place in row if len(some := np.atleast_1d(floats(row[place])))}
        ends = (intervals or {}).get(name, {})
        spots = [(at[place] + shift, value) for place, some in found.items() for value in some]
        pale = 0.5 if means and len(spots) > len(found) else 1
        axis.plot(*np.reshape(spots, (-1, 2)).T[turn], marker, color=colour, alpha=pale, label=name)
        averages = [at[place] + shift for place in found], [some.mean() for some in found.values()]
        if means == "line":
            axis.plot(*averages[turn], color=colour, linestyle=line, linewidth=1.2)
        elif means:
            axis.plot(
                *averages[turn], "|" if horizontal else "_", color=colour, markersize=16, markeredgewidth=3
            )
        for place, end in ends.items():
            (axis.hlines if horizontal else axis.vlines)(at[place] + shift, *end, color=colour, linewidth=1.5)
        told.append(_listed(values, name, found, ends))
    return finish(axis, panel, told, "by", turned=horizontal)


def _listed(chart: Mapping[str, Any], name: str, row: Mapping[Any, Any], ends: Mapping[Any, Any]) -> str:
    """Say each place's mean and, unless that would be long, its lowest and highest value."""
    if not row:
        return clause(name, "not run yet")
    named, said = any(isinstance(place, str) for place in row), []
    span = {place: ends.get(place, (some.min(), some.max())) for place, some in row.items()}
    values = np.array([(some.mean(), *span[place]) for place, some in row.items()])
    if len(row) > 1 and not named and (same := steady(values)):
        return clause(name, same)
    if len(row) > 4 and not named:
        values[:, 1:] = values[:, :1]
    for place, (mean, low, high) in zip(row, np.reshape(numbers(values.ravel()), (-1, 3)), strict=True):
        mean += f" ({low} to {high})" if low != high else ""
        said.append(clause("" if place == name else str(place), mean) if named else f"{mean} at {place}")
    if len(row) > 8 or sum(map(len, chart.values())) > 20:
        inner = [f"{word} {said[at]}" for word, at in _turns(values[:, 0])]
        said = [*dict.fromkeys((said[0], said[-1])), *inner]
    return clause(name, ("; " if named else ", ").join(said))


def _places(
    axis: Axes, panel: dict[str, Any], values: Mapping[str, Mapping[Any, Any]], letter: str
) -> dict[Any, float]:
    """Return where each place of any row is along an axis, and name texts there."""
    places = list(dict.fromkeys(place for row in values.values() for place in row))
    if letter == "y":
        axis.yaxis.set_inverted(True)  # what comes first stands at the top
    if all(isinstance(place, int | float) for place in places):
        return {place: float(place) for place in places}
    room = 24 if letter == "y" else max(6, 62 // _columns(axis) // len(places))  # letters
    wrap = textwrap.TextWrapper(room, break_long_words=False, break_on_hyphens=False)
    names = [wrap.fill(str(place)) for place in places]
    panel.setdefault(f"{letter}ticks", dict(enumerate(names)))
    return {place: float(i) for i, place in enumerate(places)}


@in_style()
def bars(
    values: Mapping[str, Mapping[Any, float]],
    *,
    vertical: bool = False,
    stacked: bool = False,
    numbers: bool = True,
    first: int = 0,
    **panel: Any,
) -> Figure:
    """Draw bars from left to right, or upright, with their numbers at the ends.

    Args:
        values: name -> row -> length, at least 0; a row that a name lacks has no bar of it. Bars of one row stand
            beside one another.
        vertical: bars go upwards.
        stacked: bars of one row begin where the one before ends, and have no numbers.
        numbers: written at the end of each bar.
        first: place of the first name's colour.
        panel: settings that all charts have, see above.

    Returns:
        The figure; its text alternative gives every length, or some as in `points`.

    Raises:
        ValueError: no bar.

    >>> bars({"": {"squash": 1.5, "votes": 40.0}}, xlabel="memory / MB").alt
    'Memory in MB: squash: 1.5; votes: 40.0.'
    """
    if not any(values.values()):
        raise ValueError("bars needs at least one bar: {name: {row: length}}")
    first = whole_number("first", first, at_least=0)
    axis, told = open_panel(panel), []
    at = _places(axis, panel, values, "x" if vertical else "y")
    draw, thickness, base = (axis.bar, "width", "bottom") if vertical else (axis.barh, "height", "left")
    thick = 0.6 if stacked else 0.8 / len(values)
    ends = dict.fromkeys(at, 0.0)
    for k, (name, row) in enumerate(values.items()):
        shift = 0 if stacked else thick * (k - (len(values) - 1) / 2)
        lengths, begin = floats(row.values()), [ends[place] * stacked for place in row]
        look: dict[str, Any] = {thickness: 0.94 * thick, base: begin, "color": _look(first + k)["color"]}
        drawn = draw([at[place] + shift for place in row], lengths, label=name, **look)
        ends |= zip(row, lengths + begin, strict=True)
        if numbers and not stacked:
            axis.bar_label(drawn, [number(length) for length in lengths], padding=3, fontsize=11)
        told.append(_listed(values, name, dict(zip(row, lengths[:, None], strict=True)), {}))
    axis.grid(visible=False, axis="x" if vertical else "y")
    (axis.set_ymargin if vertical else axis.set_xmargin)(0.2 if numbers and not stacked else 0.05)
    return finish(axis, panel, told, "by", turned=not vertical)


def clause(name: str, said: str) -> str:
    """Say something of a name, which may be empty."""
    return f"{name}: {said}" if name else said


def tell(heads: Iterable[str], told: Sequence[str]) -> str:
    """Make sentences of what stands above a panel and what is said of each of its names."""
    heads = [_capital(head) for head in heads if head]
    if len(told) > 1 and "; " in "".join(told):  # names of places stand behind the names
        return ". ".join([*heads, *map(_capital, told)]) + "."
    return _capital(clause(". ".join(heads), "; ".join(told))) + "."


def _capital(text: str) -> str:  # but a symbol, such as x, stays as it is
    return text[:1].upper() + text[1:] if text[1:2].islower() or text.startswith("a ") else text


def in_words(label: str) -> str:
    """Read a label: one word behind its slash is a unit, several are a divisor."""
    quantity, slash, unit = label.partition(" / ")
    return f"{quantity} {'over' if ' ' in unit else 'in'} {unit}" if slash else label


def steady(values: np.ndarray, names: Mapping[float, str] = {}) -> str:
    """Say the value that all are to a reader; nothing if they differ."""
    least, most = (names.get(end) or number(end) for end in (np.nanmin(values), np.nanmax(values)))
    return "" if least != most else least + " throughout" * (len(values) > 1)


def number(value: float) -> str:
    """Write a number with three digits or, from 10 on, one behind the point.

    >>> [number(value) for value in (0.123456, 97.456, 12345.6, 3e-10, 2, 1 / 32)]
    ['0.123', '97.5', '12,346', '3e-10', '2', '0.0313']
    """
    value = value * _HALF_UP + 0.0  # and -0 is 0
    if 10 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def numbers(values: Iterable[float], names: Mapping[float, str] = {}) -> list[str]:
    """Write numbers, unless they have a name, with as many digits behind the point unless that makes more than four.

    >>> numbers([97, 97.26]), numbers([1, 0.398]), numbers([203.3, 0.0647])
    (['97.0', '97.3'], ['1.000', '0.398'], ['203.3', '0.0647'])
    """
    values = [value + 0.0 for value in map(float, values)]
    said = {value: number(value) for value in values if value not in names}
    behind = max((len(text.partition(".")[2]) for text in said.values()), default=0)
    if "e" not in "".join(said.values()) and not any(abs(value) * 10**behind >= 9999.5 for value in said):
        said = {value: f"{value * _HALF_UP:,.{behind}f}" for value in said}
    return [names.get(value) or said[value] for value in values]


def open_panel(panel: Mapping[str, Any]) -> Axes:
    """Return the panel that was given, or that of a new figure."""
    if panel.get("ax") is not None:
        return panel["ax"]
    return figure(panel.get("title"), width=panel.get("width", WIDTH), height=panel.get("height"))[1]


def finish(
    axis: Axes,
    panel: Mapping[str, Any],
    told: Sequence[str],
    link: str = "",
    span: str = "",
    *,
    turned: bool = False,
) -> Figure:
    """Label a panel, draw reference lines and legend, and add what the panel shows to the figure's description.

    Args:
        axis: from `open_panel`.
        panel: its settings.
        told: what is said of each name.
        link: between the quantity and what it depends on: "over", "by".
        span: of what it depends on: " from 1 to 10".
        turned: the quantity goes to the right, not up.

    """
    set_axes(axis, panel)
    across, upright = panel.get("hlines", {}), panel.get("vlines", {})
    for value, name in across.items():
        axis.axhline(value, color=INK, linewidth=1, linestyle=":")
        axis.annotate(name, (1, value), (-2, 4), axis.get_yaxis_transform(), "offset points", ha="right")
    for value, name in upright.items():
        axis.axvline(value, color=INK, linewidth=1, linestyle=":")
        axis.annotate(name, (value, 1), (4, -2), axis.get_xaxis_transform(), "offset points", va="top")
    _add_legend(axis, panel.get("legend", "best"))
    place, quantity = (in_words(panel.get(f"{letter}label", "")) for letter in ("yx" if turned else "xy"))
    if quantity and place:
        comma = "," if "," in quantity or " over " in quantity else ""
        quantity += f"{comma} {link} {place}{span}"
    rules = (*across.items(), *upright.items())
    named = [f"a line at {number(value)}: {name}" for value, name in rules if name]
    sentence = tell((axis.get_title(), quantity if link else ""), [*told, *named])
    return add_alt(axis.figure, panel.get("alt", sentence))


def add_alt(fig: Any, sentence: str) -> Figure:
    """Add a sentence to a figure's description, which begins with the figure's title."""
    told = getattr(fig, "alt", "") or fig.get_suptitle()
    told += "." if told and told[-1] not in ".?!" else ""
    return describe(fig, f"{told} {sentence}") if sentence else fig


def set_axes(axis: Axes, panel: Mapping[str, Any]) -> None:
    """Set scales, then ticks, which a change of scale would drop, then limits, which ticks would widen."""
    given = {name: value for name, value in panel.items() if name not in _OWN}
    axis.set(**{name: given.pop(name) for name in ("xscale", "yscale") if name in given})
    for letter, along in (("x", axis.xaxis), ("y", axis.yaxis)):
        ticks = given.pop(f"{letter}ticks", None)
        if ticks is not None and along.get_scale() == "log" and not isinstance(ticks, Mapping):
            ticks = {tick: number(tick) for tick in ticks}
        if isinstance(ticks, Mapping):
            along.set_ticks(list(ticks), [str(name) for name in ticks.values()])
            along.minorticks_off()
        elif ticks is not None:
            along.set_ticks(list(ticks))
    axis.set(**given)
    if panel.get("ax") is not None and panel.get("title"):
        axis.set_title(panel["title"])


def _add_legend(axis: Axes, place: str | None) -> None:
    """Make a panel's legend if there is more than one name, or that of its figure anew."""
    fig: Any = axis.figure
    handles: dict[str, Any] = {}
    for panel in fig.axes if place == "below" else [axis]:
        handles |= zip(*panel.get_legend_handles_labels()[::-1], strict=True)
    if place is None or len(handles) < 2:
        return
    if place != "below":
        legend: Any = axis.legend(loc=place, fontsize=11 if _columns(axis) == 1 else 10)  # type: ignore[call-overload]
        _make_opaque(legend)
        return
    for legend in [*fig.legends]:
        legend.remove()
    wide = (  # inches of each number of columns
        (n, sum(0.7 + 0.08 * max(map(len, part)) for part in np.array_split([*handles], n)))
        for n in range(len(handles), 0, -1)
    )
    columns = next((n for n, inches in wide if inches <= fig.get_figwidth()), 1)
    _make_opaque(fig.legend(handles.values(), handles, loc="outside lower center", ncols=columns))


def _make_opaque(legend: Any) -> None:
    """Show names in full colour, also of marks that are pale because there are many."""
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def _columns(axis: Axes) -> int:
    spec = axis.get_subplotspec()
    return spec.get_gridspec().ncols if spec else 1


def _look(k: int) -> dict[str, Any]:
    """Return colour, line style and marker in place k."""
    k %= len(COLOURS)
    return {"color": COLOURS[k], "linestyle": LINES[k], "marker": MARKERS[k]}
