"""Does it fit? The memory of a training step from shapes alone, before there is a number in it. Used in chapter 17.

The network itself runs on fake tensors, which have a shape and no memory, while every allocation and release is
counted. Whatever the network does, store votes, compute layers again, run backwards, is so accounted for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from capsnb.losses import capsule_loss
from capsnb.profiling import peak_bytes
from capsnb.tables import markdown
from capsnb.training import OPTIMIZERS


@dataclass(frozen=True)
class Memory:
    """What a training step takes, in bytes.

    Attributes:
        states: weights, and the two moments that Adam keeps of each; they are always there.
        kept: what the forward pass has left when the way back begins.
        peak: the highest point, states included. It need not be where the way back begins: what is kept goes, gradients
            come, and the largest layer may need most.
    """

    states: int
    kept: int
    peak: int

    def table(self) -> str:
        """The figures as a Markdown table, in MB (10^6 bytes)."""
        parts = {
            "weights and Adam's moments": self.states,
            "the same, and what is kept for the way back": self.states + self.kept,
            "**highest point**, gradients and what comes and goes included": self.peak,
        }
        return markdown(
            [["a training step", "MB"], *([name, f"{size / 1e6:,.1f}"] for name, size in parts.items())]
        )


def predict(network: Callable[[], nn.Module], batch: int) -> Memory:
    """Find the memory of a training step with Adam in float32 without taking it.

    What PyTorch allocates is counted. What a library takes for itself (cuDNN's workspace, a GPU's context, the reserve
    of an allocator) comes on top.

    Args:
        network: makes the network, which has an `image_shape` and returns a `CapsuleOutput`.
        batch: B, >= 1.

    Returns:
        The figures.

    Raises:
        ValueError: a batch below 1.

    >>> predict(lambda: CapsNet(blocks=1), batch=128).states  # doctest: +SKIP
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    with torch.random.fork_rng(devices=[]):
        model: Any = network()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:  # a random state is no fake
        for module in model.modules():  # `.to` would not: it writes into the tensors that are there
            for part in (module._parameters, module._buffers):
                for name, tensor in part.items():
                    if tensor is not None:
                        part[name] = fake.from_tensor(tensor)
        images = torch.empty(batch, *model.image_shape)
        targets, labels = torch.empty_like(images), torch.empty(batch, dtype=torch.long)
        optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)
        step(model, optimizer, images, targets, labels)  # Adam makes its moments
        states = [value for state in optimizer.state.values() for value in state.values()]
        counted = _Allocations([*model.parameters(), *model.buffers(), *states, images, targets, labels])
        with counted:
            step(model, optimizer, images, targets, labels, counted.forward_is_over)
        size = _states(model)
    return Memory(size, counted.kept, size + counted.peak)


def measure(network: Callable[[], nn.Module], batch: int, device: str = "cpu") -> int:
    """Take a training step, and count what PyTorch allocates at its highest point.

    Args:
        network: as for `predict`.
        batch: B, >= 1.
        device: "cpu" or "cuda".

    Returns:
        Bytes.
    """
    model: Any = network().to(device)
    images = torch.rand(batch, *model.image_shape, device=device)
    labels = torch.arange(batch, device=device) % len(model(images[:1]).lengths[0])
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)
    return highest(model, lambda: step(model, optimizer, images, images, labels), device)


def highest(model: nn.Module, taken: Callable[[], object], device: str = "cpu") -> int:
    """The highest point of a training step that is taken twice: what it allocates, above the states that are there.

    Args:
        model: its weights, and Adam's two moments of each, are there when a step begins; gradients come and go in it.
        taken: takes a step, and leaves no gradients behind.
        device: "cpu" or "cuda".

    Returns:
        Bytes.
    """
    return _states(model) + peak_bytes(taken, device).peak


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    labels: Tensor,
    half_way: Callable[[], None] = lambda: None,
) -> None:
    """One training step; gradients are gone at its end. `half_way` is called when the way back begins."""
    loss = capsule_loss(model(images, labels), targets, labels).total
    half_way()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _states(model: nn.Module) -> int:
    return 3 * sum(p.nbytes for p in model.parameters())  # weights, and Adam's two moments of each


class _Allocations(TorchDispatchMode):
    """Every memory that an operator returns, until nobody holds it any more; not that of tensors that are there."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = self.kept = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in there}

    def forward_is_over(self) -> None:
        self.kept = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return found

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        weakref.finalize(storage, self._forget, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
