r"""The book's pictures: one style, read on light and dark pages, by eye and by ear.

Every function returns a matplotlib figure that carries a text alternative (`describe`). In a notebook, after
`use_style()`, a figure is shown as an SVG inside the page: its ink is the page's own (`currentColor`), its letters
are the page's letters, and the same figure always gives the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import html
import io
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from capsnb.data import ImageData
from capsnb.evaluation import Evaluation, device_of, evaluating
from capsnb.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Images = Tensor | np.ndarray

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


def _in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the book's style even where `use_style` was not called."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib

        with matplotlib.rc_context(_rc()):
            return draw(*args, **kwargs)

    return styled


_METRICS: dict[
    str, tuple[str, str, float]
] = {  # column of a History: name, unit, factor from stored to shown
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
) -> Figure:
    """Draw how training went, one panel per metric, one line per model.

    Several runs of one model (seeds) become their mean, in a band from the lowest to the highest run, up to the last
    epoch that all of them have. An axis whose values span more than a factor of 20 is logarithmic.

    Args:
        histories: name -> one `History`, or several of the same model with different seeds; or a lone `History`.
        metrics: columns of a history.

    Returns:
        The figure; its text alternative gives first and last values.

    Raises:
        ValueError: an unknown metric, no history, or one without an epoch.

    >>> curves({"CapsNet": [history_0, history_1, history_2]})  # doctest: +SKIP
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if unknown := set(metrics) - set(_METRICS):
        raise ValueError(f"unknown metrics {sorted(unknown)}: choose from {', '.join(_METRICS)}")
    if isinstance(histories, History):
        histories = {histories.model: histories}
    runs = {name: [one] if isinstance(one, History) else list(one) for name, one in histories.items()}
    if (
        not runs
        or not metrics
        or not all(seeds and all(run.records for run in seeds) for seeds in runs.values())
    ):
        raise ValueError(
            "curves needs at least one metric, one history, and a finished epoch in every history"
        )
    columns = min(len(metrics), 2)
    fig, axes = figure(rows=math.ceil(len(metrics) / columns), columns=columns, squeeze=False)
    told = []
    for axis, metric in zip(axes.flat, metrics, strict=False):
        label, unit, factor = _METRICS[metric]
        values = {
            name: np.array([column for column in zip(*(run[metric] for run in seeds), strict=False)]).T
            * factor
            for name, seeds in runs.items()
        }
        for i, (name, rows) in enumerate(values.items()):  # rows [seeds, epochs]
            epochs, mean = runs[name][0]["epoch"][: rows.shape[1]], rows.mean(axis=0)
            look = {"color": COLOURS[i % 6], "linestyle": LINES[i % 6], "marker": MARKERS[i % 6]}
            many = f" ({len(rows)} seeds)" if len(rows) > 1 else ""
            axis.plot(epochs, mean, label=name + many, markevery=math.ceil(len(mean) / 10), **look)
            axis.fill_between(
                epochs, rows.min(axis=0), rows.max(axis=0), color=look["color"], alpha=0.2, lw=0
            )
            spread = f" (seeds {_short_number(rows[:, -1].min())} to {_short_number(rows[:, -1].max())})"
            told.append(
                f"{name}, {label} from {_short_number(mean[0])} to {_short_number(mean[-1])}"
                + (f" {unit}" if unit else "")
                + (spread if many else "")
            )
        low, high = (
            pick(float(pick(rows.flat)) for rows in values.values()) for pick in (min, max)
        )
        if low > 0 and high / low > 20:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("epoch")
        axis.set_ylabel(f"{label} / {unit}" if unit else label)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    if len(runs) > 1 or any(len(seeds) > 1 for seeds in runs.values()):
        handles, names = axes.flat[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=min(len(names), 3))
    epochs = max(run.records[-1].epoch for seeds in runs.values() for run in seeds)
    seeds_said = ", ".join(
        f"{name}: mean and range of {len(s)} seeds" for name, s in runs.items() if len(s) > 1
    )
    return describe(
        fig, f"Curves over {epochs} epochs{f' ({seeds_said})' if seeds_said else ''}. {_sentence(told, '; ')}"
    )


