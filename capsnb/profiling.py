r"""The cost of a computation: time, memory and arithmetic. Taught in chapter 5, *Routing without votes*.

`summary` lists the layers of a model. Used in chapter 4, *A first CapsNet*.
"""

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from capsnb._version import __version__
from capsnb.defaults import default_settings
from capsnb.progress import progress_bar
from capsnb.values import sizes, whole_numbers


def saved_bytes(function: Callable[[], object], *, ignore: Iterable[Tensor] = ()) -> int:
    """The memory of the tensors that autograd saves for the backward pass while `function` runs.

    Tensors that share a storage count once, and a view counts with its whole storage. What an operator keeps outside
    `save_for_backward` is not counted. Of a function under `torch.utils.checkpoint` the inputs are saved.

    Args:
        function: a forward pass; it is called once.
        ignore: tensors that are not counted, such as inputs and parameters.

    Returns:
        Bytes, >= 0.

    >>> x = torch.ones(10, requires_grad=True)
    >>> saved_bytes(lambda: x.exp())  # the derivative of exp is exp: its ten results of four bytes are saved
    40
    """
    ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}
    saved: dict[int, torch.UntypedStorage] = {}  # held until the end, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(storage.nbytes() for address, storage in saved.items() if address not in ignored)


class Peak(NamedTuple):
    """Memory while a function ran, in bytes.

    Attributes:
        peak: the most that was allocated at a time, without what was allocated before.
        largest: the largest single allocation.
    """

    peak: int
    largest: int


def peak_bytes(function: Callable[[], object], device: str | torch.device = "cpu") -> Peak:
    """The peak memory of `function`, custom operators and backward passes included.

    What PyTorch allocates is counted: on a CPU by the profiler, from all allocations and releases in their order; on a
    GPU by the allocator. Memory that a library allocates by itself is not counted.

    Args:
        function: what to measure; it is called twice, the first time to warm up. It should not release memory that was
            allocated before: that lowers the figure.
        device: a CPU or a CUDA device.

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
    """The bytes of every allocation, and of every release as a negative number, in their order."""
    # Read when the first profile begins: without it the profiler prints its progress and a warning without a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = function()
        gc.collect()
    del result
    # The profiler's tables hold sums over operators; only the raw results hold every allocation and release.
    events: list[Any] = profile.kineto_results.events()
    return [
        event.nbytes()
        for event in sorted(events, key=lambda event: event.start_ns())
        if event.name() == "[memory]" and event.device_type().name.lower() == device.type
    ]


def flops(function: Callable[[], object]) -> int:
    """The arithmetic of `function` in matrix products and convolutions, counted by PyTorch's counter.

    A multiplication and an addition count as two. Elementwise operations (softmax, squash) are not counted, nor are
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
        runs: number of timed calls.
    """

    median: float
    lower: float
    upper: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Median and quartiles of the times of some calls.

        >>> Timing.of([1.0, 2.0, 3.0, 4.0, 5.0])
        Timing(median=3.0, lower=2.0, upper=4.0, runs=5)
        """
        levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        lower, median, upper = torch.tensor(seconds, dtype=torch.float64).quantile(levels).tolist()
        return cls(median, lower, upper, len(seconds))


class Timings(dict[str, Timing]):
    """Timings by name; `errors` holds the errors of the functions that could not run."""

    def __init__(self, timings: dict[str, Timing], errors: dict[str, str]) -> None:
        super().__init__(timings)
        self.errors = errors


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 20,
    warmup: int = 2,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> Timings:
    """Time functions in interleaved rounds, so that a machine that slows down slows all of them.

    Each round calls every function once, and each round begins with the next function. A function that raises during
    warm-up (no compiler, too little memory) is left out, and its error is returned.

    Args:
        functions: what to time, by name.
        rounds: timed calls of each function, >= 1.
        warmup: calls before the timed ones, >= 1; they include what is done only once.
        device: a CUDA device is synchronised before the clock is read.
        progress: label of a progress bar; None shows none.

    Returns:
        `{name: Timing}` in seconds, in the order of `functions`, with `.errors`, `{name: text}`.

    Raises:
        ValueError: `rounds` or `warmup` below 1.

    >>> time_interleaved({"sum": lambda: sum(range(9)), "typo": lambda: sun(9)}, rounds=3).errors
    {'typo': "NameError: name 'sun' is not defined"}
    """
    rounds, warmup = sizes(rounds=rounds, warmup=warmup)
    synchronise = (
        partial(torch.cuda.synchronize, device) if torch.device(device).type == "cuda" else lambda: None
    )
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    errors: dict[str, str] = {}
    for turn in progress_bar(range(warmup + rounds), progress or "", shown=progress is not None):
        names = [name for name in functions if name not in errors]
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            try:
                synchronise()
                start = time.perf_counter()
                functions[name]()
                synchronise()
                elapsed = time.perf_counter() - start
            except Exception as error:
                if turn >= warmup:
                    raise
                errors[name] = format_error(error)
            else:
                if turn >= warmup:
                    seconds[name].append(elapsed)
    return Timings({name: Timing.of(seconds[name]) for name in functions if name not in errors}, errors)


