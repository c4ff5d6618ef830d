r"""Routing by agreement without stored votes: which backend computes it, and its operators for PyTorch.

With :math:`b_{ij} = \hat u_{j|i} \cdot V_j`, where :math:`V_j` is the sum of the earlier :math:`v_j`, an iteration
needs only V from the previous one. So the votes :math:`\hat u_{j|i} = W_{ij} u_i`, `[B, I, J, E]`, can be
computed a few input capsules at a time, used, and dropped, in the forward pass and in the backward pass.

`route` is the one entry. A backend computes (see `capsnb.kernels.backend`); autograd, autocast, `torch.compile` and the
FLOP counter are served here, once for all backends. The softmax over the output capsules is in `_couplings` of
`fused` and `triton_backend`, in `couplings` of routing.cpp, and in `routing.routing_by_agreement` for "eager".
Taught in chapter 5, *Routing without votes*.
"""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from capsnb.functional import needs_definition, squash
from capsnb.kernels import measured, native
from capsnb.kernels.backend import RoutingBackend, Saved, check_layer, to_compute_dtype, uniform_sum, votes_of
from capsnb.kernels.fused import Fused
from capsnb.routing import routing_by_agreement
from capsnb.values import one_of

Backend = Literal["eager", "fused", "native", "triton", "auto"]
BACKENDS: tuple[str, ...] = get_args(Backend)
Save = Literal["sums", "inputs", "couplings"]
SAVES: tuple[str, ...] = get_args(Save)


def route(
    u: Tensor,
    weight: Tensor,
    iterations: int = 3,
    *,
    backend: Backend = "auto",
    detach: bool = True,
    save: Save = "sums",
) -> Tensor:
    r"""Capsules in, capsules out: :math:`v = \mathrm{routing}(W u)` by agreement, with the votes stored or not.

    Equal to `routing_by_agreement` of the votes, in values and gradients, up to rounding. Half precision, also
    autocast's, is computed in float32: a sum over a thousand input capsules needs more than three digits. Only "eager"
    has second derivatives.

    Args:
        u: input capsules, `[B, I, D]`.
        weight: W, `[I, J, E, D]`.
        iterations: R >= 1.
        backend: "eager", the definition, stores the votes; "fused" computes them in tiles, in plain PyTorch; "native"
            is C++ for a CPU, compiled on first use; "triton" is for GPUs; "auto" takes "eager" for small layers and
            batches, else "native" where it is available, else "fused". On an NVIDIA GPU it takes what was the fastest
            where it was measured (`capsnb.kernels.measured`), and "eager" for at most 16 MiB of votes. Where PyTorch
            exports, traces or transforms (`torch.func`) the call, all of them are "eager".
        detach: let gradients flow through the last iteration only; False lets them flow through all, with "eager".
        save: what is saved for the backward pass beside u and W. "sums": two sums, `[B, J, E]` each. "inputs":
            nothing; the backward pass computes all iterations again. "couplings": the sums and the last couplings,
            `[B, I, J]`, which the backward pass then need not compute again (under `torch.compile` the sums alone; the
            FLOP counter does not see this form). "eager" saves the votes.

    Returns:
        Output capsules, `[B, J, E]`, in the wider dtype of u and W.

    Raises:
        ValueError: shapes that do not fit, an unknown backend or `save`, or `detach=False` with another backend than
            "eager" or "auto".
        RuntimeError: the backend is not available here.

    >>> u, W = torch.randn(2, 6, 8), torch.randn(6, 3, 4, 8)
    >>> votes = torch.einsum("ijed,bid->bije", W, u)
    >>> torch.allclose(route(u, W, backend="fused"), routing_by_agreement(votes), atol=1e-5)
    True
    """
    iterations = check_layer(u, weight, iterations)
    one_of("backend", backend, BACKENDS)
    one_of("save", save, SAVES)
    if not detach and backend not in ("eager", "auto"):
        raise ValueError(f"detach=False needs backend='eager' or 'auto', got {backend!r}")
    output_dtype, (u, weight) = to_compute_dtype(u, weight)
    eager = backend == "eager" or not detach or needs_definition()
    eager = eager or (backend == "auto" and _is_small(u, weight))
    if eager or iterations == 1:
        with torch.autocast(u.device.type, enabled=False):
            if not eager:
                return squash(uniform_sum(u, weight)).to(output_dtype)
            return routing_by_agreement(votes_of(u, weight), iterations, detach=detach).to(output_dtype)
    # The operator below has a fake kernel. The function has none: the layout of its couplings depends on the backend.
    if save == "couplings" and u.numel() and not (torch.compiler.is_compiling() or is_fake(u)):
        return _RouteKeepingCouplings.apply(u, weight, iterations, backend).to(output_dtype)
    return _route(u, weight, iterations, backend, save)[0].to(output_dtype)


def is_fake(x: Tensor) -> bool:
    """Whether a tensor has a shape and no elements, as those of PyTorch's `FakeTensorMode`."""
    # Not imported here, since the module is private: whoever makes fake tensors has loaded it.
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(x, module.FakeTensor)


def _is_small(u: Tensor, weight: Tensor) -> bool:
    """Whether the definition is the fastest: measured, on two cores, for 1 to 128 images and layers of all sizes."""
    if torch.compiler.is_compiling():  # a graph for batches of any size must not depend on this one
        return False
    if gpu := measured.capability(u.device):
        return _fastest(u, weight, gpu, ("eager", *_tiled_on_gpu())) == "eager"
    enough = 16 if native.unavailable(weight.device, weight.shape, weight.dtype) else 4
    return enough > len(u) or len(u) * weight[..., 0].numel() < 2**15


