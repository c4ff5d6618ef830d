"""Routing without stored votes in plain PyTorch, on any device. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from capsnb.kernels.passes import Passes

TILE_BYTES = {"cpu": 2**21, "cuda": 2**26}  # votes alive at a time: second cache; enough work for a GPU


class Fused(Passes):
    """The two passes over the input capsules, a tile of them at a time; the batch is the innermost axis.

    Args:
        u: capsules, `[B, I, D]`, float32 or float64.
        weight: W, `[I, J, E, D]`, of the same type.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.weight, self.J, self.E = weight.flatten(1, 2), *weight.shape[1:3]  # [I, J*E, D]
        self.u = u.permute(1, 2, 0).contiguous()  # [I, D, B]
        votes_of_one = max(1, len(u) * self.weight[0, :, 0].numel() * u.element_size())
        self.tile = max(1, TILE_BYTES.get(u.device.type, 2**21) // votes_of_one)

    def _tiles(self, V: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Tile by tile: which input capsules, their votes `[T, J, E, B]` and couplings `[T, J, B]`."""
        for start in range(0, len(self.weight), self.tile):
            tile = slice(start, start + self.tile)
            votes = torch.bmm(self.weight[tile], self.u[tile]).unflatten(1, (self.J, self.E))
            yield tile, votes, (votes * V).sum(2).softmax(1)

    def weighted_sum(self, V: Tensor) -> Tensor:
        """See `Passes.weighted_sum`."""
        V = V.permute(1, 2, 0).contiguous()  # [J, E, B]
        s = torch.zeros_like(V)
        for _, votes, c in self._tiles(V):
            s += votes.mul_(c[:, :, None]).sum(0)
        return s.permute(2, 0, 1).contiguous()

    def gradients(self, V: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes.gradients`."""
        V, ds = (x.permute(1, 2, 0).contiguous() for x in (V, ds))
        du, dW = torch.empty_like(self.u), torch.empty_like(self.weight)
        for tile, votes, c in self._tiles(V):
            # [T, J*E, B], in the place of the votes
            g = torch.mul(c[:, :, None], ds, out=votes).flatten(1, 2)
            du[tile] = torch.bmm(self.weight[tile].transpose(1, 2), g)
            dW[tile] = torch.bmm(g, self.u[tile].transpose(1, 2))
        return du.permute(2, 0, 1).contiguous(), dW.unflatten(1, (self.J, self.E))
