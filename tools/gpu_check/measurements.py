"""Short forms of `capsnb bench` on a GPU, and table 4 by three ways of counting memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from capsnb import bench
from capsnb.bench import Bench, depth, training_step
from capsnb.experiments import paper_numbers
from capsnb.experiments.costs import COMPARED, IMAGE_SHAPES
from capsnb.experiments.recipes import DATA
from capsnb.files import write_atomically
from capsnb.profiling import format_error
from capsnb.tables import markdown
from gpu_check.job import Job

BASELINES = ("materialised", "compiled")  # what `auto` must not be slower than
ON_GPU: dict[str, dict[str, Any]] = {
    "routing": {"rounds": 10},
    # "compiled" would be compiled once more
    "memory": {"only": ["expanded", "materialised", "checkpoint", "eager", "fused", "triton", "auto"]},
    "step": {"rounds": 5},
    "depth": {"blocks": [1, 4, 8], "rounds": 3},
    "gradients": {"sweeps": [(4, 0.9), (16, 0.9), (16, 0.99)]},
}
REHEARSED: dict[str, dict[str, Any]] = {
    "routing": {"rounds": 1, "batch": 4, "only": ["materialised", "fused", "auto"]},
    "memory": {"batch": 4, "only": ["materialised", "auto"]},
    "step": {"rounds": 1, "batch": 2, "only": ["auto", training_step.BASELINE]},
    "depth": {"blocks": [1], "rounds": 1, "batch": 2, "only": list(COMPARED)},
    "gradients": {"sweeps": [(2, 0.9)], "batch": 2, "only": ["MomentumCapsules, float32"]},
}
REHEARSED_CASES = {
    "routing": ["hidden layer", "class layer"],
    "memory": ["hidden layer"],
    "step": ["MNIST"],
    "gradients": ["default weights"],
}
CASES: dict[str, Iterable[str]] = {
    "routing": bench.LAYER_SIZES,
    "memory": bench.LAYER_SIZES,
    "step": training_step.STEP_NETWORKS,
    "depth": ("network", "stack"),
    "gradients": ("default weights", "weights times 0.1"),
}


def measured(job: Job, what: str, kind: str = "", **options: Any) -> Bench | None:
    """Measure case by case, and write the file anew after each; one that fails does not stop the others."""
    cases = REHEARSED_CASES.get(what, CASES[what]) if job.rehearsed else CASES[what]
    options = (REHEARSED if job.rehearsed else ON_GPU)[what] | options
    whole: Bench | None = None
    for case in cases:
        try:
            found = bench.MEASUREMENTS[what]([case], device=job.device, **options)
        except Exception as error:  # of any kind: the next case may run
            job.note(f"bench {what}, {case}: {format_error(error)}")
            continue
        whole = replace(whole, lines=whole.lines + found.lines) if whole else found
        job.save(whole, kind)
        for line in found.lines:
            if line["failure"]:
                job.note(f"bench {what}, {line['case']}, {line['name']}: {line['failure']}")
    if whole:
        print(whole.table(), flush=True)
    return whole


def routing_and_memory(job: Job) -> None:
    """`bench routing` and `bench memory`."""
    compare_auto(job, measured(job, "routing"))
    measured(job, "memory")


def auto_again(job: Job) -> None:
    """`auto` beside the others once more, with the table that the tuner wrote."""
    names = [] if job.rehearsed else [*BASELINES, "eager", "fused", "triton", "auto"]
    compare_auto(job, measured(job, "routing", "-tuned", **({"only": names} if names else {})))


def compare_auto(job: Job, times: Bench | None) -> None:
    """Keep how often `auto` takes the time of the faster baseline, for the layer where it is worst."""
    ratios = {}
    for case in CASES["routing"]:
        try:
            lines = [times[case, name] for name in ("auto", *BASELINES)] if times else []
        except KeyError:  # killed before it, or not in the rehearsal
            continue
        auto, *others = (line["median"] for line in lines)
        if auto and all(others):
            ratios[case] = auto / min(others)
    if ratios:
        listed = ", ".join(f"{case} {ratio:.2f}" for case, ratio in ratios.items())
        job.note(f"auto over the faster of {' and '.join(BASELINES)}, as the host launches them: {listed}")
    if len(ratios) == len(list(CASES["routing"])):
        job.put(auto_over_best=max(ratios.values()))


def steps_and_depth(job: Job) -> None:
    """`bench step`, `bench depth` and `bench gradients`."""
    for what in ("step", "depth", "gradients"):
        measured(job, what)


def table4(job: Job) -> None:
    """Memory of a training step by depth: by PyTorch's allocator, by nvidia-smi, and of the whole GPU."""
    blocks = [1] if job.rehearsed else [1, 2, 4, 8]
    options: dict[str, Any] = {"blocks": blocks, "rounds": 1, "only": COMPARED}
    options["batch"] = 2 if job.rehearsed else 128
    reported = {
        (one["dataset"], one["model"]): one["memory_mb_by_blocks"] for one in paper_numbers()["table4"]
    }
    head = ["data", "blocks", "network", "paper", "allocator", "nvidia-smi", "whole GPU"]
    lines = [head]
    reasons: dict[str, None] = {}
    for data, written in list(IMAGE_SHAPES.items())[:2]:  # SVHN's images have CIFAR-10's shape
        channels, height, width = map(int, written.split("x"))
        shape = channels, height, width
        allocated = bench.measure_depth(["network"], image_shape=shape, device=job.device, **options)
        job.save(allocated, f"-{written}")
        for n in blocks:
            for name in COMPARED:
                shown, whole, reason = shown_memory(job, name, n, shape)
                reasons |= {reason: None} if reason else {}
                peak = allocated[f"network, {n} block{'s' * (n > 1)}", name]["peak"]
                paper = reported[data, "(Res)CapsNet" if name == "ResCapsNet" else name][str(n)]
                figures = (f"{x / 1e6:,.0f}" if x else "not measured" for x in (peak, shown, whole))
                lines.append([DATA[data], str(n), name, f"{paper:,}", *figures])
        text = "\n".join([markdown(lines, left=3), *("", *reasons)])
        write_atomically(job.folder / "table4.md", text.strip() + "\n")
    job.note(f"{len(lines) - 1} networks, in table4.md")


