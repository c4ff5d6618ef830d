r"""Evaluation: accuracy, confusion matrix, ROC curves and calibration of a trained model, as plain data.

Used from chapter 4, *A first CapsNet*, on. Chapter 15, *How good is it, really?*, explains the uncertainty of each
measure. `capsnb.plots` draws them.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from capsnb import distributed
from capsnb.defaults import default_settings
from capsnb.files import from_json, reading, to_json, write_atomically
from capsnb.values import finite_number, whole_number

if TYPE_CHECKING:
    from capsnb.data import ImageData

M = TypeVar("M", bound=nn.Module)
ROC_POINTS = 200  # enough for a figure; the area is computed from all points
BINS = 10  # calibration bins of equal width in [0, 1]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The results of one model on one split, as plain data that can be saved, loaded and drawn.

    Attributes:
        dataset: name of the data set.
        classes: names of the J classes, in the order of the labels.
        count: number of images evaluated.
        accuracy: fraction of images whose longest capsule is that of the right class, in [0, 1].
        per_class: J entries `{class, precision, recall, f1, support}`, fractions in [0, 1]; None where a
            fraction is undefined (recall of a class with no image, precision of a class never predicted).
        confusion: J x J counts; rows are true classes, columns are predicted classes.
        roc: J entries `{class, fpr, tpr}`, the one-vs-rest curve from (0, 0) to (1, 1) in at most 200 points;
            empty lists if the split has no image of the class, or only images of the class.
        auc: area under each class's full curve; None where undefined.
        reconstruction_error: mean over images of the sum of squared pixel errors (pixels in [0, 1]); None
            without a decoder.
        mistakes: `{index, truth, prediction, confidence}` (labels as integers, confidence = the score of the
            predicted class), the most confident first.
        split: `"train"` or `"test"`.
        macro_auc: mean of the areas that are defined; None if none is.
        calibration: `{low, high, count, score, accuracy}` for each bin (a tenth of [0, 1]) that holds the score of a
            predicted class: number of images, mean score, and accuracy; empty if such a score is outside [0, 1], or
            if the file comes from a version without calibration.
        calibration_error: expected calibration error, the mean distance of score and accuracy over these bins, weighted
            by their counts, in [0, 1]; None without bins.
    """

    dataset: str
    classes: tuple[str, ...]
    count: int
    accuracy: float
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    roc: list[dict[str, Any]]
    auc: dict[str, float | None]
    reconstruction_error: float | None
    mistakes: list[dict[str, Any]]
    split: str = "test"
    macro_auc: float | None = None
    calibration: list[dict[str, Any]] = field(default_factory=list)
    calibration_error: float | None = None

    def __repr__(self) -> str:
        parts = [f"{self.accuracy:.2%} of {self.count} {self.split} images right"]
        if self.macro_auc is not None:
            parts.append(f"macro AUC {self.macro_auc:.4f}")
        if self.reconstruction_error is not None:
            parts.append(f"squared error per reconstruction {self.reconstruction_error:.2f}")
        return f"<Evaluation on {self.dataset}: {', '.join(parts)}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the results to `path` as JSON, atomically.

        Args:
            path: the file to write; missing parent folders are created.

        Returns:
            The path that was written.

        Raises:
            OSError: the folder is not writable.

        >>> evaluate(model, data).save("runs/evaluation.json")  # doctest: +SKIP
        PosixPath('runs/evaluation.json')
        """
        return write_atomically(path, to_json(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Args:
            path: a JSON file written by `save`.

        Returns:
            An evaluation equal to the saved one.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not hold a complete evaluation; the message names the file and the keys.

        >>> Evaluation.load("runs/evaluation.json")  # doctest: +SKIP
        <Evaluation on mnist5k: 98.10% of 1000 test images right, macro AUC 0.9990>
        """
        path = Path(path)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"there is no evaluation at {path}: make one with evaluate(model, data).save({str(path)!r})"
            ) from None
        with reading(path, "an evaluation that capsnb saved", "delete it and save the evaluation again"):
            found = from_json(text, path)
            names = {part.name for part in fields(cls)}
            required = {part.name for part in fields(cls) if part.default is part.default_factory is MISSING}
            if not required <= set(found) <= names:
                missing, unknown = sorted(required - set(found)), sorted(set(found) - names)
                raise ValueError(f"missing {missing}, unknown {unknown}")
            return cls.from_dict(found)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Evaluation:
        """Return the evaluation of which `saved` holds the attributes, as JSON has them."""
        classes, auc = tuple(saved["classes"]), dict(saved["auc"])
        if "macro_auc" not in saved and "macro" not in classes:  # before 0.2 the mean stood among the classes
            saved = saved | {"macro_auc": auc.pop("macro", None)}
        return cls(**saved | {"classes": classes, "auc": auc})


