import base64
import html
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from capsnb import plots
from capsnb.data import ImageData, Preprocess, Split
from capsnb.evaluation import Evaluation, evaluate, evaluation_of_scores, wilson_interval
from capsnb.models import CapsNet
from capsnb.plots import embed
from capsnb.training import Epoch, History, TrainConfig

LIGHT, DARK = ("#ffffff", "#222832"), ("#14181e", "#ced6dd")  # page and ink of the book's two themes


def history(seed: int, epochs: int = 4, loss: float = 0.8) -> History:
    records = [
        Epoch(e, loss / e, loss / e, 40.0 / e, 0.9, 1 - 0.2 / e - seed / 100, 1e-3, 2.0, 2**27)
        for e in range(1, epochs + 1)
    ]
    return History("CapsNet", "noise", 10, "cpu", TrainConfig(seed=seed), records)


@pytest.fixture(scope="module")
def data() -> ImageData:
    pixels = torch.randint(0, 256, (30, 1, 20, 20), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    split = Split(pixels, torch.arange(30) % 3)
    return ImageData("noise", ("ant", "bee", "cat"), split, split, Preprocess(pad=0))


@pytest.fixture(scope="module")
def model() -> CapsNet:
    torch.manual_seed(0)
    return CapsNet((1, 20, 20), 3, channels=4, capsule_types=1, capsule_dim=4, class_dim=8, decoder=(8,))


@pytest.fixture(scope="module")
def result(model: CapsNet, data: ImageData) -> Evaluation:
    return evaluate(model, data)


@pytest.fixture(scope="module")
def draw(model: CapsNet, data: ImageData, result: Evaluation) -> dict[str, Callable[[], Figure]]:
    couplings = torch.randn(3, 2, 40, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)

    plots.use_style()  # as a chapter does, for what it draws itself

    def own() -> Figure:
        fig, axes = plots.figure("A <chapter's> own & other")
        axes.plot([0, 1], [0, 1], label=r"$\hat u_{ij}$")
        axes.axhline(0.5, color=plots.INK)
        axes.legend()
        return plots.describe(fig, 'A "line" from 0 to 1 & back, x < 2.')

    return {
        "own": own,
        "curves": lambda: plots.curves({"a": [history(0), history(1)], "b": history(2, 3)}),
        "confusion": lambda: plots.confusion_matrix(result),
        "roc": lambda: plots.roc(result),
        "reliability": lambda: plots.reliability(result),
        "grid": lambda: plots.image_grid(data.test.images[:5], titles=list("vwxyz")),
        "mistakes": lambda: plots.mistakes(result, data),
        "couplings": lambda: plots.couplings(couplings, labels=data.classes, example=1),
        "reconstructions": lambda: plots.reconstructions(model, data, count=4),
        "perturbations": lambda: plots.perturbations(model, data, index=2),
    }


@pytest.fixture(scope="module")
def pages(draw: dict[str, Callable[[], Figure]]) -> dict[str, tuple[Figure, str]]:
    figures = {name: make() for name, make in draw.items()}
    return {name: (fig, plots.to_html(fig)) for name, fig in figures.items()}


def pictures(page: str) -> list[np.ndarray]:
    """The raster images inside an SVG, RGBA."""
    found = re.findall(r"data:image/png;base64,([^\"]+)", page)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(code)))) for code in found]


def test_every_figure_is_one_labelled_svg(pages: dict[str, tuple[Figure, str]]) -> None:
    for fig, page in pages.values():
        tree = ElementTree.fromstring(page)
        (svg,) = tree
        assert (tree.tag, tree.get("class")) == ("figure", "capsnb-figure")
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert (svg.get("role"), svg.get("aria-label")) == ("img", fig.alt)
        assert "max-width:100%" in svg.get("style") and svg.get("viewBox")
        assert len(fig.alt) > 15
        assert not re.search(
            r"<\?xml|DOCTYPE|<metadata|<style|<script|https?://(?!www\.w3\.org/2000/svg)", page
        )