def shown_memory(
    job: Job, name: str, blocks: int, shape: tuple[int, int, int]
) -> tuple[int | None, int | None, str]:
    """Bytes of this process by nvidia-smi, bytes in use on the whole GPU, and why the first was not measured."""
    if job.rehearsed:
        return None, None, "not measured: this is a rehearsal on a CPU"
    torch.cuda.empty_cache()  # of the network before
    model = depth.build_depth_network(name, blocks, shape, 0).to(job.device)
    step = training_step.make_step(model, 128, 0)
    step()
    step()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    shown, reason = process_memory()
    return shown, total - free, reason


def process_memory(
    pid: int | None = None, ask: Callable[..., Any] = subprocess.run
) -> tuple[int | None, str]:
    """Bytes of GPU memory of a process, this one by default, by nvidia-smi; or None, and why not."""
    if not (program := shutil.which("nvidia-smi")):
        return None, "nvidia-smi: not measured, it is not installed here"
    query = [program, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        said = ask(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"nvidia-smi: not measured, {format_error(error)}"
    for row in said.splitlines():
        number, _, mebibytes = (part.strip() for part in row.partition(","))
        if number == str(os.getpid() if pid is None else pid):
            if mebibytes.isdecimal():
                return int(mebibytes) * 2**20, ""
            return None, f"nvidia-smi: not measured, it says {mebibytes} of this process"
    return None, (
        f"nvidia-smi: not measured, its {len(said.splitlines())} rows name no process with this one's number, which "
        "differs inside a container; the whole GPU's use, contexts of all processes included, is beside it"
    )
