"""SVHN and CIFAR, read through torchvision, which checks the MD5 of each file (used in chapter 17)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capsnb.data.npz import load_published, published_file
from capsnb.data.splits import DIGITS, ImageData, Split, corrupt_file_error, make_split
from capsnb.preprocess import Preprocess

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_svhn(root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load SVHN's cropped digits, 32x32 RGB, without the extra training images.

    Args:
        root: the folder of `train_32x32.mat` and `test_32x32.mat`.
        download: download missing files.
        preprocess: the preprocessing.

    Returns:
        73,257 training and 26,032 test images of 10 classes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, corrupt or mislabelled.
    """
    from torchvision.datasets import SVHN

    def load_split(part: str) -> Split:
        dataset = SVHN(root, part, download=download)
        images = torch.from_numpy(np.ascontiguousarray(dataset.data))
        return make_split(images, dataset.labels, DIGITS, str(root / SVHN.split_list[part][1]))

    with _file_errors("svhn", svhn_files(root), f"put it into {root}"):
        train, test = load_split("train"), load_split("test")
    return ImageData("svhn", DIGITS, train, test, preprocess)


def load_cifar(name: str, root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load CIFAR-10 or CIFAR-100, 32x32 RGB.

    Args:
        name: "cifar10" or "cifar100".
        root: the folder in which the published archive was unpacked, or of one file, `cifar10.npz` or `cifar100.npz`.
        download: download a missing archive.
        preprocess: the preprocessing.

    Returns:
        50,000 training and 10,000 test images of 10 or 100 classes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, corrupt or mislabelled.
    """
    if path := published_file(name, root):
        classes = CIFAR10 if name == "cifar10" else tuple(sorted(itertools.chain(*coarse_classes().values())))
        return load_published(name, path, classes, preprocess)
    cifar = _cifar(name)

    def load_split(part: str) -> tuple[Split, tuple[str, ...]]:
        dataset = cifar(root, train=part == "train", download=download)
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        classes = tuple(dataset.classes)
        listed = cifar.train_list if part == "train" else cifar.test_list
        source = " with ".join(str(root / cifar.base_folder / file) for file, _ in listed)
        return make_split(images, dataset.targets, classes, source), classes

    remedy = f"unpack {cifar.filename} in {root}, or put {name}.npz there"
    with _file_errors(name, cifar_files(name, root), remedy):
        (train, classes), (test, _) = load_split("train"), load_split("test")
    return ImageData(name, classes, train, test, preprocess)


def load_coarse_cifar100(root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load CIFAR-100 with its 20 coarse classes; arguments and errors are those of `load_cifar`."""
    data, coarse = load_cifar("cifar100", root, download, preprocess), coarse_classes()
    number = {name: k for k, names in enumerate(coarse.values()) for name in names}
    numbers = torch.tensor([number[name] for name in sorted(number)])
    train, test = (Split(split.images, numbers[split.labels]) for split in (data.train, data.test))
    return ImageData("cifar100-coarse", tuple(coarse), train, test, preprocess)


def coarse_classes() -> dict[str, list[str]]:
    """The coarse classes of CIFAR-100, and the fine ones of each; labels number the names in alphabetical order.

    >>> coarse_classes()["trees"]
    ['maple_tree', 'oak_tree', 'palm_tree', 'pine_tree', 'willow_tree']
    """
    table = json.loads((files("capsnb") / "assets" / "cifar100.json").read_text(encoding="utf-8"))["classes"]
    return {coarse: names.split() for coarse, names in table.items()}


def svhn_files(root: Path) -> dict[Path, str]:
    """SVHN's files in a folder, and their MD5s."""
    from torchvision.datasets import SVHN

    return {root / file: md5 for _, file, md5 in (SVHN.split_list[part] for part in ("train", "test"))}


def cifar_files(name: str, root: Path) -> dict[Path, str]:
    """The unpacked files of CIFAR-10 or CIFAR-100 in a folder, and their MD5s."""
    cifar = _cifar(name)
    listed = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    return {root / cifar.base_folder / file: md5 for file, md5 in listed}


def _cifar(name: str) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


@contextmanager
def _file_errors(name: str, files: dict[Path, str], remedy: str) -> Iterator[None]:
    """Replace torchvision's RuntimeError, which names no file, by an error for the first missing or corrupt file."""
    from torchvision.datasets.utils import check_integrity

    try:
        yield
    except RuntimeError as error:
        for path, md5 in files.items():
            if not path.is_file():
                raise FileNotFoundError(
                    f'{path} is not there: {remedy}, or download it with load_data("{name}", download=True)'
                ) from error
            if not check_integrity(path, md5):
                raise corrupt_file_error(path, f"its MD5 is not {md5}") from error
        raise
