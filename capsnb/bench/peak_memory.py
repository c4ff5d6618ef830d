"""Does it fit? The memory of a training step, predicted from shapes alone, and measured. Used in chapter 17.

For the prediction the network runs on fake tensors, which have a shape and no memory, while every allocation and
release is counted. So stored votes, recomputation and reversible layers are all included.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from capsnb.losses import capsule_loss
from capsnb.profiling import peak_bytes
from capsnb.tables import markdown
from capsnb.training import OPTIMIZERS
from capsnb.values import whole_number


@dataclass(frozen=True)
class StepMemory:
    """The memory of a training step, in bytes.

    Attributes:
        states: weights and Adam's two moments of each; they are allocated all the time.
        saved: what is allocated besides when the backward pass begins: outputs and tensors saved for backward.
        peak: the most that is allocated at a time, states included. It may come later than the end of the forward
            pass: saved tensors are released, gradients are allocated, and the largest layer may need most.
    """

    states: int
    saved: int
    peak: int

    def table(self) -> str:
        """The figures as a Markdown table, in MB (10^6 bytes)."""
        parts = {
            "weights and Adam's moments": self.states,
            "and what is saved for the backward pass": self.states + self.saved,
            "**peak**, gradients and temporary tensors included": self.peak,
        }
        return markdown(
            [["a training step", "MB"], *([name, f"{size / 1e6:,.1f}"] for name, size in parts.items())]
        )


def predict(network: Callable[[], nn.Module], batch: int) -> StepMemory:
    """Predict the memory of a training step with Adam in float32, without taking the step.

    What PyTorch allocates is counted. Memory that a library allocates by itself (cuDNN's workspace, a GPU's context,
    the reserve of an allocator) is not included.

    Args:
        network: makes the network, which has an `image_shape` and returns a `CapsuleOutput`.
        batch: B, the images or inputs of a batch, >= 1.

    Returns:
        The figures.

    Raises:
        ValueError: a batch below 1.

    >>> predict(lambda: CapsNet(blocks=1), batch=128).states  # doctest: +SKIP
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # private: imported only when it is needed

    batch = whole_number("batch", batch)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # without memory, whatever its size
        model: Any = network()
    fakes: dict[int, Tensor] = {}  # by tensor: weights that modules share stay shared
    with FakeTensorMode(allow_non_fake_inputs=True):  # the state of the random generator is not fake
        for module in model.modules():
            for part in (module._parameters, module._buffers):
                for name, tensor in part.items():
                    if tensor is not None:
                        part[name] = fakes.setdefault(id(tensor), _on_cpu(tensor))
        images = torch.empty(batch, *model.image_shape)
        targets, labels = torch.empty_like(images), torch.empty(batch, dtype=torch.long)
        optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)
        take_step(model, optimizer, images, targets, labels)  # Adam allocates its moments
        moments = [value for state in optimizer.state.values() for value in state.values()]
        counter = _Allocations([*model.parameters(), *model.buffers(), *moments, images, targets, labels])
        with counter.counting():
            take_step(model, optimizer, images, targets, labels, counter.end_forward)
        states = _states(model)
    return StepMemory(states, counter.saved, states + counter.peak)


def what_fits(network: Callable[[], nn.Module], batch: int, available: int) -> str:
    """Say how much memory a training step needs, and with which smaller batch it would fit.

    Args:
        network: as for `predict`.
        batch: B, the batch that did not fit.
        available: bytes.

    Returns:
        A clause for an error message.

    >>> what_fits(CapsNet, batch=128, available=2 * 10**8)  # doctest: +SKIP
    'a step with batches of 128 needs about 0.5 GB, 0.2 GB are free; --batch-size 32 needs 0.2 GB'
    """

    def gigabytes(size: int) -> str:
        return f"{size / 1e9:.1f} GB"

    needed = smaller = predict(network, batch).peak
    said = f"a step with batches of {batch} needs about {gigabytes(needed)}, {gigabytes(available)} are free"
    while smaller > available and batch > 1:
        batch //= 2
        smaller = predict(network, batch).peak
    if smaller > available:
        return (
            f"{said}; even one image at a time needs {gigabytes(smaller)}: choose a smaller network or images"
        )
    if smaller == needed:
        return f"{said}, but others may take it: choose a smaller --batch-size"
    return f"{said}; --batch-size {batch} needs {gigabytes(smaller)}"


def _on_cpu(tensor: Tensor) -> Tensor:
    """Return an uninitialised tensor of the same kind on the CPU."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def measure(network: Callable[[], nn.Module], batch: int, device: str = "cpu") -> int:
    """Take a training step, and measure its peak memory: what PyTorch allocates.

    Args:
        network: as for `predict`.
        batch: B, the images or inputs of a batch, >= 1.
        device: "cpu" or "cuda".

    Returns:
        Bytes.

    Raises:
        ValueError: a batch below 1.
    """
    batch = whole_number("batch", batch)
    model: Any = network().to(device)
    images = torch.rand(batch, *model.image_shape, device=device)
    labels = torch.arange(batch, device=device) % len(model(images[:1]).lengths[0])
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)
    return peak_of_step(model, lambda: take_step(model, optimizer, images, images, labels), device)


def peak_of_step(model: nn.Module, step: Callable[[], object], device: str = "cpu") -> int:
    """Measure the peak memory of a training step, which is taken twice.

    Args:
        model: the network that the step trains with Adam.
        step: takes a step, and sets the gradients to None.
        device: "cpu" or "cuda".

    Returns:
        Bytes; weights and Adam's two moments of each are included.
    """
    return _states(model) + peak_bytes(step, device).peak


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    labels: Tensor,
    before_backward: Callable[[], None] = lambda: None,
) -> None:
    """Take one training step and set the gradients to None; `before_backward` is called after the forward pass."""
    loss = capsule_loss(model(images, labels), targets, labels).total
    before_backward()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _states(model: nn.Module) -> int:
    return 3 * sum(p.nbytes for p in model.parameters())  # weights, and Adam's two moments of each


class _Allocations:
    """Bytes of every storage that an operator returns, until it is released; existing tensors are not counted."""

    def __init__(self, existing: Iterable[Tensor]) -> None:
        self.now = self.peak = self.saved = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in existing}

    def counting(self) -> AbstractContextManager[object]:
        """A context in which every operator's results are counted."""
        from torch.utils._python_dispatch import TorchDispatchMode  # private: imported only when it is needed
        from torch.utils._pytree import tree_leaves

        allocations = self

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                for tensor in tree_leaves(result):
                    if isinstance(tensor, Tensor):
                        allocations.add(tensor.untyped_storage())
                return result

        return Counting()

    def end_forward(self) -> None:
        self.saved = self.now

    def add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        weakref.finalize(storage, self.release, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
