"""Routing algorithms: the readable definitions of the couplings between input and output capsules.

Routing by agreement is taught in chapter 3, *Routing by agreement*. Scaled-distance agreement (SDA) and expectation
maximisation (EM) are taught in chapter 8, *Other ways to agree*.
"""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from capsnb.functional import added, squash
from capsnb.values import finite_number, whole_number

NEAR_COUPLING = 0.9  # p of SDA: the coupling to an output capsule at half the mean distance
VARIANCE_FLOOR = 1e-4
FLOOR = 1e-8  # added to the squared lengths, distances and masses of SDA and EM, which are divided by
INVERSE_TEMPERATURE = 1.0


@overload
def routing_by_agreement(
    votes: Tensor, iterations: int = ..., *, detach: bool = ..., return_couplings: Literal[False] = ...
) -> Tensor: ...
@overload
def routing_by_agreement(
    votes: Tensor, iterations: int = ..., *, detach: bool = ..., return_couplings: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def routing_by_agreement(
    votes: Tensor, iterations: int = 3, *, detach: bool = True, return_couplings: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Routing by agreement: couplings grow with the inner product of a vote and the output; the readable definition.

    .. math::
       c_{ij} = \mathrm{softmax}_j(b_{ij}), \quad
       v_j = \mathrm{squash}\Big(\sum_i c_{ij}\, \hat u_{j|i}\Big), \quad
       b_{ij} \leftarrow b_{ij} + \hat u_{j|i} \cdot v_j
       \qquad \text{(Sabour et al. 2017, procedure 1)}

    The softmax runs over the *output* capsules J, so the couplings of an input capsule sum to one. Every backend of
    this package must give the same result.

    Args:
        votes: :math:`\hat u`, the prediction of each input capsule for each output capsule, `[B, I, J, E]`.
        iterations: R, how often the couplings are computed, >= 1; the first couplings are uniform.
        detach: True differentiates the last iteration only, with its couplings as constants, as published
            implementations do; False gives the full gradient through all iterations.
        return_couplings: also return the couplings of every iteration.

    Returns:
        The output capsules `[B, J, E]`, each shorter than 1; with `return_couplings` also c, `[R, B, I, J]`, which
        sums to one over J.

    Raises:
        ValueError: `votes` does not have four axes, or `iterations` < 1.

    >>> routing_by_agreement(torch.ones(2, 6, 3, 4)).shape
    torch.Size([2, 3, 4])
    """
    iterations = _check_votes(votes, iterations)
    history = []
    logits = votes.new_zeros(votes.shape[:3])  # b [B, I, J]
    for r in range(1, iterations + 1):
        u_hat = votes.detach() if detach and r < iterations else votes
        couplings = logits.softmax(dim=-1)  # c, over J
        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat))
        history.append(couplings.detach())
        if r < iterations:
            logits = logits + torch.einsum("bije,bje->bij", u_hat, v)  # agreement
    return (v, torch.stack(history)) if return_couplings else v


@overload
def scaled_distance_routing(
    votes: Tensor,
    capsules: Tensor,
    iterations: int = ...,
    *,
    bias: Tensor | None = ...,
    detach: bool = ...,
    return_couplings: Literal[False] = ...,
) -> Tensor: ...
@overload
def scaled_distance_routing(
    votes: Tensor,
    capsules: Tensor,
    iterations: int = ...,
    *,
    bias: Tensor | None = ...,
    detach: bool = ...,
    return_couplings: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def scaled_distance_routing(
    votes: Tensor,
    capsules: Tensor,
    iterations: int = 3,
    *,
    bias: Tensor | None = None,
    detach: bool = False,
    return_couplings: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Scaled-distance agreement (SDA): couplings fall with the distance between a vote and the output.

    .. math::
       \hat u_{j|i} \leftarrow \min(|\hat u_{j|i}|, |u_i|)\, \frac{\hat u_{j|i}}{|\hat u_{j|i}|}, \quad
       c_{ij} = \mathrm{softmax}_j(b_{ij}), \quad
       v_j = \mathrm{squash}\Big(\sum_i c_{ij}\, \hat u_{j|i} + \beta_j\Big), \quad
       b_{ij} \leftarrow t\, |\hat u_{j|i} - v_j|
       \qquad \text{(Peer et al. 2018)}
    .. math::
       t = \frac{\log(p (J - 1)) - \log(1 - p)}{d_p - d_o}, \quad p = 0.9, \quad
       d_o = \mathrm{mean}_{ij}\, |\hat u_{j|i} - v_j|, \quad d_p = d_o / 2

    The inner product of routing by agreement grows with the length of a vote; a distance does not. The scale t is
    chosen so that an output capsule at half the mean distance, among J - 1 others at the mean distance, gets the
    coupling p = 0.9. The scale is negative, so a smaller distance gives a larger coupling. The parentheses matter:
    without those in the denominator, near votes get small couplings; without those in the numerator, t changes its
    sign at large distances. The logits are replaced in each iteration, not accumulated.

    A vote is clipped to at most the length of its input capsule. So a sum over few capsules stays short, and squash
    shortens it further. Only the learned bias can lengthen it.

    Deviation: the published code takes one mean distance over the whole batch, so the capsules of an image depend on
    the other images of the batch. Here the mean is over I and J of each image.

    Args:
        votes: :math:`\hat u`, `[B, I, J, E]`, of any length; they are clipped here.
        capsules: u, the input capsules that the votes come from, `[B, I, D]`.
        iterations: R, how often the couplings are computed, >= 1; the first couplings are uniform.
        bias: :math:`\beta`, `[J, E]`, added to the weighted sums; None for no bias.
        detach: True differentiates the last iteration only, with its couplings as constants; False differentiates
            all iterations. A long output capsule is far from every short vote, so its couplings fall while it grows;
            constant couplings hide this from the gradient, and networks learn far more slowly.
        return_couplings: also return the couplings of every iteration.

    Returns:
        The output capsules `[B, J, E]`, each shorter than 1; with `return_couplings` also c, `[R, B, I, J]`, which
        sums to one over J. Half-precision input is computed in float32.

    Raises:
        ValueError: shapes that do not fit, or `iterations` < 1.

    >>> scaled_distance_routing(torch.ones(2, 6, 3, 4), torch.ones(2, 6, 8)).shape
    torch.Size([2, 3, 4])
    """
    iterations = _check_votes(votes, iterations)
    B, I, J, E = votes.shape
    if capsules.ndim != 3 or capsules.shape[:2] != (B, I):
        raise ValueError(f"capsules of shape [{B}, {I}, D] are expected, got {tuple(capsules.shape)}")
    if bias is not None and bias.shape != (J, E):
        raise ValueError(f"a bias of shape [{J}, {E}] is expected, got {tuple(bias.shape)}")
    input_dtype, votes, capsules = votes.dtype, _at_least_float32(votes), _at_least_float32(capsules)
    clipped = clip_votes(votes, capsules)
    beta = votes.new_zeros(J, E) if bias is None else bias
    history = []
    logits = votes.new_zeros(B, I, J)
    for r in range(1, iterations + 1):
        u_hat, offset = (x.detach() if detach and r < iterations else x for x in (clipped, beta))
        couplings = logits.softmax(dim=-1)  # c, over J
        v = squash(torch.einsum("bij,bije->bje", couplings, u_hat) + offset)
        history.append(couplings.detach())
        if r < iterations:
            d = distances(u_hat, v)
            logits = distance_scale(d.mean((1, 2)), J)[:, None, None] * d
    v = v.to(input_dtype)
    return (v, torch.stack(history)) if return_couplings else v


def clip_votes(votes: Tensor, capsules: Tensor) -> Tensor:
    r"""Clip the length of each vote `[B, I, J, E]` to the length of its input capsule `[B, I, D]`.

    Both squared lengths get an epsilon inside the square root, so gradients are finite where a capsule is zero.
    """
    allowed = capsules.square().sum(-1)[:, :, None, None] + added(FLOOR)
    return votes * (allowed / (votes.square().sum(-1, keepdim=True) + added(FLOOR))).clamp(max=1).sqrt()


def distances(votes: Tensor, v: Tensor) -> Tensor:
    """The distance of each vote from its output capsule, `[B, I, J]`, > 0: an epsilon prevents a division by 0."""
    return ((votes - v[:, None]).square().sum(-1) + added(FLOOR)).sqrt()


def distance_scale(mean: Tensor, J: int) -> Tensor:
    """The factor t of SDA for mean distances `[B]`; 0 for J = 1, where the only coupling is 1."""
    if J == 1:
        return torch.zeros_like(mean)  # the formula has log 0
    d_o, d_p = mean, mean / 2
    return (math.log(NEAR_COUPLING * (J - 1)) - math.log(1 - NEAR_COUPLING)) / (d_p - d_o)


@overload
def em_routing(
    votes: Tensor,
    activations: Tensor,
    iterations: int = ...,
    *,
    beta_use: Tensor,
    beta_activation: Tensor,
    inverse_temperature: float = ...,
    detach: bool = ...,
    return_couplings: Literal[False] = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def em_routing(
    votes: Tensor,
    activations: Tensor,
    iterations: int = ...,
    *,
    beta_use: Tensor,
    beta_activation: Tensor,
    inverse_temperature: float = ...,
    detach: bool = ...,
    return_couplings: Literal[True],
) -> tuple[Tensor, Tensor, Tensor]: ...
def em_routing(
    votes: Tensor,
    activations: Tensor,
    iterations: int = 3,
    *,
    beta_use: Tensor,
    beta_activation: Tensor,
    inverse_temperature: float = INVERSE_TEMPERATURE,
    detach: bool = False,
    return_couplings: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    r"""EM routing: fit a Gaussian mixture to the votes.

    Each output capsule is a Gaussian with a diagonal covariance (a cloud of votes). The smaller its variances, the
    larger is its activation. M-step, with :math:`r_{ij} = R_{ij} a_i`, where
    :math:`R_{ij} = 1/J` at first:

    .. math::
       m_j = \sum_i r_{ij}, \quad
       \mu_j^h = \frac{\sum_i r_{ij} \hat u_{j|i}^h}{m_j}, \quad
       (\sigma_j^h)^2 = \frac{\sum_i r_{ij} (\hat u_{j|i}^h - \mu_j^h)^2}{m_j}, \quad
       a_j = \mathrm{logistic}\Big(\lambda_r \Big(\beta_a - \frac{J}{I} m_j \sum_h (\beta_u + \log \sigma_j^h)\Big)\Big)

    E-step, in logarithms:

    .. math::
       R_{ij} = \mathrm{softmax}_j\Big(\log a_j - \sum_h \Big(
       \frac{(\hat u_{j|i}^h - \mu_j^h)^2}{2 (\sigma_j^h)^2} + \log \sigma_j^h\Big)\Big)
       \qquad \text{(Hinton et al. 2018, procedure 1)}

    Deviations. The paper's cost is a sum over all input capsules, so a layer with a thousand input capsules would need
    another :math:`\lambda` and other betas than a layer with thirty; here the mass :math:`m_j` is divided by its mean,
    I/J. The paper raises :math:`\lambda` by a schedule that it does not print; here it rises in equal steps,
    :math:`\lambda_r = \lambda\, r / R`. The variance has a floor, so that a cloud of one vote has a finite cost.

    Args:
        votes: :math:`\hat u`, `[B, I, J, E]`; in the paper E = 16, a 4x4 pose matrix.
        activations: a, of the input capsules, `[B, I]`, >= 0; in the paper at most 1.
        iterations: R, number of M-steps, >= 1.
        beta_use: :math:`\beta_u`, `[J]`, the cost of describing one number of one vote at :math:`\sigma = 1`.
        beta_activation: :math:`\beta_a`, `[J]`, the cost at which the activation of an output capsule is 1/2.
        inverse_temperature: :math:`\lambda` of the last iteration, > 0.
        detach: True differentiates the last M-step only, with R as constants; False differentiates all iterations.
        return_couplings: also return the assignments R of every iteration.

    Returns:
        The poses :math:`\mu`, `[B, J, E]`, and activations, `[B, J]`, in (0, 1); with `return_couplings` also the
        assignments, `[iterations, B, I, J]`, which sum to one over J. Half-precision input is computed in float32.

    Raises:
        ValueError: shapes that do not fit, `iterations` < 1, or `inverse_temperature` <= 0.

    >>> betas = {"beta_use": torch.zeros(3), "beta_activation": torch.zeros(3)}
    >>> poses, activations = em_routing(torch.randn(2, 6, 3, 4), torch.ones(2, 6), **betas)
    >>> poses.shape, activations.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 3]))
    """
    iterations = _check_votes(votes, iterations)
    B, I, J, _ = votes.shape
    if activations.shape != (B, I):
        raise ValueError(f"activations of shape [{B}, {I}] are expected, got {tuple(activations.shape)}")
    if beta_use.shape != (J,) or beta_activation.shape != (J,):
        raise ValueError(
            f"beta_use and beta_activation of shape [{J}] are expected, got {tuple(beta_use.shape)} and "
            f"{tuple(beta_activation.shape)}"
        )
    inverse_temperature = finite_number("inverse_temperature", inverse_temperature, above=0)
    input_dtype, votes, activations = votes.dtype, _at_least_float32(votes), _at_least_float32(activations)
    history = []
    R = votes.new_full((B, I, J), 1 / J)
    for r in range(1, iterations + 1):
        history.append(R.detach())
        u_hat, a, beta_u, beta_a = (
            x.detach() if detach and r < iterations else x
            for x in (votes, activations, beta_use, beta_activation)
        )
        # M-step
        weights = R * a[:, :, None]  # r_ij
        mass = weights.sum(1)
        mean = torch.einsum("bij,bije->bje", weights, u_hat) / (mass + added(FLOOR))[..., None]
        squares = (u_hat - mean[:, None]).square()
        variance = floored_variance(torch.einsum("bij,bije->bje", weights, squares), mass)
        temperature = inverse_temperature * r / iterations
        logit = activation_logit(mass * J / I, variance, beta_u, beta_a, temperature)
        if r < iterations:  # E-step
            R = assignments(u_hat, mean, variance, logit)
    outputs = mean.to(input_dtype), logit.sigmoid().to(input_dtype)
    return (*outputs, torch.stack(history)) if return_couplings else outputs


def floored_variance(squares: Tensor, mass: Tensor) -> Tensor:
    """Variances `[B, J, E]` from weighted sums of squares and the sums of the weights `[B, J]`; at least the floor."""
    return squares / (mass + added(FLOOR))[..., None] + VARIANCE_FLOOR


def activation_logit(
    shares: Tensor, variance: Tensor, beta_use: Tensor, beta_activation: Tensor, inverse_temperature: float
) -> Tensor:
    """Logits of the activations `[B, J]` from the masses `[B, J]`, as multiples of I/J, and the variances."""
    cost = shares * (variance.shape[-1] * beta_use + variance.log().sum(-1) / 2)
    return inverse_temperature * (beta_activation - cost)


def assignments(votes: Tensor, mean: Tensor, variance: Tensor, logit: Tensor) -> Tensor:
    r"""The E-step: assignments of votes to clouds, `[B, I, J]`; the factor :math:`2 \pi` of all densities cancels."""
    # log a as a softplus: ONNX has no stable logsigmoid. What is below e^-40, float64 does not see beside 1.
    log_activation = -torch.nn.functional.softplus(-logit, threshold=40)
    log_weight = log_activation - variance.log().sum(-1) / 2  # [B, J]
    squares = (votes - mean[:, None]).square() / variance[:, None]
    return (log_weight[:, None] - squares.sum(-1) / 2).softmax(-1)


def _check_votes(votes: Tensor, iterations: int) -> int:
    """Return the number of iterations; a `ValueError` for votes of another shape."""
    if votes.ndim != 4:
        raise ValueError(f"votes need the axes [B, I, J, E], got shape {tuple(votes.shape)}")
    return whole_number("iterations", iterations)


def _at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32, because the epsilon and the variance floor would round to 0."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
