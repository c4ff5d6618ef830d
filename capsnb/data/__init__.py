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
from capsnb.data.mnist import load_mnist, load_mnist5k, mnist_files
from capsnb.data.npz import load_npz
from capsnb.data.splits import ImageData, Split
from capsnb.data.torchvision_sets import cifar_files, load_cifar, load_svhn, svhn_files
from capsnb.preprocess import Preprocess

__all__ = ["DATASETS", "ImageData", "Preprocess", "Split", "load_data"]

Loader = Callable[[Path, bool, Preprocess], ImageData]
DATASETS: dict[str, Loader] = {
    "mnist5k": load_mnist5k,
    "mnist": load_mnist,
    "svhn": load_svhn,
    "cifar10": partial(load_cifar, "cifar10"),
    "cifar100": partial(load_cifar, "cifar100"),
}
FILES: dict[str, Callable[[Path], Iterable[Path]]] = {  # of the data sets that are not in the package
    "mnist": mnist_files,
    "svhn": svhn_files,
    "cifar10": partial(cifar_files, "cifar10"),
    "cifar100": partial(cifar_files, "cifar100"),
}
OWN = {"folder": load_folder, "npz": load_npz}  # "KIND:PATH" loads your own images


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
    return [name for name, files in FILES.items() if all(path.is_file() for path in files(folder))]


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
            100 of each class), "mnist", "svhn", "cifar10", "cifar100", or "folder:PATH" for your own images in
            `PATH/train/<class>/*` and `PATH/test/<class>/*`.
        root: the folder with the files; by default the environment variable CAPSNB_DATA, else "data". A relative PATH
            of "folder:PATH" starts at `root` if it is given, else at the current folder.
        download: download missing files (through torchvision).
        preprocess: the preprocessing; by default `Preprocess()`, the setting of the papers.

    Returns:
        The data on the CPU; `.to("cuda")` moves them.

    Raises:
        ValueError: an unknown name, or a file that is truncated, corrupt, mislabelled or unreadable.
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
        raise ValueError(
            f'unknown data set "{name}": choose one of {", ".join(DATASETS)} or folder:PATH{hint}'
        )
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
