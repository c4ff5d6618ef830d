"""What every way to route without stored votes can do. Taught in chapter 5, *Routing without votes*."""

from __future__ import annotations

import torch
from torch import Tensor

from capsnb.functional import squash


class Passes:
    """Passes over the input capsules u `[B, I, D]` of a layer with weights W `[I, J, E, D]`, given when it is made.

    A backend says how one pass is computed, `weighted_sum`, or all of them, `iterate`, and the way back, `gradients`.
    """

    def weighted_sum(self, V: Tensor) -> Tensor:
        """s_j = sum over i of c_ij W_ij u_i, with the couplings c that belong to V, `[B, J, E]`."""
        raise NotImplementedError

    def gradients(self, V: Tensor, ds: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of u `[B, I, D]` and W `[I, J, E, D]` for the gradient ds of the weighted sum, `[B, J, E]`."""
        raise NotImplementedError

    def iterate(self, s: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        """From the first weighted sum to the last: s, and V, the sum of the outputs before it, `[B, J, E]` each."""
        V = torch.zeros_like(s)
        for _ in range(iterations - 1):
            V = V + squash(s)
            s = self.weighted_sum(V)
        return s, V


def demand_layer(u: Tensor, weight: Tensor, iterations: int) -> None:
    """What every way to route asks for: capsules and weights that fit, and at least one iteration."""
    if u.ndim != 3 or weight.ndim != 4 or u.shape[1:] != weight.shape[::3]:
        raise ValueError(
            f"capsules [B, I, D] and weights [I, J, E, D] are expected, got {tuple(u.shape)} and {tuple(weight.shape)}"
        )
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}")
