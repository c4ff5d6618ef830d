"""Images in one `.npz` file, its arrays named as Keras does: anybody's, or a published data set (chapter 17)."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capsnb.data.splits import ImageData, Split, make_split
from capsnb.preprocess import Preprocess

PARTS = ("train", "test")
PUBLISHED = {  # `unordered_digest` of both splits
    "mnist": ("1x28x28 4e485cbcfb6764d69d8aa0d76a6d03ce", "1x28x28 7f099a46849a3eed47783fee67050e5c"),
    "cifar10": ("3x32x32 e4510ae88b573c30fb355bfc29859e83", "3x32x32 7a8924f4fe7919aa7d7c65d91b50ff8c"),
    "cifar100": ("3x32x32 87310494b236ab6d8bb019558fd67067", "3x32x32 5c0eb23623a31eed862150ed044ab01b"),
}


def load_npz(path: Path, preprocess: Preprocess, classes: tuple[str, ...] = ()) -> ImageData:
    """Load a file that `numpy.savez` wrote; nothing in it is unpickled.

    Args:
        path: holds x_train and x_test, uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels; y_train and y_test, whole
            numbers [N] or [N, 1]; and, if the classes have names, classes, text [J].
        preprocess: the preprocessing.
        classes: names that are not the file's.

    Returns:
        The data set "npz:NAME"; classes without names are called by their numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing, damaged, or not as above; the message names the file and the array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: npz:PATH takes what numpy.savez wrote, {_ARRAYS}")
    labels = [_labels(path, f"y_{part}") for part in PARTS]
    classes = classes or _class_names(path, labels)
    train, test = (
        make_split(_images(path, f"x_{part}"), numbers, classes, f"{path}: x_{part} with y_{part}")
        for part, numbers in zip(PARTS, labels, strict=True)
    )
    return ImageData(f"npz:{path.stem}", classes, train, test, preprocess)


def published_file(name: str, root: Path) -> Path | None:
    """`root/NAME.npz`, if it is there and `load_published` knows the data set."""
    path = root / f"{name}.npz"
    return path if name in PUBLISHED and path.is_file() else None


def load_published(name: str, path: Path, classes: tuple[str, ...], preprocess: Preprocess) -> ImageData:
    """Load a published data set from an `.npz` file with its images in any order.

    Args:
        name: a key of `PUBLISHED`.
        path: as in `load_npz`.
        classes: the names of its classes.
        preprocess: the preprocessing.

    Raises:
        ValueError: an image or a label is another one, or as `load_npz`.
    """
    data = load_npz(path, preprocess, classes)
    for part, split, digest in zip(PARTS, (data.train, data.test), PUBLISHED[name], strict=True):
        if unordered_digest(split) != digest:
            raise ValueError(
                f"{path}: x_{part} with y_{part} are not those of {name}: an image or a label is changed, missing or "
                f'there too often; load_data("npz:{path}") takes them as data of your own'
            )
    return replace(data, name=name)


def unordered_digest(split: Split) -> str:
    """The shape of the images, and the sum of the SHA-256 of each image and its label, modulo 2^128.

    Equal for equal labelled images in any order. A sum, since of an exclusive or two equal images would vanish.

    >>> split = Split(torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1), torch.tensor([0, 1, 1]))
    >>> unordered_digest(split) == unordered_digest(split.subset([2, 0, 1]))
    True
    """
    total = 0
    for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True):
        digest = hashlib.sha256(image)
        digest.update(label.to_bytes(8, "little"))
        total += int.from_bytes(digest.digest(), "little")
    return f"{'x'.join(map(str, split.images.shape[1:]))} {total % 2**128:032x}"


_ARRAYS = "with the arrays x_train, y_train, x_test and y_test"


def _read(path: Path, key: str) -> np.ndarray:
    try:
        if not zipfile.is_zipfile(path):  # numpy.load reads other files, too
            raise ValueError("this is no .npz file")
        with np.load(path, allow_pickle=False) as file:
            if key in file:
                return np.asarray(file[key])
    except Exception as error:  # NumPy, zipfile and zlib raise many types of errors for a damaged file
        raise ValueError(f"{path}: {key} cannot be read ({error}): save it again") from error
    raise ValueError(f"{path} holds no {key}: an .npz file of images is one {_ARRAYS}")


def _images(path: Path, key: str) -> Tensor:
    """Read images as uint8 [N, C, H, W]."""
    array = _read(path, key)
    if array.dtype != np.uint8:
        raise ValueError(f"{path}: {key} is {array.dtype}, not uint8: whole numbers from 0 to 255")
    shape = array.shape if array.ndim == 4 else (*array.shape, 1)
    if len(shape) != 4 or 0 in shape or shape[3] not in (1, 3):
        raise ValueError(f"{path}: {key} is {list(array.shape)}, not [N, H, W], [N, H, W, 1] or [N, H, W, 3]")
    count, height, width, channels = shape
    array = np.ascontiguousarray(array).reshape(shape)
    images = array.reshape(count, channels, height, width)
    for k in range(0, count, 500):  # in place, since a second copy of all images would need twice the memory
        images[k : k + 500] = array[k : k + 500].transpose(0, 3, 1, 2).copy()
    return torch.from_numpy(images)


def _labels(path: Path, key: str) -> np.ndarray:
    array = _read(path, key)
    if array.dtype.kind not in "iu" or array.shape not in ((array.size,), (array.size, 1)):
        raise ValueError(
            f"{path}: {key} is {array.dtype} {list(array.shape)}, not class numbers [N] or [N, 1]"
        )
    return array.reshape(-1).astype(np.int64)


def _class_names(path: Path, labels: list[np.ndarray]) -> tuple[str, ...]:
    """The names in the file, or the numbers of the classes."""
    with zipfile.ZipFile(path) as file:
        named = "classes.npy" in file.namelist()
    if not named:
        found = np.unique(np.concatenate(labels))
        if not np.array_equal(found, np.arange(len(found))):
            raise ValueError(
                f"{path}: the {len(found)} labels of y_train and y_test are {found[0]} to {found[-1]}: count them from "
                "0 without a gap, or name all classes in an array classes"
            )
        return tuple(map(str, range(len(found))))
    names = _read(path, "classes")
    listed = tuple(map(str, names.ravel()))
    if names.dtype.kind != "U" or names.ndim != 1 or not all(n and n.isprintable() for n in listed):
        raise ValueError(f"{path}: classes must be a row of names, text of one line each")
    return listed
