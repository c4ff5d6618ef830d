"""Images with labels: one split, and a data set of two splits with its preprocessing (chapters 1 and 4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnb.preprocess import Preprocess
from capsnb.values import LARGEST_SEED, whole_number

DIGITS = tuple("0123456789")


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels, on one device.

    Args:
        images: uint8 [N, C, H, W], 0 to 255.
        labels: int64 [N], class indices from 0.

    Raises:
        TypeError: `images` is not uint8 or `labels` not int64.
        ValueError: the axes are not as above, the numbers of images and labels differ, or they are on two devices.

    >>> Split(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.arange(3))
    Split(3 images of 1x28x28 on cpu)
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Check types, axes, lengths and devices of the tensors."""
        for name, wanted in (("images", torch.uint8), ("labels", torch.int64)):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != wanted:
                found = f"tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(
                    f"a Split holds {name} as a tensor of {wanted}, not a {found}: "
                    f"torch.as_tensor({name}).to({wanted}) makes one"
                )
        if self.images.ndim != 4 or self.labels.ndim != 1:
            raise ValueError(
                f"a Split holds images [N, C, H, W] and labels [N], not shapes "
                f"{list(self.images.shape)} and {list(self.labels.shape)}"
            )
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels: each image needs one")
        if self.images.device != self.labels.device:
            raise ValueError(
                f"images on {self.images.device} but labels on {self.labels.device}: move both to one device"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Return the number, the shape and the device of the images."""
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"Split({len(self)} images of {shape} on {self.images.device})"

    def to(self, device: torch.device | str) -> Split:
        """Return the split on `device`; it is not copied if it is on that device already."""
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor | Sequence[int]) -> Split:
        """Return the images and labels at `indices` [M], in that order.

        Raises:
            TypeError: an index that is no whole number; `mask.nonzero()[:, 0]` are the indices of a mask.
            ValueError: no image has this index.

        >>> split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
        >>> split.subset([2, 0]).labels
        tensor([2, 0])
        """
        found = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise TypeError(f"indices must be a row of whole numbers, got {found.dtype} {list(found.shape)}")
        if found.size and not -len(self) <= found.min() <= found.max() < len(self):
            raise ValueError(
                f"indices must be 0 to {len(self) - 1}, got some from {found.min()} to {found.max()}"
            )
        selected = torch.as_tensor(found.astype(np.int64), device=self.labels.device)
        return Split(self.images[selected], self.labels[selected])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: a training and a test split, the names of the classes and the preprocessing.

    Args:
        name: the name of the data set in results and figures.
        classes: the names of the classes; label k means `classes[k]`.
        train: the training split.
        test: the test split.
        preprocess: the preprocessing of the images.

    Raises:
        ValueError: a split is empty, a label has no class, the image shapes of the splits differ, or the
            crop does not fit the images.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        """Check labels, shapes and preprocessing of both splits."""
        for part, split in (("train", self.train), ("test", self.test)):
            if len(split) == 0:
                raise ValueError(f"the {part} split of {self.name} has no images")
            _check_labels(split.labels, self.classes, f"the {part} split of {self.name}")
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            train, test = (list(split.images.shape[1:]) for split in (self.train, self.test))
            raise ValueError(
                f"{self.name}: training images are {train}, test images {test} ([C, H, W]): give both the same shape"
            )
        self.preprocess.output_shape(self._stored_shape)

    @property
    def _stored_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return (channels, height, width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the images after preprocessing, the input of a network.

        >>> from capsnb.data import load_data
        >>> load_data("mnist5k", preprocess=Preprocess(resize=78)).image_shape
        (1, 78, 78)
        """
        return self.preprocess.output_shape(self._stored_shape)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the names of the classes, and of all images and labels: equal for equal data, on any device.

        >>> from capsnb.data import load_data
        >>> load_data().fingerprint == load_data().subset(train=4000).fingerprint
        False
        """
        digest = hashlib.blake2b(json.dumps(self.classes).encode(), digest_size=16)
        for split in (self.train, self.test):
            for tensor in (split.images, split.labels):
                digest.update(json.dumps(list(tensor.shape)).encode())
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> ImageData:
        """Return the data with both splits on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def with_preprocess(self, **changes: Any) -> ImageData:
        """Return the data with changed settings of `Preprocess`.

        Args:
            changes: attributes of `Preprocess` with their new values.

        >>> from capsnb.data import load_data
        >>> load_data().with_preprocess(rotate=10).preprocess.rotate
        10.0
        """
        return replace(self, preprocess=replace(self.preprocess, **changes))

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> ImageData:
        """Return a stratified random subset: each class keeps its share to within one image.

        Args:
            train: number of training images; None keeps all.
            test: number of test images; None keeps all.
            seed: the same seed selects the same images on every machine; 0 to 2**32 - 1.

        Returns:
            The smaller data, shuffled; the name tells the sizes, as in "mnist[train=10000]".

        Raises:
            TypeError: no whole number.
            ValueError: a number below one or above the number of images.

        >>> from capsnb.data import load_data
        >>> load_data("mnist5k").subset(train=100, test=50).name
        'mnist5k[train=100,test=50]'
        """

        seed = whole_number("seed", seed, at_least=0, at_most=LARGEST_SEED)
        drawn: dict[str, Any] = {}
        for part, count in (("train", train), ("test", test)):
            if count is not None:
                split: Split = getattr(self, part)
                count = whole_number(f"{part} images of {self.name}", count, at_most=len(split))
                drawn[part] = split.subset(stratified_split(split.labels, count, seed)[0])
        numbers = {part: len(split) for part, split in drawn.items()} | ({"seed": seed} if seed else {})
        suffix = ",".join(f"{key}={value}" for key, value in numbers.items())
        return replace(self, name=f"{self.name}[{suffix}]" if drawn else self.name, **drawn)


def make_split(images: Tensor, labels: Any, classes: tuple[str, ...], source: str) -> Split:
    """Make a split of images and labels that were read from files; errors name the files.

    Args:
        images: uint8 [N, C, H, W].
        labels: [N] integers, as a tensor, an array or a list.
        classes: the names of the classes.
        source: the files, for error messages.

    Returns:
        The split.

    Raises:
        ValueError: the numbers of images and labels differ, or a label has no class.
    """
    labels = torch.as_tensor(labels).to(torch.int64)
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels; download the file again")
    _check_labels(labels, classes, source)
    return Split(images, labels)


def _check_labels(labels: Tensor, classes: tuple[str, ...], source: str) -> None:
    invalid = labels[(labels < 0) | (labels >= len(classes))]
    if len(invalid):
        raise ValueError(
            f"{source}: label {invalid[0]} is outside 0 to {len(classes) - 1}, the numbers of the "
            f"{len(classes)} classes"
        )


def corrupt_file_error(path: Path, reason: str) -> ValueError:
    """Return the error for a file that is not the published one, with its path, the reason and the remedy."""
    return ValueError(
        f"{path} is truncated or corrupt ({reason}): delete it, then put a good copy there or load it again "
        "with download=True"
    )


def stratified_split(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split the indices of `labels` at random into two parts with equal shares of each class (largest remainders).

    NumPy's RandomState is used because its stream is frozen: every version of NumPy draws the same indices.

    Args:
        labels: int64 [N].
        count: M, number of indices in the first part, 0 to N.
        seed: seed of the random numbers, 0 to 2**32 - 1.

    Returns:
        The indices of the first part [M] and of the second part [N - M], both shuffled.

    Raises:
        TypeError: no whole number.
        ValueError: a count or a seed outside its range.
    """
    count = whole_number("count", count, at_least=0, at_most=len(labels))
    seed = whole_number("seed", seed, at_least=0, at_most=LARGEST_SEED)
    random = np.random.RandomState(seed)
    array = labels.cpu().numpy()
    classes, sizes = np.unique(array, return_counts=True)
    exact = sizes * count / len(array)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]] += 1
    members = [random.permutation(np.flatnonzero(array == label)) for label in classes]
    first = np.concatenate([indices[:quota] for indices, quota in zip(members, quotas, strict=True)])
    second = np.concatenate([indices[quota:] for indices, quota in zip(members, quotas, strict=True)])
    return torch.from_numpy(random.permutation(first)), torch.from_numpy(random.permutation(second))
