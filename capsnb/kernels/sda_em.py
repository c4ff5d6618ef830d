r"""Scaled-distance and EM routing without stored votes, in plain PyTorch. Taught in chapter 8, *Other ways to agree*.

Their couplings are functions of the votes and of small tensors: v and the mean distance, or :math:`\mu`,
:math:`\sigma` and a. So votes are computed a few input capsules at a time and dropped, as in chapter 5. The backward
pass computes the terms of a tile again (`torch.utils.checkpoint`) and differentiates them, the couplings included: an
iteration passes only B * J * E numbers to the next, so the full gradient needs no stored votes either.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from capsnb import routing
from capsnb.functional import added, needs_definition, squash
from capsnb.kernels.backend import check_layer, to_compute_dtype, votes_of
from capsnb.kernels.fused import TILE_BYTES
from capsnb.values import finite_number

TILED_BACKENDS = ("eager", "fused", "auto")
# "auto" stores votes of so many tiles: recomputing them would take 1.5 to 2 times as long.
MAX_STORED_TILES = 8


def route_by_distance(
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    iterations: int = 3,
    *,
    backend: str = "auto",
    detach: bool = False,
) -> Tensor:
    """Capsules in, capsules out: `scaled_distance_routing` of the votes W u, with the votes stored or not.

    Half precision, also autocast's, is computed in float32.

    Args:
        u: input capsules, `[B, I, D]`.
        weight: W, `[I, J, E, D]`.
        bias: added to the weighted sums, `[J, E]`.
        iterations: R >= 1.
        backend: "eager" is the definition; "fused" computes votes tile by tile; "auto" takes "eager", which is faster,
            for votes of a few tiles (16 MB on a CPU) and under `torch.compile`, else "fused".
        detach: let gradients flow through the last iteration only, instead of through all of them.

    Returns:
        Output capsules, `[B, J, E]`, in the wider dtype of u and W.

    Raises:
        ValueError: shapes that do not fit, or a backend that does not have this routing.

    >>> u, W, bias = torch.randn(2, 6, 8), torch.randn(6, 3, 4, 8), torch.randn(3, 4)
    >>> votes = torch.einsum("ijed,bid->bije", W, u)
    >>> v = route_by_distance(u, W, bias, backend="fused")
    >>> torch.allclose(v, routing.scaled_distance_routing(votes, u, bias=bias), atol=1e-5)
    True
    """
    iterations = check_layer(u, weight, iterations)
    eager = _stores_votes(u, weight, backend)
    output_dtype, (u, weight, bias) = to_compute_dtype(u, weight, bias)
    with torch.autocast(u.device.type, enabled=False):
        if eager:
            v = routing.scaled_distance_routing(votes_of(u, weight), u, iterations, bias=bias, detach=detach)
        else:
            v = _sda_in_tiles(u, weight, bias, iterations, detach)
    return v.to(output_dtype)


def route_by_em(
    u: Tensor,
    weight: Tensor,
    beta_use: Tensor,
    beta_activation: Tensor,
    iterations: int = 3,
    *,
    inverse_temperature: float = routing.INVERSE_TEMPERATURE,
    backend: str = "auto",
    detach: bool = False,
) -> Tensor:
    r"""Capsules in, capsules out: `em_routing` of the votes W u, between capsules that are vectors.

    .. math:: a_i = |u_i|, \qquad v_j = a_j \, \frac{\mu_j}{|\mu_j|}

    This is our adaptation: an input capsule's activation is its length and its pose the vector itself, and an output
    capsule points where its mean points and is as long as it is active, so that every model and loss can use it. The
    matrix capsules of the paper keep an activation beside a 4x4 pose, and transform the pose by a 4x4 matrix: 16
    weights for each pair of capsules, where W has D * E.

    Args:
        u: input capsules, `[B, I, D]`; where shortcuts make them longer than 1 they count for more than one.
        weight: W, `[I, J, E, D]`.
        beta_use: `[J]`, see `em_routing`.
        beta_activation: `[J]`, see `em_routing`.
        iterations: R >= 1.
        inverse_temperature: see `em_routing`.
        backend: as in `route_by_distance`.
        detach: let gradients flow through the last M-step only, instead of through all iterations.

    Returns:
        Output capsules, `[B, J, E]`, in the wider dtype of u and W.

    Raises:
        ValueError: shapes that do not fit, or a backend that does not have this routing.

    >>> _ = torch.manual_seed(0)  # a length within rounding of 1 may be 1
    >>> v = route_by_em(torch.randn(2, 6, 8), torch.randn(6, 3, 4, 8), torch.zeros(3), torch.zeros(3))
    >>> v.shape, bool((v.norm(dim=-1) < 1).all())
    (torch.Size([2, 3, 4]), True)
    """
    iterations = check_layer(u, weight, iterations)
    inverse_temperature = finite_number("inverse_temperature", inverse_temperature, above=0)
    eager = _stores_votes(u, weight, backend)
    output_dtype, (u, weight, *betas) = to_compute_dtype(u, weight, beta_use, beta_activation)
    options: dict[str, Any] = {"inverse_temperature": inverse_temperature, "detach": detach}
    options |= {"beta_use": betas[0], "beta_activation": betas[1]}
    with torch.autocast(u.device.type, enabled=False):
        if eager:
            mean, a = routing.em_routing(votes_of(u, weight), _lengths(u), iterations, **options)
        else:
            mean, a = _em_in_tiles(u, weight, iterations, **options)
        return (a[..., None] * mean / _lengths(mean)[..., None]).to(output_dtype)


def sum_over_tiles(
    function: Callable[..., tuple[Tensor, ...]], u: Tensor, weight: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    """Sum a function over tiles of input capsules, `[B, T, D]`, and of their weights, `[T, J, E, D]`.

    Only the function's arguments are saved for the backward pass, which calls it again, one tile after the other.

    Args:
        function: takes capsules, weights and the others, and returns tensors that do not have an axis I.
        u: capsules, `[B, I, D]`.
        weight: W, `[I, J, E, D]`.
        others: further arguments, the same for all tiles.

    Returns:
        The sums.
    """
    if torch.is_grad_enabled():
        function = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    size = max(1, _tile_bytes(u) * len(weight) // max(1, _votes_bytes(u, weight)))
    # `split`, not slices: the gradient of a slice is as large as the whole.
    tiles = zip(u.split(size, dim=1), weight.split(size), strict=True)
    return reduce(_added, (function(*tile, *others) for tile in tiles))


def _added(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x + y for x, y in zip(first, second, strict=True))


def _sda_in_tiles(u: Tensor, weight: Tensor, bias: Tensor, iterations: int, detach: bool) -> Tensor:
    I, J, E, _ = weight.shape
    v, t = u.new_zeros(len(u), J, E), u.new_zeros(len(u))  # with a scale of 0, couplings are uniform
    weighted_sum = partial(_weighted_sum, detach)
    for _ in range(iterations - 1):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            v = squash(sum_over_tiles(weighted_sum, u, weight, v, t)[0] + bias)
            t = routing.distance_scale(sum_over_tiles(_distance_sum, u, weight, v)[0] / (I * J), J)
    return squash(sum_over_tiles(weighted_sum, u, weight, v, t)[0] + bias)


def _weighted_sum(detach: bool, u: Tensor, weight: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """s, `[B, J, E]`, with the couplings that v and t give."""
    votes = routing.clip_votes(votes_of(u, weight), u)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
        couplings = (t[:, None, None] * routing.distances(votes, v)).softmax(-1)
    return (torch.einsum("bij,bije->bje", couplings, votes),)


def _distance_sum(u: Tensor, weight: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """The sum of all distances, `[B]`."""
    return (routing.distances(routing.clip_votes(votes_of(u, weight), u), v).sum((1, 2)),)


def _em_in_tiles(
    u: Tensor,
    weight: Tensor,
    iterations: int,
    *,
    beta_use: Tensor,
    beta_activation: Tensor,
    inverse_temperature: float,
    detach: bool,
) -> tuple[Tensor, Tensor]:
    I, J, _, _ = weight.shape
    gaussians: tuple[Tensor, ...] = ()
    for r in range(1, iterations + 1):
        with torch.set_grad_enabled(torch.is_grad_enabled() and (r == iterations or not detach)):
            mass, sums = sum_over_tiles(partial(_moments, detach), u, weight, *gaussians)
            mean = sums / (mass + added(routing.FLOOR))[..., None]
            # In a pass of its own: a mean of squares less the square of the mean would lose most of its digits.
            squares = sum_over_tiles(partial(_squares, detach), u, weight, mean, *gaussians)[0]
            variance = routing.floored_variance(squares, mass)
            temperature = inverse_temperature * r / iterations
            logit = routing.activation_logit(mass * J / I, variance, beta_use, beta_activation, temperature)
        gaussians = mean, variance, logit
    return mean, logit.sigmoid()


def _moments(detach: bool, u: Tensor, weight: Tensor, *gaussians: Tensor) -> tuple[Tensor, ...]:
    """Sums over i of r_ij, `[B, J]`, and of r_ij times the votes, `[B, J, E]`."""
    votes = votes_of(u, weight)
    r = _weighted_assignments(detach, u, votes, *gaussians)
    return r.sum(1), torch.einsum("bij,bije->bje", r, votes)


def _squares(detach: bool, u: Tensor, weight: Tensor, mean: Tensor, *gaussians: Tensor) -> tuple[Tensor, ...]:
    """The sum over i of r_ij times the squared distances from the mean, `[B, J, E]`."""
    votes = votes_of(u, weight)
    r = _weighted_assignments(detach, u, votes, *gaussians)
    return (torch.einsum("bij,bije->bje", r, (votes - mean[:, None]).square()),)


def _weighted_assignments(detach: bool, u: Tensor, votes: Tensor, *gaussians: Tensor) -> Tensor:
    """r_ij, `[B, I, J]`: assignments to Gaussians, uniform in the first iteration, times lengths."""
    R = torch.full_like(votes[..., 0], 1 / votes.shape[2])
    if gaussians:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            R = routing.assignments(votes, *gaussians)
    return R * _lengths(u)[..., None]


def _lengths(x: Tensor) -> Tensor:
    """Lengths along the last axis, with an epsilon inside the root: the gradient at 0 is finite."""
    return (x.square().sum(-1) + added(routing.FLOOR)).sqrt()


def _stores_votes(u: Tensor, weight: Tensor, backend: str) -> bool:
    """Whether the definition, which stores the votes, computes it; a `ValueError` for a backend that cannot."""
    if backend not in TILED_BACKENDS:
        raise ValueError(
            f'backend {backend!r} has routing by agreement ("rba") only; choose one of {", ".join(TILED_BACKENDS)}'
        )
    if backend == "auto":
        small = torch.compiler.is_compiling() or _votes_bytes(u, weight) <= MAX_STORED_TILES * _tile_bytes(u)
        return small or needs_definition()
    return backend == "eager" or needs_definition()


def _votes_bytes(u: Tensor, weight: Tensor) -> int:
    return len(u) * weight[..., 0].numel() * max(u.element_size(), 4)


def _tile_bytes(u: Tensor) -> int:
    return TILE_BYTES.get(u.device.type, TILE_BYTES["cpu"])
