import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from capsnb import plots
from capsnb.evaluation import wilson_interval
from capsnb.plots.charts import number, numbers
from capsnb.training import Epoch, History, TrainConfig

names = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
kinds = st.sampled_from(
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda some: [torch.tensor(one) for one in some],
        lambda some: torch.tensor(some, dtype=torch.float64, requires_grad=True),
        lambda some: dict(enumerate(some)),
    ]
)
few = settings(deadline=None, max_examples=25)


def read(said):
    return float(said.replace(",", ""))


@few
@given(names=names, kinds=st.lists(kinds, min_size=6), length=st.integers(1, 60), data=st.data())
def test_lines_of_any_kind_differ_in_more_than_colour_and_are_told(names, kinds, length, data):
    heights = st.lists(st.floats(-1e3, 1e3, width=32), min_size=length, max_size=length)
    given_heights = {name: data.draw(heights) for name in names}
    fig = plots.lines(
        {name: kind(given_heights[name]) for name, kind in zip(names, kinds, strict=False)},
        xlabel="layer",
        ylabel="size / MB",
    )
    (axis,) = fig.axes
    for line, (name, expected) in zip(axis.lines, given_heights.items(), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), expected)
        np.testing.assert_array_equal(line.get_xdata(), range(length))
        told = re.search(f"(: |; ){name}: (\\S+?)( to \\S+?| throughout)?[,;.]( |$)", fig.alt)
        first, last = told[2], (told[3] or "").removeprefix(" to ").strip()
        assert read(first) == pytest.approx(expected[0], rel=0.0051)
        constant = number(min(expected)) == number(max(expected))
        assert (
            last == ("" if length == 1 else "throughout")
            if constant
            else read(last) == pytest.approx(expected[-1], rel=0.0051)
        )
    assert fig.alt.startswith(f"Size in MB over layer from 0 to {length - 1}: ")
    assert len({to_hex(line.get_color()) for line in axis.lines}) == len(names)
    assert len({str(line._unscaled_dash_pattern) for line in axis.lines}) == len(names)
    markers = {line.get_marker() for line in axis.lines}
    assert markers == ({"none"} if length > 41 else set(plots.MARKERS[: len(names)]))
    legend = axis.get_legend()
    assert (legend is None) == (len(names) == 1)
    assert legend is None or [text.get_text() for text in legend.get_texts()] == names


def test_a_line_tells_where_it_turns():
    fig = plots.lines({"up and down": [0, 9.5, 1], "even": [1, 1.02, 3], "down": [2, -4, 2]}, [10, 20, 30])
    assert fig.alt == (
        "Up and down: 0.0 to 1.0, highest 9.5 at 20; even: 1 to 3; down: 2 to 2, lowest -4 at 20."
    )


def test_what_stays_the_same_is_said_once():
    fig = plots.lines(
        {"flat": [1, 1.0004, 1], "weak": [0, 0, 0], "turns": [1, 2, 1], "one": [3]}, floor=1e-10
    )
    assert fig.alt == (  # 1.0004 is no higher than 1 to a reader
        "Flat: 1 throughout; weak: ≤ 1e-10 throughout; turns: 1 to 1, highest 2 at 1; one: 3."
    )
    both = plots.lines({"both": np.full((3, 2), 0.5), "apart": [[1, 2], [5, 6], [1, 2]]})
    assert both.alt == "Both: 0.5 throughout; apart: 1 – 2 to 1 – 2."
    chance = {"plain": {1: [10, 10], 2: [10]}, "named": {"a": 1, "b": 1}, "once": {1: 7}}
    assert plots.points({name: chance[name] for name in ("plain", "once")}).alt == (
        "Plain: 10 throughout; once: 7 at 1."
    )
    assert plots.bars({"": chance["named"]}).alt == "a: 1; b: 1."  # which they are is worth saying


def test_numbers_of_one_name_have_as_many_digits_behind_the_point():
    fig = plots.lines(
        {"share": [0.79, 0.398], "length": [1, 2], "wide": [203.3, 0.0647], "weak": [1, 0]}, floor=1e-9
    )
    assert fig.alt == ("Share: 0.790 to 0.398; length: 1 to 2; wide: 203.3 to 0.0647; weak: 1 to ≤ 1e-9.")
    assert plots.bars({"": {1: 97, 2: 97.2, 3: 98}}).alt == "97.0 at 1, 97.2 at 2, 98.0 at 3."
    spread = plots.points({"net": {1: [97.9, 98.1], 2: [98, 98]}})
    assert spread.alt == "Net: 98.0 (97.9 to 98.1) at 1, 98.0 at 2."


