r"""The book's pictures: one style, read on light and dark pages, by eye and by ear.

Used in every chapter; what the figures of a trained network tell is asked in chapter 15, *How good is it, really?*
Every function returns a matplotlib figure that carries a text alternative (`describe`). In a notebook, after
`use_style()`, a figure is shown as an SVG inside the page: its ink is the page's own (`currentColor`), its
letters are the page's letters, and the same figure always gives the same bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import io
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from capsnb.data import ImageData
from capsnb.evaluation import Evaluation, device_of, evaluating, wilson_interval
from capsnb.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

P = ParamSpec("P")
Images = Tensor | np.ndarray

# Never seen: on a page it becomes the page's text colour. Nearly black where there is no page.
INK = "#010203"
COLOURS = ("#2B83C6", "#D55E00", "#0B8F6A", "#B05CA0", "#A37400", "#808590")  # >= 3:1 on white and on #14181e
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "X")  # with the lines: colour is never the only cue
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
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_rc()):
        tall = height or rows * {1: 3.3, 2: 2.9}.get(columns, 2.3) + (0.3 if title else 0)
        # Not pyplot's: the notebook would show it a second time at the end of the cell.
        fig = Figure(figsize=(width, tall), layout="constrained")
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
    return f'<figure class="capsnb-figure" style="margin:0.75rem 0;color:inherit;background:transparent">{svg}</figure>'


@dataclass(frozen=True)
class Live:
    """A live figure: on the book's pages its script takes the place of the still picture, elsewhere the picture stays.

    Attributes:
        name: of the figure; its script is `book/_static/live_NAME.js`.
        still: the picture.
        given: the numbers that the script gets, as JSON.
    """

    name: str
    still: Figure
    given: Mapping[str, Any]

    def __repr__(self) -> str:
        return getattr(self.still, "alt", "") or repr(
            self.still
        )  # a notebook stores it, so without the numbers

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

    >>> fig, axes = figure()
    >>> live("squash", describe(fig, "Empty axes."), lengths=[0.5, 1])._repr_html_()[:40]
    '<div class="live" data-live="squash" dat'
    """
    return Live(name, still, given)


