"""Routing layers on a GPU: the backends against the definition, and a tuner that writes what `auto` reads there."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import capsnb
from capsnb.bench import LAYER_SIZES
from capsnb.bench.measurement import relative_error
from capsnb.bench.routing_backends import _Problem
from capsnb.files import write_atomically
from capsnb.kernels import measured
from capsnb.layers import default_weight_std
from capsnb.profiling import format_error, peak_bytes, revision, time_interleaved, versions
from gpu_check.job import Job

ITERATIONS = 3
BOUND = 1e-5  # of the error, over the largest exact value
NETWORKS = [(128, I, J, E, D) for I, D, J, E in LAYER_SIZES.values()]  # of the papers
CLASSES = (128, 33, 100, 16, 16)  # a hundred
SIZES = [  # B, I, J, E, D
    *NETWORKS,
    CLASSES,
    (32, 1152, 100, 16, 8),
    (500, 32, 32, 8, 8),
    (1, 1, 1, 1, 1),
    (1, 1152, 10, 16, 8),
    (3, 17, 5, 7, 3),
    (17, 18, 10, 16, 8),
    (2, 3, 1, 4, 17),
    (16, 5, 32, 8, 8),
    (2, 37, 3, 4, 8),
    (7, 129, 33, 9, 5),
    (100, 65, 2, 32, 16),
    (5, 257, 12, 6, 24),
    (64, 8, 64, 16, 32),
    (13, 11, 40, 12, 4),
]
TUNED = [*NETWORKS, CLASSES, (16, 1152, 32, 8, 8), (16, 32, 32, 8, 8)]  # whose backends the tuner times
BACKENDS = ("eager", "fused", "triton")
KERNELS = ("iteration", "gradients")
ASSET = Path(capsnb.__file__).parent / "assets" / "gpu-routing.json"

Sizes = tuple[int, int, int, int, int]


@lru_cache(maxsize=2)
def problem(sizes: Sizes, device: str) -> _Problem:
    """Capsules shorter than one, weights of standard deviation 1, and a gradient of the outputs."""
    B, I, J, E, D = sizes
    made = _Problem((I, D, J, E), B, device, seed=0)
    with torch.no_grad():
        made.weight.div_(default_weight_std(I, J, E))
    return made


def rehearsed(sizes: Sizes) -> Sizes:
    """A size of the same kind that Triton's interpreter can do in a moment."""
    B, I, *others = sizes
    return min(B, 2), min(I, 3), *others  # type: ignore[return-value]