def test_gaps_at_the_ends_are_passed_over():
    nan = float("nan")
    fig = plots.lines({"late": [nan, 1.0, 2.0, nan], "never": [nan] * 4}, every=1)
    assert fig.alt == "Late: 1 to 2; never: nowhere."


def test_several_lines_of_one_name_look_alike():
    many = torch.stack([torch.linspace(0, end, 5) for end in (1, 2, 3)], dim=1)  # [N, lines]
    fig = plots.lines({"many": many, "one": many[:, 0]})
    *alike, other = fig.axes[0].lines
    assert len(alike) == 3 and len({(line.get_color(), line.get_marker()) for line in alike}) == 1
    assert other.get_color() != alike[0].get_color()
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["many", "one"]
    assert fig.alt == "Many: 0 to 1 – 3; one: 0 to 1."


def test_each_line_may_have_an_x_of_its_own():
    fig = plots.lines({"a": [1, 2], "b": [3, 4, 5]}, {"a": [0, 7], "b": torch.arange(3)}, xlabel="x")
    assert [line.get_xdata().tolist() for line in fig.axes[0].lines] == [[0, 7], [0, 1, 2]]
    assert fig.alt == "a: 1 to 2; b: 3 to 5."


@pytest.mark.parametrize(
    ("values", "x"),
    [
        ({"house": [1, 2], "boat": [1, 2, 3]}, [0, 1]),
        ({"boat": torch.zeros(3, 2, 2)}, None),
        ({"boat": []}, None),
        ({"house": [1], "boat": torch.zeros(3)}, {"house": [1], "boat": [1, 2]}),
        ({"boat": 3.0}, None),
    ],
)
def test_a_line_that_does_not_fit_is_named(values, x):
    with pytest.raises(
        ValueError, match=r"line 'boat' has heights of shape \(.*as many of one as of the other"
    ):
        plots.lines(values, x)


def test_a_line_without_an_x_is_named():
    with pytest.raises(ValueError, match="line 'boat' has no x, there is one for house"):
        plots.lines({"house": [1], "boat": [2]}, {"house": [1]})


def test_lines_need_a_line():
    with pytest.raises(ValueError, match="at least one line"):
        plots.lines({})


def test_named_ticks_are_written_and_told():
    fig = plots.lines({"loss": [0.5, 2.0]}, yticks={0.5: "a half", 2: "two"}, yscale="log", ylim=(0.1, 10))
    (axis,) = fig.axes
    fig.draw_without_rendering()
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a half", "two"]
    assert not axis.yaxis.get_minorticklocs().size and axis.get_ylim() == (0.1, 10)
    assert fig.alt == "Loss: a half to two."


def test_ticks_of_a_logarithmic_axis_are_the_values():
    (axis,) = plots.lines({"": [1, 2]}, [3, 64], xscale="log", xticks=[1, 4, 64]).axes
    axis.figure.draw_without_rendering()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "4", "64"]
    assert axis.get_xticks().tolist() == [1, 4, 64] and not axis.xaxis.get_minorticklocs().size


def test_what_lies_below_the_floor_is_said_to():
    fig = plots.lines({"weak": [1.0, 0.0], "strong": [0.1, 10]}, floor=1e-6, yscale="log", yticks=[1e-3, 1])
    (axis,) = fig.axes
    fig.draw_without_rendering()
    assert axis.lines[0].get_ydata().tolist() == [1, 1e-6]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["≤ 1e-6", "0.001", "1"]
    assert fig.alt == "Weak: 1 to ≤ 1e-6; strong: 0.1 to 10.0."


def test_reference_lines_are_labelled_and_told():
    fig = plots.lines({"v": [0, 1]}, hlines={2: "two units", 0.25: ""}, vlines={2: "one block"})
    (axis,) = fig.axes
    flat = [line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1]
    upright = [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]
    assert (flat, upright) == ([2, 0.25], [2])
    assert [text.get_text() for text in axis.texts] == ["two units", "", "one block"]
    assert fig.alt == "v: 0 to 1; a line at 2: two units; a line at 2: one block."


