"""Convolutional backbones and heads. Taught in chapter 14, *Capsules on big shoulders*.

A backbone maps images `[B, C, H, W]` to a feature map `[B, C', H', W']`. A head maps a feature map to one vector for
each class, `[B, J, E]`. Any backbone can be combined with any head; `capsnb.models.BackboneNet` combines them.
"""

from __future__ import annotations

import copy
import math
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from capsnb.kernels import Backend
from capsnb.layers import PrimaryCapsules, Routing, RoutingCapsules
from capsnb.values import one_of, sizes, whole_number, whole_numbers

FeatureShape = tuple[int, int, int]  # C', H', W'
Activation = Literal["sigmoid", "softmax"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
HeadKind = Literal["capsules", "sigmoid", "softmax"]
HEADS: tuple[str, ...] = get_args(HeadKind)
# torchvision's names of the modules after the feature map
CLASSIFIER_MODULES = ("avgpool", "classifier", "fc", "head", "heads")


class AlexBackbone(nn.Sequential):
    """The five convolutions of AlexCapsNet, after AlexNet (Krizhevsky et al. 2012), for small images.

    conv 11x11, stride 4, padding 2 -> max pooling 3x3, stride 2 -> conv 5x5 -> three convs 3x3, each with a ReLU. The
    last four convolutions keep height and width, and there is no further pooling: 28x28 pixels give 2x2 positions (Zain
    and Umar 2025).

    The initialisation keeps the variance of the activations from layer to layer (He et al. 2015); the paper names none.
    With PyTorch's default the activations shrink, and the initial capsules have lengths near zero.

    Args:
        in_channels: C of the images.
        widths: channels of the five convolutions.

    Shape:
        `[B, C, H, W]` -> `[B, C', H', W']`, values >= 0; H and W must be 15 or more.

    >>> AlexBackbone()(torch.randn(2, 1, 28, 28)).shape
    torch.Size([2, 256, 2, 2])
    """

    def __init__(
        self, in_channels: int = 1, widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    ) -> None:
        first, second, third, fourth, last = whole_numbers("widths", widths, 5)
        in_channels = whole_number("in_channels", in_channels)
        super().__init__(
            nn.Conv2d(in_channels, first, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
            nn.Conv2d(first, second, 5, padding=2), nn.ReLU(),
            nn.Conv2d(second, third, 3, padding=1), nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU(),
            nn.Conv2d(fourth, last, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(cast(Tensor, module.bias))


class ResidualBlock(nn.Module):
    r"""Two convolutions and a shortcut around them, :math:`y = \max(0, x + F(x))` (He et al. 2016; Zain and Umar 2025).

    F is conv 1x1 -> batch norm -> ReLU -> conv 3x3 -> batch norm. The convolutions have no bias, because batch norm
    would subtract it.

    Args:
        channels: C of input and output.

    Shape:
        `[B, C, H, W]` -> `[B, C, H, W]`, values >= 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        channels = whole_number("channels", channels)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        return torch.relu(x + self.branch(x))


class ResNetBackbone(nn.Sequential):
    """The convolutions of ResNetCapsNet: conv 3x3 -> batch norm -> ReLU -> residual blocks, with height and width kept.

    Args:
        in_channels: C of the images.
        channels: C' of the feature map.
        blocks: number of residual blocks.

    Shape:
        `[B, C, H, W]` -> `[B, C', H, W]`, values >= 0.

    >>> ResNetBackbone()(torch.randn(2, 1, 78, 78)).shape
    torch.Size([2, 32, 78, 78])
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, blocks: int = 3) -> None:
        in_channels, channels = sizes(in_channels=in_channels, channels=channels)
        blocks = whole_number("blocks", blocks, at_least=0)
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *(ResidualBlock(channels) for _ in range(blocks)),
        )


def torchvision_backbone(name: str, in_channels: int = 3) -> nn.Module:
    """The backbone of a convolutional network of torchvision, with random weights; nothing is downloaded.

    Args:
        name: a name from `torchvision.models.list_models`, such as "resnet18".
        in_channels: C of the images; if it is not 3, the first convolution is replaced.

    Returns:
        The modules before pooling and classifier, `[B, C, H, W]` -> `[B, C', H', W']`. Operations that are not modules
        are missing, such as DenseNet's last ReLU.

    Raises:
        ValueError: torchvision has no such model, or its modules are not a sequence that returns a feature map.

    >>> torchvision_backbone("resnet18", in_channels=1)(torch.randn(2, 1, 64, 64)).shape
    torch.Size([2, 512, 2, 2])
    """
    import torchvision

    in_channels = whole_number("in_channels", in_channels)
    available = torchvision.models.list_models(module=torchvision.models)
    if name not in available:
        suggestions = get_close_matches(name, available) or available
        raise ValueError(f"torchvision has no classifier {name!r}; choose one of {', '.join(suggestions)}")
    model = torchvision.models.get_model(name, weights=None)
    before = takewhile(lambda child: child[0] not in CLASSIFIER_MODULES, model.named_children())
    backbone = nn.Sequential(*(module for _, module in before))
    conv_name, conv = next((n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != in_channels:
        options: dict[str, Any] = {
            option: getattr(conv, option) for option in ("kernel_size", "stride", "padding")
        }
        bias = conv.bias is not None
        backbone.set_submodule(conv_name, nn.Conv2d(in_channels, conv.out_channels, bias=bias, **options))
    try:
        feature_shape(backbone, (in_channels, 224, 224))
    except (ValueError, NotImplementedError, AssertionError) as error:
        raise ValueError(
            f"{name!r} has no feature map before its classifier ({error}); choose a convolutional network"
        ) from error
    return backbone


def feature_shape(backbone: nn.Module, image_shape: tuple[int, int, int]) -> FeatureShape:
    """The shape of a backbone's feature map, inferred on the meta device without arithmetic.

    Args:
        backbone: `[B, C, H, W]` -> `[B, C', H', W']`; it is not changed.
        image_shape: (C, H, W).

    Returns:
        (C', H', W').

    Raises:
        ValueError: the backbone does not accept images of this shape, or its output is not a feature map.

    >>> feature_shape(AlexBackbone(), (1, 28, 28))
    (256, 2, 2)
    """
    C, H, W = whole_numbers("image_shape", image_shape, 3)
    meta_backbone = copy.deepcopy(backbone).to("meta").eval()  # computes shapes only
    try:
        shape = tuple(meta_backbone(torch.empty(1, C, H, W, device="meta")).shape[1:])
    except RuntimeError as error:
        raise ValueError(
            f"{type(backbone).__name__} cannot take images of {C}x{H}x{W} ({error}); "
            "if they are too small, give larger ones, or resize them (Preprocess(resize=...))"
        ) from error
    if len(shape) != 3:
        returned = ", ".join(map(str, ("B", *shape)))
        raise ValueError(
            f"a backbone must return a feature map [B, C, H, W], {type(backbone).__name__} returns [{returned}]"
        )
    return shape


class CapsuleHead(nn.Module):
    """Capsule head: primary capsules from a feature map, routed to one capsule for each class.

    Args:
        in_shape: (C', H', W') of the feature map, from `feature_shape`.
        classes: J.
        capsule_types: primary capsules at each location.
        capsule_dim: D of the primary capsules.
        kernel_size: kernel size of the convolution that computes the primary capsules, in pixels.
        stride: stride of this convolution, in pixels.
        class_dim: E.
        iterations: R.
        routing: the routing algorithm, see `RoutingCapsules`.
        backend: the implementation of the routing, see `RoutingCapsules`.
        weight_std: standard deviation of the initial transformation matrices; None for the default.

    Shape:
        `[B, C', H', W']` -> `[B, J, E]`, lengths in [0, 1).

    Raises:
        ValueError: a feature map smaller than the kernel; or as `RoutingCapsules`.

    >>> CapsuleHead((256, 2, 2), classes=10)(torch.randn(2, 256, 2, 2)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(
        self,
        in_shape: FeatureShape,
        classes: int = 10,
        *,
        capsule_types: int = 32,
        capsule_dim: int = 8,
        kernel_size: int = 1,
        stride: int = 1,
        class_dim: int = 16,
        iterations: int = 3,
        routing: Routing = "rba",
        backend: Backend = "auto",
        weight_std: float | None = None,
    ) -> None:
        super().__init__()
        capsule_types, capsule_dim, classes, class_dim, kernel_size, stride = sizes(
            capsule_types=capsule_types,
            capsule_dim=capsule_dim,
            classes=classes,
            class_dim=class_dim,
            kernel_size=kernel_size,
            stride=stride,
        )
        in_channels, positions = _channels_and_positions(in_shape, kernel_size, stride)
        self.primary = PrimaryCapsules(in_channels, capsule_types, capsule_dim, kernel_size, stride)
        self.capsules = RoutingCapsules(
            capsule_types * positions,
            capsule_dim,
            classes,
            class_dim,
            iterations=iterations,
            routing=routing,
            backend=backend,
            weight_std=weight_std,
        )

    def forward(self, features: Tensor) -> Tensor:
        """Compute one capsule for each class."""
        return self.capsules(self.primary(features))


class LinearHead(nn.Module):
    """Linear head, the baseline of a capsule head: a linear layer with one score for each class.

    A score in [0, 1] is a capsule of dimension 1 whose length is the score, so losses, training and evaluation accept
    it like a capsule.

    Args:
        in_shape: (C', H', W') of the feature map, from `feature_shape`.
        classes: J.
        activation: "sigmoid", an independent score for each class, for the margin loss; "softmax", scores that sum to
            one, for the cross-entropy.
        channels: channels of a convolution with ReLU before the linear layer, the counterpart of the convolution
            that computes primary capsules; None for the linear layer alone.
        kernel_size: kernel size of this convolution, in pixels.
        stride: stride of this convolution, in pixels.

    Shape:
        `[B, C', H', W']` -> `[B, J, 1]`, values in [0, 1].

    Raises:
        ValueError: unknown activation, or a feature map smaller than the kernel.

    >>> LinearHead((256, 2, 2), classes=10)(torch.randn(2, 256, 2, 2)).shape
    torch.Size([2, 10, 1])
    """

    def __init__(
        self,
        in_shape: FeatureShape,
        classes: int = 10,
        *,
        activation: Activation = "softmax",
        channels: int | None = None,
        kernel_size: int = 1,
        stride: int = 1,
    ) -> None:
        super().__init__()
        one_of("activation", activation, ACTIVATIONS)
        self.activation = activation
        classes, kernel_size, stride = sizes(classes=classes, kernel_size=kernel_size, stride=stride)
        width, positions = _channels_and_positions(in_shape, kernel_size, stride)
        self.primary = nn.Sequential()
        if channels is not None:
            in_channels, width = width, whole_number("channels", channels)
            self.primary.extend([nn.Conv2d(in_channels, width, kernel_size, stride), nn.ReLU()])
        self.linear = nn.Linear(width * positions, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Compute one score for each class."""
        logits = self.linear(self.primary(features).flatten(1))  # [B, J]
        return (logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=1))[:, :, None]


def make_head(
    kind: HeadKind,
    in_shape: FeatureShape,
    classes: int,
    *,
    capsule_types: int,
    capsule_dim: int = 8,
    kernel_size: int = 1,
    stride: int = 1,
    **head_options: Any,
) -> CapsuleHead | LinearHead:
    """A capsule head; or a linear head after the same convolution, with ReLU for squash and a linear layer for routing.

    Args:
        kind: "capsules"; or the activation of a linear head, "sigmoid" or "softmax".
        in_shape: (C', H', W') of the feature map.
        classes: J.
        capsule_types: primary capsules at each location.
        capsule_dim: D; the convolution has capsule_types * D channels.
        kernel_size: kernel size of the convolution, in pixels.
        stride: stride of the convolution, in pixels.
        head_options: all other arguments of `CapsuleHead`.

    Returns:
        The head, `[B, C', H', W']` -> `[B, J, E]`; E = 1 for a linear head.

    Raises:
        ValueError: an unknown kind, or arguments of a capsule head for a linear head.

    >>> sum(p.numel() for p in make_head("softmax", (256, 2, 2), 10, capsule_types=32).parameters())
    76042
    """
    one_of("head", kind, HEADS)
    if kind == "capsules":
        head_options |= {"capsule_types": capsule_types, "capsule_dim": capsule_dim}
        return CapsuleHead(in_shape, classes, kernel_size=kernel_size, stride=stride, **head_options)
    if head_options:
        raise ValueError(
            f"{', '.join(head_options)} are arguments of a capsule head; leave them out with head={kind!r}"
        )
    channels = math.prod(sizes(capsule_types=capsule_types, capsule_dim=capsule_dim))
    return LinearHead(
        in_shape, classes, activation=kind, channels=channels, kernel_size=kernel_size, stride=stride
    )


def _channels_and_positions(in_shape: FeatureShape, kernel_size: int, stride: int) -> tuple[int, int]:
    """The number of channels, and of output positions of a convolution without padding."""
    channels, H, W = whole_numbers("in_shape", in_shape, 3)
    if min(H, W) < kernel_size:
        raise ValueError(
            f"a feature map of {H}x{W} is too small for a {kernel_size}x{kernel_size} convolution; "
            "give larger images, or resize them (Preprocess(resize=...))"
        )
    return channels, ((H - kernel_size) // stride + 1) * ((W - kernel_size) // stride + 1)
