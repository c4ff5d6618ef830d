r"""Stacks of capsule layers with shortcuts, and one that is computed backwards instead of remembered.

Residual capsules add what a layer says to what was there. Momentum capsules let it push a velocity, which can be
undone: from the last capsules and the last velocity all earlier ones follow, so that none of them needs to be kept.

Residual capsules are taught in chapter 7, *Shortcuts: residual capsules*; momentum capsules in chapters 9, 10 and 11.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from capsnb.kernels import gradients_follow, of_shapes_alone
from capsnb.layers import RoutingCapsules

LOST_DIGITS = 6  # at most; the ten that remain of float64 tell float32 numbers apart, with three to spare
OFF_THE_TIES = 1 + 2**-26  # far less than float32 can tell
_exporting = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)  # PyTorch 2.6 cannot tell them apart


class ResidualCapsules(nn.ModuleList):
    r"""Capsule layers with a shortcut around each of them.

    .. math:: x_{n+1} = x_n + f(x_n, \theta_n) \qquad \text{(Gugglberger et al. 2022, eq. 2)}

    The layers are this module's own items: its weights are called "0.weight", "1.weight", ..., as those of
    `nn.Sequential` and `MomentumCapsules`, and can be exchanged with theirs.

    Args:
        layers: modules that map `[B, J, E]` to `[B, J, E]`.

    Shape:
        `[B, J, E]` -> `[B, J, E]`. A sum of n capsules can be n times as long as one: lengths are not below 1.

    Raises:
        ValueError: a layer that gives capsules of another shape than it takes.

    >>> ResidualCapsules(RoutingCapsules(6, 4, 6, 4) for _ in range(3))(torch.randn(2, 6, 4)).shape
    torch.Size([2, 6, 4])
    """

    def __init__(self, layers: Iterable[nn.Module] = ()) -> None:
        super().__init__(layers)
        _check_chain(self)

    def forward(self, x: Tensor) -> Tensor:
        """Add what each layer makes of capsules `[B, J, E]` to them."""
        for number, layer in enumerate(self):
            x = x + _call(number, layer, x)
        return x


class MomentumCapsules(nn.ModuleList):
    r"""Capsule layers that push one velocity, and keep nothing but the last capsules and the last velocity.

    .. math:: v_{n+1} = \gamma v_n + (1 - \gamma) f(x_n, \theta_n), \qquad x_{n+1} = x_n + v_{n+1}, \qquad v_0 = 0
       \qquad \text{(Gugglberger et al. 2022, eqs. 3 and 4, algorithm 1)}

    On the way back the layers are undone one by one, and computed again for their gradients:

    .. math:: x_n = x_{n+1} - v_{n+1}, \qquad v_n = \frac{1}{\gamma} \big(v_{n+1} - (1 - \gamma) f(x_n, \theta_n)\big)
       \qquad \text{(eqs. 5 and 6, algorithm 2)}

    One velocity runs through all layers, and there is no other shortcut than x + v. `forward_plain` is the definition:
    the same numbers, and the same gradients up to rounding, with all capsules remembered.

    Each division by gamma enlarges the rounding errors of x and velocity, and layers that stretch small differences
    enlarge them further: in float32 little is left of the gradients of forty layers at 0.9. So x and velocity are
    float64, which costs two small tensors. Rounded to what layers compute in, x is then the same again to the last
    bit, and so is f(x). n layers cost :math:`-n \log_{10} \gamma` decimal digits; six may be lost, which allows 131
    layers at 0.9, and 19 at 0.5.

    What each layer drew at random (dropout) is drawn again. Layers are computed twice per step, so they must not change
    themselves: batch normalisation that is training is refused. `torch.compile` leaves this stack as it is, and
    compiles what stands around it.

    Args:
        layers: modules that map `[B, J, E]` to `[B, J, E]`; one that stands there twice shares its weights.
        gamma: share of the velocity that a layer leaves, in (0, 1]. At 1 no layer is heard.

    Shape:
        `[B, J, E]` -> `[B, J, E]`, in the dtype of the input; under autocast float32 at least.

    Raises:
        ValueError: gamma outside its range, or so small for so many layers that no digits would remain; a layer that
            gives capsules of another shape than it takes, or that changes its buffers.
        RuntimeError: a second derivative is asked for; `forward_plain` has one.

    >>> stack = MomentumCapsules([RoutingCapsules(6, 4, 6, 4) for _ in range(3)])
    >>> x = torch.randn(2, 6, 4)
    >>> torch.equal(stack(x), stack.forward_plain(x))
    True
    """

    def __init__(self, layers: Iterable[nn.Module] = (), gamma: float = 0.9) -> None:
        super().__init__(layers)
        if gamma == 0:
            raise ValueError(
                "gamma must be in (0, 1], got 0: with it a velocity forgets the one before, and nothing can "
                "find that again. Use ResidualCapsules, which is this network without momentum"
            )
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be in (0, 1], got {gamma}; the paper's is 0.9")
        self.gamma = float(gamma)
        _check_chain(self)
        self._check_digits()

    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    def __getitem__(self, index: int | slice) -> nn.Module:
        """A layer, or some of the layers with the same gamma."""
        return type(self)(list(self)[index], self.gamma) if isinstance(index, slice) else list(self)[index]

    def forward(self, x: Tensor) -> Tensor:
        """Move capsules `[B, J, E]` through all layers."""
        differentiated = torch.is_grad_enabled() and any(
            t.requires_grad for t in chain([x], self.parameters())
        )
        return (
            self._forward(x) if differentiated and len(self) and not _exporting() else self.forward_plain(x)
        )

    @torch.compiler.disable  # a compiler would have to follow into backward, where layers are differentiated
    def _forward(self, x: Tensor) -> Tensor:
        self._check_digits()  # again: layers can be appended
        fed, named = _fed(x), [dict(_named(layer)) for layer in self]
        tensors = {id(tensor): tensor for names in named for tensor in names.values()}  # each once
        return _Reversible.apply(self, fed, named, x.double(), *tensors.values()).to(fed)

    def forward_plain(self, x: Tensor) -> Tensor:
        """Compute the same, readable, with everything that autograd remembers.

        Args:
            x: capsules, `[B, J, E]`.

        Returns:
            Capsules, `[B, J, E]`.
        """
        fed, x = _fed(x), x.double()
        velocity = torch.zeros_like(x)
        for number, layer in enumerate(self):
            f = _call(number, layer, _rounded(x, fed))
            velocity = torch.add(self.gamma * velocity, f, alpha=1 - self.gamma)
            x = x + velocity
        return x.to(fed)

    __repr__ = nn.Module.__repr__  # a list's would leave gamma out

    def extra_repr(self) -> str:
        """Return gamma, for `print(model)`."""
        return f"gamma={self.gamma}"

    def _check_digits(self) -> None:
        """Inverting n layers multiplies rounding errors by gamma**-n."""
        lost = -len(self) * math.log10(self.gamma)
        if lost <= LOST_DIGITS:
            return
        deepest = math.floor(LOST_DIGITS / -math.log10(self.gamma))
        smallest = math.ceil(1000 * 10 ** (-LOST_DIGITS / len(self))) / 1000
        raise ValueError(
            f"undoing {len(self)} layers with gamma={self.gamma} costs {lost:.1f} of the 16 digits that float64 has, "
            f"and {LOST_DIGITS} may be lost: take gamma={smallest} or more, or at most {deepest} layers"
        )


class _Reversible(torch.autograd.Function):
    """Algorithms 1 and 2. Every tensor of the layers is an input, so that its gradient is returned."""

    @staticmethod
    def forward(
        ctx: Any,
        stack: MomentumCapsules,
        fed: torch.dtype,
        named: list[dict[str, Tensor]],
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        device = x.device.type
        # Without autocast's cache: a weight that is cast here, where nothing is recorded, must not be found by others.
        ctx.autocast = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
            "cache_enabled": False,
        }
        ctx.gamma, ctx.fed, ctx.layers = stack.gamma, fed, list(stack)
        place = {id(tensor): index for index, tensor in enumerate(tensors)}
        ctx.names = [{name: place[id(t)] for name, t in names.items()} for names in named]
        ctx.random = {}  # number of a layer that draws: where its generators' states stand among the saved tensors
        states: list[Tensor] = []
        velocity, before = torch.zeros_like(x), _random_states(x)
        with _autocast(ctx):
            for number, layer in enumerate(stack):
                buffers = _versions(layer)
                f = _call(number, layer, _rounded(x, fed))
                _check_unchanged(number, layer, buffers)
                after = _random_states(x)
                if any(map(_differ, before, after)):
                    ctx.random[number] = slice(len(states), len(states) + len(before))
                    states += before
                before = after
                velocity.mul_(ctx.gamma).add_(f, alpha=1 - ctx.gamma)  # in its own memory, twice as fast
                x = x + velocity
        ctx.save_for_backward(x, velocity, *tensors, *states)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        last = saved[0] if torch.is_grad_enabled() else None
        ctx.maybe_clear_saved_tensors()  # they need not stay beside what they become, unless there is a second way back
        with torch.no_grad():
            gradients = _Reversible._undo(ctx, dx, saved)
        if last is not None:  # create_graph=True: whoever differentiates again must be told
            gradients = _NoSecondDerivative.apply(last, *gradients)
        return None, None, None, *gradients

    @staticmethod
    def _undo(ctx: Any, dx: Tensor, saved: list[Tensor]) -> tuple[Tensor | None, ...]:
        x, velocity = saved.pop(0), saved.pop(0)
        needs_x, *needs = ctx.needs_input_grad[3:]
        # Copies without a history: hooks of the parameters are called once, by the gradients that are returned.
        tensors = [t.detach().requires_grad_(need) for t, need in zip(saved, needs, strict=False)]
        states = saved[len(needs) :]
        gradients: list[Tensor | None] = [None] * len(needs)
        dx = dx.to(ctx.fed)
        df = torch.zeros_like(dx)  # the gradient of f is 1 - gamma times that of the velocity
        for number, layer in reversed(list(enumerate(ctx.layers))):
            x = x - velocity
            df.mul_(ctx.gamma).add_(dx, alpha=1 - ctx.gamma)
            named = {name: tensors[index] for name, index in ctx.names[number].items()}
            drawn = states[ctx.random[number]] if number in ctx.random else []
            with torch.enable_grad(), _autocast(ctx), _replayed(drawn, x.device), gradients_follow():
                u = _rounded(x, ctx.fed).detach().requires_grad_(number > 0 or needs_x)
                f = torch.func.functional_call(layer, named, (u,))
            velocity = torch.sub(velocity, f.detach(), alpha=1 - ctx.gamma).div_(ctx.gamma)
            indices = sorted({index for index in ctx.names[number].values() if needs[index]})
            wanted = [*([u] if u.requires_grad else []), *(tensors[index] for index in indices)]
            if f.requires_grad and wanted:
                found = list(torch.autograd.grad(f, wanted, df.to(f.dtype), allow_unused=True))
                du = found.pop(0) if u.requires_grad else None
                dx = dx if du is None else dx + du
                for index, gradient in zip(indices, found, strict=True):
                    gradients[index] = _sum(gradients[index], gradient)
        return dx.double() if needs_x else None, *gradients


class _NoSecondDerivative(torch.autograd.Function):
    """Hand gradients on; complain when they are differentiated."""

    @staticmethod
    def forward(ctx: Any, last: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if gradient is None else gradient.clone() for gradient in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "MomentumCapsules has no second derivative: it keeps nothing to differentiate again; "
            "use its forward_plain for double backward"
        )


def _call(number: int, layer: nn.Module, x: Tensor) -> Tensor:
    """f(x); a sum with another shape would be stretched without a word."""
    f: Tensor = layer(x)
    if f.shape != x.shape:
        raise ValueError(
            f"layer {number} ({type(layer).__name__}) makes {list(f.shape)} of {list(x.shape)}; what a shortcut goes "
            "around must give capsules of the shape that it takes"
        )
    return f


def _check_chain(layers: Iterable[nn.Module]) -> None:
    """Where sizes are known they are compared at once, not with the first images."""
    known: tuple[int, int] | None = None
    for number, layer in enumerate(layers):
        if not isinstance(layer, RoutingCapsules):
            continue
        I, J, E, D = layer.weight.shape
        if (I, D) != (J, E) or known not in (None, (I, D)):
            before = f", after layers of {known[0]} capsules of {known[1]}" if known else ""
            raise ValueError(
                f"layer {number} maps {I} capsules of {D} numbers to {J} of {E}{before}; with shortcuts all "
                "capsules must have one shape: put layers that change it before or behind the stack"
            )
        known = (I, D)


def _fed(x: Tensor) -> torch.dtype:
    """What layers are given and the stack returns; x and velocity are float64."""
    autocast = torch.is_autocast_enabled(x.device.type)
    return torch.promote_types(x.dtype, torch.float32) if autocast else x.dtype


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a layer is given of x, the same again when x comes back with another last bit.

    Halfway between two float32 numbers one bit decides. Sums of float32 numbers often lie there, so they are moved off.
    """
    return x if x.dtype == dtype else (x * OFF_THE_TIES).to(dtype)


