r"""Preprocessing of images: crop, rotate, resize, standardise (taught in chapters 1 and 4).

Every step is one operation on the whole batch, on the device of the images; no Python loop runs over images.
`train` augments at random and `evaluate` does not: they are two methods, so evaluation is never augmented by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from capsnb.values import finite_number, plain_fields, whole_number, whole_numbers

ALL_IMAGES = slice(None)
MIN_STD = 1e-6  # a smaller standard deviation is rounding error (float32 has a precision of 1.2e-7 near 1)


@dataclass(frozen=True)
class Preprocess:
    r"""The preprocessing of an image between the data set and the network.

    The default is the setting of Gugglberger et al., "Momentum Capsule Networks": pad by 2 pixels, crop to the
    original size (at random in training, in the centre in evaluation), and standardise each image.

    Args:
        pad: black pixels added on each side, >= 0.
        crop: side in pixels of the square crop of the padded image; None keeps the height and width.
        rotate: in training each image is turned about its centre by an angle drawn from [-rotate, rotate]
            degrees, bilinear, black outside the image; 0 to 180.
        resize: side in pixels to which the crop is resized (bilinear, antialiased); None keeps its size.
        standardise: give each image mean 0 and variance 1; False keeps values in [0, 1].
        signed: inputs in [-1, 1] instead, as in the published code of MoCapsNet; needs standardise=False.

    Raises:
        TypeError: a setting is not of the type above.
        ValueError: a setting is outside its range, or signed and standardise are both set.

    >>> Preprocess(rotate=10, resize=56).output_shape((1, 28, 28))
    (1, 56, 56)
    """

    pad: int = 2
    crop: int | None = None
    rotate: float = 0.0
    resize: int | None = None
    standardise: bool = True
    signed: bool = False

    def __post_init__(self) -> None:
        """Check the type and the range of each setting."""
        plain_fields(self)
        whole_number("pad", self.pad, at_least=0)
        for name in ("crop", "resize"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name))
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must lie in 0 to 180 degrees (used as +-rotate), not {self.rotate!r}")
        if self.signed and self.standardise:
            raise ValueError("signed=True needs standardise=False: a pixel has one scale")

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape (C, H', W') of a preprocessed image.

        Args:
            image_shape: (C, H, W) of the image before preprocessing.

        Raises:
            ValueError: the crop does not fit into the padded image, or it is no shape.

        >>> Preprocess(pad=0, crop=24).output_shape((3, 32, 32))
        (3, 24, 24)
        """
        channels, *sides = whole_numbers("image_shape", image_shape, 3)
        height, width = self._crop_size(*sides)
        return (channels, self.resize or height, self.resize or width)

    def train(
        self, images: Tensor, generator: torch.Generator, rows: slice = ALL_IMAGES
    ) -> tuple[Tensor, Tensor]:
        """Return a random view of each image: rotated, cropped, resized and standardised.

        All random numbers come from `generator`: the same state gives the same batch. They are drawn on the generator's
        device and then moved, so a CPU generator gives the same views for images on the CPU and on a GPU.

        Args:
            images: uint8 [B, C, H, W].
            generator: the source of crops and angles; its state advances.
            rows: the images of the batch that this rank prepares; default all. Random numbers are drawn for the whole
                batch, so each image gets the same view on any number of ranks.

        Returns:
            inputs: float32 [B, C, H', W'], standardised per image, or in [-1, 1] if `signed`, or in [0, 1].
            targets: float32 [B, C, H', W'], the same view in [0, 1]: what a sigmoid decoder can reach.

        Raises:
            TypeError: `images` is not a uint8 tensor or `generator` not a torch.Generator.
            ValueError: `images` does not have four axes or is smaller than the crop.

        >>> images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
        >>> [view.shape for view in Preprocess().train(images, torch.Generator().manual_seed(0))]
        [torch.Size([2, 1, 28, 28]), torch.Size([2, 1, 28, 28])]
        """
        _check_images(images)
        if not isinstance(generator, torch.Generator):
            raise TypeError(
                f"generator must be a torch.Generator, not {type(generator).__name__}: "
                "pass torch.Generator().manual_seed(0)"
            )
        drawn = self.draw(len(images), images.shape[2:], generator)
        return self.view(images[rows], *(numbers.to(images.device)[rows] for numbers in drawn))

    def draw(self, count: int, sides: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers of `train`.

        Args:
            count: B, of images.
            sides: their height and width.
            generator: as in `train`.

        Returns:
            Where each crop begins in the padded image, top and left, `[B]`; if images are rotated, also the angles in
            degrees, `[B]`. All are on the generator's device.
        """
        device = generator.device
        corners = [
            torch.randint(side + 2 * self.pad - crop + 1, (count,), generator=generator, device=device)
            for side, crop in zip(sides, self._crop_size(*sides), strict=True)
        ]
        if self.rotate == 0:
            return (*corners,)
        return *corners, (2 * torch.rand(count, generator=generator, device=device) - 1) * self.rotate

    def view(
        self, images: Tensor, top: Tensor, left: Tensor, degrees: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The views of images that `draw` describes: what `train` returns.

        Args:
            images: uint8 [B, C, H, W].
            top: where the crop begins, `[B]`, in pixels of the padded image.
            left: likewise.
            degrees: of the rotation, `[B]`; None for none.

        Returns:
            inputs and targets as in `train`.
        """
        height, width = self._crop_size(*images.shape[2:])
        if degrees is None:  # shifts by whole pixels need no interpolation, so no value changes
            views = _to_unit_interval(_crop(F.pad(images, [self.pad] * 4), top, left, height, width))
        else:
            views = _rotate_and_crop(
                _to_unit_interval(images), degrees, top - self.pad, left - self.pad, height, width
            )
        return self._resize_and_standardise(views)

    def evaluate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the centre crop of each image, resized and standardised, without random augmentation.

        Args:
            images: uint8 [B, C, H, W].

        Returns:
            inputs and targets as in `train`.

        Raises:
            TypeError: `images` is not a uint8 tensor.
            ValueError: `images` does not have four axes or is smaller than the crop.

        >>> images = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
        >>> Preprocess(standardise=False).evaluate(images)[0].unique()
        tensor([1.])
        """
        _check_images(images)
        height, width = self._crop_size(images.shape[2], images.shape[3])
        padded = F.pad(images, [self.pad] * 4)
        top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
        return self._resize_and_standardise(
            _to_unit_interval(padded[:, :, top : top + height, left : left + width])
        )

    def _crop_size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None:
            return height, width
        largest = min(height, width) + 2 * self.pad
        if self.crop > largest:
            raise ValueError(
                f"crop={self.crop} does not fit into images of {height}x{width} pixels padded by {self.pad}: "
                f"choose crop <= {largest} or a larger pad"
            )
        return self.crop, self.crop

    def _resize_and_standardise(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        if self.resize is not None:
            size = (self.resize, self.resize)
            targets = F.interpolate(targets, size, mode="bilinear", antialias=True, align_corners=False)
        if self.resize is not None or self.rotate > 0:
            targets = targets.clamp(0, 1)  # rounding errors of the interpolation weights
        if self.signed:
            return 2 * targets - 1, targets
        return (standardise(targets) if self.standardise else targets), targets


def standardise(images: Tensor) -> Tensor:
    r"""Give each image mean 0 and variance 1, over all its channels and pixels.

    .. math:: x' = \frac{x - \mu}{\sigma}, \qquad \mu = \overline{x}, \quad \sigma^2 = \overline{(x - \mu)^2}

    An image of a single value has variance 0: it becomes zeros, never NaN.

    Args:
        images: float [B, C, H, W], values in about [0, 1].

    Returns:
        Float [B, C, H, W].

    >>> standardise(torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2)).flatten()
    tensor([-1.,  1.,  1., -1.])
    """
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    sigma = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    # A product, since a number in `torch.where` is copied to the GPU, which a CUDA graph does not allow.
    return centred / sigma.clamp_min(MIN_STD) * (sigma > MIN_STD)


def rotate(images: Tensor, degrees: Tensor | float) -> Tensor:
    """Rotate each image about its centre, bilinear, zeros outside the image (used in chapter 1).

    Args:
        images: float [B, C, H, W].
        degrees: one angle, or one per image [B]; positive rotates counter-clockwise, like `torch.rot90`.

    Returns:
        Float [B, C, H, W].

    >>> rotate(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2), 90).view(2, 2).round()
    tensor([[2., 4.],
            [1., 3.]])
    """
    if np.ndim(degrees) == 0:
        degrees = finite_number("degrees", degrees)
    angles = torch.as_tensor(degrees, dtype=torch.float32, device=images.device).expand(len(images))
    corner = torch.zeros_like(angles)
    return _rotate_and_crop(images, angles, corner, corner, images.shape[2], images.shape[3])


def _crop(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Crop a window from each image [B, C, H, W]; the window of image b begins at (top[b], left[b])."""
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, height]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [B, width]
    pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(1)  # [B, height * width]
    pixels = pixels[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, pixels).unflatten(2, (height, width))


