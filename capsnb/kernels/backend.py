"""What every way to route without stored votes can do. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from capsnb.functional import squash, squash_gradient


class Sums(NamedTuple):
    """What the way back needs to know of the way there.

    Attributes:
        s: the last weighted sums, `[B, J, E]`.
        V: the sums of the outputs before the last, `[B, J, E]`.
        couplings: the last couplings if they were to be kept and the backend can; the tensors are then in its own
            order of numbers.
    """

    s: Tensor
    V: Tensor
    couplings: Tensor | None = None


class Passes:
    """Passes over the input capsules u `[B, I, D]` of a layer with weights W `[I, J, E, D]`, given when it is made.

    A backend says how one pass is computed, `weighted_sum` and `back`, or all of them, `iterate` and `gradients`.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.given = u, weight

    def weighted_sum(self, V: Tensor, *, keep: bool = False) -> tuple[Tensor, Tensor | None]:
        """s_j = sum over i of c_ij W_ij u_i, with the couplings c that belong to V, `[B, J, E]`; and c, if kept."""
        raise NotImplementedError

    def back(self, V: Tensor, couplings: Tensor | None, ds: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of u and W for the gradient ds of the weighted sum, `[B, J, E]`, with kept couplings or V's."""
        raise NotImplementedError

    def iterate(self, iterations: int, *, keep: bool = False) -> tuple[Tensor, Sums]:
        """All iterations: v, `[B, J, E]`, and what the way back needs; with the last couplings, if told to keep them.

        At least two iterations, and at least one number in u.
        """
        s = uniform_sum(*self.given)
        V, couplings = torch.zeros_like(s), None
        for r in range(1, iterations):
            V = V + squash(s)
            s, couplings = self.weighted_sum(V, keep=keep and r == iterations - 1)
        return squash(s), Sums(s, V, couplings)

    def gradients(self, sums: Sums, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of u `[B, I, D]` and W `[I, J, E, D]` for the gradient dv of the output, `[B, J, E]`."""
        return self.back(sums.V, sums.couplings, squash_gradient(sums.s, dv))


def uniform_sum(u: Tensor, weight: Tensor) -> Tensor:
    r"""The first iteration, its couplings all 1/J: :math:`s_j = \frac1J \sum_i W_{ij} u_i`, one matrix product.

    It is added up in four parts: in float32, one long sum would cost more digits than the definition's sums of sums.
    """
    J, E = weight.shape[1:3]
    matrix = weight.permute(0, 3, 1, 2).reshape(-1, J * E)  # [I*D, J*E]
    parts = zip(u.flatten(1).chunk(4, dim=1), matrix.chunk(4), strict=True)
    s = torch.stack([some_u @ some_rows for some_u, some_rows in parts]).sum(0)
    return (s / J).unflatten(1, (J, E))


def check_layer(u: Tensor, weight: Tensor, iterations: int) -> None:
    """What every way to route asks for: capsules and weights that fit, and at least one iteration."""
    if u.ndim != 3 or weight.ndim != 4 or u.shape[1:] != weight.shape[::3]:
        raise ValueError(
            f"capsules [B, I, D] and weights [I, J, E, D] are expected, got {tuple(u.shape)} and {tuple(weight.shape)}"
        )
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
