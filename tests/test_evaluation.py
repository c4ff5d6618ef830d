import json
import math
import warnings
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capsnb.data import ImageData, Preprocess, Split
from capsnb.evaluation import (
    BINS,
    ROC_POINTS,
    Evaluation,
    evaluate,
    evaluating,
    evaluation_of_scores,
    wilson_interval,
)
from capsnb.models import CapsNet, CapsuleOutput

CLASSES = ("ant", "bee", "cat")


def images(count: int = 30, classes: int = 3, side: int = 20) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(count) % classes)
    return ImageData("noise", CLASSES[:classes], split, split, Preprocess(pad=0))


def capsnet() -> CapsNet:
    torch.manual_seed(0)
    return CapsNet((1, 20, 20), 3, channels=4, capsule_types=1, capsule_dim=4, class_dim=4, decoder=(8,))


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[int], list[list[float]]]:
    """Truth and scores on a coarse scale, so that ties are common."""
    number = draw(st.integers(2, 4))
    label = st.integers(0, number - 1)
    row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=number, max_size=number)
    pairs = draw(st.lists(st.tuples(label, row), min_size=1, max_size=25))
    return [truth for truth, _ in pairs], [row for _, row in pairs]


def quietly(truth: list[int], scores: list[list[float]]) -> Evaluation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return evaluation_of_scores(truth, scores, [f"c{j}" for j in range(len(scores[0]))])


@settings(deadline=None, max_examples=40)
@given(scored())
def test_counts_equal_slow_loops(case: tuple[list[int], list[list[float]]]) -> None:
    truth, scores = case
    number = len(scores[0])
    winner = [row.index(max(row)) for row in scores]  # the first one in a tie
    confusion = [[0] * number for _ in range(number)]
    for t, w in zip(truth, winner, strict=True):
        confusion[t][w] += 1
    found = quietly(truth, scores)
    assert found.confusion == confusion
    assert found.count == len(truth)
    assert found.accuracy == pytest.approx(
        sum(t == w for t, w in zip(truth, winner, strict=True)) / len(truth)
    )
    for j, row in enumerate(found.per_class):
        hits, support, predicted = confusion[j][j], sum(confusion[j]), sum(line[j] for line in confusion)
        assert row["support"] == support
        assert row["recall"] == (pytest.approx(hits / support) if support else None)
        assert row["precision"] == (pytest.approx(hits / predicted) if predicted else None)
        assert row["f1"] == (pytest.approx(2 * hits / (support + predicted)) if support + predicted else None)


@settings(deadline=None, max_examples=40)
@given(scored())
def test_area_is_the_share_of_pairs_in_the_right_order(case: tuple[list[int], list[list[float]]]) -> None:
    truth, scores = case
    found = quietly(truth, scores)
    areas = []
    for j in range(len(scores[0])):
        inside = [row[j] for row, t in zip(scores, truth, strict=True) if t == j]
        outside = [row[j] for row, t in zip(scores, truth, strict=True) if t != j]
        if not inside or not outside:
            assert found.auc[f"c{j}"] is None
            assert found.roc[j] == {"class": f"c{j}", "fpr": [], "tpr": []}
            continue
        won = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
        areas.append(won / (len(inside) * len(outside)))
        assert found.auc[f"c{j}"] == pytest.approx(areas[-1])
        assert np.trapezoid(found.roc[j]["tpr"], found.roc[j]["fpr"]) == pytest.approx(areas[-1])
    assert found.macro_auc == (pytest.approx(sum(areas) / len(areas)) if areas else None)


@settings(deadline=None, max_examples=40)
@given(scored())
def test_mistakes_are_all_wrong_images_most_confident_first(
    case: tuple[list[int], list[list[float]]],
) -> None:
    truth, scores = case
    found = quietly(truth, scores)
    wrong = [i for i, row in enumerate(scores) if row.index(max(row)) != truth[i]]
    wrong.sort(key=lambda i: -max(scores[i]))
    assert [m["index"] for m in found.mistakes] == wrong
    for m in found.mistakes:
        assert m["truth"] == truth[m["index"]] != m["prediction"]
        assert scores[m["index"]][m["prediction"]] == max(scores[m["index"]]) == m["confidence"]


@settings(deadline=None, max_examples=40)
@given(scored())
def test_calibration_equals_a_slow_loop(case: tuple[list[int], list[list[float]]]) -> None:
    truth, scores = case
    winners = [(max(row), row.index(max(row)) == t) for row, t in zip(scores, truth, strict=True)]
    found, error, seen = quietly(truth, scores), 0.0, 0
    for k in range(BINS):
        low, high = k / BINS, (k + 1) / BINS
        inside = [(s, right) for s, right in winners if low <= s < high or (s == high == 1)]
        bins = [line for line in found.calibration if line["low"] == low]
        assert len(bins) == bool(inside)
        for line in bins:
            score, accuracy = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            assert (line["high"], line["count"]) == (high, len(inside))
            assert (line["score"], line["accuracy"]) == (pytest.approx(score), pytest.approx(accuracy))
            error += len(inside) / len(truth) * abs(score - accuracy)
            seen += len(inside)
    assert seen == len(truth)
    assert found.calibration_error == pytest.approx(error)
    assert found.accuracy == pytest.approx(
        sum(line["count"] * line["accuracy"] for line in found.calibration) / found.count
    )