def packed(rows: Tensor) -> dict[str, Any]:
    """Rows of numbers as a live figure gets them: whole numbers of eight bits, in base64, and a scale for each row.

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
    """The numbers that `packed` keeps of its rows, `[N, M]`: what a page computes with."""
    whole = torch.frombuffer(bytearray(base64.b64decode(given["numbers"])), dtype=torch.int8)
    scale = torch.tensor(given["scale"])
    return whole.view(len(scale), -1) * scale[:, None]


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


def _in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the book's style even where `use_style` was not called."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_rc()):
            return draw(*args, **kwargs)

    return styled


# A column of a History: its name, its unit, and the factor from what is stored to what is shown.
_METRICS: dict[str, tuple[str, str, float]] = {
    "loss": ("training loss", "", 1),
    "margin": ("training margin loss", "", 1),
    "reconstruction": ("squared error per image", "", 1),
    "train_accuracy": ("training accuracy", "%", 100),
    "test_accuracy": ("test accuracy", "%", 100),
    "learning_rate": ("learning rate", "", 1),
    "seconds": ("time per epoch", "s", 1),
    "peak_memory": ("peak memory", "MiB", 2**-20),
}


@_in_style
def curves(
    histories: History | Mapping[str, History | Sequence[History]],
    metrics: Sequence[str] = ("loss", "test_accuracy"),
    title: str | None = None,
) -> Figure:
    """Draw how training went, one panel per metric, one line per model.

    Several runs of one model (seeds) become their mean, in a band from the lowest to the highest run, up to
    the last epoch that all of them have. An axis whose values span more than a factor of 20 is logarithmic.

    Args:
        histories: name -> one `History`, or several of one model with different seeds; or a lone `History`.
        metrics: columns of a history.
        title: what to see.

    Returns:
        The figure; its text alternative gives first and last values.

    Raises:
        ValueError: an unknown metric, no history, or one without an epoch.

    >>> curves({"CapsNet": [history_0, history_1, history_2]})  # doctest: +SKIP
    """
    if unknown := set(metrics) - set(_METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}: choose from {', '.join(_METRICS)}")
    if isinstance(histories, History):
        histories = {histories.model: histories}
    runs = {name: [one] if isinstance(one, History) else list(one) for name, one in histories.items()}
    every_run = [run for seeds in runs.values() for run in seeds]
    if not (metrics and runs and all(runs.values()) and all(run.records for run in every_run)):
        raise ValueError("curves needs a metric, a history, and a finished epoch in every history")
    columns = min(len(metrics), 2)
    fig, axes = figure(title, rows=math.ceil(len(metrics) / columns), columns=columns, squeeze=False)
    told = []
    for axis, metric in zip(axes.flat, metrics, strict=False):
        label, unit, factor = _METRICS[metric]
        extent = []
        for i, (name, seeds) in enumerate(runs.items()):
            per_seed = [run[metric] for run in seeds]
            values = np.array(list(zip(*per_seed, strict=False))) * factor  # [epochs, seeds]
            low, mean, high = values.min(axis=1), values.mean(axis=1), values.max(axis=1)
            extent += [float(low.min()), float(high.max())]
            epochs, colour = seeds[0]["epoch"][: len(mean)], COLOURS[i % len(COLOURS)]
            many = f" (mean and range of {len(seeds)} seeds)" if len(seeds) > 1 else ""
            axis.plot(
                epochs, mean, color=colour, linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)],
                markevery=math.ceil(len(mean) / 10), label=name + many,
            )  # fmt: skip
            axis.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
            told.append(
                f"{name}{many}: {label} from {_number(mean[0])} to {_number(mean[-1])} {unit}".rstrip()
                + (f", the seeds' last values {_number(low[-1])} to {_number(high[-1])}" if many else "")
            )
        if min(extent) > 0 and max(extent) > 20 * min(extent):
            _logarithmic(axis, max(extent) / min(extent))
        _whole_epochs(axis)
        axis.set_ylabel(f"{label} / {unit}" if unit else label)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    handles, names = axes.flat[0].get_legend_handles_labels()
    if len(every_run) > 1:
        fits = int(WIDTH / (0.6 + 0.09 * max(map(len, names))))
        # A title stands where the legend would.
        loc: Any = "outside lower center" if title else "outside upper center"
        fig.legend(handles, names, loc=loc, ncols=max(fits, 1))
    longest = max(run.records[-1].epoch for run in every_run)
    return describe(fig, f"Curves over {longest} epochs. {'; '.join(told)}.")


def _whole_epochs(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _logarithmic(axis: Axes, span: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 300 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


@_in_style
def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Draw which class was taken for which: rows are the truth, columns the prediction.

    The diagonal is blue, deeper where more of the class was found; mistakes are orange, deeper where there
    are more. Up to 20 classes every count is written, beyond that only the colours are shown.

    Args:
        evaluation: from `evaluate`.

    Returns:
        The figure; its title and its text alternative name the accuracy and the commonest confusion.

    >>> confusion_matrix(evaluate(model, data))  # doctest: +SKIP
    """
    from matplotlib.colors import to_rgb

    counts, names = np.array(evaluation.confusion), evaluation.classes
    right = np.eye(len(counts), dtype=bool)
    wrong = np.where(right, 0, counts)
    found = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    depth = np.where(right, found[:, None], np.sqrt(wrong / max(wrong.max(), 1)))
    paint = np.empty((*counts.shape, 4))
    paint[..., :3] = np.where(right[..., None], to_rgb(COLOURS[0]), to_rgb(COLOURS[1]))
    paint[..., 3] = np.where(counts > 0, tint(depth), 0)

    accuracy = f"{_percent(evaluation.accuracy)} of {evaluation.count:,} images right"
    pairs = [f"{names[i]} taken for {names[j]}" for i, j in np.argwhere(wrong == wrong.max())]
    others = f", as are {len(pairs) - 1} others" if len(pairs) > 1 else ""
    commonest = f"commonest mistake: {pairs[0]} ({wrong.max()}×{others})" if wrong.any() else "no mistakes"
    fig, axis = figure(f"{accuracy}\n{commonest}", width=5.4, height=5.5)
    axis.imshow(paint)
    if len(counts) <= 20:
        size = 12 if len(counts) <= 10 else 9
        for (i, j), count in np.ndenumerate(counts):
            alpha = 1 if count else 0.4
            axis.text(j, i, count or "·", ha="center", va="center", fontsize=size, alpha=alpha)
    _class_ticks(axis.xaxis, names, upright=True)
    _class_ticks(axis.yaxis, names)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.grid(False)
    recall = ", ".join(f"{name} {_percent(share)}" for name, share in zip(names, found, strict=True))
    return describe(
        fig,
        f"Confusion matrix of {len(counts)} classes on {evaluation.dataset}: {accuracy}, {commonest}."
        + (f" Found of each class: {recall}." if len(counts) <= 20 else ""),
    )


