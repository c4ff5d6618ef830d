"""How lower capsules decide which upper capsules to speak to. Taught in chapter 3, *Routing by agreement*."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from capsnb.functional import squash


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
    r"""Send each lower capsule's votes to the upper capsules that agree with them: the readable definition.

    .. math::
       c_{ij} = \mathrm{softmax}_j(b_{ij}), \quad
       v_j = \mathrm{squash}\Big(\sum_i c_{ij}\, \hat u_{j|i}\Big), \quad
       b_{ij} \leftarrow b_{ij} + \hat u_{j|i} \cdot v_j
       \qquad \text{(Sabour et al. 2017, procedure 1)}

    The softmax runs over the *output* capsules: a lower capsule divides one unit of attention among its possible
    parents. Every faster routing in this package must give these numbers.

    Args:
        votes: :math:`\hat u`, what each input capsule predicts for each output capsule, `[B, I, J, E]`.
        iterations: R, how often the couplings are computed, >= 1; the first couplings are uniform.
        detach: let gradients flow through the last iteration only, with its couplings as constants (what published
            implementations do); False gives the full gradient through all iterations.
        return_couplings: also return the couplings of every iteration, to look inside.

    Returns:
        The output capsules `[B, J, E]`, each shorter than 1; with `return_couplings` also c, `[R, B, I, J]`, which
        sums to one over J.

    Raises:
        ValueError: `votes` does not have four axes, or `iterations` < 1.

    >>> routing_by_agreement(torch.ones(2, 6, 3, 4)).shape
    torch.Size([2, 3, 4])
    """
    if votes.ndim != 4:
        raise ValueError(f"votes need the axes [B, I, J, E], got shape {tuple(votes.shape)}")
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
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
