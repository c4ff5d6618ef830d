r"""Routing by agreement without stored votes: operators for PyTorch, and who computes them. Taught in chapter 5.

With :math:`b_{ij} = \hat u_{j|i} \cdot V_j`, where :math:`V_j` is the sum of the earlier :math:`v_j`, an iteration
needs nothing from the one before it but V. So the votes :math:`\hat u_{j|i} = W_{ij} u_i`, `[B, I, J, E]`, can be
computed a few input capsules at a time, used, and forgotten, forward and backward.

Scaled-distance and EM routing have their own module, `capsnb.kernels.sda_em`.

A backend is a class of `Passes` over the input capsules. What stands around them, autograd, autocast and torch.compile,
is here, once for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from capsnb.functional import squash
from capsnb.kernels import native
from capsnb.kernels.backend import Passes, Sums, check_layer, uniform_sum
from capsnb.kernels.fused import Fused
from capsnb.routing import routing_by_agreement

Backend = Literal["eager", "fused", "native", "triton", "auto"]
BACKENDS: tuple[str, ...] = get_args(Backend)
_following = ContextVar("capsnb_gradients_follow", default=False)


def route(
    u: Tensor,
    weight: Tensor,
    iterations: int = 3,
    *,
    backend: Backend = "auto",
    detach: bool = True,
    recompute: bool = False,
) -> Tensor:
    r"""Capsules in, capsules out: :math:`v = \mathrm{routing}(W u)` by agreement, with the votes stored or not.

    Equal to `routing_by_agreement` of the votes, in values and gradients, up to rounding. Half precision, also
    autocast's, is computed in float32: a sum over a thousand input capsules needs more than three digits. The first
    derivative alone is there, except with "eager".

    Args:
        u: input capsules, `[B, I, D]`.
        weight: W, `[I, J, E, D]`.
        iterations: R >= 1.
        backend: "eager", the definition, stores the votes; "fused" tiles them in plain PyTorch; "native" is C++ for a
            CPU, compiled on first use; "triton" is for GPUs; "auto" takes "eager" for small layers
            and batches, else "native" where it can, else "fused".
        detach: let gradients flow through the last iteration only; False goes through all of them, with "eager".
        recompute: keep u alone for the way back, not the two sums `[B, J, E]` beside it, and compute all iterations
            again; "eager" keeps what it keeps.

    Returns:
        Output capsules, `[B, J, E]`, in the wider type of u and W.

    Raises:
        ValueError: shapes that do not fit, an unknown backend, or `detach=False` with a backend that cannot.
        RuntimeError: the backend cannot run here.

    >>> u, W = torch.randn(2, 6, 8), torch.randn(6, 3, 4, 8)
    >>> votes = torch.einsum("ijed,bid->bije", W, u)
    >>> torch.allclose(route(u, W, backend="fused"), routing_by_agreement(votes), atol=1e-5)
    True
    """
    check_layer(u, weight, iterations)
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if not detach and backend not in ("eager", "auto"):
        raise ValueError(f"detach=False needs backend='eager' or 'auto', got {backend!r}")
    given = torch.promote_types(u.dtype, weight.dtype)
    wide = torch.promote_types(given, torch.float32)
    u, weight = u.to(wide), weight.to(wide)
    if backend == "eager" or not detach or (backend == "auto" and _small(len(u), weight, wide)):
        with torch.autocast(u.device.type, enabled=False):
            votes = torch.einsum("ijed,bid->bije", weight, u)
            return routing_by_agreement(votes, iterations, detach=detach).to(given)
    if iterations == 1:
        with torch.autocast(u.device.type, enabled=False):
            return squash(uniform_sum(u, weight)).to(given)
    if _following.get() and u.numel() and not of_shapes_alone(u):  # the operator knows its shapes
        return _Followed.apply(u, weight, iterations, backend).to(given)
    return _route(u, weight, iterations, backend, recompute)[0].to(given)


def of_shapes_alone(x: Tensor) -> bool:
    """Whether a tensor has a shape and no numbers, as in `capsnb.memory`: what would look at them is left out."""
    return isinstance(x, FakeTensor)


def _small(B: int, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the definition is the fastest: measured, on two cores, for 1 to 128 images and layers of all sizes."""
    if torch.compiler.is_compiling():  # a graph for batches of any size must not depend on this one
        return False
    enough = 16 if native.missing(weight.device, weight.shape, dtype) else 4
    return enough > B or B * weight[..., 0].numel() < 2**15


def passes(u: Tensor, weight: Tensor, backend: str) -> Passes:
    """The backend that computes a layer without stored votes; "auto" is what this device has."""
    if backend == "triton":
        from capsnb.kernels.triton_backend import Triton

        return Triton(u, weight)
    reason = native.missing(u.device, weight.shape, u.dtype)
    if backend in ("auto", "native") and reason is None:
        return native.Native(u, weight)
    if backend == "native":
        raise RuntimeError(reason)
    return Fused(u, weight)


