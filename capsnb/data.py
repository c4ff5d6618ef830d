"""Images and labels: an embedded sample, published data sets, folders of your own (chapters 1 and 4).

`load_data()` needs no network: the package carries 5,000 real MNIST images. Images stay uint8 [N, C, H, W]
on the device that `.to(device)` names; `Preprocess` turns a batch of them into what a network sees.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capsnb.preprocess import Preprocess

NAMES = ("mnist5k", "mnist", "svhn", "cifar10", "cifar100")
DIGITS = tuple("0123456789")
GREY = ("1", "L", "LA")  # Pillow's names of what is read as one channel
COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # and as three
MNIST_MD5 = {  # of the unpacked files; the .gz around them differ from mirror to mirror
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels, on one device.

    Args:
        images: uint8 [N, C, H, W], 0 to 255.
        labels: int64 [N], each a class number from 0.

    Raises:
        TypeError: `images` is not uint8 or `labels` not int64.
        ValueError: the axes are not as above, or there is not one label per image.

    >>> Split(torch.zeros(3, 1, 28, 28, dtype=torch.uint8), torch.arange(3))
    Split(3 images of 1x28x28 on cpu)
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Refuse tensors that are not a set of labelled images."""
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            raise TypeError(
                f"a Split holds uint8 images and int64 labels, not {self.images.dtype} and "
                f"{self.labels.dtype}"
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
        """Describe the split in a line."""
        shape = "x".join(map(str, self.images.shape[1:]))
        return f"Split({len(self)} images of {shape} on {self.images.device})"

    def to(self, device: torch.device | str) -> Split:
        """Return the split on `device`; nothing is copied if it is there already."""
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor | Sequence[int]) -> Split:
        """Return the images and labels at `indices` [M], in that order.

        >>> split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3))
        >>> split.subset([2, 0]).labels
        tensor([2, 0])
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.labels.device)
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set as everything else here takes it: two splits, the classes' names and the preprocessing.

    Args:
        name: what results and figures call the data.
        classes: the classes' names; label k means `classes[k]`.
        train: the images to learn from.
        test: the images to be measured on.
        preprocess: what happens to an image before the network.

    Raises:
        ValueError: a split is empty, a label has no class, the splits' images differ in shape, or the
            crop does not fit them.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    preprocess: Preprocess = field(default_factory=Preprocess)

    def __post_init__(self) -> None:
        """Refuse splits that do not belong together."""
        for which, split in (("train", self.train), ("test", self.test)):
            if len(split) == 0:
                raise ValueError(f"the {which} split of {self.name} has no images")
            _check_labels(split.labels, self.classes, f"the {which} split of {self.name}")
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            train, test = (list(split.images.shape[1:]) for split in (self.train, self.test))
            raise ValueError(
                f"{self.name}: training images are {train}, test images {test} ([C, H, W]): make them alike"
            )
        self.preprocess.output_shape(self._stored_shape)

    @property
    def _stored_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return (channels, height, width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) that the network sees, after preprocessing.

        >>> load_data("mnist5k", preprocess=Preprocess(resize=78)).image_shape
        (1, 78, 78)
        """
        return self.preprocess.output_shape(self._stored_shape)

    def to(self, device: torch.device | str) -> ImageData:
        """Return the data with both splits on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def with_preprocess(self, **changes: Any) -> ImageData:
        """Return the same data with some settings of `Preprocess` changed.

        >>> load_data().with_preprocess(rotate=10).preprocess.rotate
        10
        """
        return replace(self, preprocess=replace(self.preprocess, **changes))

    def subset(self, train: int | None = None, test: int | None = None, seed: int = 0) -> ImageData:
        """Return fewer images, drawn so that each class keeps its share to within one image.

        Args:
            train: how many training images; None keeps all.
            test: how many test images; None keeps all.
            seed: the same seed draws the same images, on every machine; 0 to 2**32 - 1.

        Returns:
            The smaller data, shuffled; its name says so: "mnist[train=10000]".

        Raises:
            ValueError: more images are asked for than there are, or fewer than one.

        >>> load_data("mnist5k").subset(train=100, test=50).name
        'mnist5k[train=100,test=50]'
        """

        def drawn(which: str, split: Split, count: int | None) -> Split:
            if count is None:
                return split
            if not isinstance(count, int) or not 1 <= count <= len(split):
                raise ValueError(
                    f"{which}={count!r}: the {which} split of {self.name} has {len(split)} images; "
                    f"choose a whole number from 1 to {len(split)}"
                )
            return split.subset(_stratified(split.labels, count, seed)[0])

        asked = {"train": train, "test": test, "seed": seed or None}
        notes = [f"{key}={value}" for key, value in asked.items() if value is not None]
        name = self.name if train is None and test is None else f"{self.name}[{','.join(notes)}]"
        return replace(
            self, name=name, train=drawn("train", self.train, train), test=drawn("test", self.test, test)
        )


def load_data(
    name: str = "mnist5k",
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    preprocess: Preprocess | None = None,
) -> ImageData:
    """Load a data set; without `download=True` nothing is ever fetched.

    Args:
        name: "mnist5k" (5,000 real MNIST images inside the package: 4,000 to train on and 1,000 to test on,
            400 and 100 per class), "mnist", "svhn", "cifar10", "cifar100", or "folder:PATH" for your own
            images in `PATH/train/<class>/*` and `PATH/test/<class>/*`.
        root: the folder that holds the files; by default the environment's CAPSNB_DATA, else "data". A
            relative PATH of "folder:PATH" starts at root if one is given, else at the current folder.
        download: fetch files that are not there (through torchvision).
        preprocess: the preprocessing; `Preprocess()`, the papers' setting, by default.

    Returns:
        The data on the CPU; `.to("cuda")` moves it.

    Raises:
        ValueError: no data set has this name, or a file is truncated, corrupt, mislabelled or unreadable.
        FileNotFoundError: a file or a class's folder is not there; the message says where it was looked for.

    >>> load_data("mnist5k").train
    Split(4000 images of 1x28x28 on cpu)
    """
    preprocess = Preprocess() if preprocess is None else preprocess
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        return _load_folder(Path(root or ".").expanduser() / path, preprocess)
    folder = Path(root or os.environ.get("CAPSNB_DATA") or "data").expanduser()
    if name == "mnist5k":
        return _load_mnist5k(preprocess)
    if name == "mnist":
        return _load_mnist(folder, download, preprocess)
    if name in NAMES:
        return _load_torchvision(name, folder, download, preprocess)
    close = get_close_matches(name.lower(), NAMES, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ValueError(f'no data set is called "{name}": choose one of {", ".join(NAMES)} or folder:PATH{hint}')


def _load_mnist5k(preprocess: Preprocess) -> ImageData:
    """Split the embedded sample: of each class 100 images, drawn with seed 0, are the test split."""
    with (files("capsnb") / "assets" / "mnist5k.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    everything = Split(images[:, None], labels.long())
    test, train = _stratified(everything.labels, 1000, seed=0)
    return ImageData("mnist5k", DIGITS, everything.subset(train), everything.subset(test), preprocess)


def _load_mnist(root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Read MNIST's four files, packed (.gz) or not, from root/MNIST/raw or from root itself."""
    if download and not all(_find_mnist(root, name) for name in MNIST_MD5):
        from torchvision.datasets import MNIST

        MNIST(root, download=True)

    def split(part: str) -> Split:
        image_file, images = _read_idx(root, f"{part}-images-idx3-ubyte")
        label_file, labels = _read_idx(root, f"{part}-labels-idx1-ubyte")
        return _labelled(images[:, None], labels, DIGITS, f"{image_file} with {label_file}")

    return ImageData("mnist", DIGITS, split("train"), split("t10k"), preprocess)