def compare_with_definition(job: Job) -> None:
    """Outputs and both gradients of each backend against the definition in float64, then layer 1 on the clock."""
    worst, right = 0.0, 0
    for full in SIZES:
        sizes = rehearsed(full) if job.rehearsed else full
        made = problem(sizes, job.device)
        exact = made.exact(ITERATIONS)
        said, fine = [], True
        for name in (*BACKENDS, "auto"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    found = made.round(made.build([name], ITERATIONS)[0][name], made.inputs[0])
                    errors = [relative_error(a, b) for a, b in zip(found, exact, strict=True)]
                    error = max(e if isinstance(e, float) else float("inf") for e in errors)
                    text = f"{error:.0e}"
                except Exception as failure:  # of any kind: it is what is looked for
                    error, text = float("inf"), format_error(failure)
            said += [f"{name} {text}", *(str(one.message).splitlines()[0] for one in caught)]
            fine = fine and error <= BOUND
            worst = max(worst, error)
        right += fine
        job.note(
            f"B, I, J, E, D = {', '.join(map(str, sizes))}: {'; '.join(said)}{'' if fine else '  WRONG'}"
        )
    job.put(sizes_right=right, largest_error=worst)
    layer_1(job)
    job.note(f"{right} of {len(SIZES)} sizes within {BOUND:.0e} of float64; the largest error is {worst:.0e}")


def layer_1(job: Job, notes: str = "") -> None:
    """Keep the milliseconds of layer 1's kernels, forward and backward."""
    sizes = rehearsed(NETWORKS[0]) if job.rehearsed else NETWORKS[0]
    milliseconds = kernels_ms(one_pass(problem(sizes, job.device), "triton"), job.device)
    job.put(layer1_ms=milliseconds)
    how = "in Triton's interpreter" if job.rehearsed else f"replayed as a CUDA graph{notes}"
    job.note(f"layer 1 of MNIST, forward and backward, {how}: {milliseconds:.3f} ms")


def one_pass(made: _Problem, backend: str) -> Callable[[], tuple[Tensor, ...]]:
    """A function that computes outputs and both gradients, without writing into `.grad`."""
    route = made.build([backend], ITERATIONS)[0][backend]
    u = made.inputs[0]
    return lambda: torch.autograd.grad(route(u), (u, made.weight), made.g)


def kernels_ms(function: Callable[[], object], device: str, rounds: int = 20) -> float:
    """Milliseconds of the kernels that a function starts: it is recorded as a CUDA graph, and the graph is replayed.

    So the host, which takes longer to start small kernels than they run, does not count. On a CPU, on a clock.
    """
    if device == "cpu":
        return launched_ms(function, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # whatever is done only once
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(5):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 5)
    return statistics.median(times)


def launched_ms(function: Callable[[], object], device: str) -> float:
    """Milliseconds of a call as the host launches it, on a clock."""
    rounds = 1 if device == "cpu" else 10
    timings = time_interleaved({"it": function}, rounds=rounds, warmup=1, device=device)
    if timings.errors:
        raise RuntimeError(timings.errors["it"])
    return 1000 * timings["it"].median


def tune(job: Job) -> None:
    """Time backends, find the fastest block sizes of Triton's kernels, and write both for `auto`."""
    lines = []
    for sizes in [(2, 3, 4, 4, 8)] if job.rehearsed else TUNED:
        if line := timed_layer(job, sizes, {}):
            lines.append(line)
            write(job, lines)
    firsts = {tuple(line["sizes"][2:]): line for line in reversed(lines)}  # one for each J, E, D
    problems = [tuple(line["sizes"]) for line in firsts.values()]
    for sizes, blocks in fastest_blocks(job, problems).items():
        for line in lines:
            if tuple(line["sizes"][2:]) == sizes[2:] and job.left() > 5:
                line |= timed_layer(job, tuple(line["sizes"]), blocks) or {}
        firsts[sizes[2:]]["blocks"] = blocks
        write(
            job, sorted(lines, key=lambda line: "blocks" not in line)
        )  # the first of the same J, E, D is read
    measured.measurements.cache_clear()
    forget()
    layer_1(job, ", with the block sizes that were found")


def timed_layer(job: Job, sizes: Sizes, blocks: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """A line of the table: each backend replayed, launched by the host, and its memory; None if one did not run."""
    line: dict[str, Any] = {"sizes": list(sizes), "ms": {}, "launched_ms": {}, "mb": {}}
    for name in BACKENDS:
        try:
            with using(blocks, job.device):
                function = one_pass(problem(sizes, job.device), name)
                line["ms"][name] = round(kernels_ms(function, job.device), 4)
                line["launched_ms"][name] = round(launched_ms(function, job.device), 3)
                line["mb"][name] = round(peak_bytes(function, job.device).peak / 1e6, 1)
        except Exception as error:  # of any kind: the next layer may run
            job.note(f"{name}, {sizes}: {format_error(error)}")
            return None
    print(line, flush=True)
    return line


@contextmanager
def using(blocks: dict[str, dict[str, Any]], device: str) -> Iterator[None]:
    """Let Triton's kernels take these block sizes, `{kernel: sizes}`, before the others."""
    from capsnb.kernels import triton_backend as kernels

    instead: dict[str, Callable[..., Any]] = {"tuned": lambda layer, gpu, kernel: blocks.get(kernel, {})}
    if device == "cpu":  # where no block sizes are looked up otherwise
        instead["capability"] = lambda _: 9.0
    with ExitStack() as stack:
        for name, function in instead.items():
            stack.enter_context(mock.patch.object(kernels, name, function))
        forget()
        try:
            yield
        finally:
            forget()


def forget() -> None:
    """Let Triton's kernels choose block sizes anew."""
    from capsnb.kernels import triton_backend as kernels

    kernels.options.clear()


def fastest_blocks(job: Job, problems: Sequence[Sizes]) -> dict[Sizes, dict[str, dict[str, Any]]]:
    """The fastest block sizes of both kernels: rows and warps first, then stages and precision of the best."""
    pairs = itertools.product(problems, KERNELS)
    best = {pair: first for pair in pairs if (first := next(options(job.device, *pair), None))}
    times: dict[tuple[Sizes, str], float] = {}
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), get_context("spawn")) as pool:
        for vary in (rows_and_warps, stages_and_precision):
            tried = {pair: fitting(job.device, *pair, vary(base, pair[0][0])) for pair, base in best.items()}
            if job.rehearsed:
                tried = {pair: blocks[:2] for pair, blocks in tried.items()}
            else:
                compile_beside(job, pool, tried)
            for pair, blocks in tried.items():
                for one in blocks:
                    if job.left() < 10:  # for what is written at the end
                        break
                    try:
                        taken = kernel_ms(job.device, *pair, one)
                    except Exception as error:  # of any kind: other block sizes may run
                        job.note(f"{pair}, {one}: {format_error(error)}")
                        continue
                    if taken is not None and taken < times.get(pair, float("inf")):
                        best[pair], times[pair] = one, taken
    found: dict[Sizes, dict[str, dict[str, Any]]] = {}
    for (sizes, kernel), milliseconds in times.items():
        found.setdefault(sizes, {})[kernel] = chosen = written(best[sizes, kernel])
        job.note(f"{sizes}, {kernel}: {milliseconds:.3f} ms with {chosen}")
    return found


