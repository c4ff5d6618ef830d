"""Data-parallel training: which rows of a batch each rank computes, and collective operations. Taught in chapter 16.

A launcher (`torchrun`, `accelerate launch`) starts the same program several times, on one machine or on several. Each
process has a number, its rank. All ranks call the functions here, in the same order: a rank that skips a collective
operation leaves the others waiting for ever. With one process these functions cost nothing.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def import_accelerate() -> None:
    """Import Accelerate for the first time in silence: it imports tqdm's bar of widgets, which warns where none are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import accelerate  # noqa: F401


def init() -> None:
    """Initialise the process group if a launcher started several processes: gloo on CPUs, nccl on GPUs.

    >>> init()
    >>> world_size()
    1
    """
    import_accelerate()
    from accelerate import PartialState

    with launched():
        PartialState(cpu=not torch.cuda.is_available())


@contextmanager
def launched() -> Iterator[None]:
    """Hide a launcher's variables where they are incomplete: another program has left them, and nobody waits there.

    Raises:
        ValueError: incomplete variables name several processes.

    Warns:
        UserWarning: complete variables name several processes, but no launcher has started this one.
    """
    left = {name: os.environ[name] for name in _PLACE if name in os.environ}
    processes = int(left.get("WORLD_SIZE", 1))
    complete = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    if _initialised() or complete:
        if processes > 1 and not (_initialised() or dist.is_torchelastic_launched()):
            warnings.warn(
                f"the variables RANK, WORLD_SIZE and MASTER_ADDR name {processes} processes, and this one waits for "
                "the others: unset them to work alone",
                stacklevel=4,
            )
        yield
        return
    if processes > 1:
        raise ValueError(
            f"the variable WORLD_SIZE names {processes} processes, but RANK or MASTER_ADDR is not set: start them with "
            "torchrun, or unset WORLD_SIZE to work alone"
        )
    for name in left:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(left)


def shutdown() -> None:
    """Destroy the process group at the end of the program, so that no rank waits for one that is gone."""
    if _initialised():
        # Gloo's threads need Python's lock to drop the last tensors that they sent; the end of the group holds it
        # while it waits for the threads. Sleeping lends it: PyTorch 2.6 hung in 18 of 60 runs, with this in none.
        time.sleep(0.1)
        dist.destroy_process_group()


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if _initialised() else 1


def rank() -> int:
    """The number of this process, from 0. Rank 0 writes files and shows progress."""
    return dist.get_rank() if _initialised() else 0


def shard(rows: int, of: int | None = None, among: int | None = None) -> slice:
    """The rows of a batch that one rank computes: contiguous shards whose sizes differ by at most one row.

    The first ranks have the larger shards. With fewer rows than ranks the last shards are empty.

    Args:
        rows: length of the batch.
        of: a rank; None for this process's.
        among: number of ranks; None for the world size.

    >>> [shard(5, of=rank, among=2) for rank in range(2)]
    [slice(0, 3, None), slice(3, 5, None)]
    """
    index, count = rank() if of is None else of, world_size() if among is None else among
    least, extra = divmod(rows, count)
    start = index * least + min(index, extra)
    return slice(start, start + least + (index < extra))


def all_reduce(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, the same on each of them."""
    if _initialised():
        values = values.clone()
        dist.all_reduce(values)
    return values


def all_gather(value: T) -> list[T]:
    """Gather one object per rank, in the order of the ranks."""
    if not _initialised():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return cast(list[T], gathered)


def from_rank0(make: Callable[[], T]) -> T:
    """Call `make` on rank 0 and broadcast its result; an exception that it raises is raised on all ranks.

    >>> from_rank0(lambda: "only rank 0 reads this file")
    'only rank 0 reads this file'
    """
    if not _initialised():
        return make()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = make()
        except Exception as error:  # the other ranks wait for the broadcast, whatever went wrong
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return cast(T, outcome[0])


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of rank 0."""
    if _initialised():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def local_rank0_first() -> Iterator[None]:
    """Let the first rank on each machine go ahead, such as one that downloads what the others only read."""
    import_accelerate()
    from accelerate import PartialState

    with launched(), PartialState(cpu=not torch.cuda.is_available()).local_main_process_first():
        yield


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()
