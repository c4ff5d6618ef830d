"""What training and evaluation found: learning curves, the confusion matrix, ROC curves and calibration.

Drawn from chapter 4, *A first CapsNet*, on; chapter 15, *How good is it, really?*, asks how far each figure carries.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from capsnb.evaluation import Evaluation, wilson_interval
from capsnb.plots.charts import add_alt, clause, in_words, number, numbers, steady, tell
from capsnb.plots.style import COLOURS, INK, LINES, MARKERS, WIDTH, describe, figure, in_style, name_ticks
from capsnb.training import History
from capsnb.values import finite_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

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


@in_style("seaborn", formulas=False)
def curves(
    histories: History | Mapping[str, History | Sequence[History]],
    metrics: Sequence[str] = ("loss", "test_accuracy"),
    title: str | None = None,
    *,
    ylim: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> Figure:
    """Draw how training went, one panel per metric, one line per model.

    Several runs of one model (seeds) become their mean, in a band from the lowest to the highest run, up to
    the last epoch that all of them have. An axis whose values span more than a factor of 20 is logarithmic.

    Args:
        histories: name -> one `History`, or several of one model with different seeds; or a lone `History`.
        metrics: columns of a history.
        title: what to see.
        ylim: metric -> lowest and highest value of its axis, in the unit that is shown.

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
    counts = {len(seeds) for seeds in runs.values()}
    seeds = f", mean and range of {max(counts)} seeds" if len(counts) == 1 < max(counts) else ""
    sentences = []
    for axis, metric in zip(axes.flat, metrics, strict=False):
        sentences.append(_draw_metric(axis, metric, runs, name_seeds=not seeds))
        axis.set_ylim((ylim or {}).get(metric, axis.get_ylim()))
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    if len(every_run) > 1:
        handles, names = axes.flat[0].get_legend_handles_labels()
        fits = int(WIDTH / (0.6 + 0.09 * max(map(len, names))))
        # A title stands where the legend would.
        loc: Any = "outside lower center" if title else "outside upper center"
        fig.legend(handles, names, loc=loc, ncols=max(fits, 1))
    longest = max(run.records[-1].epoch for run in every_run)
    epochs = f"{longest} epoch{'s' * (longest > 1)}"
    return add_alt(fig, f"Curves over {epochs}{seeds}. {' '.join(sentences)}")


def _draw_metric(axis: Axes, metric: str, runs: Mapping[str, Sequence[History]], *, name_seeds: bool) -> str:
    """Draw one metric of all models; return a sentence."""
    import seaborn
    from matplotlib.ticker import MaxNLocator

    label, unit, factor = _METRICS[metric]
    label = f"{label} / {unit}" if unit else label
    told, extremes = [], []
    for i, (name, seeds) in enumerate(runs.items()):
        values = factor * np.array([*zip(*(run[metric] for run in seeds), strict=False)])  # [epochs, seeds]
        epochs, k = seeds[0]["epoch"][: len(values)], i % len(COLOURS)
        many = f" (mean and range of {len(seeds)} seeds)" if len(seeds) > 1 else ""
        seaborn.lineplot(
            x=np.repeat(epochs, len(seeds)), y=values.ravel(), ax=axis, label=name + many, legend=False,
            errorbar=("pi", 100) if many else None, err_kws={"linewidth": 0}, color=COLOURS[k], linestyle=LINES[k],
            marker=MARKERS[k], markeredgecolor=COLOURS[k], markevery=math.ceil(len(values) / 10),
        )  # fmt: skip
        means = values.mean(axis=1)
        first, last, *ends = numbers([*means[[0, -1]], values[-1].min(), values[-1].max()])
        said = steady(means) or f"{first} to {last}"
        if many and not steady(values):
            said += f", the seeds' last values {' to '.join(dict.fromkeys(ends))}"
        told.append(clause(name + many * name_seeds, said))
        extremes += [values.min(), values.max()]
    if min(extremes) > 0 and max(extremes) > 20 * min(extremes):
        _make_logarithmic(axis, max(extremes) / min(extremes))
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    return tell([in_words(label)], told)