def _rotate_and_crop(
    images: Tensor, degrees: Tensor, top: Tensor, left: Tensor, height: int, width: int
) -> Tensor:
    """Rotate each image [B, C, H, W] about its centre and crop a window from it, in one interpolation.

    `top` and `left` [B] are measured from the corner of the image and may be negative. Pixels outside the image are
    zero, so padding is not stored, and corners that the rotation moves into the padding are kept.
    """
    image_height, image_width = images.shape[2:]
    device = images.device
    # Coordinates in the window, relative to the image's centre: y [B, height], x [B, width].
    y = top[:, None] + torch.arange(height, device=device) - (image_height - 1) / 2
    x = left[:, None] + torch.arange(width, device=device) - (image_width - 1) / 2
    y, x = y[:, :, None], x[:, None, :]
    cosine = torch.cos(degrees * (math.pi / 180))[:, None, None]
    sine = torch.sin(degrees * (math.pi / 180))[:, None, None]
    # Not F.affine_grid: its matrix product loses precision under autocast and TF32.
    source_x = (cosine * x - sine * y) * (2 / image_width)
    source_y = (sine * x + cosine * y) * (2 / image_height)
    grid = torch.stack((source_x, source_y), dim=-1)  # [B, height, width, 2], -1 to 1 across the image
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _to_unit_interval(images: Tensor) -> Tensor:
    return images.to(torch.float32).div_(255)


def all_settings(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `Preprocess`: those that are left out, or that an older record lacks, are its defaults.

    >>> all_settings({"pad": 0})["pad"], all_settings({})["pad"]
    (0, 2)
    """
    return asdict(Preprocess()) | dict(known)


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a uint8 tensor with values 0 to 255, not {found}: "
            "pass the stored images (data.train.images), not preprocessed ones"
        )
    if images.ndim != 4:
        raise ValueError(
            f"images must have the axes [B, C, H, W], not shape {list(images.shape)}: "
            "write images[None] for a single image"
        )