def tint(share: np.ndarray | float) -> np.ndarray | float:
    """Opacity of a coloured cell that says `share`: never so deep that the page's ink is hard to read on it.

    >>> round(tint(1.0), 2)
    0.5
    """
    return 0.08 + 0.42 * share


def _class_ticks(axis: Axis, names: Sequence[str], *, upright: bool = False) -> None:
    """Name every class that there is room for; below a picture, words stand upright."""
    shown = range(0, len(names), math.ceil(len(names) / 20))
    turn = 90 if upright and max(len(names[i]) for i in shown) > 2 else 0
    axis.set_ticks(list(shown), [names[i] for i in shown], rotation=turn)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@_in_style
def roc(evaluation: Evaluation, zoom: float = 0.1) -> Figure:
    """Draw each class against the rest: the whole ROC square, and its upper left corner enlarged.

    The three classes with the smallest area are drawn in colour and named, all others thin and grey.

    Args:
        evaluation: from `evaluate`.
        zoom: side of the corner that is enlarged, in (0, 1].

    Returns:
        The figure; title and text alternative give the macro AUC and the three worst classes.

    Raises:
        ValueError: no class has a curve, or a zoom outside its range.

    >>> roc(evaluate(model, data))  # doctest: +SKIP
    """
    if not 0 < zoom <= 1:
        raise ValueError(f"zoom={zoom} must be in (0, 1]: the side of the corner that is enlarged")
    drawn = [curve for curve in evaluation.roc if curve["fpr"]]
    if not drawn:
        raise ValueError(
            f"no class of {evaluation.dataset!r} has a ROC curve: the split holds a single class"
        )
    drawn.sort(key=lambda curve: evaluation.auc[curve["class"]] or 0.0)
    areas = [f"{curve['class']}: {evaluation.auc[curve['class']]:.4f}" for curve in drawn[:3]]
    macro = f"macro AUC {evaluation.auc['macro']:.4f}"
    fig, (whole, corner) = figure(macro, columns=2, height=3.5)
    for axis in (whole, corner):
        for curve in drawn[3:]:
            axis.plot(curve["fpr"], curve["tpr"], color=COLOURS[5], linewidth=0.8, linestyle="-")
        for i, (curve, area) in enumerate(zip(drawn[:3], areas, strict=True)):
            axis.plot(
                curve["fpr"], curve["tpr"], color=COLOURS[i], linestyle=LINES[i], label=area, zorder=4 - i / 4
            )
        axis.set_xlabel("false positive rate")
        axis.set_aspect("equal")
    whole.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1, linestyle=":")
    box = [0, zoom, zoom, 0, 0], [1 - zoom, 1 - zoom, 1, 1, 1 - zoom]
    whole.plot(*box, color=INK, linewidth=1, linestyle="-")
    whole.set(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), ylim=(-0.02, 1.02), yticks=(0, 0.5, 1))
    whole.set_ylabel("true positive rate")
    whole.legend(loc="lower right", title="smallest AUC")
    edge = zoom / 50
    corner.set(xlim=(-edge, zoom + edge), xticks=(0, zoom / 2, zoom), title="upper left corner")
    corner.set(ylim=(1 - zoom - edge, 1 + edge), yticks=(1 - zoom, 1 - zoom / 2, 1))
    missing = len(evaluation.roc) - len(drawn)
    return describe(
        fig,
        f"ROC curves of {len(drawn)} classes on {evaluation.dataset}, each against the rest, whole and "
        f"enlarged for false positive rates up to {zoom:g}: {macro}; smallest areas {', '.join(areas)}."
        + (f" Classes without a curve: {missing}." if missing else ""),
    )


