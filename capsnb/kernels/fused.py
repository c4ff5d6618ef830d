"""Routing without stored votes in plain PyTorch, on any device. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from capsnb.kernels.backend import Passes

TILE_BYTES = {"cpu": 2**21, "cuda": 2**26}  # votes alive at a time: second cache; enough work for a GPU


class Fused(Passes):
    """The two passes over the input capsules, a tile of them at a time; the batch is the innermost axis.

    Args:
        u: capsules, `[B, I, D]`, float32 or float64.
        weight: W, `[I, J, E, D]`, of the same type.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        super().__init__(u, weight)
        self.weight, self.J, self.E = weight.flatten(1, 2), *weight.shape[1:3]  # [I, J*E, D]
        self.u = u.permute(1, 2, 0).contiguous()  # [I, D, B]
        votes_of_one = max(1, len(u) * self.weight[0, :, 0].numel() * u.element_size())
        self.tile = max(1, TILE_BYTES.get(u.device.type, 2**21) // votes_of_one)

    def weighted_sum(self, V: Tensor, *, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        """See `Passes.weighted_sum`."""
        V = V.permute(1, 2, 0).contiguous()  # [J, E, B]
        s, kept = torch.zeros_like(V), []
        for tile in self._tiles():
            votes = self._votes(tile)
            c = _couplings(votes, V)
            s += votes.mul_(c[:, :, None]).sum(0)
            kept += [c] * keep
        return s.permute(2, 0, 1).contiguous(), torch.cat(kept) if keep else None

    def back(self, V: Tensor, couplings: Tensor | None, ds: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes.back`."""
        V, ds = (x.permute(1, 2, 0).contiguous() for x in (V, ds))
        du, dW = torch.empty_like(self.u), torch.empty_like(self.weight)
        for tile in self._tiles():
            c = _couplings(self._votes(tile), V) if couplings is None else couplings[tile]
            g = (c[:, :, None] * ds).flatten(1, 2)  # [T, J*E, B]
            du[tile] = torch.bmm(self.weight[tile].transpose(1, 2), g)
            dW[tile] = torch.bmm(g, self.u[tile].transpose(1, 2))
        return du.permute(2, 0, 1).contiguous(), dW.unflatten(1, (self.J, self.E))

    def _tiles(self) -> Iterator[slice]:
        """Some input capsules at a time."""
        return (slice(start, start + self.tile) for start in range(0, len(self.weight), self.tile))

    def _votes(self, tile: slice) -> Tensor:
        """Votes of these input capsules, `[T, J, E, B]`."""
        return torch.bmm(self.weight[tile], self.u[tile]).unflatten(1, (self.J, self.E))


def _couplings(votes: Tensor, V: Tensor) -> Tensor:
    """Softmax over J of the agreement of votes `[T, J, E, B]` with V `[J, E, B]`."""
    return (votes * V).sum(2).softmax(1)