@contextmanager
def evaluating(model: M) -> Iterator[M]:
    """Switch a model to inference mode, without gradients; afterwards every module has its former mode again.

    >>> with evaluating(nn.Dropout()) as drop_nothing:
    ...     drop_nothing(torch.ones(3))
    tensor([1., 1., 1.])
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module, training in modes:
            module.training = training


def device_of(model: nn.Module, default: Tensor) -> torch.device:
    """The device of a model's parameters; for a model without parameters, the device of `default`."""
    return next((parameter.device for parameter in model.parameters()), default.device)


def evaluate(model: nn.Module, data: ImageData, *, split: str = "test", batch_size: int = 500) -> Evaluation:
    """Evaluate a model on all images of a split, without augmentation.

    The score of a class is the length of its capsule. The decoder gets the capsule of the *predicted* class, as at
    inference: the labels are not an input of the model. A model that returns a tensor [B, J] (such as a CNN) is
    evaluated on these scores, without a reconstruction error. The model keeps its training or evaluation mode. It
    computes with `default_settings`: without autocast, in float32's precision.

    With several ranks (see `capsnb.distributed`), all ranks must call this function with the same model. Each computes
    some of the batches. All return the same evaluation, bit for bit that of a single process.

    Args:
        model: returns `CapsuleOutput` or a tensor [B, J] for inputs [B, C, H, W].
        data: the images; `data.preprocess.evaluate` prepares them.
        split: `"test"` or `"train"`.
        batch_size: images per batch, >= 1; it changes memory, not results.

    Returns:
        The evaluation.

    Raises:
        ValueError: an unknown or empty split, a batch size below 1, scores whose shape is not [B, classes], or
            scores that are not finite.

    >>> evaluate(capsnb.CapsNet(), capsnb.load_data("mnist5k")).count  # doctest: +SKIP
    1000
    """
    if split not in ("train", "test"):
        raise ValueError(f'split={split!r} is unknown: choose "test" or "train"')
    batch_size = whole_number("batch_size", batch_size)
    images, labels = getattr(data, split).images, getattr(data, split).labels
    if len(images) == 0:
        raise ValueError(f"the {split} split of {data.name!r} is empty: there is nothing to evaluate")
    device = device_of(model, images)
    batches = images.split(batch_size)
    own_batches = range(distributed.rank(), len(batches), distributed.world_size())
    results: dict[int, tuple[Tensor, Tensor | None]] = {}  # scores and squared errors of each batch
    with default_settings(), evaluating(model):
        for number in own_batches:
            batch = batches[number]
            inputs, targets = data.preprocess.evaluate(batch)
            output = model(inputs.to(device))
            lengths, reconstruction = (
                (output, None) if isinstance(output, Tensor) else (output.lengths, output.reconstruction)
            )
            if lengths.shape != (len(batch), len(data.classes)):
                raise ValueError(
                    f"the model gave scores of shape {tuple(lengths.shape)} for {len(batch)} images of "
                    f"{data.name!r}, which has {len(data.classes)} classes: build it with "
                    f"classes={len(data.classes)}"
                )
            errors = None
            if reconstruction is not None:
                errors = (reconstruction.cpu().double() - targets.cpu()).square().flatten(1).sum(1)
            results[number] = lengths.cpu().double(), errors
    for gathered in distributed.all_gather(results):
        results |= gathered
    scores, errors_by_batch = zip(*(results[number] for number in range(len(batches))), strict=True)
    return evaluation_of_scores(
        labels.cpu().numpy(),
        torch.cat(scores).numpy(),
        data.classes,
        dataset=data.name,
        split=split,
        reconstruction_error=torch.cat(errors_by_batch).mean().item()
        if errors_by_batch[0] is not None
        else None,
    )