def written(blocks: Any) -> dict[str, Any]:
    """Block sizes as they are in the table."""
    return {part: getattr(blocks, part) for part in ("rows", "warps", "stages", "precision")}


def options(device: str, sizes: Sizes, kernel: str) -> Iterator[Any]:
    """What the package would try without a measurement, best first; nothing where nothing fits."""
    from capsnb.kernels import triton_backend as kernels

    shared = kernels.shared_memory(torch.device(device))
    cores = device == "cpu" or torch.cuda.get_device_capability()[0] >= 8
    kind = {"gradients": kernel == "gradients", "tensor_cores": cores}
    return kernels.blocks(sizes[2:], sizes[0], shared, **kind)


def rows_and_warps(blocks: Any, batch: int) -> list[Any]:
    """Half to four times the rows, and half to twice the warps; what is nearest comes first."""
    steps = sorted(itertools.product((0, 1, -1, 2), (0, 1, -1)), key=lambda step: abs(step[0]) + abs(step[1]))
    most = 1 << (batch - 1).bit_length()
    tried = []
    for more_rows, more_warps in steps:
        rows, warps = blocks.rows * 2.0**more_rows, blocks.warps * 2.0**more_warps
        if 1 <= rows <= most and 1 <= warps <= 16:
            tried.append(_with(blocks, int(rows), int(warps), blocks.stages, blocks.precision))
    return tried


def stages_and_precision(blocks: Any, _: int) -> list[Any]:
    """One to four stages, on tensor cores, where there are any, and without."""
    precisions = ("tf32x3", "ieee") if blocks.precision == "tf32x3" else ("ieee",)
    pairs = itertools.product((1, 2, 3, 4), precisions)
    return [_with(blocks, blocks.rows, blocks.warps, *pair) for pair in pairs]


