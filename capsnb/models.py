"""Networks, from images to class capsules. Taught in chapter 4, *A first CapsNet*, and in chapter 14."""

from __future__ import annotations

import math
from functools import partial
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from capsnb.backbones import (
    AlexBackbone,
    CapsuleHead,
    HeadKind,
    ResNetBackbone,
    feature_shape,
    make_head,
)
from capsnb.kernels import Backend
from capsnb.layers import PrimaryCapsules, Routing, RoutingCapsules, add_identity_
from capsnb.reversible import MomentumCapsules, ResidualCapsules


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
        widths = [classes * dim, *hidden]
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


class CapsNet(nn.Module):
    """The network of *Dynamic routing between capsules*, and deeper stacks of the same layers.

    convolution 9x9 + ReLU -> primary capsules 9x9, stride 2 -> routing -> one capsule per class -> decoder.
    With `blocks` = n > 0 the capsule layers are those of MoCapsNet, without shortcuts: one layer to `hidden_capsules`,
    n blocks of two hidden layers, one layer to the classes. The 2n hidden layers are `capsules[1]`: an `nn.Sequential`
    here, `ResidualCapsules` in `ResCapsNet`, `MomentumCapsules` in `MoCapsNet`. Nothing else differs: with the same
    seed the three networks have the same initial weights, and `load_state_dict` converts one into another.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J of the last layer.
        blocks: pairs of hidden capsule layers.
        channels: channels of the first convolution.
        capsule_types: primary capsules at each location.
        capsule_dim: D of primary and hidden capsules.
        hidden_capsules: capsules of a hidden layer; used when blocks > 0.
        class_dim: E of the class capsules.
        iterations: R of every capsule layer.
        routing: the routing algorithm of every capsule layer, "rba", "sda" or "em"; see `RoutingCapsules`.
        backend: the implementation of the routing, see `RoutingCapsules`.
        recompute: recompute the first convolution and the capsule layers' sums in the backward pass instead of saving
            them (52 MB, and 0.5 MB for each block, for 128 images of MNIST); the same gradients in slightly more time.
        weight_std: standard deviation of the initial transformation matrices; None for the default, 0.01 for that of
            the MoCapsNet paper.
        identity: gain of the identity in the initial matrices of the hidden layers, see `layers.add_identity_`. With
            2, deep networks without shortcuts learn with three routing iterations; with 0 they stay at chance.
        decoder: widths of the decoder's hidden layers; None for a network without a decoder.

    Raises:
        ValueError: images too small for two 9x9 convolutions, or a negative number of blocks.

    >>> CapsNet(channels=16, capsule_types=2)(torch.randn(2, 1, 28, 28)).lengths.shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        blocks: int = 0,
        *,
        channels: int = 256,
        capsule_types: int = 32,
        capsule_dim: int = 8,
        hidden_capsules: int = 32,
        class_dim: int = 16,
        iterations: int = 3,
        routing: Routing = "rba",
        backend: Backend = "auto",
        recompute: bool = False,
        weight_std: float | None = None,
        identity: float = 0.0,
        decoder: tuple[int, ...] | None = (512, 1024),
    ) -> None:
        super().__init__()
        in_channels, *sides = image_shape
        if min(sides) < 17:
            raise ValueError(
                f"images of {sides[0]}x{sides[1]} pixels are too small for two 9x9 convolutions; "
                "give at least 17x17, or resize them (Preprocess(resize=...))"
            )
        if blocks < 0:
            raise ValueError(f"blocks must be 0 or more, got {blocks}")
        self.image_shape, self.recompute = image_shape, recompute
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=9)
        self.primary = PrimaryCapsules(channels, capsule_types, capsule_dim)
        locations = math.prod((side - 8 - 9) // 2 + 1 for side in sides)
        sizes = [
            (capsule_types * locations, capsule_dim),
            *[(hidden_capsules, capsule_dim)] * (1 + 2 * blocks if blocks else 0),
            (classes, class_dim),
        ]
        layers: list[nn.Module] = [
            RoutingCapsules(
                *in_size,
                *out_size,
                iterations=iterations,
                routing=routing,
                backend=backend,
                save="inputs" if recompute else "sums",
                weight_std=weight_std,
            )
            for in_size, out_size in pairwise(sizes)
        ]
        for layer in layers[1:-1] if identity else []:
            add_identity_(cast(RoutingCapsules, layer), identity)
        hidden = self._stack_layers(layers[1:-1])
        if blocks:
            layers[1:-1] = [hidden]
        self.capsules = nn.Sequential(*layers)
        self.decoder = Decoder(classes, class_dim, image_shape, decoder) if decoder is not None else None
        # Channels last: the convolutions then read memory in order (2.7 times as fast on a CPU).
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> CapsuleOutput:
        """Compute one capsule for each class.

        Args:
            images: `[B, C, H, W]`, standardised.
            labels: `[B]`, in training, the capsules that the decoder gets; None for the longest capsule of each image.

        Returns:
            Capsules, lengths, and the reconstruction.

        Raises:
            ValueError: images of another shape than `image_shape`.
        """
        _check_shape(images, self.image_shape)
        if self.recompute and torch.is_grad_enabled():
            context = partial(create_selective_checkpoint_contexts, self._checkpoint_policy)
            primary = checkpoint(self._primary_capsules, images, use_reentrant=False, context_fn=context)
        else:
            primary = self._primary_capsules(images)
        capsules = self.capsules(primary)  # [B, J, E]
        return _make_output(capsules, self.decoder, labels)

    @property
    def capsule_layers(self) -> list[RoutingCapsules]:
        """The capsule layers, in the order of the forward pass."""
        return [layer for layer in self.capsules.modules() if isinstance(layer, RoutingCapsules)]

    def _stack_layers(self, layers: list[nn.Module]) -> nn.Module:
        """Combine the hidden layers; the deep networks differ in this method only."""
        return nn.Sequential(*layers)

    def _primary_capsules(self, images: Tensor) -> Tensor:
        """Primary capsules, `[B, I, D]`."""
        return self.primary(torch.relu(self.conv(images)))

    def _checkpoint_policy(self, _: object, operator: object, *args: Any, **__: Any) -> CheckpointPolicy:
        """Save the output of the primary convolution; recompute everything else, which is cheap."""
        convolution = operator is torch.ops.aten.convolution.default
        if convolution and args[1].shape == self.primary.conv.weight.shape:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE


class ResCapsNet(CapsNet):
    r"""A deep CapsNet whose hidden capsule layers have shortcuts, :math:`x_{n+1} = x_n + f(x_n, \theta_n)`.

    The residual capsule network of Gugglberger et al. (2022, figure 2a and eq. 2): shortcuts *between capsule layers*.
    The ResCapsNet of Zain and Umar (2025), residual *convolutions* before capsules, is `ResNetCapsNet` here.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J of the last layer.
        blocks: n; there are 2n hidden capsule layers.
        sizes: all other arguments of `CapsNet`.

    Raises:
        ValueError: as `CapsNet`.

    >>> model = ResCapsNet(channels=8, capsule_types=2)
    >>> model.load_state_dict(CapsNet(blocks=1, channels=8, capsule_types=2).state_dict())
    <All keys matched successfully>
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        blocks: int = 1,
        **sizes: Any,
    ) -> None:
        super().__init__(image_shape, classes, blocks, **sizes)

    def _stack_layers(self, layers: list[nn.Module]) -> nn.Module:
        return ResidualCapsules(layers)


