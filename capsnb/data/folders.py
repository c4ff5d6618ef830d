"""Your own images in folders, one folder for each class of each split (an alternative to the data of chapter 4)."""

from __future__ import annotations

import io
import os
import unicodedata
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from capsnb.data.splits import ImageData, Split
from capsnb.preprocess import Preprocess
from capsnb.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image

# Formats of Pillow; without EPS, for which it would start another program on a file of a stranger.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
GREY_MODES = ("1", "L", "LA")  # modes of Pillow that are read as one channel
COLOUR_MODES = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # modes that are read as three channels
MOST_PIXELS = 2**27  # of one image: between 89 million, where Pillow warns, and 179 million, where it refuses
SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx")  # operating systems create these in folders


def load_folder(path: Path, preprocess: Preprocess) -> ImageData:
    """Load the images in `path/train/<class>/*` and `path/test/<class>/*`.

    Args:
        path: the folder with the folders `train` and `test`.
        preprocess: the preprocessing.

    Returns:
        The data set "folder:NAME"; the classes are in alphabetical order, the same on every system.

    Raises:
        FileNotFoundError: a folder is missing or empty, or a class is in one split only.
        ValueError: a file cannot be read as an image, or has another size than most.
    """
    files = {part: _class_files(path / part) for part in ("train", "test")}
    for part, other in (("train", "test"), ("test", "train")):
        for name in files[part]:
            if name not in files[other]:
                raise FileNotFoundError(
                    f'class "{name}" is in {path / part} but not in {path / other}: both splits need images '
                    f"of each class; add {path / other / name} or remove {path / part / name}"
                )
    classes = tuple(files["train"])
    labelled = [
        (file, label)
        for part in ("train", "test")
        for label, name in enumerate(classes)
        for file in files[part][name]
    ]
    images = _read_images([file for file, _ in labelled])
    labels = torch.tensor([label for _, label in labelled])
    count = sum(map(len, files["train"].values()))
    return ImageData(
        f"folder:{path.resolve().name}",
        classes,
        Split(images[:count], labels[:count]),
        Split(images[count:], labels[count:]),
        preprocess,
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, in the order of their names, without hidden files and files of operating systems."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: folder:PATH takes the images in PATH/train/<class>/ and "
            "PATH/test/<class>/"
        )

    def visible(parent: Path) -> list[Path]:
        entries = (entry for entry in parent.iterdir() if entry.name.lower() not in SYSTEM_FILES)
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name)

    classes: dict[str, list[Path]] = {}
    for entry in visible(folder):
        if not entry.is_dir():
            raise ValueError(
                f"{entry} is beside the folders of the classes: move it into {folder}/<class>/ or remove it"
            )
        if _name(entry) in classes:
            raise ValueError(
                f"{entry} and another folder are one name in different letters: rename one of them"
            )
        classes[_name(entry)] = visible(entry)
        if not classes[_name(entry)]:
            raise FileNotFoundError(
                f'class "{entry.name}" is empty: put images into {entry} or remove the folder'
            )
    if not classes:
        raise FileNotFoundError(f"{folder} holds no classes: put the images into {folder}/<class>/")
    return classes


def _name(path: Path) -> str:
    """The name of a file or folder as text that is the same on every system, and one line.

    Linux keeps any bytes: those that are no text become a backslash and a number, and so do control characters. macOS
    takes letters apart from their accents. Windows compares paths without regard to case.
    """
    text = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    shown = (c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)
    return unicodedata.normalize("NFC", "".join(shown))


def _read_images(paths: list[Path]) -> Tensor:
    """Decode image files in threads into uint8 [N, C, H, W]; C is 1 if all of them are grey, else 3."""
    from PIL import Image

    Image.init()  # here, since threads must not do so at the same time
    # chunks, because a task for each file is slower
    chunks = [paths[first : first + 256] for first in range(0, len(paths), 256)]
    images: list[np.ndarray] = []
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(label="reading images", total=len(paths), unit="") as progress,
    ):
        # A file is read or refused; between them is nothing.
        warnings.filterwarnings("ignore", module=r"PIL\.")
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
        target.copy_(torch.from_numpy(image).permute(2, 0, 1))  # a grey image is copied into all channels
    return stacked


def _decode(path: Path) -> np.ndarray:
    """Read one image as uint8 [H, W, 1] or [H, W, 3], as a viewer shows it on a white page.

    It is rotated as its EXIF orientation requires, its colours are those of its profile, and white stands behind what
    is transparent.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is not a file")
        # Opened here: of an uncompressed TIFF that it opens itself, Pillow 13 mixes the pixels up when it turns it.
        with path.open("rb") as file, Image.open(file, formats=formats) as image:
            mode, frames = image.mode, getattr(image, "n_frames", 1)
            if ";16" in str(image.tile):  # how the file holds pixels; Pillow would drop half of their bits
                mode = mode.removesuffix(";16") + ";16"
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            if frames > 1 and image.format != "MPO":  # a camera's MPO holds a picture and its previews
                raise ValueError(f"it is animated, or a stack: {frames} frames")
            if mode in GREY_MODES or mode in COLOUR_MODES:
                image.load()
                upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
                upright = _on_white(_in_srgb(upright))
                pixels = np.array(upright.convert("L" if mode in GREY_MODES else "RGB"))
                return pixels.reshape(*pixels.shape[:2], -1)
    except Exception as error:  # Pillow's decoders raise many types of errors for a damaged file
        reason = f"it is none of {', '.join(formats)}" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error
    raise ValueError(f"{path} has {mode} pixels, not 8 bits per channel: convert it to 8-bit grey or RGB")


def _in_srgb(image: Image.Image) -> Image.Image:
    """Return a colour image with the colours of its profile; without one, or with sRGB's, they are as they are."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "sRGB" in ImageCms.getProfileDescription(opened):
        return image
    srgb = ImageCms.createProfile("sRGB")
    mode = "RGB" if image.mode == "CMYK" else image.mode
    return cast("Image.Image", ImageCms.profileToProfile(image, opened, srgb, outputMode=mode))


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image with white behind what is transparent, as black ink on a transparent ground is meant."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
