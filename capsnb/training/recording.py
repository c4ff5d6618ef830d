"""A training step on a GPU as one CUDA graph: recorded once, and replayed in each further step.

A step of a capsule network is some hundred short kernels. Launching them one by one takes the processor longer than it
takes the GPU to compute them. A CUDA graph is the list of these kernels with the addresses of what they read and write,
and replaying it is one launch. What the processor does between two kernels is not in the list: Python, and numbers
that become arguments. So all that changes from step to step is in tensors: the numbers of the images, their crops and
angles, the learning rate.

Taught in chapter 16, *Faster*.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # calls before: libraries choose algorithms, Triton compiles, the optimizer makes its moments
T = TypeVar("T")
Outputs = tuple[Tensor, ...]


class Recorder(Protocol):
    """What can record the work of a device: `CudaGraphs`."""

    def run(self, work: Callable[[], T]) -> T:
        """Do the work."""

    def watch(self, work: Callable[[], T]) -> tuple[T, str]:
        """Do the work; return also why it cannot be recorded, "" if it can."""

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Do nothing yet; return a function that does the work, always on the same tensors, and its outputs."""


class CudaGraphs:
    """Record the kernels that are launched on an NVIDIA GPU. Graphs share their memory: they run one at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], T]) -> T:
        """Do the work on the stream that records later: libraries keep a workspace for each stream."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            done = work()
        current.wait_stream(self.stream)
        return done

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
        waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
        for other in caught:
            if other not in waits:
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        if waits:
            return done, f"the processor waits for the GPU in {waits[0].filename}, line {waits[0].lineno}"
        if not torch.equal(before, torch.cuda.get_rng_state(self.device)):
            return done, "the network draws random numbers, as dropout does"
        return done, ""

    def record(self, work: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Record the kernels that the work launches; they are first computed by the first replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = work()
        return graph.replay, outputs


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
    """

    def __init__(self, function: Callable[..., Outputs], recorder: Recorder | None, name: str) -> None:
        self.function, self.recorder, self.name = function, recorder, name
        self.recordings: dict[tuple[torch.Size, ...], _Recording] = {}
        self.calls: dict[tuple[torch.Size, ...], int] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Call the function or replay it; the outputs are new tensors."""
        shapes = tuple(x.shape for x in inputs)
        if self.recorder is None:
            return self.function(*inputs)
        if shapes not in self.recordings:
            self.calls[shapes] = self.calls.get(shapes, 0) + 1
            if self.calls[shapes] < WARM_UP:
                return self.recorder.run(lambda: self.function(*inputs))
            if self.calls[shapes] == WARM_UP:
                outputs, reason = self.recorder.watch(lambda: self.function(*inputs))
                if reason:
                    self.give_up(reason)
                return outputs
            try:
                self.recordings[shapes] = self._record(self.recorder, inputs)
            except RuntimeError as error:  # CUDA's
                self.give_up((str(error).splitlines() or [type(error).__name__])[0])
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
        warnings.warn(f"{self.name} is not recorded as a CUDA graph, and is slower: {reason}", stacklevel=2)

    def _record(self, recorder: Recorder, inputs: Outputs) -> _Recording:
        static = tuple(x.clone() for x in inputs)
        replay, outputs = recorder.record(lambda: self.function(*static))
        return _Recording(replay, static, outputs)


def recorder(device: torch.device) -> Recorder | None:
    """What records on this device; None where nothing can."""
    return CudaGraphs(device) if device.type == "cuda" else None
