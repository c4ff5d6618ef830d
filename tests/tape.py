"""A recorder for the CPU: it records operators and what they read and write, as a CUDA graph records kernels.

What Python does between operators is not on the tape. So a step that depends on it gives other numbers when it is
replayed, as it would on a GPU.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {  # operators whose result Python reads
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


class Tape(TorchDispatchMode):
    """Note the operators that are called, and what the tensors that they write to held before."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, tuple, dict, list]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in written(operator, args, kwargs):
            self.before.setdefault(id(tensor), (tensor, tensor.clone()))
        outputs = operator(*args, **kwargs)
        self.operators.append((operator, args, kwargs, tree_leaves(outputs)))
        return outputs

    def undo(self) -> None:
        """Put everything back that existed before; a CUDA graph computes nothing while it is recorded."""
        for tensor, held in reversed(
            self.before.values()
        ):  # of two views of the same numbers, the first one last
            tensor.copy_(held)

    @torch.no_grad()
    def replay(self) -> None:
        """Call the operators again, on the same tensors."""
        for operator, args, kwargs, outputs in self.operators:
            own = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if is_tensor(x)}
            for old, new in zip(outputs, tree_leaves(operator(*args, **kwargs)), strict=True):
                if (
                    is_tensor(old) and old.untyped_storage().data_ptr() not in own
                ):  # neither a view nor in place
                    old.copy_(new)


class FakeGraphs:
    """What `capsnb.training.recording.CudaGraphs` is on a GPU.

    Args:
        watching: notice operators for which Python waits.
    """

    def __init__(self, *, watching: bool = True) -> None:
        self.watching, self.broken, self.recorded, self.replayed = watching, False, 0, 0

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def watch(self, work: Callable[[], Any]) -> tuple[Any, str]:
        with Tape() as tape:
            done = work()
        waits = [str(operator) for operator, *_ in tape.operators if operator in WAITS]
        return done, f"the processor waits in {waits[0]}" if waits and self.watching else ""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        with Tape() as tape:
            outputs = work()
        with torch.no_grad():
            tape.undo()

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay, outputs


def is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def written(operator: Any, args: tuple, kwargs: dict) -> Iterator[Tensor]:
    """The tensors that an operator writes to, by its schema; that of batch norm does not say so."""
    if operator is torch.ops.aten.native_batch_norm.default:
        yield from (x for x in args[3:5] if is_tensor(x))
    for place, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (x for x in tree_leaves(value) if is_tensor(x))
