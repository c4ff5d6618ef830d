"""MNIST: the 5,000 images inside the package, and published files in its format (used from chapter 1 on)."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnb.data.npz import load_published, published_file
from capsnb.data.splits import DIGITS, ImageData, Split, corrupt_file_error, make_split, stratified_split
from capsnb.preprocess import Preprocess

MNIST_MD5 = {  # of the unpacked files; the MD5s of the .gz files differ from mirror to mirror
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# torchvision's class, which its folder is called after, and how the names of training and test files begin.
IDX = {
    "mnist": ("MNIST", "train", "t10k"),
    "fashion-mnist": ("FashionMNIST", "train", "t10k"),
    "kmnist": ("KMNIST", "train", "t10k"),
    "emnist": ("EMNIST", "emnist-balanced-train", "emnist-balanced-test"),
}
SAMPLE = files("capsnb") / "assets" / "mnist5k.npz"


def load_mnist5k(root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load the embedded sample of MNIST's training images.

    Args:
        root: not used; the images are a file of the package.
        download: not used.
        preprocess: the preprocessing.

    Returns:
        4,000 training and 1,000 test images of 10 classes. The test split is drawn with seed 0, 100 of each class.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with SAMPLE.open("rb") as file, np.load(file) as arrays:
            images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    except Exception as error:  # NumPy, zipfile and zlib raise many types of errors for a damaged file
        raise ValueError(f"{SAMPLE} is damaged ({error}): install capsnb again") from error
    sample = Split(images[:, None], labels.long())
    test, train = stratified_split(sample.labels, 1000, seed=0)
    return ImageData("mnist5k", DIGITS, sample.subset(train), sample.subset(test), preprocess)


def load_idx(name: str, root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load MNIST or a data set in its format, 28x28 grey, from four published files.

    Args:
        name: "mnist"; "fashion-mnist", clothes; "kmnist", ten letters of Japanese; "emnist", letters and digits: of its
            splits the balanced one, in which letters that look alike in upper and lower case are one class.
        root: the folder of torchvision's folder `MNIST/raw`, `FashionMNIST/raw` and so on with the files; MNIST's may
            be in `root` itself, as four files or as Keras's `mnist.npz`. Each file may be compressed (.gz).
        download: download missing files.
        preprocess: the preprocessing.

    Returns:
        60,000 training and 10,000 test images of 10 classes; of EMNIST 112,800 and 18,800 of 47 classes, upright.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, corrupt or mislabelled.
    """
    if path := published_file(name, root):
        return load_published(name, path, DIGITS, preprocess)
    split = {"split": "balanced"} if name == "emnist" else {}
    if download and not all(path.is_file() for path in idx_files(name, root)):
        _torchvision(name)(root, download=True, **split)
    classes = DIGITS if name == "mnist" else tuple(_torchvision(name).classes)
    if name == "emnist":
        classes = tuple(_torchvision(name).classes_split_dict["balanced"])

    def load_split(part: str) -> Split:
        image_file, images = _read_idx(name, root, f"{part}-images-idx3-ubyte")
        label_file, labels = _read_idx(name, root, f"{part}-labels-idx1-ubyte")
        if name == "emnist":  # published with rows and columns exchanged
            for block in images.split(1000):
                block.copy_(block.mT.clone(memory_format=torch.contiguous_format))
        return make_split(images[:, None], labels, classes, f"{image_file} with {label_file}")

    train, test = map(load_split, IDX[name][1:])
    return ImageData(name, classes, train, test, preprocess)


def idx_files(name: str, root: Path) -> list[Path]:
    """The four files of a data set in a folder, each where it is, or where it is expected."""
    listed = (f"{part}-{kind}-ubyte" for part in IDX[name][1:] for kind in ("images-idx3", "labels-idx1"))
    return [_find(name, root, file) for file in listed]


def _torchvision(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, IDX[name][0])


def _folders(name: str, root: Path) -> list[Path]:
    """Where files are looked for: of MNIST also in `root`, of the others not, whose files are called the same."""
    return [root / IDX[name][0] / "raw", *([root] if name == "mnist" else [])]


def _find(name: str, root: Path, file: str) -> Path:
    ends = ("", ".gz") if name == "mnist" else (".gz", "")  # MD5s are published of these .gz files alone
    candidates = [folder / f"{file}{end}" for folder in _folders(name, root) for end in ends]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_idx(name: str, root: Path, file: str) -> tuple[Path, Tensor]:
    """Read a file in IDX format: a four-byte magic number, a big-endian int32 for each axis, then the bytes."""
    path = _find(name, root, file)
    if not path.is_file():
        raise FileNotFoundError(
            f"{file} (or {file}.gz) is not in {' or '.join(map(str, _folders(name, root)))}: put it there, pass the "
            f'folder that holds it as root, or download it with load_data("{name}", download=True)'
        )
    content = bytearray()  # which a tensor can share
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            while block := opened.read(2**20):
                content += block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise corrupt_file_error(path, str(error)) from error
    known = MNIST_MD5[file] if name == "mnist" else dict(_torchvision(name).resources).get(path.name)
    hashed = content if name == "mnist" else path.read_bytes()
    if known and (md5 := hashlib.md5(hashed, usedforsecurity=False).hexdigest()) != known:
        raise corrupt_file_error(path, f"its MD5 is {md5}, the published one {known}")
    axes = 3 if "images" in file else 1
    head = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", content[4:head]) if len(content) >= head else ()
    if content[:4] != bytes((0, 0, 8, axes)) or len(content) != head + math.prod(shape):
        raise corrupt_file_error(path, f"{len(content)} bytes are not what its first {head} announce")
    return path, torch.from_numpy(np.frombuffer(content, np.uint8, offset=head).reshape(shape))
