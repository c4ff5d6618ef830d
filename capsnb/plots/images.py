"""Images as models see, mistake and draw them: grids, mistakes, reconstructions, perturbations.

Used from chapter 1, *Why capsules?*, on; chapter 4, *A first CapsNet*, looks at what a decoder draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from capsnb.data import ImageData
from capsnb.evaluation import Evaluation, device_of, evaluating
from capsnb.plots.style import WIDTH, describe, figure, in_style
from capsnb.values import finite_numbers, whole_number, whole_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = Tensor | np.ndarray


@in_style(formulas=False)
def image_grid(
    images: Images,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    rows: Sequence[str] = (),
    alt: str | None = None,
) -> Figure:
    """Show images side by side, each with its own pixels.

    Args:
        images: [N, H, W] or [N, C, H, W] with C = 1 or 3; uint8, or floats in [0, 1]. Floats beyond that
            (standardised images) are stretched from each image's darkest to its brightest value.
        titles: N texts, of one line or more, one above each image.
        columns: images in a row; None chooses what fits the titles.
        rows: names of all rows, one before each.
        alt: said in place of the titles: what the images show.

    Returns:
        The figure; its text alternative counts the images and reads titles and rows.

    Raises:
        ValueError: no image, another shape, values that are not finite, or another number of titles or rows.

    >>> image_grid(torch.zeros(3, 1, 28, 28), titles=["a", "b", "c"]).alt
    '3 images of 28 × 28 pixels: a, b, c.'
    """
    pixels = _pixels(images)
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"{len(titles)} titles for {len(pixels)} images: give one each")
    columns = None if columns is None else whole_number("columns", columns)
    if rows and len(rows) != math.ceil(len(pixels) / (columns or len(pixels))):
        raise ValueError(
            f"{len(rows)} names of rows for {len(pixels)} images with columns={columns}: give one each"
        )
    named = [" ".join(title.split()) for title in (*(titles or ()), *rows) if title]
    listed = ": " + ", ".join(named) if named else ""
    many = "s" * (len(pixels) > 1)
    counted = f"{len(pixels)} image{many} of {pixels.shape[2]} × {pixels.shape[1]} pixels{listed}."
    return describe(
        _grid(pixels, columns or (len(pixels) if rows else None), titles or (), rows), alt or counted
    )


@in_style(formulas=False)
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
    count = whole_number("count", count)
    shown = evaluation.mistakes[:count]
    if not shown:
        fig, axis = figure(f"no mistakes in {evaluation.count:,} images", height=1)
        axis.axis("off")
        return describe(fig, f"There is nothing to show: no mistakes in {evaluation.count:,} images.")
    _, targets = data.preprocess.evaluate(split.subset([mistake["index"] for mistake in shown]).images)
    names = evaluation.classes
    pairs = [(f"{names[m['truth']]} → {names[m['prediction']]}", f"{m['confidence']:.2f}") for m in shown]
    listed = ", ".join(f"{pair} ({score})" for pair, score in pairs)
    return describe(
        _grid(_pixels(targets), None, ["\n".join(pair) for pair in pairs]),
        f"The {len(shown)} most confident of {len(evaluation.mistakes)} mistakes in {evaluation.count:,} "
        f"{evaluation.split} images of {evaluation.dataset}, truth → prediction (winning score): {listed}.",
    )


@in_style(formulas=False)
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
    count = whole_number("count", count)
    labels = to_array(data.test.labels)
    member = labels[:, None] == np.unique(labels)  # [N, classes]
    position = member.cumsum(axis=0)[member]  # of each image among those of its class
    chosen = np.lexsort((labels, position))[:count]
    targets, winners, _, drawn = _reconstruct(model, data, chosen)
    errors = ((drawn - targets) ** 2).sum(axis=(1, 2, 3))
    right = winners == labels[chosen]
    pairs = zip(labels[chosen], winners, right, strict=True)
    names = [data.classes[i] + ("" if same else f" → {data.classes[j]}") for i, j, same in pairs]
    pixels = _pixels(np.concatenate([targets, drawn]))
    return describe(
        _grid(pixels, len(chosen), names, ("image", "decoder")),
        f"{len(chosen)} test images of {data.name} ({', '.join(names)}) above the decoder's pictures of "
        f"their winning capsules; {right.sum()} are recognised. Squared error per image {errors.min():.1f} "
        f"to {errors.max():.1f}, mean {errors.mean():.1f}.",
    )


@in_style(formulas=False)
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
    index = whole_number("index", index, at_least=0, at_most=len(data.test) - 1)
    _, winners, capsules, plain = _reconstruct(model, data, np.array([index]))
    winner, size = int(winners[0]), capsules.shape[-1]
    chosen = range(size) if dimensions is None else dimensions
    rows = whole_numbers("dimensions", chosen, at_least=0, at_most=size - 1)
    steps = np.linspace(-0.25, 0.25, 11) if values is None else values
    added = torch.tensor(finite_numbers("values", steps), dtype=capsules.dtype)
    if not rows or not len(added):
        raise ValueError(f"dimensions and values must be at least one each, got {len(rows)} and {len(added)}")
    drawn = _change(model, capsules, winner, rows, added)
    effect = np.abs(drawn - plain).mean(axis=(2, 3, 4)).max(axis=1)
    shown = np.argsort(-effect, kind="stable")[:6] if dimensions is None else np.arange(len(rows))
    last = len(added) - 1
    header = [_signed(added[c].item()) if c in (0, last / 2, last) else "" for c in range(len(added))]
    pixels = _pixels(drawn[shown].reshape(-1, *plain.shape[1:]))
    truth, taken = data.classes[int(data.test.labels[index])], data.classes[winner]
    effects = ", ".join(f"number {rows[r]} by {effect[r]:.3f}" for r in shown)
    return describe(
        _grid(pixels, len(added), header, [str(rows[r]) for r in shown], "number changed"),
        f"Test image {index} of {data.name} (truth {truth}, taken for {taken}) as the decoder draws it when "
        f"{added.min():+.2f} to {added.max():+.2f} is added to one number of the winning capsule. Largest "
        f"mean change of a pixel (0 to 1): {effects}.",
    )


def _change(
    model: nn.Module, capsules: Tensor, winner: int, rows: Sequence[int], added: Tensor
) -> np.ndarray:
    """Decode the capsules [1, J, E] with each amount added to each of some numbers: [rows, amounts, C, H, W]."""
    changed = capsules.repeat(len(rows), len(added), 1, 1)  # [rows, amounts, J, E]
    for r, row in enumerate(rows):
        changed[r, :, winner, row] += added.to(changed)
    flat = changed.flatten(0, 1)
    with evaluating(model):
        drawn = _decoder(model)(flat, torch.full((len(flat),), winner, device=flat.device))
    return to_array(drawn.unflatten(0, (len(rows), len(added))))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0"


def _decoder(model: nn.Module) -> nn.Module:
    decoder = getattr(model, "decoder", None)
    if decoder is None:
        raise ValueError(f"{type(model).__name__} has no decoder: build it with decoder=(512, 1024)")
    return decoder


def _reconstruct(
    model: nn.Module, data: ImageData, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Tensor, np.ndarray]:
    """Return the images in [0, 1], predicted labels, capsules and reconstructions of some test images."""
    _decoder(model)
    inputs, targets = data.preprocess.evaluate(data.test.subset(torch.from_numpy(indices)).images)
    with evaluating(model):
        output = model(inputs.to(device_of(model, inputs)))
    winners = to_array(output.lengths.argmax(dim=1))
    return to_array(targets), winners, output.capsules.clone(), to_array(output.reconstruction)


def to_array(values: Images) -> np.ndarray:
    """Return a tensor's values, or an array, as a NumPy array on the CPU."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _pixels(images: Images) -> np.ndarray:
    """Turn images [N, H, W] or [N, C, H, W] into uint8 RGBA [N, H, W, 4]."""
    given = to_array(images)
    values = given[:, None] if given.ndim == 3 else given
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"images must be [N, H, W] or [N, C, H, W] with C = 1 or 3, got shape {given.shape}")
    if values.dtype != np.uint8:
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the images hold values that are not finite: nothing can be shown")
        if values.min() < 0 or values.max() > 1:
            darkest = values.min(axis=(1, 2, 3), keepdims=True)
            brightest = values.max(axis=(1, 2, 3), keepdims=True)
            values = (values - darkest) / np.maximum(brightest - darkest, 1e-12)
        values = np.round(255 * values).astype(np.uint8)
    colour = values.repeat(3 // values.shape[1], axis=1).transpose(0, 2, 3, 1)
    return np.pad(colour, [(0, 0)] * 3 + [(0, 1)], constant_values=255)


def _grid(
    pixels: np.ndarray,
    columns: int | None,
    titles: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    label: str = "",
) -> Figure:
    """Lay RGBA images [N, H, W, 4] out as one picture, transparent between them, the first ones under titles."""
    count, height, width = pixels.shape[:3]
    lines = [title.split("\n") for title in titles]
    lines += [[""]] * (count - len(lines))
    if columns is None:
        widest = max(len(line) for title in lines for line in title)
        fits = int(np.clip(WIDTH / max(0.1 * widest, 0.6), 1, 10))
        columns = math.ceil(count / math.ceil(count / fits))  # rows of equal length
    columns = min(columns, count)
    margin = 0.1 + 0.09 * max(map(len, row_labels)) + (0.3 if label else 0) if row_labels else 0  # inches
    across = min(WIDTH - margin, 1.3 * columns)
    gap = max(1, round(0.06 * width))
    scale = (columns * (width + gap) - gap) / across  # pixels per inch
    heights = [len(line) if any(line) else 0 for line in lines]
    bands = [round(scale * 0.2 * max(heights[i : i + columns])) + gap for i in range(0, count, columns)]
    tops = np.cumsum(bands) + height * np.arange(len(bands)) - gap
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