class MoCapsNet(CapsNet):
    r"""A deep CapsNet whose hidden layers share one velocity; the backward pass inverts them instead of saving inputs.

    .. math:: v_{n+1} = \gamma v_n + (1 - \gamma) f(x_n, \theta_n), \qquad x_{n+1} = x_n + v_{n+1}
       \qquad \text{(Gugglberger et al. 2022, eqs. 3 and 4)}

    All 2n hidden layers update one velocity, as in the paper's algorithm 1; see `MomentumCapsules`. The memory of saved
    tensors does not grow with depth; only weights, gradients and optimizer states do. `load_state_dict` converts a
    trained `ResCapsNet` of the same sizes into a MoCapsNet and back, but the networks are different functions, so the
    result needs further training. The paper's initialisation is `weight_std=0.01`.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J of the last layer.
        blocks: n; there are 2n hidden capsule layers.
        gamma: factor of the velocity in each layer, in (0, 1].
        sizes: all other arguments of `CapsNet`.

    Raises:
        ValueError: as `CapsNet`; gamma outside its range, or too small to invert 2n layers.

    >>> model = MoCapsNet(blocks=8, channels=8, capsule_types=2)
    >>> model.load_state_dict(ResCapsNet(blocks=8, channels=8, capsule_types=2).state_dict())
    <All keys matched successfully>
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        classes: int = 10,
        blocks: int = 1,
        *,
        gamma: float = 0.9,
        **sizes: Any,
    ) -> None:
        self.gamma = gamma  # before super().__init__, which calls _stack_layers
        super().__init__(image_shape, classes, blocks, **sizes)

    def _stack_layers(self, layers: list[nn.Module]) -> nn.Module:
        return MomentumCapsules(layers, self.gamma)


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
        self.image_shape, self.backbone, self.head = image_shape, backbone, head
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
        _check_shape(images, self.image_shape)
        return _make_output(self.head(self.backbone(images)), self.decoder, labels)


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
        head: as in `AlexCapsNet`.
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
        backbone = ResNetBackbone(image_shape[0], channels, blocks)
        features = feature_shape(backbone, image_shape)
        sizes: dict[str, Any] = {
            "capsule_types": capsule_types,
            "kernel_size": 9,
            "stride": 8,
            **head_options,
        }
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
        backbone = nn.Sequential(
            nn.Conv2d(image_shape[0], channels, kernel_size=9), nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=9), nn.ReLU(),
        )  # fmt: skip
        sizes: dict[str, Any] = {
            "capsule_types": capsule_types,
            "kernel_size": 9,
            "stride": 2,
            **head_options,
        }
        head = make_head("capsules", feature_shape(backbone, image_shape), classes, **sizes)
        super().__init__(image_shape, backbone, head, decoder)
        self.to(memory_format=torch.channels_last)


NETWORKS: dict[str, type[CapsNet | BackboneNet]] = {
    network.__name__.lower(): network
    for network in (CapsNet, ResCapsNet, MoCapsNet, AlexCapsNet, ResNetCapsNet, TwoConvCapsNet)
}


def build(name: str, **sizes: Any) -> CapsNet | BackboneNet:
    """Build a network by its name in `NETWORKS`, the only registry of networks.

    Args:
        name: a key of `NETWORKS` in any case, such as "capsnet" or "MoCapsNet".
        sizes: the arguments of the constructor; `image_shape` may be a list, as in a JSON file.

    Returns:
        The network, initialised with random numbers of PyTorch's default generator.

    Raises:
        ValueError: an unknown name, or an argument that this network does not have; the message lists the choices.

    >>> build("MoCapsNet", image_shape=[1, 28, 28], blocks=2, channels=8, capsule_types=2).gamma
    0.9
    """
    if (network := NETWORKS.get(name.lower())) is None:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(NETWORKS)}")
    names = _argument_names(network)
    if unknown := sorted(sizes.keys() - names):
        listed = ", ".join(map(repr, unknown))
        raise ValueError(f"{network.__name__} has no argument {listed}; choose from {', '.join(names)}")
    if "image_shape" in sizes:
        sizes["image_shape"] = tuple(sizes["image_shape"])
    return network(**sizes)


def _argument_names(network: type[CapsNet | BackboneNet]) -> list[str]:
    """The arguments of a network's constructor, with those that it passes on to `CapsNet` or `CapsuleHead`."""
    passed_on_to = CapsNet if issubclass(network, CapsNet) else CapsuleHead
    parameters = {**signature(network).parameters, **signature(passed_on_to).parameters}
    keywords = (name for name, p in parameters.items() if p.kind is not Parameter.VAR_KEYWORD)
    return [name for name in keywords if name != "in_shape"]  # a network computes its head's in_shape


def _check_shape(images: Tensor, image_shape: tuple[int, int, int]) -> None:
    if images.shape[1:] != image_shape:
        C, H, W = image_shape
        raise ValueError(f"images of shape [B, {C}, {H}, {W}] are expected, got {tuple(images.shape)}")


def _make_output(capsules: Tensor, decoder: Decoder | None, labels: Tensor | None) -> CapsuleOutput:
    lengths = torch.linalg.vector_norm(capsules, dim=-1)  # [B, J]
    if decoder is None:
        return CapsuleOutput(capsules, lengths, None)
    selected = lengths.argmax(dim=1) if labels is None else labels
    return CapsuleOutput(capsules, lengths, decoder(capsules, selected))