def test_panels_add_up_to_one_figure_with_one_legend():
    fig, (left, right) = plots.figure("Two panels", columns=2)
    settings = {"legend": "below", "xlabel": "rounds"}
    plots.lines({"a": [1, 2], "b": [3, 4]}, ax=left, title="First", ylabel="length", **settings)
    shown = plots.lines({"b": [5, 6], "c": [7, 8]}, ax=right, title="Second", first=1, **settings)
    assert shown is fig and (left.get_title(), right.get_title()) == ("First", "Second")
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert left.lines[1].get_color() == right.lines[0].get_color()  # `first` goes on with b's look
    assert fig.alt == (
        "Two panels. First. Length over rounds from 0 to 1: a: 1 to 2; b: 3 to 4. Second: b: 5 to 6; c: 7 to 8."
    )
    fig.draw_without_rendering()
    assert legend.get_window_extent().y1 <= min(axis.get_tightbbox().y0 for axis in fig.axes)


def test_a_description_can_be_replaced_or_left_out():
    fig, (left, right) = plots.figure(columns=2)
    plots.lines({"a": [1, 2]}, ax=left, alt="Rises.")
    plots.lines({"a": [1, 2]}, ax=right, alt="")
    assert fig.alt == "Rises."
    assert plots.lines({"a": [1, 2]}, title="What, then?", alt="It rises.").alt == "What, then? It rises."


def test_what_adds_nothing_leaves_the_description_as_it_is():
    fig, (left, right) = plots.figure("What, then?", columns=2)
    plots.lines({"a": [1, 2]}, ax=left, alt="")
    assert not hasattr(fig, "alt")
    plots.lines({"a": [1, 2]}, ax=right, alt="It rises.")
    assert fig.alt == "What, then? It rises."


@pytest.mark.parametrize(
    ("ylabel", "said"),
    [
        ("margin loss, mean of 10 steps", "Margin loss, mean of 10 steps, over step"),
        ("memory, eight blocks / MB", "Memory, eight blocks in MB, over step"),
        ("entropy / log J", "Entropy over log J, over step"),
        ("turn / degrees", "Turn in degrees over step"),
        ("images / s", "Images in s over step"),
        ("|f(x)|/|x|", "|f(x)|/|x| over step"),
        ("x", "x over step"),
        ("a hundred values", "A hundred values over step"),
    ],
)
def test_a_label_is_read_as_a_phrase(ylabel, said):
    fig = plots.lines({"net": [1, 2]}, ylabel=ylabel, xlabel="step")
    assert fig.alt == f"{said} from 0 to 1: net: 1 to 2."


def test_a_sentence_begins_with_a_capital_letter():
    fig, (left, right) = plots.figure(columns=2)
    plots.lines({"house": [1, 2], "boat": [3, 4]}, ax=left)
    plots.vectors({"votes": [[1, 0]]}, ax=right)
    assert fig.alt == "House: 1 to 2; boat: 3 to 4. Votes: 1 arrow, 1 long."
    assert plots.heatmaps({"near": np.eye(2)}).alt.startswith("Near: 2 × 2 values")
    assert plots.heatmaps({"": np.full((2, 3), 0.1)}).alt == "2 × 3 values, 0.1 throughout."


def test_a_figure_of_its_own_has_the_size_that_was_asked_for():
    fig = plots.lines({"a": [1, 2]}, title="A title", width=4, height=2.5)
    assert fig.get_size_inches().tolist() == [4, 2.5] and fig.get_suptitle() == "A title"
    assert plots.lines({"a": [1, 2]}, ax=None).get_size_inches().tolist() == [plots.WIDTH, 3.3]


def test_an_unknown_setting_is_refused():
    with pytest.raises((AttributeError, TypeError), match="xlabl"):
        plots.lines({"a": [1, 2]}, xlabl="rounds")