def test_ink_is_the_pages_own_and_text_is_text(pages: dict[str, tuple[Figure, str]]) -> None:
    for name, (_, page) in pages.items():
        assert plots.INK not in page and "#000000" not in page
        assert "DejaVu" not in page
        if name not in ("grid", "mistakes"):
            assert "currentColor" in page
        for written in re.findall(r"<text [^>]*>", page):
            assert 'fill="currentColor"' in written and 'font-family="system-ui' in written
    assert "chapter's" in pages["own"][1] and "predicted class" in pages["confusion"][1]


def test_the_same_figure_gives_the_same_bytes(
    draw: dict[str, Callable[[], Figure]], pages: dict[str, tuple[Figure, str]]
) -> None:
    for name, (fig, page) in pages.items():
        assert plots.to_html(fig) == page, f"{name} shown again"
        assert plots.to_html(draw[name]()) == page, f"{name} drawn again"


def test_ids_never_clash_on_a_page(pages: dict[str, tuple[Figure, str]]) -> None:
    every = []
    for _, page in pages.values():
        ids = re.findall(r' id="([^"]+)"', page)
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) == set(ids)
        every += ids
    assert len(every) == len(set(every)) > 10


def test_rasters_keep_their_own_few_pixels(pages: dict[str, tuple[Figure, str]]) -> None:
    assert [picture.shape for picture in pictures(pages["couplings"][1])] == [(40, 3, 4)] * 3
    assert [picture.shape for picture in pictures(pages["confusion"][1])] == [(3, 3, 4)]
    assert 'image-rendering="pixelated"' in pages["confusion"][1]
    assert max(len(page) for _, page in pages.values()) < 60_000


def luminance(rgb: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [LIGHT[0], DARK[0]])
def test_line_colours_stand_out_on_both_pages(page: str) -> None:
    assert all(contrast(to_rgb(colour), to_rgb(page)) >= 3 for colour in plots.COLOURS)
    assert len(plots.COLOURS) == len(set(map(str, plots.LINES))) == len(set(plots.MARKERS))


@pytest.mark.parametrize(("page", "ink"), [LIGHT, DARK])
@given(share=st.floats(0, 1))
def test_counts_can_be_read_on_every_cell(page: str, ink: str, share: float) -> None:
    for colour in plots.COLOURS[:2]:
        depth = plots.tint(share)
        cell = tuple(depth * a + (1 - depth) * b for a, b in zip(to_rgb(colour), to_rgb(page), strict=True))
        assert contrast(cell, to_rgb(ink)) >= 4.5


def test_a_figure_needs_words() -> None:
    fig, _ = plots.figure()
    with pytest.raises(ValueError, match="text alternative is empty"):
        plots.describe(fig, " \n")
    with pytest.warns(UserWarning, match=r"capsnb\.plots\.describe"):
        plots.to_html(fig)
    assert plots.describe(fig, "two\n  words") is fig
    assert plots.describe(fig, "two\n  words").alt == "two words"


def test_colours_of_the_data_are_left_alone() -> None:
    fig, axes = plots.figure()
    axes.plot([0, 1], color="#123456")
    assert "#123456" in plots.to_html(plots.describe(fig, "A line."))