@_in_style
def reliability(evaluation: Evaluation) -> Figure:
    """Draw how often the winner is right against how long it is, and how many images stand behind each point.

    On the diagonal a score would be a probability: of the images with score 0.8, 80 % would be right. Above it the
    scores promise too little, below it too much. Bars are 95 % intervals (Wilson) for that many images.

    Args:
        evaluation: from `evaluate`, of a model whose scores are in [0, 1].

    Returns:
        The figure; its text alternative gives the calibration error and every bin.

    Raises:
        ValueError: there is no calibration, because scores are outside [0, 1] or the file is older than it.

    >>> reliability(evaluate(model, data))  # doctest: +SKIP
    """
    bins = evaluation.calibration
    if not bins or evaluation.calibration_error is None:
        raise ValueError(
            f"this evaluation of {evaluation.dataset!r} has no calibration: its scores are not in [0, 1], or it was "
            "saved before there was one; evaluate the model again"
        )
    score, share, count = (np.array([line[name] for line in bins]) for name in ("score", "accuracy", "count"))
    ends = np.array(
        [wilson_interval(*line) for line in zip(share, count.tolist(), strict=True)]
    ).T  # [2, bins]
    fig, (above, below) = figure(
        f"calibration error {_number(100 * evaluation.calibration_error)} %",
        rows=2,
        height=4.8,
        sharex=True,
        height_ratios=(3, 1),
    )
    above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
    above.errorbar(
        score,
        share,
        np.abs(ends - share),
        color=COLOURS[0],
        marker="o",
        linestyle="none",
        capsize=3,
        elinewidth=1,
    )
    above.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="share that is right")
    below.bar([(line["low"] + line["high"]) / 2 for line in bins], count, width=0.09, color=COLOURS[5])
    for line in bins:
        middle = (line["low"] + line["high"]) / 2
        below.annotate(
            f"{line['count']:,}", (middle, line["count"]), (0, 2), textcoords="offset points", ha="center"
        )
    below.set(xlabel="score of the winner", ylabel="images", yticks=[], ylim=(0, 1.4 * count.max()))
    told = "; ".join(
        f"{s:.2f}: {100 * a:.1f} % of {n:,}" for s, a, n in zip(score, share, count, strict=True)
    )
    return describe(
        fig,
        f"Mean score of the winner and share that is right, in bins of a tenth, on {evaluation.count:,} "
        f"{evaluation.split} images of {evaluation.dataset}: {told}. Expected calibration error "
        f"{_number(100 * evaluation.calibration_error)} %.",
    )


@_in_style
def image_grid(images: Images, titles: Sequence[str] | None = None, columns: int | None = None) -> Figure:
    """Show images side by side, each with its own pixels.

    Args:
        images: [N, H, W] or [N, C, H, W] with C = 1 or 3; uint8, or floats in [0, 1]. Floats beyond that
            (standardised images) are stretched from each image's darkest to its brightest value.
        titles: N texts, of one line or more, one above each image.
        columns: images in a row; None chooses what fits the titles.

    Returns:
        The figure; its text alternative counts the images and reads the titles. Say more with `describe`.

    Raises:
        ValueError: no image, another shape, values that are not finite, or another number of titles.

    >>> image_grid(torch.zeros(3, 1, 28, 28), titles=["a", "b", "c"]).alt
    '3 images of 28 x 28 pixels: a, b, c.'
    """
    pixels = _pixels(images)
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"{len(titles)} titles for {len(pixels)} images: give one each")
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns} must be at least 1")
    told = ": " + ", ".join(" ".join(title.split()) for title in titles) if titles else ""
    return describe(
        _grid(pixels, columns, titles),
        f"{len(pixels)} images of {pixels.shape[2]} x {pixels.shape[1]} pixels{told}.",
    )