@few
@given(
    values=st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.dictionaries(st.integers(1, 5), st.lists(st.floats(0, 100, width=16), max_size=4), min_size=1),
        min_size=1,
        max_size=4,
    ),
    means=st.sampled_from([None, "line", "bar"]),
    horizontal=st.booleans(),
)
def test_every_value_is_a_mark_and_every_mean_is_told(values, means, horizontal):
    fig = plots.points(values, means=means, horizontal=horizontal, apart=0.1)
    (axis,) = fig.axes
    marks = [line for line in axis.lines if not line.get_label().startswith("_")]
    for line, (name, row) in zip(marks, values.items(), strict=True):
        across, up = line.get_xydata().T[:: -1 if horizontal else 1]
        assert up.tolist() == [value for some in row.values() for value in some]
        assert np.abs(across - [place for place, some in row.items() for _ in some]).max(initial=0) <= 0.16
        said = re.search(f"(^|; ){name}: (.*?)(; |[.]$)", fig.alt, re.IGNORECASE)[2]
        run = [(place, some) for place, some in row.items() if some]
        if said.endswith(" throughout"):
            run, some = [], [value for one in row.values() for value in one]
            assert number(min(some)) == number(max(some)) and read(said.split()[0]) == pytest.approx(
                some[0], 0.0051
            )
        for place, some in run:
            told = re.search(f"(^|, )([^ ]+)( [(][^)]+[)])? at {place}(, |$)", said)
            assert read(told[2]) == pytest.approx(np.mean(some), rel=0.0051)
        assert any(row.values()) or said == "not run yet"
    assert len({(line.get_color(), line.get_marker()) for line in marks}) == len(values)
    assert len(
        {line.get_xydata().T[int(horizontal)].min() for line in marks if len(line.get_xdata())}
    ) <= len(values)


def test_names_beside_one_another_do_not_hide_each_other():
    fig = plots.points(
        {"a": {"one place": [1.0]}, "b": {"one place": [1.0]}, "c": {"another": [2.0]}}, apart=0.3
    )
    at = [line.get_xdata()[0] for line in fig.axes[0].lines]
    np.testing.assert_allclose(at, [-0.3, 0, 1.3])
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["one place", "another"]


def test_means_and_intervals_of_points():
    low, high = wilson_interval(0.5, 40)
    values = {"net": {1: torch.tensor([0.25, 0.75]), 2: 0.5}}
    fig = plots.points(values, means="line", intervals={"net": {2: (low, high)}}, hlines={0.1: "chance"})
    dots, line, _ = fig.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 0.5], [2, 0.5]] and len(dots.get_xdata()) == 3
    (interval,) = fig.axes[0].collections
    np.testing.assert_allclose(interval.get_segments()[0], [[2, low], [2, high]])
    assert (
        fig.alt
        == f"Net: 0.500 (0.250 to 0.750) at 1, 0.500 ({low:.3f} to {high:.3f}) at 2; a line at 0.1: chance."
    )
    turned = plots.points(values, means="bar", horizontal=True, xlabel="share", ylabel="net").axes[0]
    assert (turned.lines[1].get_marker(), turned.figure.alt[:13]) == ("|", "Share by net:")
    bars = plots.points(values, means="bar").axes[0].lines[1]
    assert (bars.get_marker(), [*bars.get_ydata()]) == ("_", [0.5, 0.5])


@pytest.mark.parametrize("legend", ["best", "below"])
def test_a_legend_is_not_as_pale_as_the_marks_of_many_seeds(legend):
    values = {"net": {1: [0.25, 0.75]}, "other": {1: [0.5, 1]}}
    fig = plots.points(values, means="line", legend=legend)
    (made,) = fig.legends or [fig.axes[0].get_legend()]
    assert [handle.get_alpha() for handle in made.legend_handles] == [1, 1]


def test_points_need_a_name_and_a_kind_of_mean():
    for values, means in (({}, None), ({"a": {1: [2]}}, "median")):
        with pytest.raises(ValueError, match='means "line", "bar" or None'):
            plots.points(values, means=means)


