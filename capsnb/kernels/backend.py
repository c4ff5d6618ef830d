"""What a backend of routing by agreement does: one forward pass and one backward pass, without stored votes.

A backend is a subclass of `RoutingBackend` with `forward` and `backward`, and a name in `capsnb.kernels.dispatch`
("eager" is the definition itself, and "auto" a choice). One that works through the input capsules tile by tile needs
less: `TiledBackend` has the iterations, and asks for one pass over the tiles in each direction. Taught in chapter 5,
*Routing without votes*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from capsnb.functional import squash, squash_gradient
from capsnb.values import whole_number


class Saved(NamedTuple):
    """Tensors saved for the backward pass.

    Attributes:
        s: the last weighted sums, `[B, J, E]`.
        V: the sums of the outputs of all iterations but the last, `[B, J, E]`; they determine the last couplings.
        couplings: the last couplings, if they were asked for and the backend can keep them. Then all three tensors may
            have any layout, since only this backend reads them.
    """

    s: Tensor
    V: Tensor
    couplings: Tensor | None = None


class RoutingBackend(ABC):
    """Routing by agreement of the votes W u, for float32 or float64 tensors on one device.

    Args:
        u: input capsules, `[B, I, D]`, with at least one element.
        weight: W, `[I, J, E, D]`, of the same dtype.
    """

    def __init__(self, u: Tensor, weight: Tensor) -> None:
        self.u, self.weight = u, weight

    @abstractmethod
    def forward(self, iterations: int, *, keep_couplings: bool = False) -> tuple[Tensor, Saved]:
        """Compute all iterations, of which there are at least two.

        Args:
            iterations: R >= 2.
            keep_couplings: also return the last couplings, so that `backward` need not compute them again.

        Returns:
            The output capsules v, `[B, J, E]`, and the tensors that `backward` needs.
        """

    @abstractmethod
    def backward(self, saved: Saved, dv: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of u, `[B, I, D]`, and W, `[I, J, E, D]`, with the last couplings as constants.

        Args:
            saved: from `forward`.
            dv: gradient of the output capsules, `[B, J, E]`.
        """


class TiledBackend(RoutingBackend):
    """The iterations around a pass over tiles of input capsules."""

    @abstractmethod
    def weighted_sum(self, V: Tensor, *, keep_couplings: bool) -> tuple[Tensor, Tensor | None]:
        """s_j = sum over i of c_ij W_ij u_i, with the couplings c of V; s and V are `[B, J, E]`. Also c, if kept."""

    @abstractmethod
    def weighted_sum_gradients(
        self, V: Tensor, couplings: Tensor | None, ds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of u and W for the gradient ds of s, `[B, J, E]`, with the kept couplings or those that V gives."""

    def forward(self, iterations: int, *, keep_couplings: bool = False) -> tuple[Tensor, Saved]:
        """See `RoutingBackend.forward`."""
        s = uniform_sum(self.u, self.weight)
        V, couplings = torch.zeros_like(s), None
        for r in range(2, iterations + 1):
            V = V + squash(s)
            s, couplings = self.weighted_sum(V, keep_couplings=keep_couplings and r == iterations)
        return squash(s), Saved(s, V, couplings)

    def backward(self, saved: Saved, dv: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutingBackend.backward`."""
        return self.weighted_sum_gradients(saved.V, saved.couplings, squash_gradient(saved.s, dv))


def uniform_sum(u: Tensor, weight: Tensor) -> Tensor:
    r"""The first iteration, whose couplings are all 1/J: :math:`s_j = \frac1J \sum_i W_{ij} u_i`, one matrix product.

    The sum over i is computed in four parts: in float32, one long sum would lose more digits than the definition does.
    """
    J, E = weight.shape[1:3]
    matrix = weight.permute(0, 3, 1, 2).reshape(-1, J * E)  # [I*D, J*E]
    parts = zip(u.flatten(1).chunk(4, dim=1), matrix.chunk(4), strict=True)
    s = torch.stack([columns @ rows for columns, rows in parts]).sum(0)
    return (s / J).unflatten(1, (J, E))


def check_layer(u: Tensor, weight: Tensor, iterations: int) -> int:
    """Return the number of iterations; a `ValueError` where capsules and weights do not fit."""
    if u.ndim != 3 or weight.ndim != 4 or u.shape[1:] != weight.shape[::3]:
        raise ValueError(
            f"capsules [B, I, D] and weights [I, J, E, D] are expected, got {tuple(u.shape)} and {tuple(weight.shape)}"
        )
    return whole_number("iterations", iterations)