def evaluation_of_scores(
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[Sequence[float]] | np.ndarray,
    classes: Sequence[str],
    *,
    dataset: str = "scores",
    split: str = "test",
    reconstruction_error: float | None = None,
) -> Evaluation:
    """Compute an evaluation from labels and scores; the prediction is the highest score, in a tie the first.

    Args:
        labels: [N] integers in 0 ... J-1.
        scores: [N, J] finite numbers.
        classes: J names.
        dataset: stored in the evaluation.
        split: stored in the evaluation.
        reconstruction_error: stored in the evaluation.

    Returns:
        The evaluation. A class without images has AUC and recall None, and causes a `UserWarning`.

    Raises:
        ValueError: shapes that do not fit, a label outside 0 ... J-1, class names that are not unique, or scores that
            are not finite.

    >>> evaluation_of_scores([0, 1], [[.9, .1], [.8, .2]], ("cat", "dog")).confusion
    [[1, 0], [1, 0]]
    """
    from sklearn import config_context
    from sklearn.metrics import precision_recall_fscore_support

    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    count, number = len(truth), len(classes)
    if count == 0 or values.shape != (count, number):
        raise ValueError(
            f"scores of shape {values.shape} do not fit {count} labels and {number} classes: "
            f"expected ({count}, {number}) with at least one image"
        )
    if truth.min() < 0 or truth.max() >= number:
        raise ValueError(
            f"labels range from {truth.min()} to {truth.max()}, but there are {number} classes: "
            f"expected 0 to {number - 1}"
        )
    names = tuple(map(str, classes))
    if len(set(names)) < number:
        raise ValueError(f"the names of classes must differ, got {tuple(classes)}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {count} images got scores that are not finite (first: image {bad[0]}, "
            f"{values[bad[0]].tolist()}): the weights have probably diverged; train again with a smaller "
            "learning rate, or load the last good checkpoint"
        )
    absent = [name for label, name in enumerate(names) if not (truth == label).any()]
    if absent:
        warnings.warn(
            f"no {split} image of class {', '.join(absent)}: recall and AUC are None there, and the macro "
            "AUC is the mean over the other classes",
            stacklevel=3,
        )

    prediction = values.argmax(axis=1)
    with config_context(array_api_dispatch=False):  # these are NumPy's arrays
        precision, recall, f1, support = precision_recall_fscore_support(
            truth, prediction, labels=range(number), zero_division=np.nan
        )
        curves = [_one_vs_rest_roc(truth == label, values[:, label]) for label in range(number)]
    measures = (map(_nan_to_none, measure) for measure in (precision, recall, f1))
    per_class = [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": n}
        for name, p, r, f, n in zip(names, *measures, support.tolist(), strict=True)
    ]
    auc = {name: area for name, (_, _, area) in zip(names, curves, strict=True)}
    areas = [area for area in auc.values() if area is not None]
    wrong, score = np.flatnonzero(prediction != truth), values.max(axis=1)
    # Stable: mistakes of equal confidence stay in the order of the images.
    wrong = wrong[np.argsort(-score[wrong], kind="stable")]
    calibration, calibration_error = _calibration(score, prediction == truth)
    columns = (column[wrong].tolist() for column in (truth, prediction, score))
    return Evaluation(
        dataset=dataset,
        classes=names,
        count=count,
        accuracy=float((prediction == truth).mean()),
        per_class=per_class,
        confusion=np.bincount(truth * number + prediction, minlength=number**2).reshape(number, -1).tolist(),
        roc=[
            {"class": name, "fpr": fpr, "tpr": tpr} for name, (fpr, tpr, _) in zip(names, curves, strict=True)
        ],
        auc=auc,
        macro_auc=math.fsum(areas) / len(areas) if areas else None,
        reconstruction_error=reconstruction_error,
        mistakes=[
            {"index": index, "truth": label, "prediction": guess, "confidence": confidence}
            for index, label, guess, confidence in zip(wrong.tolist(), *columns, strict=True)
        ],
        split=split,
        calibration=calibration,
        calibration_error=calibration_error,
    )