def _make_logarithmic(axis: Axes, span: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 300 else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


@in_style("seaborn", formulas=False)
def confusion_matrix(evaluation: Evaluation) -> Figure:
    """Draw which class was taken for which: rows are the truth, columns the prediction.

    The diagonal is blue, deeper where more of the class was found; mistakes are orange, deeper (by the square
    root of their number) where there are more. Up to 20 classes every count is written, a dot for none; beyond
    that only the colours are shown.

    Args:
        evaluation: from `evaluate`.

    Returns:
        The figure; its title and its text alternative name the accuracy and the commonest confusion.

    >>> confusion_matrix(evaluate(model, data))  # doctest: +SKIP
    """
    import seaborn

    counts, names = np.array(evaluation.confusion), evaluation.classes
    wrong = counts - np.diag(np.diag(counts))
    found = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
    shade = np.diag(found) - np.sqrt(wrong / max(wrong.max(), 1))  # [J, J], mistakes below 0
    counted = len(names) <= 20
    written = np.where(counts, counts.astype(str), "·") if counted else False
    accuracy = f"{_percent(evaluation.accuracy)} of {evaluation.count:,} images right"
    commonest = _commonest(wrong, names)
    fig, axis = figure(f"{accuracy}\n{textwrap.fill(commonest, 52)}", width=5.4, height=5.5)
    seaborn.heatmap(
        shade, vmin=-1, vmax=1, cmap=_orange_to_blue(deepest=0.5 if counted else 1), cbar=False, ax=axis,
        annot=written, fmt="", annot_kws={"color": INK, "fontsize": 12 if len(names) <= 10 else 9},
        square=True, xticklabels=False, yticklabels=False,
    )  # fmt: skip
    # One pixel for each cell in place of one shape, of which a hundred classes have 10,000.
    cells = axis.collections[0]
    axis.imshow(cells.to_rgba(shade), extent=(0, len(names), len(names), 0))
    cells.remove()
    name_ticks(axis.xaxis, names, first=0.5, room=36)
    name_ticks(axis.yaxis, names, first=0.5)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.grid(False)
    axis.spines[:].set_visible(True)
    recall = ", ".join(f"{name}: {_percent(share)}" for name, share in zip(names, found, strict=True))
    return describe(
        fig,
        f"Confusion matrix of {len(names)} classes on {evaluation.dataset}: {accuracy}, {commonest}."
        + (f" Found of each class: {recall}." if counted else ""),
    )


def _commonest(wrong: np.ndarray, names: Sequence[str]) -> str:
    if not wrong.any():
        return "no mistakes"
    pairs = [f"{names[i]} taken for {names[j]}" for i, j in np.argwhere(wrong == wrong.max())]
    more = f"{len(pairs) - 1} other mistakes" if len(pairs) > 2 else "one other mistake"
    tied = f"; {more} as often" if len(pairs) > 1 else ""
    return f"commonest mistake: {pairs[0]} ({wrong.max()}×{tied})"


def _orange_to_blue(deepest: float) -> ListedColormap:
    """Return the colours of -1 (orange) to 1 (blue), clear at 0, where nothing lies between page and ink."""
    from matplotlib.colors import ListedColormap, to_rgba

    scale = np.linspace(-1, 1, 257)
    colours = np.where(scale[:, None] < 0, to_rgba(COLOURS[1]), to_rgba(COLOURS[0]))
    colours[:, 3] = np.where(scale, tint(np.abs(scale), deepest), 0)
    return ListedColormap(colours)


def tint(share: float | np.ndarray, deepest: float = 0.5) -> float | np.ndarray:
    """Return the opacity of a coloured cell for a share in [0, 1]; up to 0.5 the page's ink is read on it.

    >>> round(tint(1.0), 2)
    0.5
    """
    return 0.08 + (finite_number("deepest", deepest, at_least=0, at_most=1) - 0.08) * share


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@in_style(formulas=False)
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
    zoom = finite_number("zoom", zoom, above=0, at_most=1)
    drawn = [curve for curve in evaluation.roc if curve["fpr"]]
    if not drawn:
        raise ValueError(f"no class of {evaluation.dataset!r} has a ROC curve: it holds a single class")
    drawn.sort(key=lambda curve: evaluation.auc[curve["class"]] or 0.0)
    areas = [f"{curve['class']}: {evaluation.auc[curve['class']]:.4f}" for curve in drawn[:3]]
    macro = f"macro AUC {evaluation.macro_auc:.4f}"
    fig, (whole, corner) = figure(macro, columns=2, height=3.5)
    for axis in (whole, corner):
        for curve in drawn[3:]:
            axis.plot(curve["fpr"], curve["tpr"], color=COLOURS[5], linewidth=0.8, linestyle="-")
        for i, (curve, area) in enumerate(zip(drawn[:3], areas, strict=True)):
            style = {"color": COLOURS[i], "linestyle": LINES[i], "zorder": 4 - i / 4}
            axis.plot(curve["fpr"], curve["tpr"], label=area, **style)
        axis.set(xlabel="false positive rate", aspect="equal")
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


@in_style(formulas=False)
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
    ends = np.transpose([wilson_interval(*line) for line in zip(share, count.tolist(), strict=True)])
    error = f"calibration error {number(100 * evaluation.calibration_error)} %"
    fig, (above, below) = figure(error, rows=2, height=4.8, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
    bars = {"color": COLOURS[0], "marker": "o", "linestyle": "none", "capsize": 3, "elinewidth": 1}
    above.errorbar(score, share, np.abs(ends - share), **bars)
    above.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), ylabel="share that is right")
    middles = [(line["low"] + line["high"]) / 2 for line in bins]
    below.bar_label(below.bar(middles, count, width=0.09, color=COLOURS[5]), fmt="{:,.0f}", padding=2)
    below.set(xlabel="score of the winner", ylabel="images", yticks=[], ylim=(0, 1.4 * count.max()))
    lines = zip(score, share, count, strict=True)
    return describe(
        fig,
        f"Mean score of the winner and share that is right, in bins of a tenth, on {evaluation.count:,} "
        f"{evaluation.split} images of {evaluation.dataset}: "
        f"{'; '.join(f'{s:.2f}: {100 * a:.1f} % of {n:,}' for s, a, n in lines)}. Expected {error}.",
    )
