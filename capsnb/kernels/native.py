"""Routing without stored votes on a CPU: `routing.cpp`, compiled on first use. Taught in chapter 5."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from capsnb.files import write_atomically
from capsnb.functional import EPSILON
from capsnb.kernels.backend import RoutingBackend, Saved

SOURCE = Path(__file__).with_name("routing.cpp")
SLICES = 32  # partial sums at most: work for many threads, little memory
SHORTEST = 16  # input capsules in a partial sum at least
CAPABILITIES = {  # what PyTorch found in the processor -> bytes of a vector, compiler flags
    "AVX512": (64, ("-mavx512f", "-mavx512dq", "-mfma")),
    "AVX2": (32, ("-mavx2", "-mfma")),
}


class Native(RoutingBackend):
    """Compiled C++, with the batch in the lanes of the processor's vectors.

    Args:
        u: input capsules, `[B, I, D]`, float32 or float64.
        weight: W, `[I, J, E, D]`, of the same dtype.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        super().__init__(u, weight.contiguous())
        self.lanes = lanes(u.dtype)
        self.blocks = -(-self.B // self.lanes)
        self.slice = max(SHORTEST, -(-self.I // SLICES))
        # `unavailable` was asked before.
        self.library = cast(ctypes.CDLL, library(self.J, self.E, self.D, u.dtype))
        self.u_lanes = self._to_lanes(u)  # [blocks, I, D, lanes]

    def forward(self, iterations: int, *, keep_couplings: bool = False) -> tuple[Tensor, Saved]:
        """See `RoutingBackend.forward`."""
        s, v, V = (self.u.new_empty(self.blocks, self.J, self.E, self.lanes) for _ in range(3))
        partial = s.new_empty(-(-self.I // self.slice), *s.shape)
        couplings = s.new_empty(self.I, self.blocks, self.J, self.lanes) if keep_couplings else None
        tensors = self.weight, self.u_lanes, V, s, v, partial, couplings
        sizes = self.I, self.blocks, self.slice, torch.get_num_threads(), iterations
        self.library.forward(*map(_c_argument, (*tensors, *sizes)))
        if not keep_couplings:
            s, V = self._from_lanes(s), self._from_lanes(V)
        return self._from_lanes(v), Saved(s, V, couplings)

    def backward(self, saved: Saved, dv: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutingBackend.backward`."""
        s, V, couplings = saved
        if couplings is None:
            s, V = self._to_lanes(s), self._to_lanes(V)
        ds, du, dW = torch.empty_like(s), torch.empty_like(self.u_lanes), torch.empty_like(self.weight)
        tensors = self.weight, self.u_lanes, V, s, self._to_lanes(dv), couplings, ds, du, dW
        sizes = self.I, self.blocks, torch.get_num_threads()
        self.library.backward(*map(_c_argument, (*tensors, *sizes)))
        return self._from_lanes(du), dW

    def _to_lanes(self, x: Tensor) -> Tensor:
        """`[B, N, M]` -> `[blocks, N, M, lanes]`: the batch innermost, padded with zeros."""
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, self.blocks * self.lanes - self.B))
        return x.unflatten(0, (self.blocks, self.lanes)).permute(0, 2, 3, 1).contiguous()

    def _from_lanes(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2).flatten(0, 1)[: self.B].contiguous()


def _c_argument(x: Tensor | int | None) -> ctypes.c_long | ctypes.c_void_p:
    """A number, or the address of a tensor; that of no tensor is null."""
    return ctypes.c_long(x) if isinstance(x, int) else ctypes.c_void_p(None if x is None else x.data_ptr())


def unavailable(device: torch.device, shape: torch.Size, dtype: torch.dtype) -> str | None:
    """Why a layer with weights `[I, J, E, D]` of this dtype cannot be routed here; None where it can."""
    _, J, E, D = shape
    if device.type != "cpu":
        return f"backend='native' is for a CPU, and the capsules are on {device}; use 'auto'"
    if J * E * max(D, 8) > 2**16:  # a thread's votes are on its stack
        return f"backend='native' is for layers of up to {2**13} output numbers, not {J} x {E}; use 'fused'"
    if library(J, E, D, dtype) is None:
        return (
            "backend='native' needs a C++ compiler (c++, or the one that $CXX names), which `capsnb doctor` tries; "
            "use 'fused'"
        )
    return None


def lanes(dtype: torch.dtype) -> int:
    """Numbers in a vector of this processor."""
    return vector()[0] // dtype.itemsize


def vector() -> tuple[int, tuple[str, ...]]:
    """Bytes of a vector of this processor, and the compiler's flags for it."""
    return CAPABILITIES.get(torch.backends.cpu.get_cpu_capability(), (16, ()))


@cache
def library(J: int, E: int, D: int, dtype: torch.dtype) -> ctypes.CDLL | None:
    """The compiled kernels for one size of layer, from the cache folder where they are there already.

    The compiler is the one that `$CXX` names, or c++; the folder `$CAPSNB_CACHE`, or `capsnb` among the user's caches.

    Returns:
        The library; None where there is no compiler, or where it cannot compile for this machine.
    """
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        return None
    real = {torch.float32: "float", torch.float64: "double"}[dtype]
    defines = {"J": J, "E": E, "D": D, "REAL": real, "LANES": lanes(dtype), "EPSILON": EPSILON}
    flags = "-std=c++17 -O3 -fno-math-errno -ffp-contract=fast -fPIC -shared -w"
    # No default libraries: OpenMP is then the one that PyTorch has loaded. A second one would fight it for the cores.
    command = [compiler, *flags.split(), "-fopenmp", "-nodefaultlibs", *vector()[1]]
    command += [f"-D{name}={value}" for name, value in defines.items()]
    key = hashlib.sha256("\0".join([SOURCE.read_text(encoding="utf-8"), *command]).encode()).hexdigest()[:16]
    folder, name = cache_folder(), f"routing-{J}x{E}x{D}-{real}-{key}.so"
    if folder and _is_whole(folder / name):
        with suppress(OSError):  # it was made for another machine
            return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / name
        try:
            # The user's compiler, on a file of this package.
            subprocess.run([*command, "-o", built, SOURCE], check=True, capture_output=True)  # noqa: S603
            loaded = ctypes.CDLL(str(built))
        except (OSError, subprocess.CalledProcessError):
            return None
        if folder:
            with suppress(OSError):  # a folder that cannot be written costs half a second at each start
                content = built.read_bytes()
                write_atomically(folder / name, content + hashlib.sha256(content).digest())
    return loaded


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where the user has no home."""
    named = os.environ.get("CAPSNB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "capsnb")
    try:
        return Path(named).expanduser()
    except RuntimeError:
        return None


def _is_whole(library: Path) -> bool:
    """Whether a compiled library ends in its own digest, which a loader ignores: a damaged one could crash Python."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]
