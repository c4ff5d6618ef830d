"""Run layers in a forward pass, and run them again in the backward pass exactly as they ran before.

`reversible` holds the algorithms. This is the machinery that they need: autocast is restored, random numbers are drawn
again, and a layer that changes its buffers is an error. Taught in chapter 11, *Backpropagation without memory*.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from capsnb.kernels import is_fake
from capsnb.layers import RoutingCapsules

TIE_BREAK = 1 + 2**-26  # a relative change far below float32's resolution


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which layers get x: its own, but under autocast float32 in place of half precision."""
    autocast = torch.is_autocast_enabled(x.device.type)
    return torch.promote_types(x.dtype, torch.float32) if autocast else x.dtype


def round_to(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round x so that the result is the same when the recomputed x differs in its last bit.

    Halfway between two float32 numbers one bit of a float64 number decides. Sums of float32 numbers often lie there, so
    they are moved off first.
    """
    return x if x.dtype == dtype else (x * TIE_BREAK).to(dtype)


def call_layer(number: int, layer: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """f(x), for x rounded to `dtype`; of the shape of x, since a sum with another shape would silently broadcast.

    Raises:
        ValueError: the layer returns another shape.
    """
    f: Tensor = layer(x if dtype is None else round_to(x, dtype))
    if f.shape != x.shape:
        raise ValueError(
            f"layer {number} ({type(layer).__name__}) makes {list(f.shape)} of {list(x.shape)}; what a shortcut goes "
            "around must give capsules of the shape that it takes"
        )
    return f


class Recorder:
    """Layers that a forward pass calls, and what a backward pass needs to call them again.

    Args:
        layers: modules from `[B, J, E]` to `[B, J, E]`.
        dtype: of their input.
        device: of their input.

    Attributes:
        tensors: all parameters and buffers of the layers, each once.
        rng_states: number of a layer that draws -> states of the random number generators before it.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
        self.layers, self.dtype, self.device = list(layers), dtype, device
        names = [dict(_named_tensors(layer)) for layer in layers]
        self.tensors = list({id(tensor): tensor for named in names for tensor in named.values()}.values())
        position = {id(tensor): index for index, tensor in enumerate(self.tensors)}
        self.positions = [{name: position[id(t)] for name, t in named.items()} for named in names]
        self.rng_states: dict[int, list[Tensor]] = {}
        # Without autocast's cache: a weight that is cast here, where nothing is recorded, must not be found by others.
        self.autocast: dict[str, Any] = {
            "device_type": device.type,
            "dtype": torch.get_autocast_dtype(device.type),
            "enabled": torch.is_autocast_enabled(device.type),
            "cache_enabled": False,
        }

    def __len__(self) -> int:
        return len(self.layers)

    def record(self, number: int) -> Callable[[Tensor], Tensor]:
        """A layer as a function of x that saves the RNG state it starts from, and raises if a buffer changed."""

        def run(x: Tensor) -> Tensor:
            layer, states = self.layers[number], _rng_states(x)
            buffers = _versions(layer)
            with self.autocast_as_recorded():
                f = call_layer(number, layer, x, self.dtype)
            _check_unchanged(number, layer, buffers)
            if any(not torch.equal(before, now) for before, now in zip(states, _rng_states(x), strict=True)):
                self.rng_states[number] = states
            return f

        return run

    def warn_of_unused(self, gradients: Sequence[Tensor | None], needs: Sequence[bool]) -> None:
        """Warn of a weight that a layer did not use when it was computed again: it may have kept what it made of it."""
        for number, named in enumerate(self.positions):
            idle = [name for name, index in named.items() if needs[index] and gradients[index] is None]
            if idle:
                warnings.warn(
                    f"layer {number} ({type(self.layers[number]).__name__}) did not use {', '.join(idle)} in the "
                    "backward pass, which computes it again, so there is no gradient. If the layer keeps what it "
                    "computed from its weights, call forward_plain; if it does not use them, freeze them with "
                    "requires_grad_(False)",
                    stacklevel=3,
                )

    def autocast_as_recorded(self) -> AbstractContextManager[Any]:
        """Autocast as it was in the forward pass; entering it costs time, so it is left out where it is and was off."""
        off = not self.autocast["enabled"] and not torch.is_autocast_enabled(self.device.type)
        return nullcontext() if off else torch.autocast(**self.autocast)


class Recomputed:
    """One layer, run again from saved tensors: call it for f(x), then ask for the vector-Jacobian product.

    Args:
        recorder: of the forward pass.
        number: of the layer.
        tensors: the recorder's tensors, detached; those whose gradients are needed require them.
        needs_x: whether the gradient of x is needed.
    """

    def __init__(self, recorder: Recorder, number: int, tensors: list[Tensor], needs_x: bool) -> None:
        self.recorder, self.number, self.tensors, self.needs_x = recorder, number, tensors, needs_x
        self.positions = recorder.positions[number]

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), bitwise as in the forward pass if x is."""
        recorder, layer = self.recorder, self.recorder.layers[self.number]
        named = {name: self.tensors[index] for name, index in self.positions.items()}
        # `vjp` follows at once, so couplings that are kept until then need not be computed again.
        options = {"save": "couplings"} if isinstance(layer, RoutingCapsules) else {}
        replayed = _replayed(recorder.rng_states.get(self.number, []), recorder.device)
        with torch.enable_grad(), recorder.autocast_as_recorded(), replayed:
            self.x = round_to(x, recorder.dtype).detach().requires_grad_(self.needs_x)
            self.f: Tensor = torch.func.functional_call(layer, named, (self.x,), options)
        _check_registered(self.number, layer, self.f, {id(self.x), *map(id, self.tensors)})
        return self.f.detach()

    def vjp(self, df: Tensor, gradients: list[Tensor | None]) -> Tensor | None:
        """The gradient of x for the gradient df of f(x); those of the layer's tensors are added to `gradients`."""
        trained = sorted({index for index in self.positions.values() if self.tensors[index].requires_grad})
        wanted = [*([self.x] if self.needs_x else []), *(self.tensors[index] for index in trained)]
        if not (self.f.requires_grad and wanted):
            return None
        found = list(torch.autograd.grad(self.f, wanted, df.to(self.f.dtype), allow_unused=True))
        dx = found.pop(0) if self.needs_x else None
        for index, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                before = gradients[index]
                gradients[index] = gradient if before is None else before + gradient
        return dx


