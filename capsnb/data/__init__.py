"""Data sets: an embedded sample, published data sets and folders of your own images (chapters 1 and 4).

`load_data()` needs no network: the package contains 5,000 real MNIST images. Images are stored as uint8 [N, C, H, W];
`.to(device)` moves them to a device, and `Preprocess` turns a batch of them into the input of a network.

To add a data set, write a function `(root, download, preprocess) -> ImageData` in a module of this package, and add it
to `DATASETS`. `load_data` and the command line then accept its name. `FILES` says which files it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from capsnb.data.folders import load_folder
from capsnb.data.mnist import IDX, idx_files, load_idx, load_mnist5k
from capsnb.data.npz import load_npz, published_file
from capsnb.data.splits import ImageData, Split
from capsnb.data.torchvision_sets import cifar_files, load_cifar, load_coarse_cifar100, load_svhn, svhn_files
from capsnb.preprocess import Preprocess

__all__ = ["DATASETS", "ImageData", "Preprocess", "Split", "load_data"]

Loader = Callable[[Path, bool, Preprocess], ImageData]
DATASETS: dict[str, Loader] = {
    "mnist5k": load_mnist5k,
    **{name: partial(load_idx, name) for name in IDX},
    "svhn": load_svhn,
    "cifar10": partial(load_cifar, "cifar10"),
    "cifar100": partial(load_cifar, "cifar100"),
    "cifar100-coarse": load_coarse_cifar100,
}
OWN = {"folder": load_folder, "npz": load_npz}  # your own images, as "folder:PATH" and "npz:PATH"
NAMES = ", ".join([*DATASETS, *(f"{kind}:PATH" for kind in OWN)])
FILES: dict[str, Callable[[Path], Iterable[Path]]] = {  # of the data sets that are not in the package
    **{name: partial(idx_files, name) for name in IDX},
    "svhn": svhn_files,
    "cifar10": partial(cifar_files, "cifar10"),
    "cifar100": partial(cifar_files, "cifar100"),
    "cifar100-coarse": partial(cifar_files, "cifar100"),
}


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the published data sets: `root`, or CAPSNB_DATA, or "data".

    >>> data_folder("~/mine") == Path("~/mine").expanduser()
    True
    """
    return Path(root or os.environ.get("CAPSNB_DATA") or "data").expanduser()


def downloaded(root: str | os.PathLike[str] | None = None) -> list[str]:
    """The data sets whose files are all in the folder. The files are looked for, not read.

    Args:
        root: as in `load_data`.

    >>> downloaded("no such folder")
    []
    """
    folder = data_folder(root)
    return [
        name
        for name, files in FILES.items()
        if published_file(name.removesuffix("-coarse"), folder)
        or all(path.is_file() for path in files(folder))
    ]


def load_data(
    name: str = "mnist5k",
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    preprocess: Preprocess | None = None,
) -> ImageData:
    """Load a data set; nothing is downloaded unless `download=True`.

    Args:
        name: "mnist5k" (5,000 real MNIST images inside the package: 4,000 for training and 1,000 for testing, 400 and
            100 of each class), "mnist", "fashion-mnist", "kmnist", "emnist" (its balanced split: 47 letters and
            digits), "svhn", "cifar10", "cifar100", "cifar100-coarse" (the same images in 20 classes); or your own
            images: "folder:PATH" for those in `PATH/train/<class>/*` and `PATH/test/<class>/*`, "npz:PATH" for a file
            of `numpy.savez` with the arrays x_train and x_test, uint8 [N, H, W] or [N, H, W, C], y_train and y_test,
            integers [N] or [N, 1], and perhaps the names of the classes, classes [J].
        root: the folder with the files; by default the environment variable CAPSNB_DATA, else "data". A relative PATH
            starts at `root` if it is given, else at the current folder. MNIST and CIFAR may also be one file there
            with such arrays, `mnist.npz`, `cifar10.npz`, `cifar100.npz`, the images in any order.
        download: download missing files (through torchvision).
        preprocess: the preprocessing; by default `Preprocess()`, the setting of the papers.

    Returns:
        The data on the CPU; `.to("cuda")` moves them.

    Raises:
        ValueError: an unknown name; a file that is truncated, corrupt, mislabelled or unreadable; an array that does
            not fit, or is not that of the published data set.
        OSError: a download failed.
        FileNotFoundError: a file or the folder of a class is missing; the message names where it is expected.

    >>> load_data("mnist5k").train
    Split(4000 images of 1x28x28 on cpu)
    """
    preprocess = Preprocess() if preprocess is None else preprocess
    kind, colon, path = name.partition(":")
    if colon and kind in OWN:
        return OWN[kind](Path(root or ".").expanduser() / Path(path).expanduser(), preprocess)
    if name not in DATASETS:
        close = get_close_matches(name.lower(), DATASETS, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise ValueError(f'unknown data set "{name}": choose one of {NAMES}{hint}')
    folder = data_folder(root)
    try:
        return DATASETS[name](folder, download, preprocess)
    except RuntimeError as error:  # torchvision's, where no mirror answers
        if not download:
            raise
        raise OSError(
            f"{name} could not be downloaded into {folder} ({error}): check the network, or put the published files "
            "there"
        ) from error
