"""Routing without stored votes on a GPU: one Triton kernel a pass. Taught in chapter 5, *Routing without votes*.

Votes live in registers. A program owns a tile of input capsules, and sums over tiles are added in a fixed order: no
atomics, so that two runs are bitwise equal. Matrix products are IEEE float32, not TF32; `tl.dot` wants sides of 16
or more, so the batch is taken in blocks of 16 or more and D is padded with zeros.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from capsnb.kernels.backend import TiledBackend

TILE = 16  # input capsules of one program in the forward pass
NUMBERS = 4096  # elements of votes that a program holds at a time
WARPS = 8  # with 4, the numbers do not fit into a thread's registers


class Triton(TiledBackend):
    """A program for each tile of input capsules, on a GPU (or anywhere, slowly, in Triton's interpreter).

    Args:
        u: input capsules, `[B, I, D]`, float32 or float64.
        weight: W, `[I, J, E, D]`, of the same dtype.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        if not (u.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
            raise RuntimeError(
                f"backend='triton' needs a GPU, and the capsules are on {u.device}; use 'auto'"
            )
        super().__init__(u, weight.contiguous())
        self.sizes = self.B, self.I, self.J, self.E, self.D = len(u), *weight.shape
        self.padded = padding(self.J, self.E, self.D, self.B)

    def weighted_sum(self, V: Tensor, *, keep_couplings: bool) -> tuple[Tensor, None]:
        """See `TiledBackend.weighted_sum`; couplings stay in registers, and are never kept."""
        tiles = triton.cdiv(self.I, TILE)
        partial = V.new_empty(tiles, self.B, self.J, self.E)
        grid = (tiles, triton.cdiv(self.B, self.padded["BLOCK"]))
        _weighted_sum[grid](
            self.u,
            self.weight,
            V.contiguous(),
            partial,
            *self.u.stride(),
            *self.sizes,
            **self.padded,
            TILE=TILE,
            num_warps=WARPS,
        )
        return partial.sum(0), None

    def weighted_sum_gradients(
        self, V: Tensor, couplings: Tensor | None, ds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `TiledBackend.weighted_sum_gradients`."""
        du = torch.empty_like(self.u, memory_format=torch.contiguous_format)
        dW = torch.empty_like(self.weight)
        _weighted_sum_gradients[(self.I,)](
            self.u,
            self.weight,
            V.contiguous(),
            ds.contiguous(),
            du,
            dW,
            *self.u.stride(),
            *self.sizes,
            **self.padded,
            num_warps=WARPS,
        )
        return du, dW


def padding(J: int, E: int, D: int, batch: int) -> dict[str, int]:
    """The sides of the blocks that a program works on: powers of two, and at least 16 in a matrix product."""
    J, E = triton.next_power_of_2(J), triton.next_power_of_2(E)
    return {
        "J_PAD": J,
        "E_PAD": max(E, 16 // J),
        "D_PAD": max(16, triton.next_power_of_2(D)),
        "BLOCK": max(16, min(NUMBERS // (J * E), triton.next_power_of_2(batch))),
    }


@triton.jit
def _couplings(votes, V, j, J):
    """Softmax over J of the agreement of votes and V, `[BLOCK, J, E]` each."""
    agreement = tl.where(j[None, :] < J, tl.sum(votes * V, axis=2), float("-inf"))  # [BLOCK, J]
    weights = tl.exp(agreement - tl.max(agreement, axis=1)[:, None])
    return weights / tl.sum(weights, axis=1)[:, None]


@triton.jit
def _weighted_sum(
    u_at, W_at, V_at, partial_at,
    u_b, u_i, u_d,  # strides of u
    B, I, J, E, D,
    J_PAD: tl.constexpr, E_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    b = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    j, e, d = tl.arange(0, J_PAD), tl.arange(0, E_PAD), tl.arange(0, D_PAD)
    je = tl.arange(0, J_PAD * E_PAD)
    row, within = (je // E_PAD) * E + je % E_PAD, (je // E_PAD < J) & (je % E_PAD < E)
    out = b[:, None, None] * J * E + j[None, :, None] * E + e[None, None, :]  # [BLOCK, J, E]
    inside = (b[:, None, None] < B) & (j[None, :, None] < J) & (e[None, None, :] < E)
    V = tl.load(V_at + out, mask=inside, other=0.0)
    s = tl.zeros_like(V)
    for i in range(tile * TILE, min(tile * TILE + TILE, I)):
        u = tl.load(
            u_at + b[:, None] * u_b + i * u_i + d[None, :] * u_d,
            mask=(b[:, None] < B) & (d[None, :] < D),
            other=0.0,
        )  # [BLOCK, D]
        W = tl.load(
            W_at + i * J * E * D + row[None, :] * D + d[:, None],
            mask=within[None, :] & (d[:, None] < D),
            other=0.0,
        )  # [D, J*E]
        votes = tl.reshape(tl.dot(u, W, input_precision="ieee", out_dtype=u.dtype), (BLOCK, J_PAD, E_PAD))
        s += _couplings(votes, V, j, J)[:, :, None] * votes
    tl.store(partial_at + tile * B * J * E + out, s, mask=inside)


@triton.jit
def _weighted_sum_gradients(
    u_at, W_at, V_at, ds_at, du_at, dW_at,
    u_b, u_i, u_d,
    B, I, J, E, D,
    J_PAD: tl.constexpr, E_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    j, e, d = tl.arange(0, J_PAD), tl.arange(0, E_PAD), tl.arange(0, D_PAD)
    je = tl.arange(0, J_PAD * E_PAD)
    row, within = (je // E_PAD) * E + je % E_PAD, (je // E_PAD < J) & (je % E_PAD < E)
    W_here = i * J * E * D + row[:, None] * D + d[None, :]  # [J*E, D]
    W_inside = within[:, None] & (d[None, :] < D)
    W = tl.load(W_at + W_here, mask=W_inside, other=0.0)
    dW = tl.zeros_like(W)
    for start in range(0, B, BLOCK):
        b = start + tl.arange(0, BLOCK)
        u_inside = (b[:, None] < B) & (d[None, :] < D)
        u = tl.load(u_at + b[:, None] * u_b + i * u_i + d[None, :] * u_d, mask=u_inside, other=0.0)
        out = b[:, None, None] * J * E + j[None, :, None] * E + e[None, None, :]
        inside = (b[:, None, None] < B) & (j[None, :, None] < J) & (e[None, None, :] < E)
        V = tl.load(V_at + out, mask=inside, other=0.0)
        ds = tl.load(ds_at + out, mask=inside, other=0.0)
        votes = tl.reshape(
            tl.dot(u, tl.trans(W), input_precision="ieee", out_dtype=u.dtype), (BLOCK, J_PAD, E_PAD)
        )
        g = tl.reshape(_couplings(votes, V, j, J)[:, :, None] * ds, (BLOCK, J_PAD * E_PAD))
        du = tl.dot(g, W, input_precision="ieee", out_dtype=u.dtype)
        tl.store(du_at + (b[:, None] * I + i) * D + d[None, :], du, mask=u_inside)
        dW += tl.dot(tl.trans(g), u, input_precision="ieee", out_dtype=u.dtype)
    tl.store(dW_at + W_here, dW, mask=W_inside)
