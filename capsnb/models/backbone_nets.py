"""Convolutional backbones in front of capsules, AlexCapsNet and ResNetCapsNet. Taught in chapter 14."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from capsnb.backbones import AlexBackbone, HeadKind, ResNetBackbone, feature_shape, make_head
from capsnb.models.output import CapsuleOutput, Decoder, check_shape, make_output
from capsnb.values import whole_number, whole_numbers


class BackboneNet(nn.Module):
    """A backbone and a head: images -> feature map -> one vector for each class; optionally a decoder.

    Args:
        image_shape: (C, H, W) of the images.
        backbone: `[B, C, H, W]` -> `[B, C', H', W']`, such as `backbones.torchvision_backbone("resnet18")`.
        head: `[B, C', H', W']` -> `[B, J, E]`, `backbones.CapsuleHead` or `backbones.LinearHead`.
        decoder: widths of the decoder's hidden layers; None for a network without a decoder.

    Raises:
        ValueError: the backbone does not accept images of this shape.

    >>> from capsnb.backbones import CapsuleHead
    >>> backbone = AlexBackbone(3)
    >>> head = CapsuleHead(feature_shape(backbone, (3, 32, 32)), classes=5)
    >>> BackboneNet((3, 32, 32), backbone, head)(torch.randn(2, 3, 32, 32)).lengths.shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        backbone: nn.Module,
        head: nn.Module,
        decoder: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape = whole_numbers("image_shape", image_shape, 3)
        self.backbone, self.head = backbone, head
        features, self.decoder = feature_shape(backbone, image_shape), None
        if decoder is not None:
            with torch.no_grad():
                _, J, E = head(torch.zeros(1, *features)).shape
            self.decoder = Decoder(J, E, image_shape, decoder)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> CapsuleOutput:
        """Compute one vector for each class; its length is the score.

        Args:
            images: `[B, C, H, W]`.
            labels: `[B]`, in training, the capsules that the decoder gets; None for the longest capsule of each image.

        Returns:
            Capsules, lengths, and the reconstruction.

        Raises:
            ValueError: images of another shape than `image_shape`.
        """
        check_shape(images, self.image_shape)
        return make_output(self.head(self.backbone(images)), self.decoder, labels)


class AlexCapsNet(BackboneNet):
    """AlexNet's convolutions before capsules (Bao et al. 2025), with the sizes of Zain and Umar (2025).

    `AlexBackbone` -> primary capsules from a 1x1 convolution, 32 types of 8 numbers -> routing -> one capsule for
    each class. On images of 28x28 pixels: 256x2x2 -> 128 primary capsules -> 10 class capsules of 16.

    Zain and Umar report "tens of millions of parameters". The layers that they describe have 2,683,840. AlexNet's tens
    of millions are in the fully connected layers after its convolutions, which this network does not have.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J.
        widths: channels of the five convolutions.
        head: "capsules"; or "sigmoid" or "softmax" for a linear baseline, see `backbones.make_head`.
        capsule_types: primary capsules at each location.
        decoder: widths of the decoder's hidden layers; None, as in the paper, for a network without a decoder.
        head_options: `iterations`, `routing`, `backend` and all other arguments of `backbones.CapsuleHead`.

    Raises:
        ValueError: images smaller than 15x15; an unknown head; arguments of a capsule head for a linear head.

    >>> AlexCapsNet()(torch.randn(2, 1, 28, 28)).capsules.shape
    torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        *,
        widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
        head: HeadKind = "capsules",
        capsule_types: int = 32,
        decoder: tuple[int, ...] | None = None,
        **head_options: Any,
    ) -> None:
        image_shape = whole_numbers("image_shape", image_shape, 3)
        backbone = AlexBackbone(image_shape[0], widths)
        features = feature_shape(backbone, image_shape)
        head_module = make_head(head, features, classes, capsule_types=capsule_types, **head_options)
        super().__init__(image_shape, backbone, head_module, decoder)


class ResNetCapsNet(BackboneNet):
    """Residual convolutions before capsules: the "ResCapsNet" of Zain and Umar (2025).

    It is not the `ResCapsNet` of this package, whose shortcuts bypass capsule layers. Here they bypass convolutions.

    `ResNetBackbone` -> primary capsules from a 9x9 convolution with stride 8, 16 types of 8 numbers -> routing -> one
    capsule for each class. The paper resizes MNIST to 78x78 pixels (`Preprocess(resize=78)`): 32x78x78 -> 1296
    primary capsules -> 10 class capsules of 16. Smaller images give fewer primary capsules and fewer parameters.

    Zain and Umar report "only a few million" parameters. The layers that they describe have 2,022,240.

    Args:
        image_shape: (C, H, W) of the images, as they are after resizing.
        classes: J.
        channels: C' of the feature map.
        blocks: number of residual blocks of the backbone.
        head: "capsules"; or "sigmoid" or "softmax" for a linear baseline, see `backbones.make_head`.
        capsule_types: primary capsules at each location.
        decoder: as in `AlexCapsNet`.
        head_options: as in `AlexCapsNet`.

    Raises:
        ValueError: images smaller than 9x9; an unknown head; arguments of a capsule head for a linear head.

    >>> ResNetCapsNet((1, 33, 33), channels=8)(torch.randn(2, 1, 33, 33)).capsules.shape
    torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 78, 78),
        classes: int = 10,
        *,
        channels: int = 32,
        blocks: int = 3,
        head: HeadKind = "capsules",
        capsule_types: int = 16,
        decoder: tuple[int, ...] | None = None,
        **head_options: Any,
    ) -> None:
        image_shape = whole_numbers("image_shape", image_shape, 3)
        backbone = ResNetBackbone(image_shape[0], channels, blocks)
        features = feature_shape(backbone, image_shape)
        sizes = {"capsule_types": capsule_types, "kernel_size": 9, "stride": 8} | head_options
        super().__init__(image_shape, backbone, make_head(head, features, classes, **sizes), decoder)
        # As in CapsNet. The feature maps of AlexCapsNet are too small to benefit (measured).
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)


class TwoConvCapsNet(BackboneNet):
    """Two convolutions before the capsules of `CapsNet`: the "2-Conv" of Xi et al. (2017), a baseline of MoCapsNet.

    Neither paper gives the sizes of the second convolution. Here they equal those of the first.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J.
        channels: channels of both convolutions.
        capsule_types: primary capsules at each location.
        decoder: widths of the decoder's hidden layers; None for a network without a decoder.
        head_options: as in `AlexCapsNet`.

    Raises:
        ValueError: images smaller than 25x25.

    >>> TwoConvCapsNet((3, 32, 32), channels=16, capsule_types=2)(torch.randn(2, 3, 32, 32)).capsules.shape
    torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        *,
        channels: int = 256,
        capsule_types: int = 32,
        decoder: tuple[int, ...] | None = (512, 1024),
        **head_options: Any,
    ) -> None:
        image_shape = whole_numbers("image_shape", image_shape, 3)
        channels = whole_number("channels", channels)
        backbone = nn.Sequential(
            nn.Conv2d(image_shape[0], channels, kernel_size=9), nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=9), nn.ReLU(),
        )  # fmt: skip
        sizes = {"capsule_types": capsule_types, "kernel_size": 9, "stride": 2} | head_options
        head = make_head("capsules", feature_shape(backbone, image_shape), classes, **sizes)
        super().__init__(image_shape, backbone, head, decoder)
        self.to(memory_format=torch.channels_last)
