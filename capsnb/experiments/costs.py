"""What the MoCapsNet paper measured besides accuracy, memory and time by depth (table 4, figures 3 and 4), beside ours.

Its memory is probably that of the whole process on a GPU, which it does not say. Ours is the highest point of what
PyTorch allocates in a training step. Used in chapter 17, *Reproducing the papers*.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from capsnb import bench, files
from capsnb.bench import Bench
from capsnb.experiments.papers import paper_numbers
from capsnb.experiments.recipes import DATA
from capsnb.tables import markdown

IMAGE_SHAPES = {"mnist": "1x28x28", "cifar10": "3x32x32", "svhn": "3x32x32"}
COMPARED = ("ResCapsNet", "MoCapsNet")


def measure_costs(folder: str | os.PathLike[str] | None = None, *, progress: bool = True) -> None:
    """Measure what has no file yet: memory by image size, and the time of hidden layers; on the GPU if there is one.

    Args:
        folder: where results are; None for the project's own.
        progress: show progress bars.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for shape in dict.fromkeys(IMAGE_SHAPES.values()):
        if not (path := _path(f"-{shape}", device, folder)).exists():
            C, H, W = map(int, shape.split("x"))
            measured = bench.measure_depth(
                ["network"], image_shape=(C, H, W), only=COMPARED, rounds=1, device=device, progress=progress
            )
            measured.save(path)
    if not (path := _path("", device, folder)).exists():
        bench.measure_depth(device=device, progress=progress).save(path)


def table4(folder: str | os.PathLike[str] | None = None, device: str = "cpu") -> str:
    """Memory of training by depth: the paper's table 4 beside ours, in MB (10^6 bytes); "not run yet" where it is not.

    Args:
        folder: where results are; None for the project's own.
        device: whose measurement, "cpu" or "cuda".

    Returns:
        A Markdown table, a line for each data set and depth; of a GPU also what the whole process has in use.
    """
    ours = {"ours": "peak"} if device == "cpu" else {"allocator": "peak", "process": "gpu_used"}
    lines = [["data", "blocks", *(f"{name}, {whose}" for name in COMPARED for whose in ("paper", *ours))]]
    reported = {
        (record["dataset"], record["model"]): record["memory_mb_by_blocks"]
        for record in paper_numbers()["table4"]
    }
    for data, shape in IMAGE_SHAPES.items():
        measured = _measured(f"-{shape}", device, folder)
        for blocks in range(1, 9):
            case = f"network, {blocks} block{'s' * (blocks > 1)}"
            line = [DATA[data], str(blocks)]
            for name in COMPARED:
                paper = reported[data, "(Res)CapsNet" if name == "ResCapsNet" else name][str(blocks)]
                line += [
                    f"{paper:,}",
                    *(_shown(_figure(measured, case, name, column), "B") for column in ours.values()),
                ]
            lines.append(line)
    return markdown(lines)


def slopes(folder: str | os.PathLike[str] | None = None, device: str = "cpu") -> str:
    """What each block adds, and inference: the paper's figures 3 and 4 and its text, beside ours.

    Args:
        folder: where results are; None for the project's own.
        device: whose measurement, "cpu" or "cuda".

    Returns:
        A Markdown table.
    """
    paper = paper_numbers()["figures"]
    times, large = (_measured(kind, device, folder) for kind in ("", "-3x32x32"))
    residual, momentum = (_figure(times, "stack, each block", name, "median") for name in COMPARED)
    ends = [line for line in times.lines if line["case"].startswith("network, ")] if times else []
    inference = [
        line["inference_residual"] for line in ends if line["blocks"] and line["name"] == "MoCapsNet"
    ]
    lines = [["", "paper", "ours"]]
    for name, added in paper["fig4_memory_slope_mb_per_block"].items():
        ours = _figure(large, "network, each block", name, "peak")
        lines.append([f"{name}, memory a block / MB", f"{added:,}", _shown(ours, "B")])
    slope = paper["fig4_time_slope"]
    ratios = {
        "time a block, MoCapsNet over the other": (
            slope["MoCapsNet"] / slope["CapsNet"],
            momentum / residual if momentum and residual else None,
        ),
        "inference, MoCapsNet over the other, worst": (
            1 + paper["inference_overhead_worst_percent"] / 100,
            max((figure for figure in inference if figure), default=None),
        ),
    }
    lines += [[name, *(_shown(ratio, "times") for ratio in pair)] for name, pair in ratios.items()]
    return markdown(lines)


COSTS: dict[str, Callable[..., str]] = {"table4": table4, "figures": slopes}


def _path(kind: str, device: str, folder: str | os.PathLike[str] | None) -> Path:
    where = "" if device == "cpu" else "-cuda"
    return (files.results() if folder is None else Path(folder)) / f"bench-depth{kind}{where}.json"


def _measured(kind: str, device: str, folder: str | os.PathLike[str] | None) -> Bench | None:
    path = _path(kind, device, folder)
    return Bench.load(path) if path.exists() else None


def _figure(measured: Bench | None, case: str, name: str, column: str) -> float | None:
    """A figure of a measurement; None where it was not measured."""
    try:
        return None if measured is None else measured[case, name][column]
    except KeyError:
        return None


def _shown(value: float | None, unit: str) -> str:
    return "not run yet" if value is None else bench.format_value(value, unit)
