"""What has been measured on GPUs, and what `auto` makes of it there. Taught in chapter 5, *Routing without votes*.

`assets/gpu-routing.json` has, for each compute capability, layers with the milliseconds of each backend, forward and
backward; where a tuner has looked for them, also the block sizes that were the fastest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

import torch

MAX_VOTES = 2**24  # bytes of votes that "auto" stores at most, 16 MiB

Sizes = tuple[int, int, int, int, int]  # B, I, J, E, D


@cache
def measurements() -> dict[str, Any]:
    """All of the file: a compute capability such as "9.0" -> its GPU, its source, its layers."""
    return json.loads((files("capsnb") / "assets" / "gpu-routing.json").read_text(encoding="utf-8"))


@cache
def capability(device: torch.device) -> float | None:
    """The compute capability of an NVIDIA GPU as a number, such as 9.0; None of another device, or of no real one."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return major + minor / 10


def fastest(sizes: Sizes, gpu: float, backends: Collection[str], table: dict[str, Any] | None = None) -> str:
    """The backend that was the fastest for the measured layer most like this one, on the GPU most like this one.

    Layers are alike that have about as many pairs of images and input capsules, and about as many output numbers, both
    as ratios. "eager" is not chosen for votes of more than `MAX_VOTES` bytes.

    Args:
        sizes: B, I, J, E, D.
        gpu: its compute capability.
        backends: names to choose from, "fused" among them.
        table: instead of `measurements()`.

    Returns:
        Its name; "fused" where nothing has been measured.

    >>> table = {"9.0": {"layers": [{"sizes": [1, 8, 4, 4, 8], "ms": {"eager": 1.0, "fused": 2.0}}]}}
    >>> fastest((2, 8, 4, 4, 8), 8.0, ["eager", "fused"], table)
    'eager'
    >>> fastest((2**20, 8, 4, 4, 8), 8.0, ["eager", "fused"], table)
    'fused'
    """
    layers = _layers(gpu, table)
    if not layers:
        return "fused"
    B, I, J, E, _ = sizes
    allowed = [x for x in backends if x != "eager" or 4 * B * I * J * E <= MAX_VOTES]
    milliseconds = min(layers, key=lambda layer: _distance(sizes, layer["sizes"]))["ms"]
    return min((x for x in allowed if x in milliseconds), key=milliseconds.__getitem__, default="fused")


def tuned(
    layer: tuple[int, int, int], gpu: float, kernel: str, table: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The fastest "rows", "warps", "stages" and "precision" of a kernel, "iteration" or "gradients", for J, E and D.

    Only what was measured for this layer: the sizes of another one might not run. Empty where there is nothing.
    """
    for measured in _layers(gpu, table):
        if tuple(measured["sizes"][2:]) == layer:
            return measured.get("blocks", {}).get(kernel, {})
    return {}


def _layers(gpu: float, table: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The layers that were measured on the GPU with the nearest compute capability."""
    table = measurements() if table is None else table
    return table[min(table, key=lambda name: abs(float(name) - gpu))]["layers"] if table else []


def _distance(sizes: Sizes, others: Sizes) -> float:
    (B, I, J, E, _), (b, i, j, e, _) = sizes, others
    return abs(math.log(B * I / (b * i))) + abs(math.log(J * E / (j * e)))
