"""CapsNet and its deep forms: residual and reversible. Taught in chapter 4, *A first CapsNet*, 7 and 12."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from capsnb.functional import needs_definition
from capsnb.kernels import Backend
from capsnb.layers import PrimaryCapsules, Routing, RoutingCapsules, add_identity_
from capsnb.models.output import CapsuleOutput, Decoder, check_shape, make_output
from capsnb.reversible import MomentumCapsules, ResidualCapsules
from capsnb.values import finite_number, sizes, whole_number, whole_numbers


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
        TypeError: a size that is no whole number.
        ValueError: images too small for two 9x9 convolutions, or a size outside its range.

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
        self.image_shape = image_shape = whole_numbers("image_shape", image_shape, 3)
        in_channels, *sides = image_shape
        if min(sides) < 17:
            raise ValueError(
                f"images of {sides[0]}x{sides[1]} pixels are too small for two 9x9 convolutions; "
                "give at least 17x17, or resize them (Preprocess(resize=...))"
            )
        blocks, self.recompute = whole_number("blocks", blocks, at_least=0), recompute
        classes, channels, capsule_types, capsule_dim, hidden_capsules, class_dim = sizes(
            classes=classes,
            channels=channels,
            capsule_types=capsule_types,
            capsule_dim=capsule_dim,
            hidden_capsules=hidden_capsules,
            class_dim=class_dim,
        )
        identity = finite_number("identity", identity)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=9)
        self.primary = PrimaryCapsules(channels, capsule_types, capsule_dim)
        locations = math.prod((side - 8 - 9) // 2 + 1 for side in sides)
        shapes = [
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
            for in_size, out_size in pairwise(shapes)
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
        check_shape(images, self.image_shape)
        if self.recompute and torch.is_grad_enabled() and not needs_definition():
            policy = partial(_keep_convolution, self.primary.conv.weight.shape)
            context = partial(create_selective_checkpoint_contexts, policy)
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            primary = checkpoint(self._primary_capsules, images, context_fn=context, **options)
        else:
            primary = self._primary_capsules(images)
        capsules = self.capsules(primary)  # [B, J, E]
        return make_output(capsules, self.decoder, labels)

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


def _keep_convolution(
    weight_shape: torch.Size, _: object, operator: object, *args: Any, **__: Any
) -> CheckpointPolicy:
    """Save the output of the primary convolution; recompute everything else, which is cheap."""
    if operator is torch.ops.aten.convolution.default and args[1].shape == weight_shape:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


class ResCapsNet(CapsNet):
    r"""A deep CapsNet whose hidden capsule layers have shortcuts, :math:`x_{n+1} = x_n + f(x_n, \theta_n)`.

    The residual capsule network of Gugglberger et al. (2022, figure 2a and eq. 2): shortcuts *between capsule layers*.
    The ResCapsNet of Zain and Umar (2025), residual *convolutions* before capsules, is `ResNetCapsNet` here.

    Args:
        image_shape: (C, H, W) of the images.
        classes: J of the last layer.
        blocks: pairs of hidden capsule layers.
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
        blocks: pairs of hidden capsule layers.
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
        stack = MomentumCapsules(layers, self.gamma)
        self.gamma = stack.gamma
        return stack
