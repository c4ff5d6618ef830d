"""A training step on a GPU as one CUDA graph: recorded once, and replayed in each further step.

A step of a capsule network is some hundred short kernels. Launching them one by one takes the processor longer than it
takes the GPU to compute them. A CUDA graph is the list of these kernels with the addresses of what they read and write,
and replaying it is one launch. What the processor does between two kernels is not in the list: Python, and numbers
that become arguments. So all that changes from step to step is in tensors: the numbers of the images, their crops and
angles, the learning rate.

Taught in chapter 16.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before: libraries choose algorithms, Triton compiles, the optimizer makes its moments
DRAWS = "the network draws random numbers, as dropout does"
KEPT = "somebody keeps a result of the network, whose gradients have another stream"
T = TypeVar("T")
Outputs = tuple[Tensor, ...]


# One for all runs of a process: libraries keep a workspace for each stream.
_stream = cache(torch.cuda.Stream)


class CudaGraphs:
    """Record the kernels that are launched on an NVIDIA GPU. Graphs share their memory: they run one at a time.

    Attributes:
        broken: whether a recording has failed; nothing is recorded or replayed after that.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream, self.broken = device, _stream(device), False
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], T]) -> T:
        """Do the work on the stream that records later."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                return work()
        finally:
            current.wait_stream(self.stream)

    def watch(self, work: Callable[[], T]) -> tuple[T, str]:
        """Do the work, and see whether the processor waits for the GPU, or random numbers are drawn."""
        before, mode = torch.cuda.get_rng_state(self.device), torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                done = self.run(work)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        reason = ""
        for warning in caught:
            text, place = str(warning.message), f"{warning.filename}, line {warning.lineno}"
            if "called a synchronizing CUDA operation" in text:
                reason = reason or f"the processor waits for the GPU in {place}"
            elif "AccumulateGrad node's stream" in text:
                reason = reason or KEPT
            elif "Synchronization debug mode" not in text:  # which says of itself that it is a prototype
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if not reason and not torch.equal(before, torch.cuda.get_rng_state(self.device)):
            reason = DRAWS
        return done, reason

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Record the kernels that the work launches; they are first computed by the first replay."""
        graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.collect()
        gc.disable()  # to destroy an older graph during a recording is an error
        try:
            with (
                # The current stream again, also after a recording that failed.
                torch.cuda.stream(torch.cuda.current_stream(self.device)),
                torch.cuda.graph(
                    graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
                ),
            ):
                outputs = work()
        except BaseException:
            self._clean_up()
            raise
        finally:
            if collecting:
                gc.enable()
        return graph.replay, outputs

    def _clean_up(self) -> None:
        """After a recording that failed: PyTorch leaves its allocator and its random numbers as if it went on."""
        self.broken = True
        for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # in older versions
            with suppress(Exception):
                getattr(torch._C, name)(torch.cuda.current_device(), self.pool)
        with (
            suppress(Exception),  # a whole recording ends what is left of the other one
            torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream),
        ):
            torch.zeros((), device=self.device)


class _Recording(NamedTuple):
    """What replays the work, and the tensors that it reads and writes."""

    replay: Callable[[], object]
    inputs: Outputs
    outputs: Outputs


class Recorded:
    """A function of tensors that is recorded, once for inputs of each shape, after `WARM_UP` calls, and then replayed.

    Where it cannot be recorded it is called, and a warning says why.

    Args:
        function: takes tensors and returns tensors; between calls nothing changes but the values of tensors.
        recorder: None calls the function each time.
        name: of the function, for the warning.
        state: what a call may change that is not in a tensor, by name; if one does, the function is not recorded.
    """

    def __init__(
        self,
        function: Callable[..., Outputs],
        recorder: CudaGraphs | None,
        name: str,
        state: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self.function, self.recorder, self.name, self.state = function, recorder, name, state
        self.recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self.calls: dict[tuple[torch.Size, ...], int] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Call the function or replay it; the outputs are new tensors."""
        shapes = tuple(x.shape for x in inputs)
        if self.recorder is None or self.recorder.broken:
            return self.function(*inputs)
        if shapes not in self.recordings:
            self.calls[shapes] = self.calls.get(shapes, 0) + 1
            if self.calls[shapes] < WARM_UP:
                return self.recorder.run(lambda: self.function(*inputs))
            if self.calls[shapes] == WARM_UP:
                return self._watched(self.recorder, inputs)
            reason = ""
            try:
                self.recordings[shapes] = self._record(self.recorder, inputs)
            except Exception as error:  # CUDA's, or one that the call below raises again
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            if reason:  # not in the except clause, where the error holds what the function had computed
                self.give_up(reason)
                return self.function(*inputs)
        recording = self.recordings[shapes]
        for static, x in zip(recording.inputs, inputs, strict=True):
            static.copy_(x)
        recording.replay()
        return tuple(x.clone() for x in recording.outputs)

    def give_up(self, reason: str) -> None:
        """Call the function from now on, and say so."""
        self.recorder = None
        self.recordings.clear()
        warn(self.name, reason)

    def close(self) -> None:
        """Free the memory of the recordings, and of what the function holds."""
        self.recordings.clear()
        self.function, self.state = lambda *_: (), dict

    def _watched(self, recorder: CudaGraphs, inputs: Outputs) -> Outputs:
        before = self.state()
        outputs, reason = recorder.watch(lambda: self.function(*inputs))
        changed = [name for name, value in self.state().items() if before.get(name) != value]
        if reason or changed:
            self.give_up(reason or f"{changed[0]} changes in Python, which a replay would not do")
        return outputs

    def _record(self, recorder: CudaGraphs, inputs: Outputs) -> _Recording:
        static = tuple(x.clone() for x in inputs)
        replay, outputs = recorder.record(lambda: self.function(*static))
        return _Recording(replay, static, outputs)


def warn(name: str, reason: str) -> None:
    """Say that something is not recorded, and why."""
    warnings.warn(f"{name} is not recorded as a CUDA graph, and is slower: {reason}", stacklevel=3)


def recorder(device: torch.device) -> CudaGraphs | None:
    """What records on this device; None where nothing can."""
    return CudaGraphs(device) if device.type == "cuda" else None
