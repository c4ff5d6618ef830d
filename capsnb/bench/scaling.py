"""What a second process is worth: steps of processes that train together, over those of one. Used in chapter 16."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from capsnb.bench.measurement import SECONDS, Bench, Columns, blank, chosen, finished
from capsnb.bench.steps import NETWORKS, network, training_step
from capsnb.distributed import all_gather

ONE = "one process"
APART = "each for itself"
WEAK = "together, a batch each"
STRONG = "together, one batch"
VARIANTS = (ONE, APART, WEAK, STRONG)
COLUMNS: dict[str, Columns] = {
    "processes": {
        **SECONDS,
        "processes": ("", "that work at the same time, with one thread each"),
        "images": ("", "of a step, in all of them"),
        "efficiency": ("times", f"images a second and process, over those of {ONE}"),
        "exchanged": ("B", "gradients that each process adds to the others' in a step"),
    },
}


def processes(
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
    """Time a training step of a CapsNet with one block in processes of one thread each, that DDP lets train together.

    Weak scaling: each process has a whole batch, and ideally nothing takes longer. Strong scaling: they share out one
    batch, and ideally it takes a share of the time. Processes that compute each for itself show what sharing a machine
    costs without a word exchanged. All of these take turns, and a step lasts until the last process has finished.

    Args:
        cases: names in `NETWORKS`; none for all.
        count: processes, >= 2.
        batch: B of one process alone, a multiple of `count`.
        rounds: timed rounds, >= 1.
        only: names in `scaling.VARIANTS` beside "one process"; none for all.
        device: "cpu".
        seed: of weights and images.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number out of its range, or another device.
    """
    if device != "cpu":
        raise ValueError(f'device is "{device}"; processes are measured on "cpu"')
    if count < 2 or rounds < 1 or batch < count or batch % count:
        raise ValueError(
            f"got count={count}, rounds={rounds}, batch={batch}; expected are 2 processes or more, 1 round or more, "
            "and a batch that the processes can share out evenly"
        )
    names = [ONE, *(name for name in chosen(only, VARIANTS, "variant") if name != ONE)]
    lines = []
    for case in chosen(cases, NETWORKS, "case"):
        times = _together(case, names, count, batch, rounds, seed, progress)
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        one = times[ONE].quantile(quartiles[1]).item()
        for name in names:
            working = 1 if name == ONE else count
            images = batch if name in (ONE, STRONG) else batch * count
            line = blank(COLUMNS["processes"], case, name, {})
            line["lower"], line["median"], line["upper"] = times[name].quantile(quartiles).tolist()
            line |= {"processes": working, "images": images}
            line["efficiency"] = (images / (working * line["median"])) / (batch / one)
            if name in (WEAK, STRONG):
                line["exchanged"] = sum(p.nbytes for p in network("auto", case, seed).parameters())
            lines.append(line)
    settings = {"count": count, "batch": batch, "blocks": 1, "rounds": rounds, "seed": seed}
    return finished("processes", COLUMNS["processes"], lines, device, **settings, threads_each=1)


def _together(
    case: str, names: list[str], count: int, batch: int, rounds: int, seed: int, progress: bool
) -> dict[str, torch.Tensor]:
    """The seconds of each round, by name."""
    from torch.multiprocessing import start_processes

    with tempfile.TemporaryDirectory() as folder:
        arguments = (Path(folder), case, names, count, batch, rounds, seed, progress)
        start_processes(_work, arguments, nprocs=count, start_method="spawn")
        found = json.loads((Path(folder) / "seconds.json").read_text())
    return {name: torch.tensor(seconds, dtype=torch.float64) for name, seconds in found.items()}


def _work(
    rank: int,
    folder: Path,
    case: str,
    names: list[str],
    count: int,
    batch: int,
    rounds: int,
    seed: int,
    progress: bool,
) -> None:
    """What each process does; they find each other by a file."""
    from tqdm import tqdm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    steps = {name: _step(name, case, rank, count, batch, seed) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    warmup = 2
    quiet = rank > 0 or not progress
    for turn in tqdm(range(warmup + rounds), desc=case, disable=quiet, leave=False):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            dist.barrier()
            start = time.perf_counter()
            steps[name]()
            longest = max(all_gather(time.perf_counter() - start))
            if turn >= warmup:
                seconds[name].append(longest)
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(seconds))
    dist.destroy_process_group()


def _step(name: str, case: str, rank: int, count: int, batch: int, seed: int) -> Callable[[], object]:
    if name == ONE and rank > 0:
        return lambda: None
    model = network("auto", case, seed)
    if name in (ONE, APART):
        return training_step(model, batch, seed + rank)
    rows = batch if name == WEAK else batch // count
    return training_step(model, rows, seed + rank, parallel=DistributedDataParallel(model))