def _named(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from layer.named_parameters(remove_duplicate=False)
    yield from layer.named_buffers(remove_duplicate=False)


def _autocast(ctx: Any) -> AbstractContextManager[Any]:
    """Autocast as it was on the way there; entering it costs time, also where it is and was off."""
    device = ctx.autocast["device_type"]
    off = not ctx.autocast["enabled"] and not torch.is_autocast_enabled(device)
    return nullcontext() if off else torch.autocast(**ctx.autocast)


def _versions(layer: nn.Module) -> dict[str, tuple[int, int]]:
    """What changes when a buffer is written to or replaced."""
    return {name: (id(buffer), buffer._version) for name, buffer in layer.named_buffers()}


def _check_unchanged(number: int, layer: nn.Module, before: dict[str, tuple[int, int]]) -> None:
    for name, version in _versions(layer).items():
        if before.get(name) != version:
            owner = type(layer.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(
                f"layer {number}: {owner} changes its buffer {name!r} while it computes, and on the way back "
                f"layers are computed again. Call .eval() on the {owner}, or take one without running statistics, such "
                "as LayerNorm"
            )


def _random_states(x: Tensor) -> list[Tensor]:
    """States of the generators that a layer may draw from; shapes without numbers draw nothing."""
    if of_shapes_alone(x):
        return []
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states


def _differ(first: Tensor, second: Tensor) -> bool:
    return not torch.equal(first, second)


@contextmanager
def _replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw what was drawn from these states, and leave the generators as they are."""
    if not states:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second