@torch.library.custom_op("capsnb::route", mutates_args=())
def _route(
    u: Tensor, weight: Tensor, iterations: int, backend: str, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All iterations: v; for the way back also the last weighted sum s, and V, the sum of the outputs before it."""
    if not u.numel():
        shape = len(u), *weight.shape[1:3]
        return u.new_zeros(shape), u.new_zeros(shape), u.new_zeros(shape)
    with torch.autocast(u.device.type, enabled=False):
        v, sums = passes(u, weight, backend).iterate(iterations)
    return v, sums.s, sums.V


@_route.register_fake
def _(
    u: Tensor, weight: Tensor, iterations: int, backend: str, recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(u), *weight.shape[1:3]
    return u.new_empty(shape), u.new_empty(shape), u.new_empty(shape)


@torch.library.custom_op("capsnb::routing_gradients", mutates_args=())
def _gradients(
    u: Tensor, weight: Tensor, s: Tensor, V: Tensor, dv: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of u and W, with the couplings that belong to V as constants."""
    if not u.numel():
        return torch.zeros_like(u), torch.zeros_like(weight)
    with torch.autocast(u.device.type, enabled=False):
        return passes(u, weight, backend).gradients(Sums(s, V), dv)


@_gradients.register_fake
def _(u: Tensor, weight: Tensor, s: Tensor, V: Tensor, dv: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), weight.new_empty(weight.shape)


@torch.library.custom_op("capsnb::routing_gradients_from_inputs", mutates_args=())
def _gradients_from_inputs(
    u: Tensor, weight: Tensor, dv: Tensor, iterations: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of u and W where nothing else was kept: all iterations once more."""
    if not u.numel():
        return torch.zeros_like(u), torch.zeros_like(weight)
    with torch.autocast(u.device.type, enabled=False):
        again = passes(u, weight, backend)
        return again.gradients(again.iterate(iterations, keep=True)[1], dv)


@_gradients_from_inputs.register_fake
def _(u: Tensor, weight: Tensor, dv: Tensor, iterations: int, backend: str) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), weight.new_empty(weight.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, weight, ctx.iterations, ctx.backend, recompute = inputs
    ctx.save_for_backward(u, weight, *([] if recompute else output[1:]))


def _back(ctx: Any, dv: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    u, weight, *kept = ctx.saved_tensors
    if kept:
        gradients = _gradients(u, weight, *kept, dv, ctx.backend)
    else:
        gradients = _gradients_from_inputs(u, weight, dv, ctx.iterations, ctx.backend)
    return *gradients, None, None, None


def _no_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "routing without votes has no second derivative; make the layers with backend='eager' for double backward"
    )


_route.register_autograd(_back, setup_context=_remember)
_gradients.register_autograd(_no_second_derivative)
_gradients_from_inputs.register_autograd(_no_second_derivative)


@contextmanager
def gradients_follow() -> Iterator[None]:
    """Routing within that is differentiated at once: what is found on the way there need not be found again.

    The last couplings are held, `[B, I, J]`, until the way back has used them.
    """
    token = _following.set(True)
    try:
        yield
    finally:
        _following.reset(token)


class _Followed(torch.autograd.Function):
    """`_route` and its gradients as one piece of work."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, iterations: int, backend: str) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            ctx.passes = passes(u, weight, backend)
            v, ctx.sums = ctx.passes.iterate(iterations, keep=True)
        return v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(dv.device.type, enabled=False):
            return *ctx.passes.gradients(ctx.sums, dv), None, None


@register_flop_formula(torch.ops.capsnb.route)
def _route_flops(u: Any, weight: Any, iterations: int, *_: Any, **__: Any) -> int:
    """Votes in every iteration, agreement and weighted sum in all but the first; a multiply-add counts as two."""
    J, E, D = weight[1:]
    return 2 * math.prod(u[:2]) * J * E * (iterations * D + 2 * (iterations - 1))


@register_flop_formula(torch.ops.capsnb.routing_gradients)
def _(u: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Votes once more, their agreement, and the two gradients."""
    J, E, D = weight[1:]
    return 2 * math.prod(u[:2]) * J * E * (3 * D + 1)


@register_flop_formula(torch.ops.capsnb.routing_gradients_from_inputs)
def _(u: Any, weight: Any, _: Any, iterations: int, *__: Any, **___: Any) -> int:
    """All iterations once more, and the two gradients."""
    J, E, D = weight[1:]
    return _route_flops(u, weight, iterations) + 2 * math.prod(u[:2]) * J * E * 2 * D
