"""What a backend of routing by agreement does: one forward pass and one backward pass, without stored votes.

A backend is a subclass of `RoutingBackend` with `forward` and `backward`, and a name in `capsnb.kernels.dispatch`
("eager" is the definition itself, and "auto" a choice). Taught in chapter 5, *Routing without votes*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

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
        self.B, (self.I, self.J, self.E, self.D) = len(u), weight.shape

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


def uniform_sum(u: Tensor, weight: Tensor) -> Tensor:
    r"""The first iteration, whose couplings are all 1/J: :math:`s_j = \frac1J \sum_i W_{ij} u_i`, one matrix product.

    The sum over i is computed in four parts: in float32, one long sum would lose more digits than the definition does.
    """
    J, E = weight.shape[1:3]
    matrix = weight.permute(0, 3, 1, 2).reshape(-1, J * E)  # [I*D, J*E]
    parts = zip(u.flatten(1).chunk(4, dim=1), matrix.chunk(4), strict=True)
    s = torch.stack([columns @ rows for columns, rows in parts]).sum(0)
    return (s / J).unflatten(1, (J, E))


def votes_of(u: Tensor, weight: Tensor) -> Tensor:
    """All votes W u, `[B, I, J, E]`."""
    return torch.einsum("ijed,bid->bije", weight, u)


def to_compute_dtype(*tensors: Tensor) -> tuple[torch.dtype, list[Tensor]]:
    """The dtype of the result, the wider one of u and W, and all tensors in at least float32; u and W come first."""
    output_dtype = torch.promote_types(tensors[0].dtype, tensors[1].dtype)
    compute_dtype = torch.promote_types(output_dtype, torch.float32)
    return output_dtype, [x.to(compute_dtype) for x in tensors]


def check_layer(u: Tensor, weight: Tensor, iterations: int) -> int:
    """Return the number of iterations; a `ValueError` where capsules and weights do not fit."""
    if weight.ndim != 4:
        raise ValueError(f"weights of shape [I, J, E, D] are expected, got {tuple(weight.shape)}")
    I, _, _, D = weight.shape
    if u.ndim != 3 or u.shape[1:] != (I, D):
        found = f"{tuple(u.shape)} and {tuple(weight.shape)} as weights [I, J, E, D]"
        raise ValueError(f"capsules of shape [B, I, D] = [B, {I}, {D}] are expected, got {found}")
    return whole_number("iterations", iterations)