def test_scores_that_promise_no_probability_have_no_calibration() -> None:
    for scores in ([[3.0, 0.5], [0.1, 0.2]], [[-2.0, -1.0], [0.5, 0.4]]):
        found = evaluation_of_scores([0, 1], scores, ("a", "b"))
        assert (found.calibration, found.calibration_error) == ([], None)
    negative_losers = evaluation_of_scores([0, 1], [[0.9, -3.0], [-1.0, 0.8]], ("a", "b"))
    assert negative_losers.calibration_error == pytest.approx(0.15)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.data(), st.floats(0.5, 0.999))
def test_the_ends_of_wilson_s_interval_are_just_no_surprise(
    count: int, data: st.DataObject, confidence: float
) -> None:
    """By its definition: at both ends the count is z standard errors *of the end* away."""
    right = data.draw(st.integers(0, count))
    p, z = right / count, NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high = wilson_interval(p, count, confidence)
    assert 0 <= low <= p + 1e-12 and p - 1e-12 <= high <= 1 and low < high
    for end in (low, high):
        assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / count), abs=1e-6)
    mirrored = wilson_interval((count - right) / count, count, confidence)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_wilson_s_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Summed over all counts that a test set of 200 images can give."""
    for truth in (0.5, 0.9, 0.98):
        held = sum(
            math.comb(200, right) * truth**right * (1 - truth) ** (200 - right)
            for right in range(201)
            if (ends := wilson_interval(right / 200, 200))[0] <= truth <= ends[1]
        )
        assert held == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((98.0, 1000), r"accuracy=98\.0 must be a fraction in \[0, 1\]; divide"),
        ((math.nan, 1000), "accuracy=nan"),
        ((0.98, 0), "count must be 1 or more, got 0"),
        ((0.98, 1000, 95), r"confidence must be in \(0, 1\), got 95"),
    ],
)
def test_wilson_s_interval_names_what_is_wrong(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)


@settings(deadline=None, max_examples=40)
@given(scored(), st.sampled_from([None, 12.5]))
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, case: tuple, error: float | None) -> None:
    found = replace(quietly(*case), reconstruction_error=error)
    path = found.save(tmp_path_factory.getbasetemp() / "evaluation.json")
    assert Evaluation.load(path) == found


def test_long_curves_are_thinned_and_areas_are_not() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 4000)
    score = truth + random.normal(0, 1, 4000)
    found = evaluation_of_scores(truth, np.column_stack([-score, score]), ("no", "yes"))
    fpr, tpr = found.roc[1]["fpr"], found.roc[1]["tpr"]
    assert 100 < len(fpr) <= ROC_POINTS
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(fpr) >= 0) and np.all(np.diff(tpr) >= 0)
    inside, outside = score[truth == 1], np.sort(score[truth == 0])
    exact = np.searchsorted(outside, inside).mean() / len(outside)
    assert found.auc["yes"] == pytest.approx(exact, abs=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(exact, abs=1e-3)


def test_perfect_and_all_wrong() -> None:
    right = evaluation_of_scores([0, 1, 2], np.eye(3), CLASSES)
    assert (right.accuracy, right.macro_auc, right.mistakes) == (1, 1, [])
    wrong = evaluation_of_scores([1, 2, 0], np.eye(3), CLASSES)
    assert (wrong.accuracy, len(wrong.mistakes)) == (0, 3)
    assert [row["recall"] for row in wrong.per_class] == [0, 0, 0]
    assert wrong.macro_auc == pytest.approx(0.25)


def test_ties_go_to_the_first_class_and_are_worth_half() -> None:
    found = evaluation_of_scores([0, 1], [[0.5, 0.5], [0.5, 0.5]], ("a", "b"))
    assert found.confusion == [[1, 0], [1, 0]]
    assert found.auc == {"a": 0.5, "b": 0.5} and found.macro_auc == 0.5


def test_absent_classes_are_said() -> None:
    with pytest.warns(UserWarning, match="no test image of class bee, cat"):
        found = evaluation_of_scores([0, 0], [[1, 0, 0], [0, 1, 0]], CLASSES)
    assert found.auc == {"ant": None, "bee": None, "cat": None} and found.macro_auc is None
    assert [row["recall"] for row in found.per_class] == [0.5, None, None]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 images .*first: image 1"):
        evaluation_of_scores([0, 1], [[1, 0], [0, bad]], ("a", "b"))


@pytest.mark.parametrize(
    ("labels", "scores", "classes", "message"),
    [
        ([0, 1], [[1, 0]], ("a", "b"), "expected"),
        ([], np.zeros((0, 2)), ("a", "b"), "at least one image"),
        ([0, 2], [[1, 0], [0, 1]], ("a", "b"), "labels range from 0 to 2"),
        ([0, 1], [[1, 0], [0, 1]], ("a", "a"), "must differ"),
    ],
)
def test_what_does_not_fit_is_named(labels: list, scores: list, classes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation_of_scores(labels, scores, classes)


def test_evaluate_equals_a_loop_over_single_images() -> None:
    model, data = capsnet(), images()
    found = evaluate(model, data, batch_size=7)
    right, error = 0, 0.0
    model.eval()
    for image, label in zip(data.test.images, data.test.labels, strict=True):
        inputs, target = data.preprocess.evaluate(image[None])
        with torch.no_grad():
            output = model(inputs)
            right += int(output.lengths.argmax() == label)
            drawn = model.decoder(output.capsules, output.lengths.argmax(1))  # masked by the prediction
        error += float(((drawn - target) ** 2).sum())
    assert found.accuracy == right / 30
    assert found.reconstruction_error == pytest.approx(error / 30, rel=1e-5)
    assert found == evaluate(model, data, batch_size=7)
    one_by_one = evaluate(model, data, batch_size=1)
    assert (one_by_one.confusion, one_by_one.accuracy) == (found.confusion, found.accuracy)


class Spy(nn.Module):
    """Notes how it is called; answers with what it was given."""

    def __init__(self, answer: torch.Tensor | None = None) -> None:
        super().__init__()
        self.frozen, self.answer, self.calls = nn.Dropout(), answer, []
        self.frozen.eval()

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(args), kwargs, self.training, torch.is_inference_mode_enabled()))
        if self.answer is None:
            raise RuntimeError("broken model")
        return self.answer[: len(args[0])]


def test_models_see_images_only_and_come_back_in_their_mode() -> None:
    model = Spy(torch.rand(10, 3))
    found = evaluate(model, images(), split="train", batch_size=10)
    assert model.calls == [(1, {}, False, True)] * 3
    assert (model.training, model.frozen.training) == (True, False)
    assert (found.reconstruction_error, found.split) == (None, "train")
    with pytest.raises(RuntimeError, match="broken model"):
        evaluate(broken := Spy(), images())
    assert (broken.training, broken.frozen.training) == (True, False)
    with evaluating(model):
        assert not model.training
    assert model.training


def test_a_model_without_decoder_has_no_reconstruction_error() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> CapsuleOutput:
            return CapsuleOutput(torch.ones(len(x), 3, 2), torch.eye(3)[torch.arange(len(x)) % 3], None)

    found = evaluate(Bare(), images())
    assert (found.accuracy, found.reconstruction_error) == (1, None)
    assert repr(found) == "<Evaluation on noise: 100.00% of 30 test images right, macro AUC 1.0000>"


def test_evaluate_names_what_is_wrong() -> None:
    data = images()
    with pytest.raises(ValueError, match="split='validation'"):
        evaluate(Spy(), data, split="validation")
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        evaluate(Spy(), data, batch_size=0)
    with pytest.raises(ValueError, match=r"shape \(30, 5\).*3 classes"):
        evaluate(Spy(torch.rand(30, 5)), data)
    with pytest.raises(ValueError, match="30 of 30 images"):
        evaluate(Spy(torch.full((30, 3), torch.nan)), data)


def test_files_from_before_the_calibration_are_read(tmp_path) -> None:
    path = tmp_path / "evaluation.json"
    found = evaluation_of_scores([0, 1], [[0.9, 0.1], [0.2, 0.8]], ("a", "b"))
    raw = json.loads(found.save(path).read_text())
    del raw["format"], raw["digest"]  # which were not there then either
    assert raw.pop("calibration") and raw.pop("calibration_error") == pytest.approx(0.15)
    path.write_text(json.dumps(raw))
    assert Evaluation.load(path) == replace(found, calibration=[], calibration_error=None)


def test_files_that_are_not_an_evaluation_are_named(tmp_path) -> None:
    path = tmp_path / "evaluation.json"
    with pytest.raises(FileNotFoundError, match=r"no evaluation at .*evaluation\.json"):
        Evaluation.load(path)
    whole = evaluation_of_scores([0, 1], np.eye(2), ("a", "b")).save(path).read_text()
    for broken in (b"", whole[:-20].encode(), b"\xff\xfe\x00"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"evaluation\.json is not an evaluation that capsnb saved"):
            Evaluation.load(path)
    fields = json.loads(whole)
    del fields["confusion"]
    damaged, unsealed = "its digest is not that of its content", {"format": 2, "digest": None}
    for other, reason in (
        ([1, 2], "it holds a list"),
        (fields, damaged),
        (fields | unsealed, r"missing \['confusion'\]"),
        ({"epoch": 3}, "missing .*confusion"),
    ):
        path.write_text(json.dumps(other))
        with pytest.raises(ValueError, match=rf"evaluation\.json .* an evaluation .*{reason}"):
            Evaluation.load(path)
