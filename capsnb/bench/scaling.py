"""Weak and strong scaling: training steps of several processes, over those of one. Used in chapter 16."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from capsnb.bench.measurement import (
    TIMING_COLUMNS,
    Bench,
    Columns,
    empty_line,
    quartiles,
    select,
    whole_settings,
)
from capsnb.bench.training_step import STEP_NETWORKS, build_network, make_step
from capsnb.distributed import all_gather
from capsnb.profiling import Timing
from capsnb.progress import progress_bar
from capsnb.values import whole_number

ONE = "one process"
INDEPENDENT = "independent processes"
WEAK = "weak scaling"
STRONG = "strong scaling"
SCALING_VARIANTS = (ONE, INDEPENDENT, WEAK, STRONG)
SCALING_COLUMNS: Columns = {
    **TIMING_COLUMNS,
    "processes": ("", "processes that compute at the same time, with one thread each"),
    "images": ("", "images of a step, over all processes"),
    "efficiency": ("times", f"images per second and process, over those of {ONE}"),
    "all_reduced": ("B", "gradients that the processes all-reduce in a step"),
}
WARMUP = 2


def measure_scaling(
    cases: Iterable[str] = (),
    *,
    count: int = 2,
    batch: int = 128,
    rounds: int = 20,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Time a training step of data-parallel processes (DDP) with one thread each.

    Weak scaling: each process has a whole batch, and ideally a step takes as long as that of one process. Strong
    scaling: the processes share one batch, and ideally a step takes 1/count of the time. Independent processes, which
    communicate nothing, measure what sharing a machine costs. All variants take turns; a step ends when the last
    process has finished.

    Args:
        cases: names in `STEP_NETWORKS`; none for all.
        count: processes, >= 2.
        batch: B of one process alone, a multiple of `count`.
        rounds: timed rounds, >= 1.
        only: names in `SCALING_VARIANTS` besides "one process"; none for all.
        device: "cpu".
        seed: of weights and images.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number out of its range, or another device.
    """
    if device != "cpu":
        raise ValueError(f'device is "{device}"; scaling is measured on "cpu"')
    settings = whole_settings(
        count=whole_number("count", count, at_least=2), batch=batch, rounds=rounds, seed=seed
    )
    count, batch, rounds, seed = settings.values()
    if batch % count:
        raise ValueError(f"batch must be a multiple of count={count}, got {batch}")
    names = [ONE, *(name for name in select(only, SCALING_VARIANTS, "variant") if name != ONE)]
    lines = []
    for case in select(cases, STEP_NETWORKS, "case"):
        run = _Run(case, names, count, batch, rounds, seed, progress)
        times = run.times()
        one = times[ONE].median
        for name in names:
            processes = 1 if name == ONE else count
            images = batch if name in (ONE, STRONG) else batch * count
            lines.append(line := empty_line(SCALING_COLUMNS, case, name))
            line |= quartiles(times[name]) | {"processes": processes, "images": images}
            line["efficiency"] = (images / (processes * line["median"])) / (batch / one)
            if name in (WEAK, STRONG):
                line["all_reduced"] = sum(p.nbytes for p in build_network("auto", case, seed).parameters())
    return Bench.from_lines("scaling", SCALING_COLUMNS, lines, device, blocks=1, **settings, threads_each=1)


@dataclass(frozen=True)
class _Run:
    """The timed steps of one network; all processes have a copy of it."""

    case: str
    names: list[str]
    count: int
    batch: int
    rounds: int
    seed: int
    progress: bool

    def times(self) -> dict[str, Timing]:
        """Start the processes and read what rank 0 writes."""
        from torch.multiprocessing import start_processes

        with tempfile.TemporaryDirectory() as folder:
            start_processes(self.work, (Path(folder),), nprocs=self.count, start_method="spawn")
            found = json.loads((Path(folder) / "seconds.json").read_text(encoding="utf-8"))
        return {name: Timing.of(seconds) for name, seconds in found.items()}

    def work(self, rank: int, folder: Path) -> None:
        """The program of each process; the processes find each other by a file."""
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "rendezvous"), self.count)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=self.count)
        steps = {name: self.step(name, rank) for name in self.names}
        seconds: dict[str, list[float]] = {name: [] for name in self.names}
        quiet = rank > 0 or not self.progress
        for turn in progress_bar(range(WARMUP + self.rounds), self.case, shown=not quiet):
            first = turn % len(self.names)
            for name in self.names[first:] + self.names[:first]:
                dist.barrier()
                start = time.perf_counter()
                steps[name]()
                longest = max(all_gather(time.perf_counter() - start))
                if turn >= WARMUP:
                    seconds[name].append(longest)
        if rank == 0:
            (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
        dist.destroy_process_group()

    def step(self, name: str, rank: int) -> Callable[[], object]:
        """The step that this rank takes; in a step of one process the other ranks do nothing."""
        if name == ONE and rank > 0:
            return lambda: None
        model = build_network("auto", self.case, self.seed)
        if name in (ONE, INDEPENDENT):
            return make_step(model, self.batch, self.seed + rank)
        rows = self.batch if name == WEAK else self.batch // self.count
        return make_step(model, rows, self.seed + rank, parallel=DistributedDataParallel(model))
