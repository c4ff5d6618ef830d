"""What every network returns: class capsules, their lengths, and the decoder's reconstruction. Taught in chapter 4."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from capsnb.values import sizes, whole_numbers


class CapsuleOutput(NamedTuple):
    """The output of a capsule model.

    Attributes:
        capsules: one vector for each class, `[B, J, E]`.
        lengths: the lengths of these vectors, the scores of the classes, `[B, J]`, in [0, 1) (linear head: [0, 1]).
        reconstruction: the decoder's output, `[B, C, H, W]`, in [0, 1]; None without a decoder.
    """

    capsules: Tensor
    lengths: Tensor
    reconstruction: Tensor | None


class Decoder(nn.Module):
    """Reconstruct the image from one class capsule with fully connected layers (Sabour et al. 2017, figure 2).

    Args:
        classes: J.
        dim: E, the dimension of a class capsule.
        image_shape: (C, H, W) of the reconstruction.
        hidden: widths of the hidden layers.

    Shape:
        capsules `[B, J, E]` and labels `[B]` -> `[B, C, H, W]` in [0, 1]. All capsules but the labelled one are set to
        zero, so the reconstruction depends on that capsule alone.
    """

    def __init__(
        self, classes: int, dim: int, image_shape: tuple[int, int, int], hidden: tuple[int, ...] = (512, 1024)
    ) -> None:
        super().__init__()
        image_shape = whole_numbers("image_shape", image_shape, 3)
        widths = [math.prod(sizes(classes=classes, dim=dim)), *whole_numbers("decoder's hidden", hidden)]
        layers: list[nn.Module] = []
        for in_width, out_width in pairwise(widths):
            layers += [nn.Linear(in_width, out_width), nn.ReLU()]
        self.net = nn.Sequential(
            *layers, nn.Linear(widths[-1], math.prod(image_shape)), nn.Sigmoid(), nn.Unflatten(1, image_shape)
        )

    def forward(self, capsules: Tensor, labels: Tensor) -> Tensor:
        """Reconstruct each image from its labelled capsule."""
        mask = labels[:, None] == torch.arange(capsules.shape[1], device=labels.device)
        return self.net((capsules * mask[:, :, None]).flatten(1))


def check_shape(images: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raise a `ValueError` for images that are not `[B, C, H, W]` with (C, H, W) = `image_shape`."""
    if images.shape[1:] != image_shape:
        C, H, W = image_shape
        raise ValueError(f"images of shape [B, {C}, {H}, {W}] are expected, got {tuple(images.shape)}")


def make_output(capsules: Tensor, decoder: Decoder | None, labels: Tensor | None) -> CapsuleOutput:
    """Add lengths, and the decoder's picture of the labelled capsule (of the longest without labels), to capsules."""
    lengths = torch.linalg.vector_norm(capsules, dim=-1)  # [B, J]
    if decoder is None:
        return CapsuleOutput(capsules, lengths, None)
    selected = lengths.argmax(dim=1) if labels is None else labels
    return CapsuleOutput(capsules, lengths, decoder(capsules, selected))
