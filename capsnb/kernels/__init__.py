r"""Routing by agreement without stored votes: operators for PyTorch, and who computes them. Taught in chapter 5.

With :math:`b_{ij} = \hat u_{j|i} \cdot V_j`, where :math:`V_j` is the sum of the earlier :math:`v_j`, an iteration
needs nothing from the one before it but V. So the votes :math:`\hat u_{j|i} = W_{ij} u_i`, `[B, I, J, E]`, can be
computed a few input capsules at a time, used, and forgotten, forward and backward.

Scaled-distance and EM routing have their own module, `capsnb.kernels.tiles`.

A backend is a class of `Passes` over the input capsules. What stands around them, autograd, autocast and torch.compile,
is here, once for all.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from capsnb.functional import squash, squash_gradient
from capsnb.kernels import native
from capsnb.kernels.fused import Fused
from capsnb.kernels.passes import Passes, demand_layer
from capsnb.routing import routing_by_agreement

Backend = Literal["eager", "fused", "native", "triton", "auto"]
BACKENDS: tuple[str, ...] = get_args(Backend)


def route(
    u: Tensor, weight: Tensor, iterations: int = 3, *, backend: Backend = "auto", detach: bool = True
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
    demand_layer(u, weight, iterations)
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
    return _route(u, weight, iterations, backend)[0].to(given)


def _small(B: int, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the definition is the fastest: measured, on two cores, for 1 to 128 images and layers of all sizes."""
    if torch.compiler.is_compiling():  # a graph for batches of any size must not depend on this one
        return False
    enough = 16 if native.missing(weight.device, weight.shape, dtype) else 4
    return enough > B or B * weight[..., 0].numel() < 2**15


def uniform_sum(u: Tensor, weight: Tensor) -> Tensor:
    r"""The first iteration, its couplings all 1/J: :math:`s_j = \frac1J \sum_i W_{ij} u_i`, one matrix product.

    It is added up in four parts: in float32, one long sum would cost more digits than the definition's sums of sums.
    """
    J, E = weight.shape[1:3]
    matrix = weight.permute(0, 3, 1, 2).reshape(-1, J * E)  # [I*D, J*E]
    parts = zip(u.flatten(1).chunk(4, dim=1), matrix.chunk(4), strict=True)
    s = torch.stack([some_u @ some_rows for some_u, some_rows in parts]).sum(0)
    return (s / J).unflatten(1, (J, E))


def passes(u: Tensor, weight: Tensor, backend: str) -> Passes:
    """The backend that computes a layer without stored votes; "auto" is what this device has."""
    if backend == "triton":
        from capsnb.kernels.triton import Triton

        return Triton(u, weight)
    reason = native.missing(u.device, weight.shape, u.dtype)
    if backend in ("auto", "native") and reason is None:
        return native.Native(u, weight)
    if backend == "native":
        raise RuntimeError(reason)
    return Fused(u, weight)


@torch.library.custom_op("capsnb::route", mutates_args=())
def _route(u: Tensor, weight: Tensor, iterations: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """All iterations: v; for the way back also the last weighted sum s, and V, the sum of the outputs before it."""
    with torch.autocast(u.device.type, enabled=False):
        s = uniform_sum(u, weight)
        s, V = passes(u, weight, backend).iterate(s, iterations) if u.numel() else (s, torch.zeros_like(s))
    return squash(s), s, V


@_route.register_fake
def _(u: Tensor, weight: Tensor, iterations: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(u), *weight.shape[1:3]
    return u.new_empty(shape), u.new_empty(shape), u.new_empty(shape)


@torch.library.custom_op("capsnb::routing_gradients", mutates_args=())
def _gradients(u: Tensor, weight: Tensor, V: Tensor, ds: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Gradients of u and W, with the couplings that belong to V as constants."""
    if not u.numel():
        return torch.zeros_like(u), torch.zeros_like(weight)
    with torch.autocast(u.device.type, enabled=False):
        return passes(u, weight, backend).gradients(V, ds)


@_gradients.register_fake
def _(u: Tensor, weight: Tensor, V: Tensor, ds: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), weight.new_empty(weight.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, weight, _, ctx.backend = inputs
    ctx.save_for_backward(u, weight, *output[1:])


def _back(ctx: Any, dv: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
    u, weight, s, V = ctx.saved_tensors
    return *_gradients(u, weight, V, squash_gradient(s, dv), ctx.backend), None, None


def _no_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "routing without votes has no second derivative; make the layers with backend='eager' for double backward"
    )


_route.register_autograd(_back, setup_context=_remember)
_gradients.register_autograd(_no_second_derivative)


@register_flop_formula(torch.ops.capsnb.route)
def _(u: Any, weight: Any, iterations: int, *_: Any, **__: Any) -> int:
    """Votes in every iteration, agreement and weighted sum in all but the first; a multiply-add counts as two."""
    J, E, D = weight[1:]
    return 2 * math.prod(u[:2]) * J * E * (iterations * D + 2 * (iterations - 1))


@register_flop_formula(torch.ops.capsnb.routing_gradients)
def _(u: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Votes once more, their agreement, and the two gradients."""
    J, E, D = weight[1:]
    return 2 * math.prod(u[:2]) * J * E * (3 * D + 1)