def _with(blocks: Any, rows: int, warps: int, stages: int, precision: str) -> Any:
    if rows < 16:  # too few for tensor cores
        precision = "ieee"
    return blocks._replace(rows=rows, warps=warps, stages=stages, precision=precision)


def fitting(device: str, sizes: Sizes, kernel: str, tried: Sequence[Any]) -> list[Any]:
    """Those that fit into shared memory, each once."""
    from capsnb.kernels import triton_backend as kernels

    shared = kernels.shared_memory(torch.device(device))
    return list(
        dict.fromkeys(one for one in tried if one.shared(4, gradients=kernel == "gradients") <= shared)
    )


def kernel_ms(device: str, sizes: Sizes, kernel: str, blocks: Any, rounds: int = 8) -> float | None:
    """Milliseconds of a kernel with these block sizes; None where they do not run. Without rounds it only runs once."""
    from capsnb.kernels import triton_backend as kernels

    made, gradients = problem(sizes, device), kernel == "gradients"
    with using({kernel: written(blocks)}, device), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that "fused" stands in
        layer = kernels.Triton(made.inputs[0], made.weight)
        saved = layer.forward(ITERATIONS)[1]

        def function() -> object:
            return layer.backward(saved, made.g) if gradients else layer.forward(ITERATIONS)

        function()
        if device == "cuda":
            torch.cuda.synchronize()  # where an error of the kernel is told
        for (ran, *_), left in kernels.options.items():
            if (ran is kernels._gradients) == gradients and left[:1] != [blocks]:
                return None
        return kernels_ms(function, device, rounds) if rounds else 0.0


def compile_beside(job: Job, pool: ProcessPoolExecutor, tried: dict[tuple[Sizes, str], list[Any]]) -> None:
    """Compile in several processes; Triton keeps on the disk what it compiled, and this process finds it there."""
    try:
        running = [
            pool.submit(kernel_ms, job.device, *pair, one, 0)
            for pair, blocks in tried.items()
            for one in blocks
        ]
    except (
        BrokenProcessPool
    ) as error:  # a kernel crashed in one of them before; each compiles here when it is timed
        return job.note(f"tuner: {format_error(error)}")
    wait(running, timeout=max(job.left() / 3, 1))
    for future in running:
        future.cancel()


def write(job: Job, lines: list[dict[str, Any]]) -> None:
    """Write the table into the folder, and into the package, which reads it; the rehearsal's into the folder alone."""
    name = "rehearsal" if job.rehearsed else torch.cuda.get_device_name()
    capability = "0.0" if job.rehearsed else "{}.{}".format(*torch.cuda.get_device_capability())
    found = versions()
    source = (
        f"{datetime.date.today().isoformat()}, revision {revision()}, PyTorch {found['torch']}, "
        f"Triton {found.get('triton')}, float32: forward and backward, "
    )
    if job.rehearsed:
        source = f"REHEARSAL on a CPU, no GPU's numbers: {source}with Triton's interpreter"
    else:
        source += "replayed as a CUDA graph; launched_ms as the host launches them. By tools/gpu.py."
    table = with_entry(ASSET, capability, {"gpu": name, "source": source, "layers": lines})
    write_atomically(job.folder / f"gpu-routing{'-rehearsal' * job.rehearsed}.json", table)
    if not job.rehearsed:
        try:
            write_atomically(ASSET, table)
        except OSError as error:
            job.note(f"the package's table stays as it was: {error}")


def with_entry(path: Path, capability: str, entry: dict[str, Any]) -> str:
    """The text of a table with this entry instead of the one of the same compute capability."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table[capability] = entry
    gpus = []
    for number in sorted(table, key=float):
        about = {key: value for key, value in table[number].items() if key != "layers"}
        rows = ",\n".join(f"      {json.dumps(line)}" for line in table[number]["layers"])
        said = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
        gpus.append(f'  {json.dumps(number)}: {{\n{said},\n    "layers": [\n{rows}\n    ]\n  }}')
    return "{\n" + ",\n".join(gpus) + "\n}\n"