def wilson_interval(accuracy: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Wilson's confidence interval of the population accuracy, given the accuracy on `count` images.

    .. math:: \frac{p + z^2/2N \pm z \sqrt{p(1-p)/N + z^2/4N^2}}{1 + z^2/N} \qquad \text{(Wilson 1927)}

    The interval contains every population accuracy that a score test would not reject. Unlike
    :math:`p \pm z\sqrt{p(1-p)/N}` it stays inside [0, 1], and has a width > 0 even if all images are right.

    Args:
        accuracy: p, the fraction of images that were classified correctly, in [0, 1].
        count: N, the number of different images, >= 1; several networks on the same images do not increase N.
        confidence: the share of such intervals that contain the population accuracy, in (0, 1).

    Returns:
        The lower and the upper limit, in [0, 1].

    Raises:
        ValueError: an argument outside its range.

    >>> "{:.3f} to {:.3f}".format(*wilson_interval(0.98, 1000))
    '0.969 to 0.987'
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy={accuracy} must be a fraction in [0, 1]; divide a percentage by 100")
    count = whole_number("count", count)
    confidence = finite_number("confidence", confidence, above=0, below=1)
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    centre = accuracy + z2 / (2 * count)
    half_width = math.sqrt(z2 * accuracy * (1 - accuracy) / count + (z2 / (2 * count)) ** 2)
    low, high = ((centre + sign * half_width) / (1 + z2 / count) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _calibration(score: np.ndarray, correct: np.ndarray) -> tuple[list[dict[str, Any]], float | None]:
    """Reliability bins and expected calibration error (Guo et al. 2017, eq. 3) with `BINS` bins."""
    if score.min() < 0 or score.max() > 1:
        return [], None
    # low <= score < high; the last bin also holds 1
    bin_index = np.digitize(score, np.arange(1, BINS) / BINS)
    bins = [
        {
            "low": k / BINS,
            "high": (k + 1) / BINS,
            "count": int((bin_index == k).sum()),
            "score": float(score[bin_index == k].mean()),
            "accuracy": float(correct[bin_index == k].mean()),
        }
        for k in np.unique(bin_index).tolist()
    ]
    gaps = [line["count"] * abs(line["accuracy"] - line["score"]) for line in bins]
    return bins, math.fsum(gaps) / len(score)


def _one_vs_rest_roc(
    positive: np.ndarray, score: np.ndarray
) -> tuple[list[float], list[float], float | None]:
    """The ROC curve of one class, reduced to at most `ROC_POINTS` points, and the area under the full curve."""
    from sklearn.metrics import roc_auc_score, roc_curve

    if positive.all() or not positive.any():
        return [], [], None
    fpr, tpr, _ = roc_curve(positive, score)  # without collinear points
    keep = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), ROC_POINTS)).round().astype(int))
    return fpr[keep].tolist(), tpr[keep].tolist(), float(roc_auc_score(positive, score))
