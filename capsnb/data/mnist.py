"""MNIST: the 5,000 images inside the package, and the four published files (used from chapter 1 on)."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capsnb.data.splits import DIGITS, ImageData, Split, corrupt_file_error, make_split, stratified_split
from capsnb.preprocess import Preprocess

MNIST_MD5 = {  # of the unpacked files; the MD5s of the .gz files differ from mirror to mirror
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
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


def load_mnist(root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Load MNIST, 28x28 grey, from its four published files.

    Args:
        root: the folder of the files, or of `MNIST/raw` with the files; each file may be compressed (.gz).
        download: download missing files.
        preprocess: the preprocessing.

    Returns:
        60,000 training and 10,000 test images of 10 classes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is truncated, corrupt or mislabelled.
    """
    if download and not all(path.is_file() for path in mnist_files(root)):
        from torchvision.datasets import MNIST

        MNIST(root, download=True)

    def load_split(part: str) -> Split:
        image_file, images = _read_idx(root, f"{part}-images-idx3-ubyte")
        label_file, labels = _read_idx(root, f"{part}-labels-idx1-ubyte")
        return make_split(images[:, None], labels, DIGITS, f"{image_file} with {label_file}")

    return ImageData("mnist", DIGITS, load_split("train"), load_split("t10k"), preprocess)


def mnist_files(root: Path) -> list[Path]:
    """The four files of MNIST in a folder, each where it is, or where it is expected."""
    return [_find_mnist(root, name) for name in MNIST_MD5]


def _find_mnist(root: Path, name: str) -> Path:
    candidates = [folder / f"{name}{end}" for folder in (root / "MNIST" / "raw", root) for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_idx(root: Path, name: str) -> tuple[Path, Tensor]:
    """Read a file in IDX format: a four-byte magic number, a big-endian int32 for each axis, then the bytes."""
    path = _find_mnist(root, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} (or {name}.gz) is neither in {root / 'MNIST' / 'raw'} nor in {root}: put it there, pass "
            'the folder that holds it as root, or download it with load_data("mnist", download=True)'
        )
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise corrupt_file_error(path, str(error)) from error
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != MNIST_MD5[name]:
        raise corrupt_file_error(path, f"its content has the MD5 {md5}, MNIST's is {MNIST_MD5[name]}")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4).tolist()
    return path, torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())
