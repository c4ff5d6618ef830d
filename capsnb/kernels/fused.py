"""Routing without stored votes in plain PyTorch, on any device. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from capsnb.functional import squash, squash_gradient
from capsnb.kernels.backend import RoutingBackend, Saved, uniform_sum

# Of the votes of one tile: second-level cache; enough work for a GPU.
TILE_BYTES = {"cpu": 2**21, "cuda": 2**26}


class Fused(RoutingBackend):
    """A tile of input capsules at a time; the batch is the innermost axis.

    Args:
        u: input capsules, `[B, I, D]`, float32 or float64.
        weight: W, `[I, J, E, D]`, of the same dtype.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        super().__init__(u, weight)
        self.rows = weight.flatten(1, 2)  # [I, J*E, D]
        self.columns = u.permute(1, 2, 0).contiguous()  # [I, D, B]
        bytes_of_one = max(1, self.B * self.J * self.E * u.element_size())
        self.tile = max(1, TILE_BYTES.get(u.device.type, TILE_BYTES["cpu"]) // bytes_of_one)

    def forward(self, iterations: int, *, keep_couplings: bool = False) -> tuple[Tensor, Saved]:
        """See `RoutingBackend.forward`; each iteration but the first is a pass over the tiles."""
        s = uniform_sum(self.u, self.weight)
        V, couplings = torch.zeros_like(s), None
        for r in range(2, iterations + 1):
            V = V + squash(s)
            s, couplings = self._weighted_sum(V, keep_couplings and r == iterations)
        return squash(s), Saved(s, V, couplings)

    def _weighted_sum(self, V: Tensor, keep_couplings: bool) -> tuple[Tensor, Tensor | None]:
        """s_j = sum over i of c_ij W_ij u_i, with the couplings c of V; s and V are `[B, J, E]`. Also c, if kept."""
        V = V.permute(1, 2, 0).contiguous()  # [J, E, B]
        s, kept = torch.zeros_like(V), []
        for tile in self._tiles():
            votes = self._votes(tile)
            c = _couplings(votes, V)
            s += votes.mul_(c[:, :, None]).sum(0)
            kept += [c] * keep_couplings
        return s.permute(2, 0, 1).contiguous(), torch.cat(kept) if kept else None

    def backward(self, saved: Saved, dv: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutingBackend.backward`; one pass over the tiles."""
        s, V, couplings = saved
        V, ds = (x.permute(1, 2, 0).contiguous() for x in (V, squash_gradient(s, dv)))
        du, dW = torch.empty_like(self.columns), torch.empty_like(self.rows)
        for tile in self._tiles():
            c = _couplings(self._votes(tile), V) if couplings is None else couplings[tile]
            g = (c[:, :, None] * ds).flatten(1, 2)  # gradient of the votes, [T, J*E, B]
            du[tile] = torch.bmm(self.rows[tile].transpose(1, 2), g)
            dW[tile] = torch.bmm(g, self.columns[tile].transpose(1, 2))
        return du.permute(2, 0, 1).contiguous(), dW.unflatten(1, (self.J, self.E))

    def _tiles(self) -> Iterator[slice]:
        return (slice(start, start + self.tile) for start in range(0, len(self.rows), self.tile))

    def _votes(self, tile: slice) -> Tensor:
        """Votes of the input capsules of a tile, `[T, J, E, B]`."""
        return torch.bmm(self.rows[tile], self.columns[tile]).unflatten(1, (self.J, self.E))


def _couplings(votes: Tensor, V: Tensor) -> Tensor:
    """Softmax over J of the agreement of votes `[T, J, E, B]` with V `[J, E, B]`."""
    return (votes * V).sum(2).softmax(1)