def format_error(error: Exception) -> str:
    r"""Format an error for a result file: its type and first line. Further lines often name files of the machine.

    >>> format_error(ValueError("too many\nsee /somewhere"))
    'ValueError: too many'
    """
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


@dataclass(frozen=True)
class Summary:
    """The layers of a model; `print` it, or read the figures.

    Attributes:
        layers: (name, output shape for one image, parameters, multiply-adds) of each module. A module's figures include
            those of its submodules, which follow it with an indented name.
    """

    layers: tuple[tuple[str, tuple[int, ...], int, int], ...]

    @property
    def total_params(self) -> int:
        """Number of trainable parameters."""
        return self.layers[0][2]

    @property
    def total_mult_adds(self) -> int:
        """Multiply-adds of the forward pass of one image; a FLOP count is twice that."""
        return self.layers[0][3]

    def __repr__(self) -> str:
        lines = [f"{'layer':24}{'output shape':>18}{'parameters':>14}{'multiply-adds':>16}"]
        lines += [f"{n:24}{list(shape)!s:>18}{p:14,}{work:16,}" for n, shape, p, work in self.layers]
        return "\n".join(lines)


@default_settings()
def summary(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> Summary:
    """List output shape, parameters and multiply-adds of each layer of a model, for one image.

    PyTorch's counter counts the arithmetic of the forward pass of an image of zeros: convolutions and matrix products,
    those of routing included, but no elementwise operations (ReLU, softmax, squash).

    Args:
        model: a model that takes images.
        image_shape: (C, H, W); None for the model's own `image_shape`.

    Returns:
        The table.

    Raises:
        ValueError: neither the call nor the model gives an image shape.

    >>> summary(nn.Conv2d(1, 4, 3), (1, 5, 5)).total_mult_adds  # 4 channels, 3 x 3 locations, 3 x 3 products each
    324
    """
    from torch.utils.flop_counter import FlopCounterMode

    shape = getattr(model, "image_shape", None) if image_shape is None else image_shape
    if shape is None:
        raise ValueError(f"{type(model).__name__} has no image_shape; call summary(model, (C, H, W))")
    shape = whole_numbers("image_shape", shape, 3)
    shapes: dict[str, tuple[int, ...]] = {}
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, _: object, output: Tensor | tuple[Tensor, ...]) -> None:
        shapes[names[module]] = tuple((output if isinstance(output, Tensor) else output[0]).shape)

    hooks = [module.register_forward_hook(record) for module in names]
    modes, counter = [module.training for module in names], FlopCounterMode(display=False)
    like = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad(), counter:
            model.eval()(like.new_zeros(1, *shape))
    finally:
        for module, training, hook in zip(names, modes, hooks, strict=True):
            module.training = training
            hook.remove()
    counts, top = counter.get_flop_counts(), type(model).__name__
    layers = [
        (
            top if not name else "  " * (1 + name.count(".")) + name.rpartition(".")[2],
            shapes[name],
            sum(p.numel() for p in module.parameters()),
            sum(counts.get(f"{top}.{name}" if name else "Global", {}).values()) // 2,
        )
        for module, name in names.items()
        if name in shapes
    ]
    return Summary(tuple(layers))


def hardware(device: str | torch.device = "cpu") -> dict[str, str | int | None]:
    """The hardware of a measurement: processor, cores, PyTorch's threads, C++ compiler, GPU; None where there is none.

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


def free_memory() -> int:
    """Bytes that a training step may use here: of the GPU's memory if there is a GPU, else of main memory."""
    import psutil

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    process = psutil.Process()
    used = process.memory_info()
    free = psutil.virtual_memory().available + used.rss
    if hasattr(process, "rlimit"):  # on Linux
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        free = free if limit == psutil.RLIM_INFINITY else min(free, limit - used.vms + used.rss)
    return max(free, 0)


def _cpu() -> str:
    if platform.system() == "Darwin":
        # By its name: a program of macOS, asked for its output alone.
        name = subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], encoding="utf-8")  # noqa: S607
        return name.strip()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of Python, capsnb, PyTorch, and of torchvision and triton where they are installed.

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
    """The version of the code: the commit, with a + if files differ from it; without git a digest of the files.

    >>> len(revision()) >= 12
    True
    """
    package = Path(__file__).parent
    git = ["git", "-C", str(package)]
    try:
        commit, changed = (
            # Git reads; what varies is the folder of this package.
            subprocess.check_output([*git, *asked], encoding="utf-8", stderr=subprocess.DEVNULL)  # noqa: S603
            for asked in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
        return commit.strip()[:12] + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        digest = hashlib.sha256()
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
        return f"source {digest.hexdigest()[:12]}"


def command() -> list[str]:
    """The command line; folders of this machine are replaced by DIR."""
    arguments = sys.argv[1:]
    folders = {k + 1 for k, word in enumerate(arguments) if word in ("--data", "--root", "--out")}
    return ["capsnb", *("DIR" if k in folders else word for k, word in enumerate(arguments))]