def test_curves_tell_means_and_ranges() -> None:
    fig = plots.curves({"a": [history(0), history(1)], "b": history(2, 3)}, ("loss", "test_accuracy"))
    assert fig.alt == (
        "Curves over 4 epochs. Training loss: a (mean and range of 2 seeds): 0.8 to 0.2, the seeds' last values 0.2; "
        "b: 0.800 to 0.267. Test accuracy in %: a (mean and range of 2 seeds): 79.5 to 94.5, the seeds' last values "
        "94.0 to 95.0; b: 78.0 to 91.3."
    )
    left, right = fig.axes
    assert (left.get_xlabel(), right.get_ylabel()) == ("epoch", "test accuracy / %")
    np.testing.assert_allclose(right.lines[0].get_ydata(), [79.5, 89.5, 100 * (1 - 0.2 / 3) - 0.5, 94.5])
    (band,) = right.collections  # "b" has a single run, so no band
    ends = {epoch: [] for epoch in range(1, 5)}
    for epoch, height in band.get_paths()[0].vertices:
        ends[epoch].append(height)
    for epoch, heights in ends.items():  # the lowest and the highest seed, which are 1 % apart
        highest = 100 - 20 / epoch
        assert (min(heights), max(heights)) == (pytest.approx(highest - 1), pytest.approx(highest))
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["a (mean and range of 2 seeds)", "b"]
    assert len({(line.get_linestyle(), line.get_marker()) for line in left.lines}) == 2


def test_curves_tell_once_what_holds_for_all() -> None:
    idle = History(
        "CapsNet", "noise", 10, "cpu", TrainConfig(), [replace(history(0).records[0], epoch=1)] * 2
    )
    runs = {"learns": [history(0), history(1)], "idle": [idle, idle]}
    fig = plots.curves(runs, ("loss", "test_accuracy"), "Two of four learn")
    assert fig.alt == (
        "Two of four learn. Curves over 4 epochs, mean and range of 2 seeds. Training loss: learns: 0.8 to 0.2, the "
        "seeds' last values 0.2; idle: 0.8 throughout. Test accuracy in %: learns: 79.5 to 94.5, the seeds' last "
        "values 94.0 to 95.0; idle: 80 throughout."
    )
    assert plots.curves(history(0, 1), ("loss",)).alt == "Curves over 1 epoch. Training loss: CapsNet: 0.8."


def test_curves_stop_where_a_seed_stops_and_wide_ranges_are_logarithmic() -> None:
    fig = plots.curves({"a": [history(0, 5), history(1, 3)]}, ("loss",))
    assert len(fig.axes[0].lines[0].get_ydata()) == 3
    assert fig.axes[0].get_yscale() == "linear"
    assert plots.curves(history(0, 30), ("loss",)).axes[0].get_yscale() == "log"


def test_curves_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match=r"\['accuracy'\]: choose from loss"):
        plots.curves({"a": history(0)}, ("accuracy",))
    for nothing in ({}, {"a": []}, {"a": history(0, 0)}):
        with pytest.raises(ValueError, match="a finished epoch"):
            plots.curves(nothing)


def test_confusion_matrix_writes_every_count_and_the_commonest_mistake() -> None:
    truth = [0] * 5 + [1] * 4 + [2] * 3
    guess = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
    result = evaluation_of_scores(truth, np.eye(3)[guess], ("ant", "bee", "cat"))
    fig = plots.confusion_matrix(result)
    assert "66.7 % of 12 images right, commonest mistake: bee taken for cat (3×)" in fig.alt
    assert "ant: 80.0 %, bee: 25.0 %, cat: 100.0 %" in fig.alt
    cells = {t.get_position(): t.get_text() for t in fig.axes[0].texts}
    page = plots.to_html(fig)
    (picture,) = pictures(page)
    assert fig.axes[0].images[0].get_extent() == [0, 3, 3, 0]  # the pixels are where the counts are
    for (i, j), count in np.ndenumerate(result.confusion):
        assert cells[j + 0.5, i + 0.5] == (str(count) if count else "·")
        assert f">{cells[j + 0.5, i + 0.5]}</text>" in page
        *colour, opacity = picture[i, j] / 255
        assert (opacity > 0) == (count > 0)
        if count:
            np.testing.assert_allclose(colour, to_rgb(plots.COLOURS[0 if i == j else 1]), atol=0.005)
        for ground, ink in LIGHT, DARK:
            seen = opacity * np.array(colour) + (1 - opacity) * np.array(to_rgb(ground))
            assert contrast(tuple(seen), to_rgb(ink)) >= 4.5
    assert picture[0, 0, 3] < picture[2, 2, 3] and picture[0, 1, 3] < picture[1, 2, 3]  # deeper: more
    tied = plots.confusion_matrix(evaluation_of_scores([0, 1], [[0, 1], [1, 0]], ("a", "b")))
    assert "a taken for b (1×; one other mistake as often)" in tied.alt
    thrice = plots.confusion_matrix(
        evaluation_of_scores(range(3), np.roll(np.eye(3), 1, axis=1), list("abc"))
    )
    assert "a taken for b (1×; 2 other mistakes as often)" in thrice.alt
    assert "no mistakes" in plots.confusion_matrix(evaluation_of_scores([0, 1], np.eye(2), ("a", "b"))).alt


