r"""MoCapsNet as its published code computes it, which is not what its equations say; and two controls.

In that code the loop over blocks adds the input of a block to what the block returns, and what the block returns
contains the input already. So a block whose layers are silent doubles the capsules, and n of them multiply the capsules
by :math:`2^n`. The velocity begins at zero in each block. The ledger (chapter 17) trains the network of the equations;
chapter 18 compares the two.
"""

from __future__ import annotations

from torch import Tensor, nn

from capsnb.models import CapsNet

GAMMA = 0.9


class DoublingBlocks(nn.ModuleList):
    r"""Blocks of two layers with one more shortcut around each block: :math:`x \leftarrow x + g(x)`.

    Args:
        layers: two for each block, from `[B, J, E]` to `[B, J, E]`.

    Shape:
        `[B, J, E]` -> `[B, J, E]`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Send capsules through all blocks."""
        layers = list(self)
        for first, second in zip(layers[::2], layers[1::2], strict=True):
            x = x + self.block(x, first, second)
        return x

    def block(self, x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        r"""g(x): two layers of momentum capsules, whose velocity begins at zero."""
        velocity = (1 - GAMMA) * first(x)
        x = x + velocity
        return x + GAMMA * velocity + (1 - GAMMA) * second(x)


class DoublingResidualBlocks(DoublingBlocks):
    """The same with residual capsules in a block."""

    def block(self, x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        """Two residual layers."""
        x = x + first(x)
        return x + second(x)


class DoublingAlone(DoublingBlocks):
    """The same without the layers: their weights are there, and nothing uses them."""

    def block(self, x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
        """Nothing: x."""
        return x


class PublishedMoCapsNet(CapsNet):
    """MoCapsNet as published; arguments are those of `CapsNet`."""

    _blocks: type[DoublingBlocks] = DoublingBlocks

    def _stack_layers(self, layers: list[nn.Module]) -> nn.Module:
        return self._blocks(layers)


class DoubledResCapsNet(PublishedMoCapsNet):
    """ResCapsNet with the published code's further shortcut."""

    _blocks = DoublingResidualBlocks


class DoubledCapsNet(PublishedMoCapsNet):
    """The further shortcut alone, without hidden layers."""

    _blocks = DoublingAlone


NETWORKS: dict[str, type[CapsNet]] = {
    network.__name__: network for network in (PublishedMoCapsNet, DoubledResCapsNet, DoubledCapsNet)
}