def _named_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters(remove_duplicate=False)
    yield from layer.named_buffers(remove_duplicate=False)


def _versions(layer: nn.Module) -> dict[str, tuple[int, int]]:
    """Numbers that change when a buffer is written to or replaced."""
    return {name: (id(buffer), buffer._version) for name, buffer in layer.named_buffers()}


def _check_unchanged(number: int, layer: nn.Module, before: dict[str, tuple[int, int]]) -> None:
    for name, version in _versions(layer).items():
        if before.get(name) != version:
            owner = type(layer.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(
                f"layer {number}: {owner} changes its buffer {name!r} in the forward pass, and the backward pass "
                f"computes layers again. Call .eval() on the {owner}, or use a layer without running statistics, such "
                "as LayerNorm"
            )


def _check_registered(number: int, layer: nn.Module, f: Tensor, known: set[int]) -> None:
    """Refuse a layer with a weight that is none of its parameters: it would silently get no gradient."""
    waiting, seen = [f.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of a node that accumulates a gradient
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"layer {number} ({type(layer).__name__}) uses a tensor of shape {list(leaf.shape)} that needs a "
                "gradient and is not one of its parameters, so the backward pass would lose it: register it "
                "(nn.Parameter, or a submodule), or call forward_plain"
            )
        waiting += [following for following, _ in node.next_functions]


def _rng_states(x: Tensor) -> list[Tensor]:
    """States of the generators that a layer may draw from; a fake tensor draws nothing."""
    if is_fake(x):
        return []
    states = [torch.get_rng_state()]
    # A CUDA graph is recorded of layers that do not draw alone, and the state cannot be read meanwhile.
    readable = x.is_cuda and not torch.cuda.is_current_stream_capturing()
    return [*states, torch.cuda.get_rng_state(x.device)] if readable else states


@contextmanager
def _replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw again what was drawn from these states, and leave the generators as they are."""
    if not states:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield
