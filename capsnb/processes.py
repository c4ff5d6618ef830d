"""Several processes that train one network: who takes which rows, and what they tell each other. Taught in chapter 16.

A launcher (`torchrun`, `accelerate launch`) starts the same program several times, on one machine or on several. Each
process has a number, its rank. All of them call the functions here, in the same order: who waits for a process that
does not call waits for ever. With one process they cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def join() -> None:
    """Meet the other processes that a launcher started: over gloo on CPUs, over nccl on GPUs. Alone, do nothing.

    >>> join()
    >>> count()
    1
    """
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())


def leave() -> None:
    """Say goodbye at the end of the program, so that nobody waits for a process that is gone."""
    if _several():
        # Gloo's threads need Python's lock to drop the last tensors that they sent; the end of the group holds it
        # while it waits for the threads. Sleeping lends it: PyTorch 2.6 hung in 18 of 60 runs, with this in none.
        time.sleep(0.1)
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Which of them this is, from 0; the first one writes files and shows progress."""
    return dist.get_rank() if _several() else 0


def share(rows: int, of: int | None = None, among: int | None = None) -> slice:
    """The rows of a batch that a process computes: neighbours, no process more than one row ahead of another.

    The first processes have the larger shares. With fewer rows than processes the last shares are empty.

    Args:
        rows: length of the batch.
        of: a process's rank; None for this one.
        among: number of processes; None for as many as there are.

    >>> [share(5, of=rank, among=2) for rank in range(2)]
    [slice(0, 3, None), slice(3, 5, None)]
    """
    which, number = rank() if of is None else of, count() if among is None else among
    least, extra = divmod(rows, number)
    start = which * least + min(which, extra)
    return slice(start, start + least + (which < extra))


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same on each of them."""
    if _several():
        values = values.clone()
        dist.all_reduce(values)
    return values


def everyones(value: T) -> list[T]:
    """What each process has to say, by rank."""
    if not _several():
        return [value]
    said: list[Any] = [None] * count()
    dist.all_gather_object(said, value)
    return cast(list[T], said)


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, on all of them; what it raises there is raised by all.

    >>> from_first(lambda: "only the first process reads this file")
    'only the first process reads this file'
    """
    if not _several():
        return make()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = make()
        except Exception as error:  # the others wait for an answer, whatever it is
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return cast(T, answer[0])


def copy_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if _several():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@contextmanager
def first_on_each_machine_first() -> Iterator[None]:
    """Let one process on each machine go ahead, such as one that downloads what the others only read."""
    from accelerate import PartialState

    with PartialState(cpu=not torch.cuda.is_available()).local_main_process_first():
        yield


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