def test_a_hundred_classes_are_drawn_without_counts() -> None:
    names = [f"class{i}" for i in range(100)]
    result = evaluation_of_scores(range(100), np.eye(100), names)
    fig = plots.confusion_matrix(result)
    axes = fig.axes[0]
    assert not axes.texts and len(axes.get_xticks()) == 20
    page = plots.to_html(fig)
    (picture,) = pictures(page)
    assert picture.shape == (100, 100, 4) and len(page) < 30_000
    np.testing.assert_array_equal(picture[..., 3], 255 * np.eye(100))
    plots.roc(result)


@pytest.mark.parametrize(
    "names", [["ant", "bee", "cat"], list(map(str, range(10, 30))), [f"automobile{i}" for i in range(10)]]
)
def test_names_of_classes_do_not_overlap(names: list[str]) -> None:
    confused = np.roll(np.eye(len(names)), 1, axis=1)  # all mistakes are as frequent: the longest title
    matrix = plots.confusion_matrix(evaluation_of_scores(range(len(names)), confused, names))
    shares = plots.couplings(np.full((3, 1, 8, len(names)), 1 / len(names)), names)
    for fig, axes in ((matrix, matrix.axes[0]), (shares, shares.axes[3])):
        fig.draw_without_rendering()
        labels = axes.get_xticklabels()
        assert [label.get_text() for label in labels] == names[:: round(len(names) / len(labels))]
        boxes = [label.get_window_extent().padded(-0.5) for label in labels]  # with the space above letters
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    title = matrix._suptitle.get_window_extent()
    assert (
        " often)" in matrix.get_suptitle().replace("\n", " ")
        and matrix.bbox.x0 <= title.x0 <= title.x1 <= matrix.bbox.x1
    )


def test_seaborn_leaves_matplotlib_as_it_was(monkeypatch: pytest.MonkeyPatch, result: Evaluation) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "seaborn"]:
        monkeypatch.delitem(sys.modules, name)
    plt.close("all")
    with matplotlib.rc_context({"axes.labelcolor": "red", "lines.linewidth": 7}):
        before, defaults = dict(matplotlib.rcParams), dict(matplotlib.rcParamsDefault)
        plots.confusion_matrix(result)
        plots.curves({"a": [history(0), history(1)]})
        assert dict(matplotlib.rcParams) == before and dict(matplotlib.rcParamsDefault) == defaults
        import seaborn

        seaborn.reset_orig()
        assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_chapters_find_every_name_that_they_use() -> None:
    book = Path(__file__).resolve().parent.parent / "book"
    used = {name for page in book.glob("*.ipynb") for name in re.findall(r"\bplots\.(\w+)", page.read_text())}
    assert len(used) > 15 and used <= set(plots.__all__)