@_in_style
def mistakes(evaluation: Evaluation, data: ImageData, count: int = 12) -> Figure:
    """Show the images that a model got wrong with the greatest confidence: truth, prediction, winning score.

    Args:
        evaluation: from `evaluate` on the same data.
        data: the data that was evaluated.
        count: how many, at least 1.

    Returns:
        The figure; its text alternative lists them.

    Raises:
        ValueError: the evaluation is of other data, or count is below 1.

    >>> mistakes(evaluate(model, data), data)  # doctest: +SKIP
    """
    split = getattr(data, evaluation.split)
    if (evaluation.dataset, evaluation.count) != (data.name, len(split)):
        raise ValueError(
            f"the evaluation is of {evaluation.count} images of {evaluation.dataset!r}, but data holds "
            f"{len(split)} of {data.name!r}: evaluate the model on this data first"
        )
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    shown = evaluation.mistakes[:count]
    if not shown:
        fig, axis = figure(height=1)
        axis.text(0.5, 0.5, f"no mistakes in {evaluation.count} images", ha="center", va="center")
        axis.axis("off")
        return describe(fig, f"There is nothing to show: no mistakes in {evaluation.count} images.")
    _, targets = data.preprocess.evaluate(split.subset([mistake["index"] for mistake in shown]).images)
    pairs = [f"{evaluation.classes[m['truth']]} → {evaluation.classes[m['prediction']]}" for m in shown]
    scores = [f"{m['confidence']:.2f}" for m in shown]
    told = ", ".join(f"{pair} ({score})" for pair, score in zip(pairs, scores, strict=True))
    return describe(
        _grid(
            _pixels(targets), None, [f"{pair}\n{score}" for pair, score in zip(pairs, scores, strict=True)]
        ),
        f"The {len(shown)} most confident of {len(evaluation.mistakes)} mistakes in {evaluation.count} "
        f"{evaluation.split} images of {evaluation.dataset}, truth → prediction (winning score): {told}.",
    )


