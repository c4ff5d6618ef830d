"""Routing without stored votes on a GPU, in Triton. Taught in chapter 5, *Routing without votes*.

Votes are in registers. A program takes a few input capsules and a part of the batch, and an iteration is one kernel:
it starts with what the one before left to do, the sum over programs, squash and V. Those sums are in a fixed order,
without atomics, so that two runs are bitwise equal.

Matrix products are float32. From an A100 on, votes are computed on tensor cores, which take TF32 numbers: a product of
two float32 numbers is the sum of the three largest products of their halves. Against float64 that is at most 1.3 times
the error of float32.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from subprocess import CalledProcessError
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from capsnb.functional import EPSILON as _EPSILON
from capsnb.kernels.backend import RoutingBackend, Saved
from capsnb.kernels.fused import Fused
from capsnb.kernels.measured import capability, tuned

NUMBERS = 4096  # float32 votes that a program holds at a time, or twice as many where it would have few rows
TENSOR_ROWS = 16  # rows of the batch that tensor cores need
NUMBERS_OF_WARP = 1024  # 32 a thread
TILES = 64  # programs beside each other in the sum over input capsules, at most
TILE = 4  # input capsules of one program at least
# So many sums of programs are added by each program of the next iteration, more by a kernel of its own.
FEW = 8
EPSILON = tl.constexpr(_EPSILON)
INTERPRETED = 227 * 1024  # bytes of shared memory where there is no GPU
# Of Triton, its compiler, and those that it calls.
FAILURES = (TritonError, RuntimeError, OSError, CalledProcessError)


class Blocks(NamedTuple):
    """The part of a layer that a program holds, and how.

    Attributes:
        rows: of the batch.
        J: output capsules, a power of two.
        E: their numbers, a power of two.
        D: an input capsule's numbers, a power of two.
        warps: of 32 threads each.
        stages: 1, or more to load the next operands while these are used.
        precision: of votes: "ieee", or "tf32x3" on tensor cores.
    """

    rows: int
    J: int
    E: int
    D: int
    warps: int
    stages: int
    precision: str = "ieee"

    def constants(self) -> dict[str, Any]:
        """Arguments of a kernel and of its launch."""
        pads = {"J_PAD": self.J, "E_PAD": self.E, "D_PAD": self.D, "BLOCK": self.rows}
        compiler = {"num_warps": self.warps, "num_stages": self.stages}
        return {**pads, "PRECISION": self.precision, **compiler}

    def shared(self, itemsize: int, *, gradients: bool) -> int:
        """Bytes of shared memory of the kernel of gradients, or of weighted sums, as Triton 3.8 lays them out."""
        W, votes = self.J * self.E * self.D, self.rows * self.J * self.E
        operands, halves = W + self.rows * self.D, self.precision == "tf32x3"
        if gradients:
            return (operands + 2 * halves * W + (2 * self.stages - 1) * votes) * itemsize
        return max((max(1, self.stages - 1) + halves) * operands, votes) * itemsize + 128 * (self.stages > 1)


def blocks(
    layer: tuple[int, int, int],
    batch: int,
    shared: int,
    *,
    gradients: bool,
    itemsize: int = 4,
    tensor_cores: bool = False,
) -> Iterator[Blocks]:
    """What a program may hold so that it fits into shared memory, best first.

    Args:
        layer: J, E and D.
        batch: B.
        shared: bytes of shared memory that a program may have: 64 KiB on a T4, 163 on an A100, 227 on an H100.
        gradients: for the kernel of the backward pass.
        itemsize: bytes of a number.
        tensor_cores: whether the GPU's take TF32.
    """
    J, E, D = (triton.next_power_of_2(n) for n in layer)
    E = max(E, 16 // J)
    rows = max(NUMBERS // (J * E), min(TENSOR_ROWS, 2 * NUMBERS // (J * E))) * 4 // itemsize
    rows = min(rows, triton.next_power_of_2(batch))
    ahead = (2 if gradients else 3) if J * E <= 512 else 1
    while rows:
        halves = tensor_cores and itemsize == 4 and rows >= TENSOR_ROWS
        # Where votes are sums of a thread, half as many numbers let twice as many warps be resident.
        of_warp = NUMBERS_OF_WARP * 4 // itemsize // (1 if gradients or halves else 2)
        warps = min(16, max(1, rows * J * E // of_warp))
        for smallest in (8, 16):  # sides of a matrix product, in this version of Triton and in older ones
            for stages in sorted({ahead, 1}, reverse=True):
                precision = "tf32x3" if halves else "ieee"
                found = Blocks(rows, J, E, max(smallest, D), warps, stages, precision)
                if found.shared(itemsize, gradients=gradients) <= shared and (D < 16 or smallest == 8):
                    yield found
        rows //= 2


class CannotRunError(RuntimeError):
    """No block sizes let Triton run this kernel here."""


# Kernel, layer, rows, dtype and device -> the block sizes that have not failed; the first one is used.
options: dict[tuple[Any, ...], list[Blocks]] = {}


class Triton(RoutingBackend):
    """One kernel for each iteration, on a GPU (or anywhere, slowly, in Triton's interpreter).

    Where Triton cannot run a layer, since nothing fits or nothing compiles, `Fused` does, after a warning.

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
        self.tiles, self.tile = tiling(self.I)

    def forward(self, iterations: int, *, keep_couplings: bool = False) -> tuple[Tensor, Saved]:
        """See `RoutingBackend.forward`; couplings stay in registers, and are never kept."""
        try:
            with torch.cuda.device_of(self.u):  # Triton starts kernels on the current GPU
                return self._forward(iterations)
        except CannotRunError:
            return Fused(self.u, self.weight).forward(iterations)

    def backward(self, saved: Saved, dv: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutingBackend.backward`."""
        try:
            with torch.cuda.device_of(self.u):
                return self._backward(saved.s, saved.V, dv.contiguous())
        except CannotRunError:
            return Fused(self.u, self.weight).backward(saved, dv)

    def _forward(self, iterations: int) -> tuple[Tensor, Saved]:
        few = self.tiles <= FEW
        s, v, V, V_next = (self.u.new_empty(self.B, self.J, self.E) for _ in range(4))
        partial = self.u.new_empty(2 if few else 1, self.tiles, *s.shape)
        before, sums = s, 0

        def programs(found: Blocks) -> tuple[int, int]:
            return self.tiles, triton.cdiv(self.B, found.rows)

        for r in range(iterations):
            # An iteration that adds up the sums of the one before must not write over them.
            after = partial[r % len(partial)]
            self._launch(
                _iteration, programs, V, before, V_next, after, *self.u.stride(), SUMS=sums, TILE=self.tile
            )
            V, V_next, before, sums = V_next, V, after, self.tiles
            if not few or r == iterations - 1:
                rows, grid = self._rows(self.tiles)
                _finish[grid](after, s, v, **rows, SUMS=self.tiles, T_PAD=triton.next_power_of_2(self.tiles))
                before, sums = s, 1
        return v, Saved(s, V)

    def _backward(self, s: Tensor, V: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        ds, dW = torch.empty_like(s), torch.empty_like(self.weight)
        du = torch.empty_like(self.u, memory_format=torch.contiguous_format)
        rows, grid = self._rows(1)
        _squash_gradient[grid](s, dv, ds, **rows)
        self._launch(_gradients, lambda _: (self.I,), V, ds, du, dW, *self.u.stride())
        return du, dW

    def _rows(self, sums: int) -> tuple[dict[str, int], tuple[int]]:
        """Arguments and grid of a kernel for which each output capsule is a row, with so many sums to add."""
        E = triton.next_power_of_2(self.E)
        rows = max(1, NUMBERS // (E * triton.next_power_of_2(sums)))
        count = self.B * self.J
        return {"N": count, "E": self.E, "E_PAD": E, "ROWS": rows}, (triton.cdiv(count, rows),)

    def _launch(
        self, kernel: Any, grid: Callable[[Blocks], tuple[int, ...]], *arguments: Any, **constants: int
    ) -> None:
        """Run a kernel with the best block sizes that let it, which are remembered.

        Raises:
            CannotRunError: there are none, which is said once.
        """
        layer, gradients = (self.J, self.E, self.D), kernel is _gradients
        shared, itemsize = shared_memory(self.u.device), self.u.element_size()
        gpu = capability(self.u.device)
        key = kernel, layer, triton.next_power_of_2(self.B), self.u.dtype, self.u.device
        reason: object = f"nothing fits into {shared:,} bytes of shared memory"
        if key not in options:
            fitting = blocks(
                layer,
                self.B,
                shared,
                gradients=gradients,
                itemsize=itemsize,
                tensor_cores=gpu is not None and gpu >= 8,
            )
            options[key] = [*fitting]
            sizes = tuned(layer, gpu, "gradients" if gradients else "iteration") if gpu else {}
            if options[key] and sizes:
                options[key].insert(0, options[key][0]._replace(**sizes))
        elif not options[key]:
            raise CannotRunError
        everything = self.u, self.weight, *arguments, self.B, self.I, *layer
        while options[key]:
            found = options[key][0]
            try:
                kernel[grid(found)](*everything, **constants, **found.constants())
                return
            except FAILURES as error:
                if "Error [CUDA]" in str(error):  # the GPU itself failed: nothing else would run either
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                options[key].pop(0)
        warnings.warn(
            f"Triton cannot route to {self.J} x {self.E} from capsules of {self.D} here ({reason}): 'fused' does",
            stacklevel=2,
        )
        raise CannotRunError


def tiling(I: int) -> tuple[int, int]:
    """The number of tiles of input capsules, and the capsules of one."""
    tile = max(TILE, triton.cdiv(I, TILES))
    return triton.cdiv(I, tile), tile


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may have on this GPU."""
    if device.type != "cuda":
        return INTERPRETED
    # The name is not in PyTorch before 2.4, and every GPU that Triton knows has 48 KiB.
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 48 * 1024)


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """The matrix product: of float32 as such, or without the product of the lower halves, on tensor cores."""
    if PRECISION == "ieee":
        product = tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)
    else:
        a_high, b_high = _upper_half(a), _upper_half(b)
        product = tl.dot(a - a_high, b_high, input_precision="tf32")
        product = tl.dot(a_high, b - b_high, product, input_precision="tf32")
        product = tl.dot(a_high, b_high, product, input_precision="tf32")
    return product


@triton.jit
def _upper_half(x):
    """Round to TF32, which has 11 binary digits."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _couplings(votes, V, j, J: tl.constexpr):
    """Softmax over J of the agreement of votes and V, `[BLOCK, J, E]` each."""
    agreement = tl.where(j[None, :] < J, tl.sum(votes * V, axis=2), float("-inf"))  # [BLOCK, J]
    weights = tl.exp(agreement - tl.max(agreement, axis=1)[:, None])
    return weights * (1 / tl.sum(weights, axis=1))[:, None]


@triton.jit
def _squash(s, axis: tl.constexpr):
    squared = tl.expand_dims(tl.sum(s * s, axis=axis), axis)
    return s * (squared / (1 + squared) / tl.sqrt(squared + EPSILON))


@triton.jit(do_not_specialize=("B", "I"))
def _iteration(
    u_at, W_at, V_at, before_at, V_next_at, partial_at,
    u_b, u_i, u_d,  # strides of u
    B, I, J: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
    SUMS: tl.constexpr, TILE: tl.constexpr,
    J_PAD: tl.constexpr, E_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums of a tile of input capsules for a part of the batch; V is made of the sums of the iteration before."""
    tile = tl.program_id(0)
    b = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    j, e, d = tl.arange(0, J_PAD), tl.arange(0, E_PAD), tl.arange(0, D_PAD)
    je = tl.arange(0, J_PAD * E_PAD)
    row, within = (je // E_PAD) * E + je % E_PAD, (je // E_PAD < J) & (je % E_PAD < E)
    out = b[:, None, None] * (J * E) + j[None, :, None] * E + e[None, None, :]  # [BLOCK, J, E]
    inside = (b[:, None, None] < B) & (j[None, :, None] < J) & (e[None, None, :] < E)
    s = tl.zeros((BLOCK, J_PAD, E_PAD), W_at.dtype.element_ty)
    V = s
    if SUMS > 0:
        for t in tl.static_range(SUMS):
            s += tl.load(before_at + t * B * (J * E) + out, mask=inside, other=0.0)
        V = tl.load(V_at + out, mask=inside, other=0.0) + _squash(s, 2)
        s = tl.zeros_like(V)
    if tile == 0:
        tl.store(V_next_at + out, V, mask=inside)
    for i in range(tile * TILE, min(tile * TILE + TILE, I)):
        u = tl.load(
            u_at + b[:, None] * u_b + i * u_i + d[None, :] * u_d,
            mask=(b[:, None] < B) & (d[None, :] < D),
            other=0.0,
        )  # [BLOCK, D]
        W = tl.load(
            W_at + i * (J * E * D) + row[None, :] * D + d[:, None],
            mask=within[None, :] & (d[:, None] < D),
            other=0.0,
        )  # [D, J*E]
        votes = tl.reshape(_dot(u, W, PRECISION), (BLOCK, J_PAD, E_PAD))
        if SUMS > 0:
            s += _couplings(votes, V, j, J)[:, :, None] * votes
        else:  # uniform couplings
            s += votes
    if SUMS == 0:
        s = s / J
    tl.store(partial_at + tile.to(tl.int64) * B * (J * E) + out, s, mask=inside)


@triton.jit
def _finish(
    partial_at, s_at, v_at, N,
    E: tl.constexpr, E_PAD: tl.constexpr, ROWS: tl.constexpr, SUMS: tl.constexpr, T_PAD: tl.constexpr,
):  # fmt: skip
    """The sum of the partial sums, and its squash, for a few output capsules."""
    n, e, t = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, E_PAD), tl.arange(0, T_PAD)
    out, inside = n[:, None] * E + e[None, :], (n[:, None] < N) & (e[None, :] < E)
    partial = tl.load(
        partial_at + t.to(tl.int64)[:, None, None] * N * E + out[None],
        mask=inside[None] & (t[:, None, None] < SUMS),
        other=0.0,
    )
    s = tl.sum(partial, axis=0)
    tl.store(s_at + out, s, mask=inside)
    tl.store(v_at + out, _squash(s, 1), mask=inside)


@triton.jit
def _squash_gradient(
    s_at, dv_at, ds_at, N,
    E: tl.constexpr, E_PAD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`functional.squash_gradient`, for a few output capsules."""
    n, e = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, E_PAD)
    out, inside = n[:, None] * E + e[None, :], (n[:, None] < N) & (e[None, :] < E)
    s = tl.load(s_at + out, mask=inside, other=0.0)
    dv = tl.load(dv_at + out, mask=inside, other=0.0)
    squared = tl.sum(s * s, axis=1)
    inverse_length = 1 / tl.sqrt(squared + EPSILON)
    factor = squared / (1 + squared) * inverse_length
    slope = inverse_length / ((1 + squared) * (1 + squared)) - factor * inverse_length * inverse_length / 2
    ds = factor[:, None] * dv + (2 * slope * tl.sum(s * dv, axis=1))[:, None] * s
    tl.store(ds_at + out, ds, mask=inside)


@triton.jit(do_not_specialize=("B", "I"))
def _gradients(
    u_at, W_at, V_at, ds_at, du_at, dW_at,
    u_b, u_i, u_d,
    B, I, J: tl.constexpr, E: tl.constexpr, D: tl.constexpr,
    J_PAD: tl.constexpr, E_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one input capsule for the whole batch, and of its weights."""
    i = tl.program_id(0)
    j, e, d = tl.arange(0, J_PAD), tl.arange(0, E_PAD), tl.arange(0, D_PAD)
    je = tl.arange(0, J_PAD * E_PAD)
    row, within = (je // E_PAD) * E + je % E_PAD, (je // E_PAD < J) & (je % E_PAD < E)
    W_here = i * (J * E * D) + row[:, None] * D + d[None, :]  # [J*E, D]
    W_inside = within[:, None] & (d[None, :] < D)
    W = tl.load(W_at + W_here, mask=W_inside, other=0.0)
    dW = tl.zeros_like(W)
    for start in range(0, B, BLOCK):
        b = start + tl.arange(0, BLOCK)
        u_inside = (b[:, None] < B) & (d[None, :] < D)
        u = tl.load(u_at + b[:, None] * u_b + i * u_i + d[None, :] * u_d, mask=u_inside, other=0.0)
        out = b[:, None, None] * (J * E) + j[None, :, None] * E + e[None, None, :]
        inside = (b[:, None, None] < B) & (j[None, :, None] < J) & (e[None, None, :] < E)
        V = tl.load(V_at + out, mask=inside, other=0.0)
        ds = tl.load(ds_at + out, mask=inside, other=0.0)
        votes = tl.reshape(_dot(u, tl.trans(W), PRECISION), (BLOCK, J_PAD, E_PAD))
        g = tl.reshape(_couplings(votes, V, j, J)[:, :, None] * ds, (BLOCK, J_PAD * E_PAD))
        du = tl.dot(g, W, input_precision="ieee", out_dtype=u.dtype)
        tl.store(du_at + (b[:, None] * I + i) * D + d[None, :], du, mask=u_inside)
        if BLOCK < 8:  # `tl.dot` does not take so few
            dW += tl.sum(g[:, :, None] * u[:, None, :], axis=0)
        else:
            dW += tl.dot(tl.trans(g), u, input_precision="ieee", out_dtype=u.dtype)
    tl.store(dW_at + W_here, dW, mask=W_inside)