def test_roc_names_the_three_worst() -> None:
    random = np.random.default_rng(0)
    truth = np.arange(200) % 5
    scores = np.eye(5)[truth] * [4, 0.2, 3, 0.4, 0.6] + random.normal(0, 1, (200, 5))
    result = evaluation_of_scores(truth, scores, list("abcde"))
    fig = plots.roc(result)
    names = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert names == [f"{c}: {result.auc[c]:.4f}" for c in sorted("bde", key=result.auc.get)]
    assert f"macro AUC {result.macro_auc:.4f}" in fig.alt and all(name in fig.alt for name in names)
    assert fig.axes[1].get_xlim()[1] == pytest.approx(0.102)
    with pytest.raises(ValueError, match=r"zoom must be in \(0, 1\], got 0"):
        plots.roc(result, zoom=0)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="single class"):
        plots.roc(evaluation_of_scores([0, 0], [[1, 0], [1, 0]], ("a", "b")))


def test_reliability_shows_every_bin_and_how_sure_it_is() -> None:
    scores = [[0.95, 0]] * 8 + [[0.85, 0]] * 2 + [[0.55, 0]] * 4
    result = evaluation_of_scores([0] * 8 + [0, 1] + [1] * 4, scores, ("a", "b"))
    fig = plots.reliability(result)
    assert "0.55: 0.0 % of 4; 0.85: 50.0 % of 2; 0.95: 100.0 % of 8" in fig.alt
    assert f"error {100 * (4 * 0.55 + 2 * 0.35 + 8 * 0.05) / 14:.1f} %" in fig.alt
    above, below = fig.axes
    diagonal, points = above.lines[0], above.containers[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(points.lines[0].get_xydata(), [[0.55, 0], [0.85, 0.5], [0.95, 1]])
    bars = np.array([line[:, 1] for line in points.lines[2][0].get_segments()])
    np.testing.assert_allclose(bars, [wilson_interval(0, 4), wilson_interval(0.5, 2), wilson_interval(1, 8)])
    assert [bar.get_height() for bar in below.patches] == [4, 2, 8]
    assert [text.get_text() for text in below.texts] == ["4", "2", "8"]


def test_reliability_needs_scores_that_promise_something() -> None:
    with pytest.raises(ValueError, match=r"'scores' has no calibration: its scores are not in \[0, 1\]"):
        plots.reliability(evaluation_of_scores([0, 1], [[3, 0], [0, 2]], ("a", "b")))


@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 7), st.sampled_from([1, 3]), st.integers(2, 9), st.integers(2, 9)),
    columns=st.none() | st.integers(1, 8),
    titled=st.booleans(),
    seed=st.integers(0, 9),
)
def test_grids_hold_every_pixel(shape: tuple, columns: int | None, titled: bool, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    titles = [f"t{i}" for i in range(len(images))] if titled else None
    fig = plots.image_grid(images, titles, columns)
    (canvas,) = pictures(plots.to_html(fig))
    opaque = canvas[..., 3] == 255
    assert opaque.sum() == shape[0] * shape[2] * shape[3]
    tops = np.flatnonzero(np.diff(np.r_[0, opaque.any(axis=1)]) == 1)
    lefts = np.flatnonzero(np.diff(np.r_[0, opaque.any(axis=0)]) == 1)
    places = [(top, left) for top in tops for left in lefts][: len(images)]
    for (top, left), image in zip(places, images, strict=True):
        shown = canvas[top : top + shape[2], left : left + shape[3], :3]
        np.testing.assert_array_equal(shown, np.broadcast_to(image.transpose(1, 2, 0), shown.shape))
    assert fig.alt.startswith(f"{shape[0]} image{'s' * (shape[0] > 1)} of {shape[3]} × {shape[2]} pixels")


def test_floats_are_shown_from_black_to_white() -> None:
    unit = torch.tensor([0.0, 0.5, 1.0, 1.0]).view(1, 2, 2)
    for images in (unit, 6 * unit - 3):  # in [0, 1] as they are; beyond it stretched
        (canvas,) = pictures(plots.to_html(plots.image_grid(images)))
        assert canvas[..., 0].tolist() == [[0, 128], [255, 255]]
    (dim,) = pictures(plots.to_html(plots.image_grid(unit / 5)))
    assert dim[..., 0].max() == 51


@pytest.mark.parametrize("images", [torch.zeros(2, 2, 4, 4), torch.zeros(4, 4), torch.zeros(0, 4, 4)])
def test_grids_refuse_other_shapes(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be \[N, H, W\]"):
        plots.image_grid(images)


def test_grids_refuse_other_values() -> None:
    with pytest.raises(ValueError, match="not finite"):
        plots.image_grid(torch.full((1, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="1 titles for 2 images"):
        plots.image_grid(torch.zeros(2, 4, 4), ["a"])
    with pytest.raises(ValueError, match="columns must be 1 or more, got 0"):
        plots.image_grid(torch.zeros(2, 4, 4), columns=0)


def test_mistakes_show_the_right_images(result: Evaluation, data: ImageData) -> None:
    assert len(result.mistakes) >= 3
    fig = plots.mistakes(result, data, count=3)
    first = result.mistakes[0]
    told = f"{data.classes[first['truth']]} → {data.classes[first['prediction']]} ({first['confidence']:.2f})"
    assert f"The 3 most confident of {len(result.mistakes)} mistakes in 30 test images of noise" in fig.alt
    assert f": {told}, " in fig.alt
    (canvas,) = pictures(plots.to_html(fig))
    top = np.flatnonzero(canvas[..., 3].any(axis=1))[0]
    np.testing.assert_array_equal(canvas[top : top + 20, :20, 0], data.test.images[first["index"], 0])


def test_mistakes_need_the_evaluated_data(result: Evaluation, data: ImageData) -> None:
    with pytest.raises(ValueError, match="30 images of 'other'"):
        plots.mistakes(replace(result, dataset="other"), data)
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        plots.mistakes(result, data, count=0)
    assert "no mistakes in 30 images" in plots.mistakes(replace(result, mistakes=[]), data).alt


def test_couplings_say_who_wins() -> None:
    couplings = torch.full((2, 2, 10, 4), 0.25)
    couplings[1, 1] = torch.tensor([0.1, 0.2, 0.6, 0.1])
    fig = plots.couplings(couplings, labels=list("abcd"), example=1)
    assert "On average output c gets 0.2500 of an input capsule in the first and 0.6000" in fig.alt
    assert "0% in the first iteration, 100% in the last" in fig.alt
    assert [axes.get_title() for axes in fig.axes[:2]] == ["iteration 1", "iteration 2"]
    shares = [bar.get_y() + bar.get_height() for bar in fig.axes[1].patches]
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.6, 0.1], atol=1e-6)
    five = plots.couplings(torch.full((5, 1, 10, 4), 0.25))
    assert [axes.get_title() for axes in five.axes[:3]] == ["iteration 1", "iteration 3", "iteration 5"]


def test_couplings_over_the_wrong_axis_are_found() -> None:
    with pytest.raises(ValueError, match="sum to one over J"):
        plots.couplings(torch.randn(3, 1, 10, 4).softmax(dim=2))
    with pytest.raises(ValueError, match=r"\[R, B, I, J\]"):
        plots.couplings(torch.full((10, 4), 0.25))
    with pytest.raises(ValueError, match="example must be 0 or less, got 1"):
        plots.couplings(torch.full((3, 1, 10, 4), 0.25), example=1)
    with pytest.raises(ValueError, match="3 labels for 4 output capsules"):
        plots.couplings(torch.full((3, 1, 10, 4), 0.25), labels=list("abc"))


def drawn_by(model: CapsNet, data: ImageData, indices: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and what the decoder draws from the winning capsules."""
    inputs, targets = data.preprocess.evaluate(data.test.images[indices])
    with torch.inference_mode():
        output = model(inputs)
        return targets.numpy(), model.decoder(output.capsules, output.lengths.argmax(1)).numpy()


def test_reconstructions_are_masked_by_the_prediction(model: CapsNet, data: ImageData) -> None:
    model.train()
    fig = plots.reconstructions(model, data, count=4)
    assert model.training
    targets, drawn = drawn_by(model, data, [0, 1, 2, 3])  # labels 0 1 2 0
    errors = ((targets - drawn) ** 2).sum((1, 2, 3))
    assert (
        f"Squared error per image {errors.min():.1f} to {errors.max():.1f}, mean {errors.mean():.1f}"
        in fig.alt
    )
    (canvas,) = pictures(plots.to_html(fig))
    np.testing.assert_allclose(canvas[-20:, :20, 0], np.round(255 * drawn[0, 0]), atol=1)
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        plots.reconstructions(model, data, count=0)


def test_perturbing_by_nothing_changes_nothing(model: CapsNet, data: ImageData) -> None:
    fig = plots.perturbations(model, data, index=2, dimensions=[7, 0], values=[-1, 0, 1])
    (canvas,) = pictures(plots.to_html(fig))
    _, plain = drawn_by(model, data, [2])
    rows = [canvas[-41:-21], canvas[-20:]]
    for row in rows:
        np.testing.assert_allclose(row[:, 21:41, 0], np.round(255 * plain[0, 0]), atol=1)
        assert (row[:, :20, 0] != row[:, 42:, 0]).any()
    assert "number 7 by 0." in fig.alt and "number 0 by 0." in fig.alt and "-1.00 to +1.00" in fig.alt


def test_perturbations_take_the_strongest_dimensions(model: CapsNet, data: ImageData) -> None:
    told = plots.perturbations(model, data).alt.rpartition("mean change of a pixel (0 to 1): ")[2]
    effects = [float(e) for e in re.findall(r"by (\d\.\d+)", told)]
    assert len(effects) == 6 and effects == sorted(effects, reverse=True)
    with pytest.raises(ValueError, match="index must be 29 or less, got 30"):
        plots.perturbations(model, data, index=30)
    with pytest.raises(ValueError, match="each number of dimensions must be 7 or less, got 8"):
        plots.perturbations(model, data, dimensions=[8])


def test_pictures_need_a_decoder(data: ImageData) -> None:
    bare = CapsNet((1, 20, 20), 3, channels=4, capsule_types=1, capsule_dim=4, class_dim=4, decoder=None)
    for show in (plots.reconstructions, plots.perturbations):
        with pytest.raises(ValueError, match="CapsNet has no decoder"):
            show(bare, data)


@pytest.fixture
def notebook() -> Iterator[Callable[[str], list[Any]]]:
    """Run a cell as Jupyter does, with the inline backend; returns its outputs."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """There are no windows here."""

    shell = Shell.instance()
    shell.run_line_magic("matplotlib", "inline")
    plots.use_style()
    plt.close("all")

    def run(cell: str) -> list[Any]:
        with capture_output() as captured:
            assert shell.run_cell(cell).success
        return captured.outputs

    yield run
    plt.close("all")
    plt.switch_backend("agg")
    shell.display_formatter.ipython_display_formatter.pop(Figure, None)
    Shell.clear_instance()


@pytest.mark.parametrize(
    "make",
    [
        "from capsnb import plots; fig, axes = plots.figure()",
        "from capsnb import plots; import matplotlib.pyplot as plt; fig, axes = plt.subplots()",
    ],
)
def test_a_notebook_shows_a_figure_once_in_every_form_and_its_caption(notebook: Callable, make: str) -> None:
    shown, caption = notebook(f"{make}\naxes.plot([1, 2])\nplots.describe(fig, 'A line, x_1 rising.')")
    assert shown.data.keys() == {
        "image/svg+xml",
        "image/png",
        "text/plain",
    }  # not text/html: it is not trusted
    assert shown.data["text/plain"] == "A line, x_1 rising."
    assert caption.data == {"text/markdown": r"*A line, x\_1 rising.*"}
    assert notebook("1 + 1;") == []


def test_a_forgotten_pyplot_figure_is_shown_in_every_form_too(notebook: Callable) -> None:
    cell = "import matplotlib.pyplot as plt; plt.plot([1, 2]); capsnb_plots.describe(plt.gcf(), 'A line.');"
    shown, _ = notebook("from capsnb import plots as capsnb_plots\n" + cell)
    assert 'aria-label="A line."' in shown.data["image/svg+xml"]


def test_a_picture_is_small_sharp_and_readable_on_a_dark_page(notebook: Callable) -> None:
    make = "from capsnb import plots; fig, axes = plots.figure('Title')\naxes.plot([1, 2])\n"
    shown, _ = notebook(make + "plots.describe(fig, 'A line.')")
    said = shown.metadata["image/png"]
    svg = ElementTree.fromstring(shown.data["image/svg+xml"])
    png = base64.b64decode(shown.data["image/png"])
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert said == {"width": 595, "height": round(3.6 * 96), "alt": "A line."}
    assert (svg.get("width"), svg.get("height")) == (str(said["width"]), str(said["height"]))
    assert abs(picture.width - 2 * said["width"]) <= 1 and abs(picture.height - 2 * said["height"]) <= 1
    assert len(png) < 30_000
    darkest, lightest = picture.convert("L").getextrema()
    assert picture.getpixel((0, 0)) == (255, 255, 255) and darkest < 20 and lightest == 255
    assert (
        svg[0].attrib == {"width": "100%", "height": "100%", "fill": "#fff"}
        and plots.INK in shown.data["image/svg+xml"]
    )


def test_a_live_figure_brings_its_numbers_and_a_notebook_shows_the_picture(notebook: Callable) -> None:
    make = "from capsnb import plots; fig, axes = plots.figure()\nplots.describe(fig, 'Empty axes.')\n"
    shown, _ = notebook(make + "plots.live('squash', fig, lengths=[0.5, 1])")
    assert shown.data[embed.LIVE] == {"name": "squash", "given": {"lengths": [0.5, 1]}}
    assert {"image/svg+xml", "image/png"} < shown.data.keys() and "text/html" not in shown.data


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1).filter(str.strip))
def test_a_caption_says_what_the_description_says(words: str) -> None:
    alt = " ".join(words.split())
    rendered = MarkdownIt().renderInline(embed.caption(alt))
    assert html.unescape(re.sub(r"</?em>", "", rendered)) in (alt, f"*{alt}*")


def test_a_page_takes_the_stored_picture_as_it_is(pages: dict[str, tuple[Figure, str]]) -> None:
    for fig, page in pages.values():
        stored = plots.to_svg(fig)
        assert embed.in_page(stored) == page
        width = ElementTree.fromstring(stored).get("width")
        assert f'style="width:{width}px;' in page and "#fff" not in page.partition(">")[2].partition(">")[0]


def test_style_needs_no_notebook() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.use_style()


def test_a_title_of_curves_does_not_lie_on_the_legend():
    fig = plots.curves({"one": history(0), "two": history(1)}, title="Two runs")
    fig.draw_without_rendering()
    (legend,) = fig.legends
    assert fig.get_suptitle() == "Two runs"
    assert not legend.get_window_extent().overlaps(fig._suptitle.get_window_extent())


@given(st.integers(1, 5), st.integers(1, 9), st.floats(1e-3, 1e3))
def test_what_is_packed_is_within_half_a_step(rows, columns, size):
    numbers = size * torch.randn(rows, columns)
    steps = numbers.abs().amax(dim=1, keepdim=True).clamp(min=1e-6) / 127
    assert ((plots.unpacked(plots.packed(numbers)) - numbers).abs() <= 0.51 * steps).all()