@_in_style
def couplings(
    couplings: Images, labels: Sequence[str] | None = None, example: int = 0, *, rows: int = 96
) -> Figure:
    """Show how the couplings of one image sharpen from one routing iteration to the next.

    Above, how much more or less than an equal share (the line) each output capsule gets, averaged over the
    input capsules; the one that gets most in the end is orange. Below, single input capsules as rows: in the
    first iteration each divides itself equally, later it leans towards an output. The rows are ordered by the
    output that they lean to in the end, the most decided first, the same in all panels.

    Args:
        couplings: [R, B, I, J], which sum to one over J: `routing_by_agreement(..., return_couplings=True)`.
        labels: names of the J output capsules; None counts from 0.
        example: which of the B images.
        rows: input capsules drawn below, evenly spaced among all I.

    Returns:
        The figure, with the first, a middle and the last iteration if there are more than three; its text
        alternative says who wins and how decided the inputs are.

    Raises:
        ValueError: another shape, sums other than one (a softmax over the wrong axis), no such example.

    >>> couplings(torch.full((3, 1, 8, 4), 0.25)).alt[:48]
    'Couplings of 8 input capsules to 4 output capsul'
    """
    from matplotlib import colormaps

    shares = _array(couplings)
    if shares.ndim != 4 or 0 in shares.shape:
        raise ValueError(f"couplings must be [R, B, I, J], got shape {shares.shape}")
    iterations, examples, inputs, outputs = shares.shape
    if not 0 <= example < examples:
        raise ValueError(f"example={example} is not in the batch: choose 0 to {examples - 1}")
    if not np.allclose(shares.sum(axis=-1), 1, atol=1e-2):
        raise ValueError(
            "couplings must sum to one over J, the last axis: was the softmax over another axis?"
        )
    names = [str(label) for label in (range(outputs) if labels is None else labels)]
    if len(names) != outputs:
        raise ValueError(
            f"{len(names)} labels for {outputs} output capsules: name each, say with data.classes"
        )
    shares = shares[:, example].astype(float)  # [R, I, J]
    mean, most = shares.mean(axis=1), shares.max(axis=2)  # [R, J], [R, I]
    winner = int(mean[-1].argmax())
    order = np.lexsort((-most[-1], shares[-1].argmax(axis=1)))
    order = order[np.unique(np.linspace(0, inputs - 1, min(rows, inputs)).round().astype(int))]

    shown = [int(r) for r in np.linspace(0, iterations - 1, min(iterations, 3)).round()]
    fig, axes = figure(
        rows=2, columns=len(shown), height=5, sharex=True, sharey="row", squeeze=False, height_ratios=(2, 3)
    )
    few_colours = colormaps["cividis"].resampled(32)  # each colour of the bar is a shape in the page
    coldest = shares.min() if shares.max() - shares.min() > 1e-6 else 0
    for above, below, r in zip(axes[0], axes[1], shown, strict=True):
        equal = 1 / outputs
        bars = above.bar(range(outputs), mean[r] - equal, bottom=equal, width=0.75, color=COLOURS[5])
        bars[winner].set_color(COLOURS[1])
        above.axhline(equal, color=INK, linewidth=1, linestyle="-")
        above.set_title(f"iteration {r + 1}")
        picture = below.imshow(
            shares[r][order],
            cmap=few_colours,
            vmin=coldest,
            vmax=shares.max(),
            aspect="auto",
            extent=(-0.5, outputs - 0.5, 1, 0),
        )
        below.set_yticks([])
        below.grid(False)
        below.tick_params(labelsize=10)
        _class_ticks(below.xaxis, names, upright=True)
    axes[0, 0].set_ylabel("mean coupling")
    axes[1, 0].set_ylabel("input capsules")
    fig.supxlabel("output capsule", fontsize=12)
    bar = fig.colorbar(picture, ax=axes[1].tolist(), label="coupling", aspect=15, pad=0.02)
    for part in bar.ax.collections:
        part.set_edgecolor("face")  # or the page shows through between the colours
    first, last = ((most[r] > 0.5).mean() for r in (0, -1))
    return describe(
        fig,
        f"Couplings of {inputs} input capsules to {outputs} output capsules in {iterations} routing "
        f"iterations. On average {names[winner]} gets {mean[0, winner]:.4f} of an input capsule in the "
        f"first and {mean[-1, winner]:.4f}, the largest share, in the last (equal shares are "
        f"{1 / outputs:.4f}). Input capsules that give more than half of themselves to one output: "
        f"{first:.0%} in the first iteration, {last:.0%} in the last, where the largest single coupling is "
        f"{most[-1].max():.2f}.",
    )


