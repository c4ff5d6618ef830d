r"""Stacks of capsule layers with shortcuts: residual ones, and reversible ones with momentum.

Residual capsules add the output of a layer to its input. Momentum capsules let each layer update one shared velocity,
which can be inverted: the last capsules and the last velocity determine all earlier ones, so that none of them needs to
be stored for the backward pass.

`momentum_step` is a layer of algorithm 1, `momentum_inverse` one of algorithm 2, and `_Reversible` runs them for
autograd. What it takes to run a layer twice in the same way is in `capsnb.recomputation`. Residual capsules are taught
in chapter 7, *Shortcuts: residual capsules*; momentum capsules in chapters 9, 10 and 11.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Self, overload

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from capsnb.functional import needs_definition, transformed
from capsnb.kernels import is_fake
from capsnb.layers import RoutingCapsules
from capsnb.recomputation import Recomputed, Recorder, call_layer, compute_dtype
from capsnb.values import finite_number, plain

MAX_LOST_DIGITS = 6  # of float64's 16; float32 needs seven of the ten that remain
MAX_RESIDUE = 1e-3  # of the velocity before the first layer, which is zero, over that after the last


def momentum_step(
    x: Tensor, velocity: Tensor, f: Callable[[Tensor], Tensor], gamma: float
) -> tuple[Tensor, Tensor]:
    r"""One layer of algorithm 1.

    .. math:: v_{n+1} = \gamma v_n + (1 - \gamma) f(x_n, \theta_n), \qquad x_{n+1} = x_n + v_{n+1}
       \qquad \text{(Gugglberger et al. 2022, eqs. 3 and 4)}

    Args:
        x: capsules before the layer, `[B, J, E]`.
        velocity: before the layer, `[B, J, E]`.
        f: the layer.
        gamma: share of the velocity that the layer keeps, in (0, 1].

    Returns:
        Capsules and velocity after the layer.
    """
    velocity = (gamma * velocity).add_(f(x), alpha=1 - gamma)
    x = x + velocity
    return x, velocity


def momentum_inverse(
    x: Tensor, velocity: Tensor, f: Callable[[Tensor], Tensor], gamma: float
) -> tuple[Tensor, Tensor]:
    r"""The same layer inverted, algorithm 2.

    .. math:: x_n = x_{n+1} - v_{n+1}, \qquad v_n = \frac{1}{\gamma} \big(v_{n+1} - (1 - \gamma) f(x_n, \theta_n)\big)
       \qquad \text{(eqs. 5 and 6)}

    Args:
        x: capsules after the layer, `[B, J, E]`.
        velocity: after the layer, `[B, J, E]`.
        f: the same layer.
        gamma: as in `momentum_step`.

    Returns:
        Capsules and velocity before the layer.
    """
    x = x - velocity
    velocity = torch.sub(velocity, f(x), alpha=1 - gamma).div_(gamma)
    return x, velocity


class _Reversible(torch.autograd.Function):
    r"""Algorithms 1 and 2 for autograd. Every tensor of the layers is an input, so that its gradient is returned.

    With :math:`J_n` the Jacobian of :math:`f(x_n, \theta_n)`, the gradients run backwards through the same recurrence:

    .. math:: df_n = \gamma\, df_{n+1} + (1 - \gamma)\, dx_{n+1}, \qquad dx_n = dx_{n+1} + J_n^T df_n
       \qquad \text{(chapter 11)}
    """

    @staticmethod
    def forward(ctx: Any, layers: Recorder, gamma: float, x: Tensor, *tensors: Tensor) -> Tensor:
        velocity = torch.zeros_like(x)
        for n in range(len(layers)):
            x, velocity = momentum_step(x, velocity, layers.record(n), gamma)
        ctx.layers, ctx.gamma = layers, gamma
        ctx.save_for_backward(x, velocity, *tensors)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        x, velocity, *tensors = ctx.saved_tensors
        layers, gamma = ctx.layers, ctx.gamma
        last = x if torch.is_grad_enabled() else None
        # Whether the way back ended where it should is not asked on a GPU, for which the host would have to wait.
        near = velocity.device.type == "cpu" and not is_fake(velocity)
        speed = velocity.abs().max() if near and velocity.numel() else 0
        ctx.maybe_clear_saved_tensors()  # without retain_graph, x and velocity are freed as the loop replaces them
        needs_x, *needs = ctx.needs_input_grad[2:]
        # Detached copies: hooks of the parameters run once, on the gradients that are returned.
        leaves = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
        gradients: list[Tensor | None] = [None] * len(leaves)
        dx = dx.to(layers.dtype)
        df = torch.zeros_like(dx)  # gradient of f(x_n), which is 1 - gamma times that of v_{n+1}
        with torch.no_grad():
            for n in reversed(range(len(layers))):
                layer = Recomputed(layers, n, leaves, needs_x=n > 0 or needs_x)
                x, velocity = momentum_inverse(x, velocity, layer, gamma)
                df.mul_(gamma).add_(dx, alpha=1 - gamma)
                if (through_layer := layer.vjp(df, gradients)) is not None:
                    dx = dx + through_layer
            if near and (velocity.abs() > MAX_RESIDUE * speed).any():
                _warn_of_residue()
        layers.warn_of_unused(gradients, needs)
        returned = dx.double() if needs_x else None, *gradients
        if last is not None:  # create_graph=True: a second derivative must raise an error
            returned = _NoSecondDerivative.apply(last, *returned)
        return None, None, *returned


class _NoSecondDerivative(torch.autograd.Function):
    """Return gradients unchanged; raise an error when they are differentiated."""

    @staticmethod
    def forward(ctx: Any, last: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if gradient is None else gradient.clone() for gradient in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "MomentumCapsules has no second derivative, since it stores no intermediate tensors; "
            "use its forward_plain for double backward"
        )


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
        ValueError: a layer that returns capsules of another shape than it takes.

    >>> ResidualCapsules(RoutingCapsules(6, 4, 6, 4) for _ in range(3))(torch.randn(2, 6, 4)).shape
    torch.Size([2, 6, 4])
    """

    def __init__(self, layers: Iterable[nn.Module] = ()) -> None:
        super().__init__(layers)
        _check_chain(self)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of each layer to its input, `[B, J, E]`."""
        for n, layer in enumerate(self):
            x = x + call_layer(n, layer, x)
        return x


class MomentumCapsules(nn.ModuleList):
    r"""Capsule layers that update one shared velocity and store only the last capsules and the last velocity.

    .. math:: v_{n+1} = \gamma v_n + (1 - \gamma) f(x_n, \theta_n), \qquad x_{n+1} = x_n + v_{n+1}, \qquad v_0 = 0
       \qquad \text{(Gugglberger et al. 2022, eqs. 3 and 4, algorithm 1)}

    The backward pass inverts the layers one by one (`momentum_inverse`, algorithm 2) and computes each again for its
    gradients. One velocity runs through all layers, and there is no other shortcut than x + v. `forward_plain` is the
    definition: the same numbers, and the same gradients up to rounding, with all intermediate tensors stored.

    Each division by gamma multiplies the rounding errors of x and velocity, and layers that amplify small differences
    multiply them further: in float32, the gradients of forty layers at 0.9 are wrong. So x and velocity are float64,
    which costs two small tensors. Rounded to the dtype of the layers, x is then recovered to the last bit of float32,
    and so is f(x). n layers cost :math:`-n \log_{10} \gamma` decimal digits; six may be lost, which allows 131 layers
    at 0.9, and 19 at 0.5. Layers that amplify differences may lose more: the backward pass warns where it shows.

    The backward pass draws the random numbers of the forward pass (dropout) again. Layers are computed twice in a step,
    so they must not change themselves: batch normalisation in training mode is refused. The forward pass records
    nothing: a tensor that a layer keeps aside, for a further loss, has no gradient. `torch.compile` leaves this stack
    as it is, and compiles what is around it.

    Args:
        layers: modules that map `[B, J, E]` to `[B, J, E]`; a module that occurs twice shares its weights.
        gamma: momentum, the share of the velocity that a layer keeps, in (0, 1]. At 1 no layer has an effect.

    Shape:
        `[B, J, E]` -> `[B, J, E]`, in the dtype of the input; under autocast at least float32.

    Raises:
        ValueError: gamma outside its range, or so small for so many layers that too few digits would remain; a layer
            that returns capsules of another shape than it takes, or that changes its buffers.
        RuntimeError: a second derivative is asked for; `forward_plain` has one.

    >>> stack = MomentumCapsules([RoutingCapsules(6, 4, 6, 4) for _ in range(3)])
    >>> x = torch.randn(2, 6, 4)
    >>> torch.equal(stack(x), stack.forward_plain(x))
    True
    """

    def __init__(self, layers: Iterable[nn.Module] = (), gamma: float = 0.9) -> None:
        super().__init__(layers)
        if isinstance(plain(gamma), int | float) and gamma == 0:
            raise ValueError(
                "gamma must be in (0, 1], got 0: a velocity would not depend on the one before it, which could not be "
                "recovered then. Use ResidualCapsules, which is this network without momentum"
            )
        self.gamma = finite_number("gamma", gamma, above=0, at_most=1)
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
        differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *self.parameters()))
        if getattr(self, "_is_replica", False):
            _warn_stored(
                "nn.DataParallel gives replicas weights that are no parameters", "DistributedDataParallel"
            )
        elif transformed():
            _warn_stored(
                "torch.func and forward mode do not differentiate through what is recomputed",
                "loss.backward()",
            )
        elif getattr(parametrize, "_cache_enabled", 0):
            _warn_stored("parametrize.cached keeps weights without their gradient", "leaving its context")
        elif differentiated and len(self) and not needs_definition():
            return self._forward_reversible(x)
        return self.forward_plain(x)

    @torch.compiler.disable  # a compiler would have to trace into the backward pass, where layers are differentiated
    def _forward_reversible(self, x: Tensor) -> Tensor:
        self._check_digits()  # again: layers can be appended
        layers = Recorder(list(self), compute_dtype(x), x.device)
        return _Reversible.apply(layers, self.gamma, x.double(), *layers.tensors).to(layers.dtype)

    def forward_plain(self, x: Tensor) -> Tensor:
        """The definition: the same recurrence, whose intermediate tensors autograd stores.

        Args:
            x: capsules, `[B, J, E]`.

        Returns:
            Capsules, `[B, J, E]`.
        """
        dtype, x = compute_dtype(x), x.double()
        velocity = torch.zeros_like(x)
        for n, layer in enumerate(self):
            f = partial(call_layer, n, layer, dtype=dtype)
            x, velocity = momentum_step(x, velocity, f, self.gamma)
        return x.to(dtype)

    __repr__ = nn.Module.__repr__  # a list's would leave gamma out

    def extra_repr(self) -> str:
        """Return gamma, for `print(model)`."""
        return f"gamma={self.gamma}"

    def _check_digits(self) -> None:
        """Refuse a stack whose inversion, which multiplies rounding errors by gamma**-n, would lose too many digits."""
        lost = -len(self) * math.log10(self.gamma)
        if lost <= MAX_LOST_DIGITS:
            return
        deepest = math.floor(MAX_LOST_DIGITS / -math.log10(self.gamma))
        smallest = math.ceil(1000 * 10 ** (-MAX_LOST_DIGITS / len(self))) / 1000
        raise ValueError(
            f"inverting {len(self)} layers with gamma={self.gamma} costs {lost:.1f} of the 16 digits that float64 has, "
            f"and {MAX_LOST_DIGITS} may be lost: use gamma={smallest} or more, or at most {deepest} layers"
        )


def _warn_stored(reason: str, instead: str) -> None:
    warnings.warn(
        f"MomentumCapsules stores its intermediate tensors here, as forward_plain does: {reason}. Results are the "
        f"same, memory is not saved; {instead} would save it",
        stacklevel=4,
    )


def _warn_of_residue() -> None:
    """Warn of wrong gradients; the velocity that is left before the first layer measures by how much they are."""
    warnings.warn(
        f"MomentumCapsules could not invert its layers: more than {MAX_RESIDUE:g} of the velocity is left before the "
        "first one, where it was zero, and gradients are about as wrong. Either a layer computes something else when "
        "it is computed again (it changes, or draws random numbers from elsewhere than PyTorch's generator), or too "
        "many layers amplify small differences: use forward_plain, a gamma nearer to 1, or fewer layers",
        stacklevel=2,
    )


def _check_chain(layers: Iterable[nn.Module]) -> None:
    """Compare the sizes of capsule layers when the stack is made, not with the first images."""
    known: tuple[int, int] | None = None
    for n, layer in enumerate(layers):
        if not isinstance(layer, RoutingCapsules):
            continue
        I, J, E, D = layer.weight.shape
        if (I, D) != (J, E) or known not in (None, (I, D)):
            before = f", after layers of {known[0]} capsules of {known[1]}" if known else ""
            raise ValueError(
                f"layer {n} maps {I} capsules of {D} numbers to {J} of {E}{before}; with shortcuts all "
                "capsules must have one shape: put layers that change it before or behind the stack"
            )
        known = (I, D)