def _fastest(u: Tensor, weight: Tensor, gpu: float, backends: tuple[str, ...]) -> str:
    I, J, E, D = weight.shape
    return measured.fastest((len(u), I, J, E, D), gpu, backends) if u.numel() else "fused"


def _tiled_on_gpu() -> tuple[str, ...]:
    return ("triton", "fused") if find_spec("triton") else ("fused",)


def choose_backend(u: Tensor, weight: Tensor, backend: str) -> RoutingBackend:
    """The backend of this name for these capsules; "auto" is "native" where that is available, else "fused".

    On an NVIDIA GPU "auto" is the one that was faster, "triton" or "fused".

    Raises:
        RuntimeError: the backend is not available here.
    """
    if backend == "auto" and (gpu := measured.capability(u.device)):
        backend = _fastest(u, weight, gpu, _tiled_on_gpu())
    if backend == "triton":
        try:
            from capsnb.kernels.triton_backend import Triton
        except ModuleNotFoundError as error:
            raise RuntimeError("backend='triton' needs Triton, which is not installed; use 'auto'") from error
        return Triton(u, weight)
    if backend == "fused":
        return Fused(u, weight)
    if backend not in ("native", "auto"):
        raise NotImplementedError(f"backend {backend!r} is in `BACKENDS`, but not here")
    reason = native.unavailable(u.device, weight.shape, u.dtype)
    if reason is None:
        return native.Native(u, weight)
    if backend == "native":
        raise RuntimeError(reason)
    return Fused(u, weight)


@torch.library.custom_op("capsnb::route", mutates_args=())
def _route(
    u: Tensor, weight: Tensor, iterations: int, backend: str, save: str
) -> tuple[Tensor, Tensor, Tensor]:
    """All iterations: the output capsules v, and the two sums of `Saved`, s and V."""
    if not u.numel():
        return _like_outputs(u, weight)
    with torch.autocast(u.device.type, enabled=False):
        v, saved = choose_backend(u, weight, backend).forward(iterations)
    return v, saved.s, saved.V


@_route.register_fake
def _like_outputs(u: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Three zeros of the shape of the output capsules, `[B, J, E]`."""
    # Not len(u), which is a Python number: a program would be compiled anew for each size.
    shape = u.shape[0], *weight.shape[1:3]
    return u.new_zeros(shape), u.new_zeros(shape), u.new_zeros(shape)


@torch.library.custom_op("capsnb::route_backward", mutates_args=())
def _route_backward(
    u: Tensor,
    weight: Tensor,
    dv: Tensor,
    s: Tensor | None,
    V: Tensor | None,
    iterations: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of u and W, from the saved sums, or from the inputs alone where no sums were saved."""
    if not u.numel():
        return _like_inputs(u, weight)
    with torch.autocast(u.device.type, enabled=False):
        chosen = choose_backend(u, weight, backend)
        if s is not None and V is not None:
            return chosen.backward(Saved(s, V), dv)
        return chosen.backward(chosen.forward(iterations, keep_couplings=True)[1], dv)


@_route_backward.register_fake
def _like_inputs(u: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Zeros of the shapes of u and W."""
    return u.new_zeros(u.shape), weight.new_zeros(weight.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, weight, ctx.iterations, ctx.backend, save = inputs
    _, s, V = output
    ctx.save_for_backward(u, weight, *((None, None) if save == "inputs" else (s, V)))


def _differentiate(ctx: Any, dv: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    u, weight, s, V = ctx.saved_tensors
    return *_route_backward(u, weight, dv, s, V, ctx.iterations, ctx.backend), None, None, None


def _refuse_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "routing without votes has no second derivative; make the layers with backend='eager' for double backward"
    )


_route.register_autograd(_differentiate, setup_context=_save_for_backward)
_route_backward.register_autograd(_refuse_second_derivative)


class _RouteKeepingCouplings(torch.autograd.Function):
    """`_route` with save="couplings"."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, iterations: int, backend: str) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            v, saved = choose_backend(u, weight, backend).forward(iterations, keep_couplings=True)
        ctx.backend = backend
        ctx.save_for_backward(u, weight, *saved)
        return v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor | None, ...]:
        u, weight, *saved = ctx.saved_tensors
        with torch.autocast(u.device.type, enabled=False):
            return *choose_backend(u, weight, ctx.backend).backward(Saved(*saved), dv), None, None


@register_flop_formula(torch.ops.capsnb.route)
def _route_flops(u: Any, weight: Any, iterations: int, *_: Any, **__: Any) -> int:
    """Votes in every iteration, agreement and weighted sum in all but the first; a multiply-add counts as two."""
    J, E, D = weight[1:]
    return 2 * math.prod(u[:2]) * J * E * (iterations * D + 2 * (iterations - 1))


@register_flop_formula(torch.ops.capsnb.route_backward)
def _route_backward_flops(
    u: Any, weight: Any, _: Any, s: Any, __: Any, iterations: int, *___: Any, **____: Any
) -> int:
    """The votes and their agreement, or all iterations where no sums were saved; and the two gradients."""
    J, E, D = weight[1:]
    votes = 2 * math.prod(u[:2]) * J * E
    return 2 * votes * D + (_route_flops(u, weight, iterations) if s is None else votes * (D + 1))