@_in_style
def reconstructions(model: nn.Module, data: ImageData, count: int = 10) -> Figure:
    """Show test images above what the decoder draws from their winning capsules, not knowing the labels.

    Args:
        model: a capsule model with a decoder.
        data: its data; the first test image of each class, then the second of each, and so on.
        count: how many images, at least 1.

    Returns:
        The figure; its text alternative gives the squared errors.

    Raises:
        ValueError: the model has no decoder, or count is below 1.

    >>> reconstructions(model, data)  # doctest: +SKIP
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    labels = _array(data.test.labels)
    which_of_its_class = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = labels == label
        which_of_its_class[members] = np.arange(members.sum())
    chosen = np.lexsort((labels, which_of_its_class))[:count]
    targets, winners, _, drawn = _look(model, data, chosen)
    errors = ((drawn - targets) ** 2).sum(axis=(1, 2, 3))
    right = winners == labels[chosen]
    names = [
        data.classes[truth] if truth == winner else f"{data.classes[truth]} → {data.classes[winner]}"
        for truth, winner in zip(labels[chosen], winners, strict=True)
    ]
    pixels = _pixels(np.concatenate([targets, drawn]))
    fig = _grid(pixels, len(chosen), [*names, *[""] * len(chosen)], ("image", "decoder"))
    return describe(
        fig,
        f"{len(chosen)} test images of {data.name} ({', '.join(names)}) above the decoder's pictures of "
        f"their winning capsules; {right.sum()} are recognised. Squared error per image {errors.min():.1f} "
        f"to {errors.max():.1f}, mean {errors.mean():.1f}.",
    )


@_in_style
def perturbations(
    model: nn.Module,
    data: ImageData,
    index: int = 0,
    *,
    dimensions: Iterable[int] | None = None,
    values: Iterable[float] | None = None,
) -> Figure:
    """Show how the decoder's picture changes when one number of the winning capsule is changed.

    Each row changes one of the capsule's E numbers, each column adds another amount to it.

    Args:
        model: a capsule model with a decoder.
        data: its data.
        index: which test image.
        dimensions: the numbers to change, each from 0 to E-1, one row each; None takes the six that change
            the picture most, the strongest first.
        values: what is added, one column each; None takes 11 steps from -0.25 to 0.25, as Sabour et al.
            (2017, figure 4).

    Returns:
        The figure; its text alternative says how much each row changes the picture.

    Raises:
        ValueError: the model has no decoder, or there is no such image or dimension.

    >>> perturbations(model, data, index=3, dimensions=range(16))  # doctest: +SKIP
    """
    if not 0 <= index < len(data.test):
        raise ValueError(f"index={index} is not in the test split: choose 0 to {len(data.test) - 1}")
    _, winners, capsules, plain = _look(model, data, np.array([index]))
    winner, size = int(winners[0]), capsules.shape[-1]
    rows = list(range(size) if dimensions is None else dimensions)
    added = torch.tensor(
        [*(np.linspace(-0.25, 0.25, 11) if values is None else values)], dtype=capsules.dtype
    )
    if not rows or not len(added) or min(rows) < 0 or max(rows) >= size:
        raise ValueError(f"dimensions={rows} with {len(added)} values: give at least one of each, "
                         f"dimensions from 0 to {size - 1}")  # fmt: skip
    changed = capsules.repeat(len(rows), len(added), 1, 1)  # [rows, columns, J, E]
    for r, row in enumerate(rows):
        changed[r, :, winner, row] += added.to(changed)
    with evaluating(model):
        flat = changed.flatten(0, 1)
        drawn = _array(_decoder(model)(flat, torch.full((len(flat),), winner, device=flat.device)))
    effect = np.abs(drawn - plain).mean(axis=(1, 2, 3)).reshape(len(rows), -1).max(axis=1)
    shown = np.argsort(-effect, kind="stable")[:6] if dimensions is None else np.arange(len(rows))
    drawn = drawn.reshape(len(rows), len(added), *plain.shape[1:])[shown].reshape(-1, *plain.shape[1:])
    last = len(added) - 1
    header = [_signed(added[c].item()) if c in (0, last / 2, last) else "" for c in range(len(added))]
    blank = [""] * (len(drawn) - len(added))
    fig = _grid(
        _pixels(drawn), len(added), [*header, *blank], [str(rows[r]) for r in shown], "number changed"
    )
    truth, taken = data.classes[int(data.test.labels[index])], data.classes[winner]
    told = ", ".join(f"{rows[r]} by {effect[r]:.3f}" for r in shown)
    return describe(
        fig,
        f"Test image {index} of {data.name} (truth {truth}, taken for {taken}) as the decoder draws it when "
        f"{added.min():+.2f} to {added.max():+.2f} is added to one number of the winning capsule. Largest "
        f"mean change of a pixel (0 to 1) for each number: {told}.",
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0"


def _decoder(model: nn.Module) -> nn.Module:
    decoder = getattr(model, "decoder", None)
    if decoder is None:
        raise ValueError(
            f"{type(model).__name__} has no decoder to draw with: build it with decoder=(512, 1024)"
        )
    return decoder


def _look(
    model: nn.Module, data: ImageData, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Tensor, np.ndarray]:
    """Return the images in [0, 1], predicted labels, capsules and reconstructions of some test images."""
    _decoder(model)
    inputs, targets = data.preprocess.evaluate(data.test.subset(torch.from_numpy(indices)).images)
    with evaluating(model):
        output = model(inputs.to(device_of(model, inputs)))
    winners = _array(output.lengths.argmax(dim=1))
    return _array(targets), winners, output.capsules.clone(), _array(output.reconstruction)


def _array(values: Images) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _pixels(images: Images) -> np.ndarray:
    """Turn images [N, H, W] or [N, C, H, W] into uint8 RGBA [N, H, W, 4]."""
    given = _array(images)
    values = given[:, None] if given.ndim == 3 else given
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"images must be [N, H, W] or [N, C, H, W] with C = 1 or 3, got shape {given.shape}")
    if values.dtype != np.uint8:
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the images hold values that are not finite: nothing can be shown")
        if values.min() < 0 or values.max() > 1:
            darkest, brightest = (
                values.min(axis=(1, 2, 3), keepdims=True),
                values.max(axis=(1, 2, 3), keepdims=True),
            )
            values = (values - darkest) / np.maximum(brightest - darkest, 1e-12)
        values = np.round(255 * values).astype(np.uint8)
    opaque = np.full_like(values[:, :1], 255)
    colour = values.repeat(3 // values.shape[1], axis=1)
    return np.concatenate([colour, opaque], axis=1).transpose(0, 2, 3, 1)


def _grid(
    pixels: np.ndarray,
    columns: int | None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] = (),
    label: str = "",
) -> Figure:
    """Lay RGBA images [N, H, W, 4] out as one picture, transparent between them, with room for the titles."""
    count, height, width = pixels.shape[:3]
    lines = [title.split("\n") for title in titles] if titles else [[""]] * count
    if columns is None:
        widest = max(len(line) for title in lines for line in title)
        fits = int(np.clip(WIDTH / max(0.1 * widest, 0.6), 1, 10))
        columns = math.ceil(count / math.ceil(count / fits))  # rows of equal length
    columns = min(columns, count)
    margin = 0.1 + 0.09 * max(map(len, row_labels)) + (0.3 if label else 0) if row_labels else 0  # inches
    across = min(WIDTH - margin, 1.3 * columns)
    gap = max(1, round(0.06 * width))
    scale = (columns * (width + gap) - gap) / across  # pixels per inch
    rows = [lines[start : start + columns] for start in range(0, count, columns)]
    bands = [round(scale * 0.2 * max(len(title) if any(title) else 0 for title in row)) for row in rows]
    tops = np.cumsum([band + gap for band in bands]) + height * np.arange(len(rows)) - gap
    canvas = np.zeros((tops[-1] + height, columns * (width + gap) - gap, 4), dtype=np.uint8)

    fig, axis = figure(width=margin + across, height=canvas.shape[0] / scale)
    fig.set_layout_engine("none")
    axis.set_position((margin / (margin + across), 0, across / (margin + across), 1))
    for i, image in enumerate(pixels):
        top, left = tops[i // columns], i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
        text = "\n".join(lines[i])
        axis.text(left + width / 2, top - 0.03 * scale, text, ha="center", va="bottom", fontsize=11)
    axis.imshow(canvas, extent=(0, canvas.shape[1], canvas.shape[0], 0))
    axis.set(xticks=[], ylabel=label)
    axis.set_yticks(tops + height / 2 if row_labels else [], row_labels)
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return fig
