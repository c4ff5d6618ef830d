"""What the MoCapsNet paper measured besides accuracy, memory and time by depth (table 4, figures 3 and 4), beside ours.

Its memory is probably that of the whole process on a GPU, which it does not say. Ours is the highest point of what
PyTorch allocates in a training step.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from capsnb import bench
from capsnb.bench import Bench
from capsnb.experiments.papers import numbers
from capsnb.experiments.recipes import DATA
from capsnb.files import results

SHAPES = {"mnist": "1x28x28", "cifar10": "3x32x32", "svhn": "3x32x32"}
NETWORKS = ("ResCapsNet", "MoCapsNet")
MEGABYTE = 10**6


def measure(folder: str | os.PathLike[str] | None = None, *, progress: bool = True) -> None:
    """Measure what has no file yet: memory by image size, and the time of hidden layers; on the GPU if there is one.

    Args:
        folder: where results are; None for the project's own.
        progress: show progress bars.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for shape in dict.fromkeys(SHAPES.values()):
        if not (path := _path(f"-{shape}", device, folder)).exists():
            C, H, W = map(int, shape.split("x"))
            found = bench.depth(
                ["network"], image_shape=(C, H, W), only=NETWORKS, rounds=1, device=device, progress=progress
            )
            found.save(path)
    if not (path := _path("", device, folder)).exists():
        bench.depth(device=device, progress=progress).save(path)


def table4(folder: str | os.PathLike[str] | None = None, device: str = "cpu") -> str:
    """Memory of training by depth: the paper's table 4 beside ours, in MB (10^6 bytes); "not run yet" where it is not.

    Args:
        folder: where results are; None for the project's own.
        device: whose measurement, "cpu" or "cuda".

    Returns:
        A Markdown table, a line for each data set and depth.
    """
    heads = ["data", "blocks", *(f"{name}, {whose}" for name in NETWORKS for whose in ("paper", "ours"))]
    lines = [heads, [":--"] + ["--:"] * (len(heads) - 1)]
    said = {
        (record["dataset"], record["model"]): record["memory_mb_by_blocks"] for record in numbers()["table4"]
    }
    for data, shape in SHAPES.items():
        found = _measured(f"-{shape}", device, folder)
        for blocks in range(1, 9):
            line = [DATA[data], str(blocks)]
            for name in NETWORKS:
                paper = said[data, "(Res)CapsNet" if name == "ResCapsNet" else name][str(blocks)]
                line += [f"{paper:,}", _megabytes(found, blocks, name)]
            lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def slopes(folder: str | os.PathLike[str] | None = None, device: str = "cpu") -> str:
    """What each block adds, and inference: the paper's figures 3 and 4 and its text, beside ours.

    Args:
        folder: where results are; None for the project's own.
        device: whose measurement, "cpu" or "cuda".

    Returns:
        A Markdown table.
    """
    paper = numbers()["figures"]
    times, large = (_measured(kind, device, folder) for kind in ("", "-3x32x32"))
    memory = {name: _added(large, "network", name, "peak") for name in NETWORKS}
    seconds = {name: _added(times, "stack", name, "median") for name in NETWORKS}
    added = paper["fig4_memory_slope_mb_per_block"]
    time = paper["fig4_time_slope"]
    worst = max(
        (line["inference_residual"] or 0 for line in _lines(times, "network", "MoCapsNet")), default=None
    )
    rows: list[tuple[str, str, str]] = [
        *(
            (
                f"{name}, memory a block / MB",
                f"{added[name]:,}",
                _shown(memory[name], lambda x: f"{x / MEGABYTE:.2f}"),
            )
            for name in NETWORKS
        ),
        (
            "time a block, MoCapsNet over the other",
            f"{time['MoCapsNet'] / time['CapsNet']:.2f}",
            _shown(_over(seconds), lambda x: f"{x:.2f}"),
        ),
        (
            "inference, MoCapsNet over the other, worst",
            f"{1 + paper['inference_overhead_worst_percent'] / 100:.2f}",
            _shown(worst, lambda x: f"{x:.2f}"),
        ),
    ]
    return "\n".join(
        ["| | paper | ours |", "| :-- | --: | --: |", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    )


COSTS: dict[str, Callable[..., str]] = {"table4": table4, "figures": slopes}


def _path(kind: str, device: str, folder: str | os.PathLike[str] | None) -> Path:
    where = "" if device == "cpu" else "-cuda"
    return (results() if folder is None else Path(folder)) / f"bench-depth{kind}{where}.json"


def _measured(kind: str, device: str, folder: str | os.PathLike[str] | None) -> Bench | None:
    path = _path(kind, device, folder)
    return bench.read(path) if path.exists() else None


def _lines(found: Bench | None, case: str, name: str) -> list[dict[str, Any]]:
    lines = found.lines if found else []
    return [
        line
        for line in lines
        if line["case"].startswith(f"{case}, ") and line["name"] == name and line["blocks"]
    ]


def _added(found: Bench | None, case: str, name: str, figure: str) -> float | None:
    """The slope over the depths that the measurement holds."""
    lines = found.lines if found else []
    return next(
        (line[figure] for line in lines if (line["case"], line["name"]) == (f"{case}, each block", name)),
        None,
    )


def _megabytes(found: Bench | None, blocks: int, name: str) -> str:
    peak = next((line["peak"] for line in _lines(found, "network", name) if line["blocks"] == blocks), None)
    return _shown(peak, lambda x: f"{x / MEGABYTE:,.0f}")


def _over(values: dict[str, float | None]) -> float | None:
    ours, other = values["MoCapsNet"], values["ResCapsNet"]
    return ours / other if ours and other else None


def _shown(value: float | None, text: Callable[[float], str]) -> str:
    return "not run yet" if value is None else text(value)
