r"""What a computation costs: seconds, bytes and arithmetic. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from capsnb._version import __version__


def saved_bytes(function: Callable[[], object], *, ignore: Iterable[Tensor] = ()) -> int:
    """How much memory autograd holds on to for the backward pass while `function` runs.

    Tensors that share their memory count once, and whole: a view keeps all of what it looks at. What an operator keeps
    outside `save_for_backward` is not seen. Of what `torch.utils.checkpoint` will compute again its inputs are kept.

    Args:
        function: a forward pass; it is called once.
        ignore: tensors that exist anyway, such as inputs and parameters; their memory is not counted.

    Returns:
        Bytes, >= 0.

    >>> x = torch.ones(10, requires_grad=True)
    >>> saved_bytes(lambda: x.exp())  # the derivative of exp is exp: its ten results of four bytes are kept
    40
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    seen: dict[int, torch.UntypedStorage] = {}  # held until the end, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for address, storage in seen.items() if address not in known)


class Peak(NamedTuple):
    """Memory while a function ran, in bytes.

    Attributes:
        peak: the most that was allocated at a time, above what was allocated when it began.
        largest: the largest single allocation.
    """

    peak: int
    largest: int


def peak_bytes(function: Callable[[], object], device: str | torch.device = "cpu") -> Peak:
    """How much memory `function` takes at its highest point, custom operators and the backward pass included.

    What PyTorch allocates is counted: the figures of the CPU come from the profiler's allocations and releases in their
    order, those of a GPU from its allocator. Memory that a library takes from the system by itself is not seen.

    Args:
        function: what to measure; it is called twice, the first time to warm up. It should leave behind what it found:
            memory that it releases at its start lowers the figure.
        device: where to count, the CPU or a CUDA device.

    Returns:
        `Peak(peak, largest)`, in bytes.

    Raises:
        ValueError: a device of another kind.

    >>> peak_bytes(lambda: torch.empty(1000).exp())  # two tensors of 4 kB at a time
    Peak(peak=8000, largest=4000)
    """
    device = _countable(device)
    function()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    changes = _changes(function, device)
    largest = max(0, *changes) if changes else 0
    if device.type == "cuda":
        return Peak(torch.cuda.max_memory_allocated(device) - before, largest)
    return Peak(max(accumulate(changes, initial=0)), largest)


def _countable(device: str | torch.device) -> torch.device:
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'device is "{device}"; memory can be counted on "cpu" and "cuda"')
    return device


def _changes(function: Callable[[], object], device: torch.device) -> list[int]:
    """Every allocation, and as a negative number every release, in their order; the result is released later."""
    # Read when the first profile begins: without it the profiler speaks of its progress and of a missing GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = function()
        gc.collect()
    del result
    # The profiler's own tables give each operator's sum; only the raw results hold every allocation and release.
    events: list[Any] = profile.kineto_results.events()
    return [
        event.nbytes()
        for event in sorted(events, key=lambda event: event.start_ns())
        if event.name() == "[memory]" and event.device_type().name.lower() == device.type
    ]


def flops(function: Callable[[], object]) -> int:
    """How much arithmetic `function` does in matrix products and convolutions, by PyTorch's own counter.

    A multiplication and an addition count as two. Work number by number (softmax, squash) is not counted, nor are
    custom operators without a formula (`torch.utils.flop_counter.register_flop_formula`).

    Args:
        function: what to count; it is called once.

    Returns:
        The number of operations, >= 0.

    >>> flops(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
    48
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Timing:
    """Wall time of one call, in seconds.

    Attributes:
        median: half of the calls took longer.
        lower: a quarter of the calls were faster.
        upper: a quarter of the calls were slower.
        runs: number of calls that were timed.
    """

    median: float
    lower: float
    upper: float
    runs: int


class Comparison(dict[str, Timing]):
    """The timings by name; `errors` holds what the functions said that could not run."""

    def __init__(self, timings: dict[str, Timing], errors: dict[str, str]) -> None:
        super().__init__(timings)
        self.errors = errors


def compare(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    warmup: int = 2,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> Comparison:
    """Time functions against each other in turns, so that a machine that slows down slows all of them.

    Each round calls every function once, and each round another one is first. A function that raises while warming up
    (compilation without a compiler, too little memory) is left out; what it said is kept.

    Args:
        functions: what to time, by name.
        rounds: timed calls of each function, >= 1.
        warmup: calls before those, >= 1; they pay for what is done only once.
        device: a CUDA device is waited for before the clock is read.
        progress: label of a progress bar; None shows none.

    Returns:
        `{name: Timing}` in seconds, in the order of `functions`, with `.errors`, `{name: text}`.

    Raises:
        ValueError: `rounds` or `warmup` below 1.

    >>> compare({"sum": lambda: sum(range(9)), "typo": lambda: sun(9)}, rounds=3).errors
    {'typo': "NameError: name 'sun' is not defined"}
    """
    from tqdm import tqdm

    for name, number in (("rounds", rounds), ("warmup", warmup)):
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, got {number}")
    wait = partial(torch.cuda.synchronize, device) if torch.device(device).type == "cuda" else lambda: None
    runs: dict[str, list[float]] = {name: [] for name in functions}
    errors: dict[str, str] = {}
    for turn in tqdm(range(warmup + rounds), desc=progress, disable=progress is None, leave=False):
        names = [name for name in functions if name not in errors]
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            try:
                wait()
                start = time.perf_counter()
                functions[name]()
                wait()
                seconds = time.perf_counter() - start
            except Exception as error:
                if turn >= warmup:
                    raise
                errors[name] = said(error)
            else:
                if turn >= warmup:
                    runs[name].append(seconds)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    timings = {}
    for name in functions:
        if name not in errors:
            lower, median, upper = torch.tensor(runs[name], dtype=torch.float64).quantile(quartiles).tolist()
            timings[name] = Timing(median, lower, upper, rounds)
    return Comparison(timings, errors)


def said(error: Exception) -> str:
    r"""Kind and first line of an error, as a result keeps it: further lines often name files of the machine.

    >>> said(ValueError("too many\nsee /somewhere"))
    'ValueError: too many'
    """
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


def hardware(device: str | torch.device = "cpu") -> dict[str, str | int | None]:
    """What a measurement ran on: processor, cores, PyTorch's threads, C++ compiler, GPU; None where there is none.

    >>> sorted(hardware())
    ['compiler', 'cores', 'cpu', 'gpu', 'threads']
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl")
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "compiler": compiler and Path(compiler).name,
        "gpu": gpu,
    }


def _cpu() -> str:
    if platform.system() == "Darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """What a measurement ran with: Python, capsnb, PyTorch and its companions that are installed.

    >>> versions()["torch"] == torch.__version__
    True
    """
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "capsnb": __version__, "torch": str(torch.__version__)}
    for name in ("torchvision", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The code that runs: the commit, with a + if files differ from it; without git a digest of the package's files.

    >>> len(revision()) >= 12
    True
    """
    package = Path(__file__).parent
    git = ["git", "-C", str(package)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "."], text=True)
        return commit.strip()[:12] + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        digest = hashlib.sha256()
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
        return f"source {digest.hexdigest()[:12]}"


def command() -> list[str]:
    """What was typed, as others can type it: folders of this machine are called DIR."""
    typed = sys.argv[1:]
    folders = {k + 1 for k, word in enumerate(typed) if word in ("--data", "--root", "--out")}
    return ["capsnb", *("DIR" if k in folders else word for k, word in enumerate(typed))]