@_in_style
def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Draw which class was taken for which: rows are the truth, columns the prediction.

    The diagonal is blue, deeper where more of the class was found; mistakes are orange, deeper where there are more.
    Up to 20 classes every count is written, beyond that only the colours are shown.

    Args:
        evaluation: from `evaluate`.

    Returns:
        The figure; its title and its text alternative name the accuracy and the commonest confusion.

    >>> confusion_matrix(evaluate(model, data))  # doctest: +SKIP
    """
    from matplotlib.colors import to_rgb

    counts = np.array(evaluation.confusion)
    number = len(counts)
    wrong = counts - np.diag(np.diag(counts))
    paint = np.zeros((number, number, 4))
    paint[..., :3] = to_rgb(COLOURS[1])
    paint[..., 3] = np.where(wrong > 0, _tint(np.sqrt(wrong / max(wrong.max(), 1))), 0)
    diagonal = np.arange(number), np.arange(number)
    found = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    paint[diagonal] = np.column_stack(
        [np.tile(to_rgb(COLOURS[0]), (number, 1)), np.where(found > 0, _tint(found), 0)]
    )

    worst = np.unravel_index(wrong.argmax(), wrong.shape)
    commonest = (
        f"commonest mistake: {evaluation.classes[worst[0]]} taken for {evaluation.classes[worst[1]]} ({wrong.max()}×)"
        if wrong.any()
        else "no mistakes"
    )
    accuracy = f"{evaluation.accuracy:.1%} of {evaluation.count:,} images right".replace("%", " %")
    fig, axes = figure(f"{accuracy}\n{commonest}", height=WIDTH * 0.92)
    axes.imshow(paint)
    if number <= 20:
        size = 12 if number <= 10 else 9
        for (row, column), count in np.ndenumerate(counts):
            axes.text(
                column, row, str(count) if count else "·", ha="center", va="center", fontsize=size,
                alpha=1 if count else 0.4,
            )  # fmt: skip
    _class_ticks(axes, evaluation.classes, "xy")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    recall = [
        f"{name} {share:.1%}".replace("%", " %")
        for name, share in zip(evaluation.classes, found, strict=True)
    ]
    return describe(
        fig,
        f"Confusion matrix of {number} classes on {evaluation.dataset}: {accuracy}, {commonest}. "
        + (f"Found of each class: {', '.join(recall)}." if number <= 20 else ""),
    )


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
    fig, (whole, corner) = figure(f"macro AUC {evaluation.auc['macro']:.4f}", columns=2, height=3.7)
    for axis in (whole, corner):
        for curve in drawn[3:]:
            axis.plot(curve["fpr"], curve["tpr"], color=COLOURS[5], linewidth=0.8, linestyle="-")
        for i, curve in reversed(list(enumerate(drawn[:3]))):
            area = f"{curve['class']}: {evaluation.auc[curve['class']]:.4f}"
            axis.plot(curve["fpr"], curve["tpr"], color=COLOURS[i], linestyle=LINES[i], label=area)
        axis.set_xlabel("false positive rate")
        axis.set_aspect("equal")
    whole.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=1, linestyle=":")
    whole.plot(
        [0, zoom, zoom, 0, 0], [1 - zoom, 1 - zoom, 1, 1, 1 - zoom], color=INK, linewidth=1, linestyle="-"
    )
    whole.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        ylabel="true positive rate",
        xticks=(0, 0.5, 1),
        yticks=(0, 0.5, 1),
    )
    edge = zoom / 50
    corner.set(xlim=(-edge, zoom + edge), ylim=(1 - zoom - edge, 1 + edge), title="upper left corner")
    corner.set(xticks=(0, zoom / 2, zoom), yticks=(1 - zoom, 1 - zoom / 2, 1))
    handles, names = whole.get_legend_handles_labels()
    order = list(range(len(names)))[::-1]
    whole.legend(
        [handles[i] for i in order], [names[i] for i in order], loc="lower right", title="smallest AUC"
    )
    worst = ", ".join(f"{curve['class']} {evaluation.auc[curve['class']]:.4f}" for curve in drawn[:3])
    missing = len(evaluation.roc) - len(drawn)
    return describe(
        fig,
        f"ROC curves of {len(drawn)} classes on {evaluation.dataset}, each against the rest, whole and enlarged for false "
        f"positive rates up to {zoom:g}: macro AUC {evaluation.auc['macro']:.4f}; smallest areas: {worst}."
        + (f" {missing} classes have no curve." if missing else ""),
    )


@_in_style
def image_grid(images: Images, titles: Sequence[str] | None = None, columns: int | None = None) -> Figure:
    """Show images side by side, each with its own pixels.

    Args:
        images: [N, H, W] or [N, C, H, W] with C = 1 or 3; uint8, or floats in [0, 1]. Floats beyond that (standardised
            images) are stretched from each image's darkest to its brightest value.
        titles: N lines of text, one above each image.
        columns: images in a row; None chooses what fits the titles.

    Returns:
        The figure; its text alternative counts the images and reads the titles. Say more with `describe`.

    Raises:
        ValueError: no image, another shape, or another number of titles.

    >>> image_grid(torch.zeros(3, 1, 28, 28), titles=["a", "b", "c"]).alt
    '3 images of 28 x 28 pixels: a, b, c.'
    """
    pixels = _pixels(images)
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"{len(titles)} titles for {len(pixels)} images: give one each")
    fig = _grid(pixels, columns, titles)
    height, width = pixels.shape[1:3]
    told = ": " + ", ".join(" ".join(title.split()) for title in titles) if titles else ""
    return describe(fig, f"{len(pixels)} images of {width} x {height} pixels{told}.")


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
    if (evaluation.dataset, evaluation.count) != (data.name, len(split.labels)):
        raise ValueError(
            f"the evaluation is of {evaluation.count} images of {evaluation.dataset!r}, but data holds "
            f"{len(split.labels)} of {data.name!r}: evaluate the model on this data first"
        )
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    shown = evaluation.mistakes[:count]
    if not shown:
        fig, axes = figure(height=1)
        axes.text(0.5, 0.5, f"no mistakes in {evaluation.count} images", ha="center", va="center")
        axes.axis("off")
        return describe(fig, f"There is nothing to show: no mistakes in {evaluation.count} images.")
    _, targets = data.preprocess.evaluate(split.images[[mistake["index"] for mistake in shown]])
    titles = [
        f"{evaluation.classes[m['truth']]} → {evaluation.classes[m['prediction']]}\n{m['confidence']:.2f}"
        for m in shown
    ]
    fig = _grid(_pixels(targets), None, titles)
    told = ", ".join(title.replace("\n", " (") + ")" for title in titles)
    return describe(
        fig,
        f"The {len(shown)} most confident of {len(evaluation.mistakes)} mistakes in {evaluation.count} {evaluation.split} "
        f"images of {evaluation.dataset}, as truth → prediction (winning score): {told}.",
    )


@_in_style
def couplings(
    couplings: Images, labels: Sequence[str] | None = None, example: int = 0, *, rows: int = 96
) -> Figure:
    """Show how the couplings of one image sharpen from one routing iteration to the next.

    Above, the share of all coupling that each output capsule gets (the dotted line is an equal share). Below, single
    input capsules as rows: in the first iteration each divides itself equally, later it leans towards an output. The
    rows are ordered by the output that they lean to in the end, the most decided first, the same in all panels.

    Args:
        couplings: [R, B, I, J], which sum to one over J: from `routing_by_agreement(..., return_couplings=True)`.
        labels: names of the J output capsules; None counts from 0.
        example: which of the B images.
        rows: input capsules drawn below, evenly spaced among all I.

    Returns:
        The figure, with the first, a middle and the last iteration if there are more than three; its text alternative
        says who wins and how decided the inputs are.

    Raises:
        ValueError: another shape, sums other than one (a softmax over the wrong axis), no such example.

    >>> couplings(torch.full((3, 1, 8, 4), 0.25)).alt[:41]
    'Couplings of 8 input capsules to 4 output'
    """
    shares = _array(couplings)
    if shares.ndim != 4:
        raise ValueError(f"couplings must be [R, B, I, J], got shape {shares.shape}")
    iterations, examples, inputs, outputs = shares.shape
    if not 0 <= example < examples:
        raise ValueError(f"example={example} is not in the batch: choose 0 to {examples - 1}")
    if not np.allclose(shares.sum(axis=-1), 1, atol=1e-2):
        raise ValueError(
            "couplings must sum to one over J, the last axis: was the softmax taken over another axis?"
        )
    names = [str(label) for label in (range(outputs) if labels is None else labels)]
    if len(names) != outputs:
        raise ValueError(
            f"{len(names)} labels for {outputs} output capsules: name each, for example data.classes"
        )
    shares = shares[:, example].astype(float)  # [R, I, J]
    mean = shares.mean(axis=1)  # [R, J]
    winner = int(mean[-1].argmax())
    order = np.lexsort((-shares[-1].max(axis=1), shares[-1].argmax(axis=1)))
    order = order[np.unique(np.linspace(0, inputs - 1, min(rows, inputs)).round().astype(int))]

    shown = sorted({round(r) for r in np.linspace(0, iterations - 1, min(iterations, 3))})
    fig, axes = figure(
        rows=2, columns=len(shown), height=5.2, sharex=True, sharey="row", squeeze=False, height_ratios=(2, 3)
    )
    for bars, picture, r in zip(axes[0], axes[1], shown, strict=True):
        heights = bars.bar(range(outputs), mean[r], color=COLOURS[5], width=0.75)
        heights[winner].set_color(COLOURS[1])
        bars.axhline(1 / outputs, color=INK, linestyle=":", linewidth=1)
        bars.set_title(f"iteration {r + 1}")
        bars.grid(False)
        image = picture.imshow(
            shares[r][order],
            aspect="auto",
            vmin=0,
            vmax=shares.max(),
            extent=(-0.5, outputs - 0.5, len(order), 0),
        )
        picture.set_yticks([])
        picture.grid(False)
        _class_ticks(picture, names, "x")
    axes[0, 0].set_ylabel("mean coupling")
    axes[1, 0].set_ylabel("input capsules")
    fig.supxlabel("output capsule", fontsize=12)
    fig.colorbar(image, ax=axes[1].tolist(), label="coupling", aspect=15, pad=0.02)
    decided = [(shares[r].max(axis=1) > 0.5).mean() for r in (0, -1)]
    return describe(
        fig,
        f"Couplings of {inputs} input capsules to {outputs} output capsules in {iterations} routing iterations. "
        f"In the first, output {names[winner]} gets a share of {mean[0, winner]:.3f}; in the last it gets "
        f"{mean[-1, winner]:.3f}, the largest (an equal share is {1 / outputs:.3f}). Input capsules that give more than "
        f"half of themselves to one output: {decided[0]:.0%} in the first iteration, {decided[1]:.0%} in the last.",
    )


@_in_style
def reconstructions(model: nn.Module, data: ImageData, count: int = 10) -> Figure:
    """Show test images above what the decoder draws from their winning capsules, as at inference: without labels.

    Args:
        model: a capsule model with a decoder.
        data: its data; the first test image of each class, then the second, and so on.
        count: how many images, at least 1.

    Returns:
        The figure; its text alternative gives the squared errors.

    Raises:
        ValueError: the model has no decoder, or count is below 1.

    >>> reconstructions(model, data)  # doctest: +SKIP
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    labels = data.test.labels.cpu().numpy()
    earlier = np.array(
        [(labels[:i] == label).sum() for i, label in enumerate(labels[: 50 * len(data.classes)])]
    )
    chosen = np.lexsort((labels[: len(earlier)], earlier))[:count]
    targets, predictions, _, drawn = _look(model, data, chosen)
    errors = ((drawn - targets) ** 2).sum(axis=(1, 2, 3))
    titles = [
        data.classes[truth] if truth == guess else f"{data.classes[truth]} → {data.classes[guess]}"
        for truth, guess in zip(labels[chosen], predictions, strict=True)
    ]
    right = int((labels[chosen] == predictions).sum())
    fig = _grid(
        _pixels(np.concatenate([targets, drawn])),
        len(chosen),
        [*titles, *[""] * len(chosen)],
        ("image", "decoder"),
    )
    return describe(
        fig,
        f"{len(chosen)} test images of {data.name} ({', '.join(titles)}) above the decoder's pictures of their winning "
        f"capsules; {right} are recognised. Squared error per image {errors.min():.1f} to {errors.max():.1f}, "
        f"mean {errors.mean():.1f}.",
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

    Each row changes one of the capsule's E numbers, each column by one amount; in the column of 0 nothing is changed.

    Args:
        model: a capsule model with a decoder.
        data: its data.
        index: which test image.
        dimensions: the numbers to change, each from 0 to E-1, one row each; None takes the six that change the picture
            most, the strongest first.
        values: what is added, one column each; None takes 11 steps from -0.25 to 0.25 (Sabour et al. 2017, figure 4).

    Returns:
        The figure; its text alternative says how much each row changes the picture.

    Raises:
        ValueError: the model has no decoder, or there is no such image or dimension.

    >>> perturbations(model, data, index=3, dimensions=range(16))  # doctest: +SKIP
    """
    if not 0 <= index < len(data.test.labels):
        raise ValueError(f"index={index} is not in the test split: choose 0 to {len(data.test.labels) - 1}")
    amounts = np.array(list(np.linspace(-0.25, 0.25, 11) if values is None else values), dtype=np.float32)
    targets, predictions, capsules, plain = _look(model, data, np.array([index]))
    winner, dim = int(predictions[0]), capsules.shape[-1]
    rows = list(range(dim) if dimensions is None else dimensions)
    if not rows or not len(amounts) or not all(0 <= row < dim for row in rows):
        raise ValueError(
            f"dimensions={rows} and {len(amounts)} values: give some of each, dimensions from 0 to {dim - 1}"
        )
    changed = capsules.repeat(len(rows) * len(amounts), 1, 1).unflatten(0, (len(rows), len(amounts)))
    for r, row in enumerate(rows):
        changed[r, :, winner, row] += torch.from_numpy(amounts).to(changed)
    with evaluating(model):
        drawn = model.decoder(
            changed.flatten(0, 1), torch.full((len(rows) * len(amounts),), winner).to(changed.device)
        )
    pictures = _array(drawn).reshape(len(rows), len(amounts), *plain.shape[1:])
    effect = (
        np.abs(pictures - plain[0]).reshape(len(rows), -1, np.prod(plain.shape[1:])).mean(axis=2).max(axis=1)
    )
    if dimensions is None:
        strongest = np.argsort(-effect, kind="stable")[:6]
        rows, pictures, effect = [rows[r] for r in strongest], pictures[strongest], effect[strongest]
    header = [f"{amount:+.2f}".replace("-", "−") if i % 2 == 0 else "" for i, amount in enumerate(amounts)]
    fig = _grid(
        _pixels(pictures.reshape(-1, *plain.shape[1:])),
        len(amounts),
        [*header, *[""] * (len(rows) - 1) * len(amounts)],
        [f"{row}" for row in rows],
        "number of the capsule",
    )
    truth = data.classes[int(data.test.labels[index])]
    told = ", ".join(f"{row} by {strength:.3f}" for row, strength in zip(rows, effect, strict=True))
    return describe(
        fig,
        f"Test image {index} of {data.name} (a {truth}, taken for {data.classes[winner]}) as the decoder draws it when one "
        f"number of the winning capsule is changed by {amounts.min():+.2f} to {amounts.max():+.2f}. Largest mean change of "
        f"a pixel (0 to 1) for each number: {told}.",
    )


def _look(
    model: nn.Module, data: ImageData, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Tensor, np.ndarray]:
    """Return the images in [0, 1], predicted labels, capsules and reconstructions of some test images."""
    if getattr(model, "decoder", None) is None:
        raise ValueError(
            f"{type(model).__name__} has no decoder to draw with: build it with one (decoder=(512, 1024))"
        )
    inputs, targets = data.preprocess.evaluate(
        data.test.images[torch.from_numpy(indices).to(data.test.images.device)]
    )
    with evaluating(model):
        output = model(inputs.to(device_of(model, inputs)))
        return (
            _array(targets), _array(output.lengths.argmax(dim=1)), output.capsules.clone(), _array(output.reconstruction)
        )  # fmt: skip


def _array(values: Images) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _pixels(images: Images) -> np.ndarray:
    """Make images [N, H, W] or [N, C, H, W] uint8 RGBA [N, H, W, 4]."""
    values = _array(images)
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise ValueError(
            f"images must be [N, H, W] or [N, C, H, W] with C = 1 or 3 and N > 0, got {_array(images).shape}"
        )
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("the images hold NaN or infinite values")
        if values.min() < 0 or values.max() > 1:
            low, high = (pick(values, axis=(1, 2, 3), keepdims=True) for pick in (np.min, np.max))
            values = (values - low) / np.maximum(high - low, 1e-12)
        values = np.round(255 * values).astype(np.uint8)
    colour = np.repeat(values, 3, axis=1) if values.shape[1] == 1 else values
    opaque = np.full_like(values[:, :1], 255)
    return np.concatenate([colour, opaque], axis=1).transpose(0, 2, 3, 1)


def _grid(
    pixels: np.ndarray,
    columns: int | None,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    label: str = "",
) -> Figure:
    """Lay RGBA images [N, H, W, 4] out as one picture, transparent between them, with room for the titles."""
    count, height, width = pixels.shape[:3]
    lines = [title.split("\n") for title in titles or [""]]
    if columns is None:
        widest = max(len(line) for title in lines for line in title)
        columns = int(np.clip(WIDTH / max(0.1 * widest, 0.6), 2, 8))
    columns = min(columns, count)
    across = min(WIDTH - (0.8 if row_labels else 0), 1.3 * columns)  # inches
    gap = max(1, round(0.06 * width))
    scale = (columns * (width + gap) - gap) / across  # pixels per inch
    rows = math.ceil(count / columns)
    bands = [
        round(
            scale * 0.2 * max((len(t) for t in lines[r * columns : (r + 1) * columns] if any(t)), default=0)
        )
        for r in range(rows)
    ]
    tops = np.cumsum([band + gap for band in bands]) + height * np.arange(rows) - gap
    canvas = np.zeros((tops[-1] + height, columns * (width + gap) - gap, 4), dtype=np.uint8)
    fig, axes = figure(width=across + (0.8 if row_labels else 0), height=canvas.shape[0] / scale + 0.05)
    fig.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    for i, image in enumerate(pixels):
        top, left = tops[i // columns], (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
        if titles and titles[i]:
            axes.text(
                left + width / 2 - 0.5,
                top - 0.1 * gap - 0.5,
                titles[i],
                ha="center",
                va="bottom",
                fontsize=11,
            )
    axes.imshow(canvas, extent=(-0.5, canvas.shape[1] - 0.5, canvas.shape[0] - 0.5, -0.5))
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks(tops + height / 2 - 0.5 if row_labels else [], row_labels or [])
    axes.set_ylabel(label)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return fig


def _class_ticks(axes: Axes, names: Sequence[str], which: str) -> None:
    """Name every class that there is room for."""
    step = math.ceil(len(names) / 20)
    shown = range(0, len(names), step)
    long = max(len(names[i]) for i in shown) > 2
    if "x" in which:
        axes.set_xticks(shown, [names[i] for i in shown], rotation=90 if long else 0)
    if "y" in which:
        axes.set_yticks(shown, [names[i] for i in shown])


def _tint(share: np.ndarray) -> np.ndarray:
    """Opacity of a coloured cell: never so deep that ink in the page's colour could not be read on it."""
    return 0.08 + 0.42 * share


def _short_number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _sentence(parts: Sequence[str], separator: str) -> str:
    return separator.join(parts) + "."
