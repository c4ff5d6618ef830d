"""How routing by agreement shares input capsules among outputs; drawn in chapter 3, *Routing by agreement*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from capsnb.plots.images import Images, to_array
from capsnb.plots.style import COLOURS, INK, describe, figure, in_style, name_ticks
from capsnb.values import whole_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_style(formulas=False)
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

    >>> couplings(np.full((3, 1, 8, 4), 0.25)).alt[:48]
    'Couplings of 8 input capsules to 4 output capsul'
    """
    rows = whole_number("rows", rows)
    shares = _check_couplings(to_array(couplings), example)  # [R, I, J]
    iterations, inputs, outputs = shares.shape
    names = [str(label) for label in (range(outputs) if labels is None else labels)]
    if len(names) != outputs:
        raise ValueError(f"{len(names)} labels for {outputs} output capsules: give one each")
    mean, largest = shares.mean(axis=1), shares.max(axis=2)  # [R, J], [R, I]
    winner = int(mean[-1].argmax())
    shown = [int(r) for r in np.linspace(0, iterations - 1, min(iterations, 3)).round()]
    fig, axes = figure(
        rows=2, columns=len(shown), height=5, sharex=True, sharey="row", squeeze=False, height_ratios=(2, 3)
    )
    for axis, r in zip(axes[0], shown, strict=True):
        axis.set_title(f"iteration {r + 1}")
        _draw_means(axis, mean[r], winner)
    order = np.lexsort((-largest[-1], shares[-1].argmax(axis=1)))
    order = order[np.unique(np.linspace(0, inputs - 1, min(rows, inputs)).round().astype(int))]
    _draw_inputs(axes[1], shares[shown][:, order], names)
    axes[0, 0].set_ylabel("mean coupling")
    axes[1, 0].set_ylabel("input capsules")
    fig.supxlabel("output capsule", fontsize=12)
    first, last = ((largest[r] > 0.5).mean() for r in (0, -1))
    return describe(
        fig,
        f"Couplings of {inputs} input capsules to {outputs} output capsules in {iterations} routing "
        f"iterations. On average output {names[winner]} gets {mean[0, winner]:.4f} of an input capsule in the "
        f"first and {mean[-1, winner]:.4f}, the largest share, in the last (equal shares are "
        f"{1 / outputs:.4f}). Input capsules that give more than half of themselves to one output: "
        f"{first:.0%} in the first iteration, {last:.0%} in the last, where the largest single coupling is "
        f"{largest[-1].max():.2f}.",
    )


def _check_couplings(couplings: np.ndarray, example: int) -> np.ndarray:
    """Return the couplings [R, I, J] of one example of [R, B, I, J]."""
    if couplings.ndim != 4 or 0 in couplings.shape:
        raise ValueError(f"couplings must be [R, B, I, J], got shape {couplings.shape}")
    example = whole_number("example", example, at_least=0, at_most=couplings.shape[1] - 1)
    if not np.allclose(couplings.sum(axis=-1), 1, atol=1e-2):
        raise ValueError(
            "couplings must sum to one over J, the last axis: was the softmax over another axis?"
        )
    return couplings[:, example].astype(float)


def _draw_means(axis: Axes, mean: np.ndarray, winner: int) -> None:
    """Draw what each output capsule gets, above or below the line of equal shares."""
    equal = 1 / len(mean)
    bars = axis.bar(range(len(mean)), mean - equal, bottom=equal, width=0.75, color=COLOURS[5])
    bars[winner].set_color(COLOURS[1])
    axis.axhline(equal, color=INK, linewidth=1, linestyle="-")


def _draw_inputs(axes: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> None:
    """Draw the couplings [panels, inputs, J] as pictures with a pixel each, all with one colour bar."""
    from matplotlib import colormaps

    few_colours = colormaps["cividis"].resampled(32)  # each colour of the bar is a shape in the page
    lowest = shares.min() if np.ptp(shares) > 1e-6 else 0
    for axis, panel in zip(axes, shares, strict=True):
        scale = {"cmap": few_colours, "vmin": lowest, "vmax": shares.max()}
        picture = axis.imshow(panel, aspect="auto", extent=(-0.5, len(names) - 0.5, 1, 0), **scale)
        axis.set_yticks([])
        axis.grid(False)
        axis.tick_params(labelsize=10)
        name_ticks(axis.xaxis, names, room=48 // len(axes))
    bar = axes[0].figure.colorbar(picture, ax=axes.tolist(), label="coupling", aspect=15, pad=0.02)
    bar.solids.set_edgecolor("face")  # or the page shows through between the colours