def _find_mnist(root: Path, name: str) -> Path | None:
    candidates = [folder / f"{name}{end}" for folder in (root / "MNIST" / "raw", root) for end in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(root: Path, name: str) -> tuple[Path, Tensor]:
    """Read one of MNIST's files: a four-byte magic number, one big-endian int32 per axis, then the bytes."""
    path = _find_mnist(root, name)
    if path is None:
        raise FileNotFoundError(
            f"{name} (or {name}.gz) is neither in {root / 'MNIST' / 'raw'} nor in {root}: put it there, pass "
            'the folder that holds it as root, or download it with load_data("mnist", download=True)'
        )
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MNIST_MD5[name]:
        raise _damaged(path, f"its content has the MD5 {found}, MNIST's is {MNIST_MD5[name]}")
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4).tolist()
    return path, torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def _load_torchvision(name: str, root: Path, download: bool, preprocess: Preprocess) -> ImageData:
    """Read SVHN or CIFAR through torchvision, which checks each file's MD5."""
    from torchvision import datasets

    dataset = {"svhn": datasets.SVHN, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    listed = _torchvision_files(name, dataset, root)

    def split(part: str) -> tuple[Split, tuple[str, ...]]:
        source = " with ".join(str(path) for path, _ in listed[part])
        if name == "svhn":
            loaded = dataset(root, part, download=download)
            images = torch.from_numpy(np.ascontiguousarray(loaded.data))
            return _labelled(images, loaded.labels, DIGITS, source), DIGITS
        loaded = dataset(root, train=part == "train", download=download)
        images = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        return _labelled(images, loaded.targets, tuple(loaded.classes), source), tuple(loaded.classes)

    try:
        (train, classes), (test, _) = split("train"), split("test")
    except RuntimeError as error:  # it says neither which file nor whether that is missing or damaged
        raise _explained(name, dataset, listed, root) or error from error
    return ImageData(name, classes, train, test, preprocess)


def _torchvision_files(name: str, dataset: Any, root: Path) -> dict[str, list[tuple[Path, str]]]:
    """List the files that torchvision reads, with their MD5s, part by part."""
    if name == "svhn":
        return {
            part: [(root / dataset.split_list[part][1], dataset.split_list[part][2])]
            for part in ("train", "test")
        }
    parts = {"train": dataset.train_list, "test": dataset.test_list}
    parts["meta"] = [(dataset.meta["filename"], dataset.meta["md5"])]
    return {
        part: [(root / dataset.base_folder / file, md5) for file, md5 in files]
        for part, files in parts.items()
    }


def _explained(
    name: str, dataset: Any, listed: dict[str, list[tuple[Path, str]]], root: Path
) -> Exception | None:
    """Return the error that names the first file that is missing or damaged, if one is."""
    from torchvision.datasets.utils import check_integrity

    place = f"put it into {root}" if name == "svhn" else f"unpack {dataset.filename} in {root}"
    for path, md5 in (entry for part in listed.values() for entry in part):
        if not path.is_file():
            return FileNotFoundError(
                f'{path} is not there: {place}, or download it with load_data("{name}", download=True)'
            )
        if not check_integrity(path, md5):
            return _damaged(path, f"its MD5 is not {md5}")
    return None


def _load_folder(path: Path, preprocess: Preprocess) -> ImageData:
    """Read PATH/train/<class>/* and PATH/test/<class>/*."""
    listed = {which: _class_files(path / which) for which in ("train", "test")}
    for here, there in (("train", "test"), ("test", "train")):
        for name in listed[here]:
            if name not in listed[there]:
                raise FileNotFoundError(
                    f'class "{name}" is in {path / here} but not in {path / there}: both splits need images '
                    f"of each class; add {path / there / name} or remove {path / here / name}"
                )
    classes = tuple(listed["train"])
    found = [
        (file, label)
        for which in ("train", "test")
        for label, name in enumerate(classes)
        for file in listed[which][name]
    ]
    images = _read_images([file for file, _ in found])
    labels = torch.tensor([label for _, label in found])
    cut = sum(map(len, listed["train"].values()))
    return ImageData(
        f"folder:{path.resolve().name}",
        classes,
        Split(images[:cut], labels[:cut]),
        Split(images[cut:], labels[cut:]),
        preprocess,
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """List the files of each class, both in alphabetical order, without what systems leave in folders."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: folder:PATH takes the images in PATH/train/<class>/ and "
            "PATH/test/<class>/"
        )

    def entries(place: Path) -> list[Path]:
        left_by_systems = ("thumbs.db", "desktop.ini", "__macosx")
        return sorted(
            entry
            for entry in place.iterdir()
            if not entry.name.startswith(".") and entry.name.lower() not in left_by_systems
        )

    classes: dict[str, list[Path]] = {}
    for place in entries(folder):
        if not place.is_dir():
            raise ValueError(
                f"{place} lies beside the classes' folders: move it into {folder}/<class>/ or remove it"
            )
        classes[place.name] = entries(place)
        if not classes[place.name]:
            raise FileNotFoundError(
                f'class "{place.name}" is empty: put images into {place} or remove the folder'
            )
    if not classes:
        raise FileNotFoundError(f"{folder} holds no classes: put the images into {folder}/<class>/")
    return classes


def _read_images(paths: list[Path]) -> Tensor:
    """Decode image files in threads into uint8 [N, C, H, W]; C is 1 if all of them are grey, else 3."""
    from tqdm import tqdm

    chunks = [
        paths[first : first + 256] for first in range(0, len(paths), 256)
    ]  # a task for each file costs more
    images: list[np.ndarray] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="reading images", unit="", delay=1, leave=False) as progress,
    ):
        for decoded in pool.map(lambda chunk: [_decode(path) for path in chunk], chunks):
            images += decoded
            progress.update(len(decoded))
    height, width = Counter(image.shape[:2] for image in images).most_common(1)[0][0]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width), most others "
                f"{height}x{width}: bring all images to one size first"
            )
    channels = max(image.shape[2] for image in images)
    stacked = torch.empty(len(images), channels, height, width, dtype=torch.uint8)
    for target, image in zip(stacked, images, strict=True):
        target.copy_(torch.from_numpy(image).permute(2, 0, 1))  # a grey one among colours fills all three
    return stacked


def _decode(path: Path) -> np.ndarray:
    """Return one image as uint8 [H, W, 1] or [H, W, 3], turned as its camera says."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode in GREY or mode in COLOUR:
                image.load()
                upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
                pixels = np.array(upright.convert("L" if mode in GREY else "RGB"))
                return pixels.reshape(*pixels.shape[:2], -1)
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as an image ({error}): replace or remove it") from error
    raise ValueError(f"{path} has {mode} pixels, not 8 bits per channel: convert it to 8-bit grey or RGB")


def _labelled(images: Tensor, labels: Any, classes: tuple[str, ...], source: str) -> Split:
    labels = torch.as_tensor(labels).to(torch.int64)
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images but {len(labels)} labels; get the file again")
    _check_labels(labels, classes, source)
    return Split(images, labels)


def _check_labels(labels: Tensor, classes: tuple[str, ...], source: str) -> None:
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise ValueError(
            f"{source}: label {wrong[0]} is outside 0 to {len(classes) - 1}, the numbers of the "
            f"{len(classes)} classes"
        )


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is truncated or corrupt ({reason}): delete it, then put a good copy there or load it again "
        "with download=True"
    )


def _stratified(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `count` indices in proportion to the classes, by largest remainders; the others come second.

    Both parts are shuffled. NumPy's RandomState is used because its stream is frozen: no version changes the
    draw.
    """
    random = np.random.RandomState(seed)
    known = labels.cpu().numpy()
    kinds, sizes = np.unique(known, return_counts=True)
    exact = sizes * count / len(known)
    quotas = np.floor(exact).astype(int)
    quotas[np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]] += 1
    members = [random.permutation(np.flatnonzero(known == kind)) for kind in kinds]
    chosen = np.concatenate([of_kind[:quota] for of_kind, quota in zip(members, quotas, strict=True)])
    others = np.concatenate([of_kind[quota:] for of_kind, quota in zip(members, quotas, strict=True)])
    return torch.from_numpy(random.permutation(chosen)), torch.from_numpy(random.permutation(others))