@few
@given(
    lengths=st.lists(st.lists(st.floats(0, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    vertical=st.booleans(),
    stacked=st.booleans(),
)
def test_bars_are_as_long_as_their_numbers_say(lengths, vertical, stacked):
    rows = ("first", "second", "third")
    values = {f"name {k}": dict(zip(rows, some, strict=True)) for k, some in enumerate(lengths)}
    fig = plots.bars(values, vertical=vertical, stacked=stacked)
    (axis,) = fig.axes
    boxes = np.array([patch.get_bbox().get_points() for patch in axis.patches]).reshape(len(lengths), 3, 2, 2)
    along, across = boxes[..., int(vertical)], boxes[..., 1 - int(vertical)]
    np.testing.assert_allclose(along[..., 1] - along[..., 0], lengths, rtol=1e-5, atol=1e-6)
    if stacked:
        np.testing.assert_allclose(along[1:, :, 0], along[:-1, :, 1], rtol=1e-5, atol=1e-6)
        assert not axis.texts
    else:
        assert (along[..., 0] == 0).all()
        assert (across[:-1, :, 1] <= across[1:, :, 0] + 1e-9).all()  # side by side
        assert [text.get_text() for text in axis.texts] == [
            number(length) for some in lengths for length in some
        ]
    for k, some in enumerate(lengths):
        for row, length in zip(rows, some, strict=True):
            told = re.search(f"name {k}: .*?{row}: ([^;]+?)(; |[.] N|[.]$)", fig.alt, re.IGNORECASE)[1]
            assert read(told) == pytest.approx(length, rel=0.0051)
    ticks = axis.get_xticklabels() if vertical else axis.get_yticklabels()
    assert [tick.get_text() for tick in ticks] == list(rows)
    assert axis.yaxis.get_inverted() == (not vertical)


def test_a_row_that_a_name_lacks_has_no_bar():
    fig = plots.bars({"a": {"x": 1}, "b": {"x": 2, "y": 3}}, ylabel="part", xlabel="share / %")
    assert len(fig.axes[0].patches) == 3
    assert fig.alt == "Share in % by part. a: x: 1. b: x: 2; y: 3."
    with pytest.raises(ValueError, match="at least one bar"):
        plots.bars({"a": {}})


def test_values_stand_behind_the_names_of_their_places():
    found = {"ink": [0.134, 0.416], "MNIST, layer 1": [0.5]}
    fig = plots.points({"one": found, "all": {"ink": 0.75}}, ylabel="correlation", hlines={1 / 32: "chance"})
    assert fig.alt == (
        "Correlation. One: ink: 0.275 (0.134 to 0.416); MNIST, layer 1: 0.500. All: ink: 0.75. "
        "A line at 0.0313: chance."
    )
    fig = plots.points({"wide": {"wide": [1, 2]}, "half": {"half": [3, 5]}}, ylabel="share")
    assert fig.alt == "Share: wide: 1.5 (1.0 to 2.0); half: 4 (3 to 5)."


def test_long_rows_are_told_by_their_ends_and_extremes():
    heights = [3, 2, 4, 1, 5, 9, 6, 7]
    nine = dict(enumerate([*heights, 8], 1))
    assert plots.bars({"": dict(enumerate(heights, 1))}).alt.count(" at ") == 8
    assert plots.bars({"": nine}).alt == "3 at 1, 8 at 9, highest 9 at 6, lowest 1 at 4."
    rising = dict(enumerate(range(10)))
    assert plots.points({"net": rising}).alt == "Net: 0 at 0, 9 at 9."
    named = {f"layer {place}": value for place, value in nine.items()}
    assert plots.bars({"": named}).alt == "Layer 1: 3; layer 9: 8; highest layer 6: 9; lowest layer 4: 1."
    three = {name: dict(enumerate(heights, 1)) for name in "abc"}  # 24 numbers
    assert plots.points(three).alt.startswith("a: 3 at 1, 7 at 8, highest 9 at 6, lowest 1 at 4; b: ")


def test_heatmaps_share_one_scale():
    fig = plots.heatmaps(
        {"near": torch.eye(2), "far": [[0.0, 3.0]]},
        label="cosine / 1",
        title="Likeness",
        ylabel="digit",
        xticks=[0, 1],
    )
    near, far, bar = fig.axes
    assert [axis.get_title() for axis in (near, far)] == ["near", "far"]
    assert [axis.get_ylabel() for axis in (near, far, bar)] == ["digit", "", "cosine / 1"]
    assert [axis.images[0].get_clim() for axis in (near, far)] == [(0, 3)] * 2
    np.testing.assert_array_equal(near.images[0].get_array(), np.eye(2))
    assert fig.alt == (
        "Likeness. Cosine in 1: near: 2 × 2 values from 0.0 to 1.0, mean 0.5; "
        "far: 1 × 2 values from 0.0 to 3.0, mean 1.5."
    )
    figure, axes = plots.figure(columns=2)
    shown = plots.heatmaps(
        {"a": np.eye(3), "b": np.eye(3)}, axes=axes, limits=(-1, 1), bar=None, alt="Unit matrices."
    )
    assert shown is figure and len(figure.axes) == 2 and figure.alt == "Unit matrices."
    assert axes[0].images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("matrices", [{}, {"a": [1, 2]}, {"a": np.zeros((0, 2))}])
def test_heatmaps_need_matrices(matrices):
    with pytest.raises(ValueError, match="one for each panel"):
        plots.heatmaps(matrices)
    with pytest.raises(ValueError, match="needs 1 matrices"):
        plots.heatmaps({"a": np.eye(2), "b": np.eye(2)}, axes=plots.figure()[1])


def test_vectors_are_arrows_from_the_origin():
    ends = torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    fig = plots.vectors({"votes": ends, "v": ends[:1] / 5}, thickness={"votes": [1, 9]}, tips={"votes": "12"})
    (axis,) = fig.axes
    arrows = axis.collections
    assert [(arrow.U.item(), arrow.V.item()) for arrow in arrows] == [
        (3, 4),
        (0, -1),
        (0.6000000238418579, 0.800000011920929),
    ]
    assert all((arrow.X, arrow.Y) == (0, 0) for arrow in arrows)
    assert [round(72 * arrow.width, 6) for arrow in arrows] == [1, 9, 3]
    assert (
        to_hex(arrows[0].get_facecolor()[0])
        == to_hex(arrows[1].get_facecolor()[0])
        != to_hex(arrows[2].get_facecolor()[0])
    )
    assert [text.get_text() for text in axis.texts] == ["1", "2", ""]
    assert axis.get_aspect() == 1 and fig.alt == "Votes: 2 arrows, 1 to 5 long; v: 1 arrow, 1 long."
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    assert left < 0 and right > 3 and low < -1 and high > 4
    for ends, shape in (([1, 2], "2,"), ([[1, 2, 3]], "1, 3"), (torch.zeros(0, 2), "0, 2")):
        with pytest.raises(ValueError, match=rf"'v' are of shape \({shape}\): give \[N, 2\]"):
            plots.vectors({"v": ends})
    with pytest.raises(ValueError, match="at least one name"):
        plots.vectors({})


def test_a_diagram_has_its_boxes_where_they_were_put():
    boxes = {"image\n28 x 28": (1, 1), "head": (3, 1.5, 1), "linear head": (3, 0.5, None)}
    fig = plots.diagram(boxes, [(0, 1), (0, 2, "arc3,rad=0.2")], height=2, title="Two heads")
    assert fig.alt == "Two heads. image 28 x 28 → head; image 28 x 28 → linear head."
    fig.draw_without_rendering()
    (axis,) = fig.axes
    texts = [text for text in axis.texts if text.get_text()]
    inches = axis.transData.transform([text.get_position() for text in texts]) / fig.dpi
    np.testing.assert_allclose(inches, [(1, 1), (3, 1.5), (3, 0.5)], atol=0.1)
    frames = [text.get_bbox_patch().get_facecolor() for text in texts]
    assert [to_hex(frame) for frame in frames[:2]] == [colour.lower() for colour in plots.COLOURS[:2]]
    assert frames[2][3] == 0
    arrow = next(text for text in axis.texts if not text.get_text()).arrow_patch
    begin, *_, end = arrow.get_path().vertices
    start, stop = (text.get_bbox_patch().get_window_extent() for text in texts[:2])
    first, second = arrow.get_tightbbox().x0, arrow.get_tightbbox().x1
    assert start.x1 - 1 <= first <= second <= stop.x0 + 1, (
        "an arrow leads from the edge of a box to that of another"
    )
    assert begin is not end


@pytest.mark.parametrize(("boxes", "arrows"), [({}, None), ({"a": (0, 0)}, [(0, 1)])])
def test_a_diagram_needs_the_boxes_that_its_arrows_join(boxes, arrows):
    with pytest.raises(ValueError, match="arrows between numbers from 0 to"):
        plots.diagram(boxes, arrows)


def test_boxes_follow_one_another_unless_told():
    assert plots.diagram({"a": (1, 1), "b": (2, 1), "c": (3, 1)}).alt == "a → b → c."
    assert plots.diagram({"a": (1, 1), "b": (2, 1)}, alt="Two letters.").alt == "Two letters."


@given(st.floats(-1e15, 1e15) | st.floats(10, 999))
def test_numbers_are_said_with_three_digits(value):
    said = float(number(value).replace(",", ""))
    assert said == pytest.approx(value, rel=0.0051)
    assert len(number(value)) <= 10
    assert "." not in number(value) or abs(value) < 1000 or "e" in number(value)
    if 10 <= abs(value) < 999:
        assert said == pytest.approx(value, abs=0.0501)


def test_a_half_is_rounded_up():
    assert [number(value) for value in (1 / 32, -1 / 32, 0.2675, 10.25)] == [
        "0.0313",
        "-0.0313",
        "0.268",
        "10.3",
    ]
    assert numbers(value for value in (float("nan"), 97, 97.2)) == ["nan", "97.0", "97.2"]
    assert numbers([1 / 32, 0.5]) == ["0.0313", "0.5000"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5))
@example([0.0, 1000.0, 0.5, -0.0])
def test_numbers_of_a_row_are_as_exact_as_single_ones(values):
    said = numbers(values)
    assert [read(text) for text in said] == pytest.approx(values, rel=0.0051)
    assert said == [*map(number, values)] or len({len(text.partition(".")[2]) for text in said}) == 1
    assert all(
        len(re.sub("[^0-9]", "", text).lstrip("0")) <= max(4, len(number(value).replace(",", "")))
        for text, value in zip(said, values, strict=True)
    )


def test_rows_of_images_have_names():
    fig = plots.image_grid(torch.zeros(4, 1, 8, 8), ["a", "b", "", ""], columns=2, rows=("image", "drawing"))
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["image", "drawing"]
    assert fig.alt == "4 images of 8 × 8 pixels: a, b, image, drawing."
    assert plots.image_grid(torch.zeros(2, 8, 8), alt="Two black squares.").alt == "Two black squares."
    with pytest.raises(ValueError, match="1 names of rows for 4 images with columns=2"):
        plots.image_grid(torch.zeros(4, 8, 8), columns=2, rows=["image"])


def test_curves_keep_to_the_limits_that_they_are_given():
    records = [Epoch(e, 1 / e, 1 / e, 1.0, 0.9, 0.5, 1e-3, 2.0, 0) for e in (1, 2, 3)]
    run = History("CapsNet", "noise", 10, "cpu", TrainConfig(), records)
    loss, accuracy = plots.curves(run, ylim={"test_accuracy": (0, 100)}).axes
    assert accuracy.get_ylim() == (0, 100)
    assert loss.get_ylim() == plots.curves(run).axes[0].get_ylim()


def test_charts_are_shown_in_the_books_style_wherever_they_are_drawn():
    figures = [
        plots.lines({"a": [1, 2], "b": [2, 3]}, title="t"),
        plots.points({"a": {"x": [1, 2]}}, title="t"),
        plots.bars({"a": {"x": 1}}, title="t"),
        plots.heatmaps({"a": np.eye(2)}, title="t"),
        plots.vectors({"a": [[1, 2]]}, title="t"),
        plots.diagram({"a": (1, 1)}, title="t"),
    ]
    for fig in figures:
        page = plots.to_html(fig)
        assert "currentColor" in page and plots.INK not in page and "DejaVu" not in page
        sizes = {float(size) for size in re.findall(r'font(?:-size)?(?:: |=")([\d.]+)px', page)}
        assert sizes and min(sizes) >= 10
    pages = [plots.to_html(fig) for fig in figures]
    assert all(one != other for one, other in pairwise(pages))


def test_long_names_of_places_break_between_words_only():
    fig = plots.points({"seeds": {"capsules": 1, "linear head, cross-entropy": 2, "none": 3}})
    names = [label.get_text() for label in fig.axes[0].get_xticklabels()]
    assert names == ["capsules", "linear head,\ncross-entropy", "none"]
