"""Capsule layers: convolution to capsules, and capsules to capsules. Taught in chapters 3, 4 and 8."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capsnb.functional import squash
from capsnb.kernels import BACKENDS, SAVES, Backend, Save, route
from capsnb.kernels.backend import check_layer, votes_of
from capsnb.kernels.sda_em import TILED_BACKENDS, route_by_distance, route_by_em
from capsnb.routing import VARIANCE_FLOOR
from capsnb.values import finite_number, one_of, sizes

Routing = Literal["rba", "sda", "em"]
ROUTINGS: tuple[str, ...] = get_args(Routing)
# Of those tried on mnist5k, where CapsNet's training loss fell fastest.
WEIGHT_STD = {"sda": 0.05, "em": 0.05}


class PrimaryCapsules(nn.Module):
    r"""Turn a feature map into capsules: a convolution whose channels, `dim` at a time, are the numbers of a capsule.

    A capsule's D numbers are D *channels of one location*. That is a `permute`; a bare `view` of `[B, C, H, W]` would
    make "capsules" out of neighbouring pixels of one channel (Sabour et al. 2017, section 4).

    Args:
        in_channels: C of the incoming feature map.
        capsule_types: how many capsules stand at each location.
        dim: D, the numbers in a capsule.
        kernel_size: side of the square convolution kernel, in pixels.
        stride: step of the convolution, in pixels.

    Shape:
        `[B, C, H, W]` -> `[B, I, D]` with I = capsule_types * H' * W', ordered type by type, row by row, and lengths
        in [0, 1).

    >>> PrimaryCapsules(4, capsule_types=3, dim=8)(torch.randn(2, 4, 20, 20)).shape
    torch.Size([2, 108, 8])
    """

    def __init__(
        self, in_channels: int, capsule_types: int, dim: int, kernel_size: int = 9, stride: int = 2
    ) -> None:
        super().__init__()
        in_channels, kernel_size, stride = sizes(
            in_channels=in_channels, kernel_size=kernel_size, stride=stride
        )
        self.capsule_types, self.dim = sizes(capsule_types=capsule_types, dim=dim)
        self.conv = nn.Conv2d(in_channels, self.capsule_types * self.dim, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Arrange a feature map `[B, C, H, W]` into capsules `[B, I, D]`."""
        if self.conv.kernel_size == self.conv.stride == (1, 1):  # a matrix product, and faster as one
            weight = self.conv.weight.flatten(1)
            features = F.linear(x.flatten(2).transpose(1, 2), weight, self.conv.bias)  # [B, HW, types*D]
        else:
            features = self.conv(x).flatten(2).transpose(1, 2)  # [B, H'W', types*D]
        capsules = features.unflatten(2, (self.capsule_types, self.dim)).transpose(1, 2)
        return squash(capsules.flatten(1, 2))  # [B, I, D]


class RoutingCapsules(nn.Module):
    r"""Every input capsule votes for every output capsule, and routing weights the votes by how well they agree.

    .. math:: \hat u_{j|i} = W_{ij} u_i, \qquad v = \mathrm{routing}(\hat u)
       \qquad \text{(Sabour et al. 2017, eq. 2)}

    The default weights are drawn so that capsule lengths are of order one at every depth (see `default_weight_std`).
    The paper's N(0, 0.01^2) is `weight_std=0.01`; chapter 2 shows what it does.

    Two other routing algorithms have parameters of their own. Scaled-distance agreement ("sda",
    `scaled_distance_routing`) adds a bias to each output capsule, 0.1 at first as in the authors' code. A vote is no
    longer than its capsule, so without the bias :math:`\sum_j |s_j| \leq \sum_i |u_i|`, which squash at least halves:
    in a deep stack without shortcuts all lengths would vanish, however large W is. With it, lengths settle at 0.04 to
    0.2, but after sixteen such layers they depend no more on the image: deep networks with "sda" need shortcuts.
    Expectation maximisation ("em", `em_routing` through `capsnb.kernels.sda_em.route_by_em`) takes a capsule's length
    as its activation, and returns capsules whose length is their activation. Only ratios of votes and
    :math:`e^{-\beta_u}` matter, so lengths survive at any depth with any spread of W, down to the variance floor; a
    small spread learns faster.

    Args:
        in_capsules: I.
        in_dim: D.
        out_capsules: J.
        out_dim: E.
        iterations: R, >= 1.
        routing: the routing algorithm: "rba", routing by agreement; "sda", scaled-distance agreement; "em", expectation
            maximisation.
        backend: "eager" is the readable definition; "fused", "native" and "triton" give the same capsules without
            storing votes (see `capsnb.kernels.route`; "native" and "triton" have "rba" only); "auto" chooses.
        detach: let gradients flow through the last iteration only, instead of through all. None is True for "rba",
            where False stores the votes, and False for the others, which learn far more slowly with True.
        save: what "rba" saves for the backward pass beside u: "sums", two tensors `[B, J, E]`; "inputs", nothing, at
            the cost of one more forward pass; "couplings", also the last couplings `[B, I, J]`, for a faster backward
            pass. See `capsnb.kernels.route`.
        weight_std: standard deviation of the normal distribution of W; None for the default.

    Attributes:
        weight: W, `[I, J, E, D]`.
        bias: with "sda", `[J, E]`.
        beta_use: with "em", :math:`\beta_u`, `[J]`.
        beta_activation: with "em", :math:`\beta_a`, `[J]`.

    Shape:
        `[B, I, D]` -> `[B, J, E]`.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1; a negative `weight_std`; an unknown routing, backend or `save`; a backend that does
            not have this routing; or an input of the wrong shape.

    >>> RoutingCapsules(6, 8, 3, 16)(torch.randn(2, 6, 8)).shape
    torch.Size([2, 3, 16])
    """

    def __init__(
        self,
        in_capsules: int,
        in_dim: int,
        out_capsules: int,
        out_dim: int,
        *,
        iterations: int = 3,
        routing: Routing = "rba",
        backend: Backend = "auto",
        detach: bool | None = None,
        save: Save = "sums",
        weight_std: float | None = None,
    ) -> None:
        super().__init__()
        in_capsules, in_dim, out_capsules, out_dim, self.iterations = sizes(
            in_capsules=in_capsules,
            in_dim=in_dim,
            out_capsules=out_capsules,
            out_dim=out_dim,
            iterations=iterations,
        )
        one_of("routing", routing, ROUTINGS)
        one_of("backend", backend, BACKENDS)
        one_of("save", save, SAVES)
        if routing != "rba" and backend not in TILED_BACKENDS:
            raise ValueError(
                f"backend {backend!r} has routing 'rba' only, not {routing!r}; "
                f"choose one of {', '.join(TILED_BACKENDS)}"
            )
        self.routing, self.backend, self.save = routing, backend, save
        self.detach = routing == "rba" if detach is None else detach
        if weight_std is None:
            weight_std = WEIGHT_STD.get(routing) or default_weight_std(in_capsules, out_capsules, out_dim)
        weight_std = finite_number("weight_std", weight_std, at_least=0)
        self.weight = nn.Parameter(torch.empty(in_capsules, out_capsules, out_dim, in_dim))
        nn.init.normal_(self.weight, std=weight_std)
        if routing == "sda":
            self.bias = nn.Parameter(torch.full((out_capsules, out_dim), 0.1))
        elif routing == "em":
            # Votes of capsules of length 1/2 then cost nothing, so capsules start half active.
            sigma = math.sqrt((weight_std / 2) ** 2 + VARIANCE_FLOOR)
            self.beta_use = nn.Parameter(torch.full((out_capsules,), -math.log(sigma)))
            self.beta_activation = nn.Parameter(torch.zeros(out_capsules))

    def votes(self, u: Tensor) -> Tensor:
        r"""What each input capsule predicts for each output capsule, :math:`\hat u_{j|i} = W_{ij} u_i`.

        Args:
            u: input capsules, `[B, I, D]`.

        Returns:
            Votes, `[B, I, J, E]`.
        """
        check_layer(u, self.weight, self.iterations)
        return votes_of(u, self.weight)

    def forward(self, u: Tensor, *, save: Save | None = None) -> Tensor:
        """Route capsules `[B, I, D]` to capsules `[B, J, E]`; `save` overrides the layer's own for this call."""
        options: dict[str, Any] = {"backend": self.backend, "detach": self.detach}
        if self.routing == "sda":
            return route_by_distance(u, self.weight, self.bias, self.iterations, **options)
        if self.routing == "em":
            betas = self.beta_use, self.beta_activation
            return route_by_em(u, self.weight, *betas, self.iterations, **options)
        return route(u, self.weight, self.iterations, save=save or self.save, **options)

    def extra_repr(self) -> str:
        """Return the sizes, for `print(model)`."""
        I, J, E, D = self.weight.shape
        return f"{I}x{D} -> {J}x{E}, iterations={self.iterations}, routing={self.routing!r}"


def default_weight_std(in_capsules: int, out_capsules: int, out_dim: int, in_length: float = 0.625) -> float:
    r"""The standard deviation of W that keeps capsule lengths near 1/2 at every depth of an untrained stack.

    With uniform couplings :math:`s_j = \frac1J \sum_i W_{ij} u_i`. For independent :math:`W \sim N(0, \sigma^2)` its
    mean squared length is :math:`I E \sigma^2 |u|^2 / J^2`. For :math:`|s_j| \approx 1`, which squash maps to 1/2,
    :math:`\sigma = J / (|u| \sqrt{I E})`. Routing then raises the length above 1/2, since votes that agree get larger
    couplings; deep stacks settle at about 5/8. Larger weights keep lengths as well, but learn more slowly.

    Args:
        in_capsules: I.
        out_capsules: J.
        out_dim: E.
        in_length: typical length :math:`|u|` of an input capsule, > 0.

    Returns:
        The standard deviation.

    Raises:
        ValueError: an argument outside its range.

    >>> round(default_weight_std(1152, 10, 16), 3)
    0.118
    """
    I, J, E = sizes(in_capsules=in_capsules, out_capsules=out_capsules, out_dim=out_dim)
    return J / (finite_number("in_length", in_length, above=0) * math.sqrt(I * E))


@torch.no_grad()
def add_identity_(layer: RoutingCapsules, gain: float = 1.0) -> None:
    r"""Add a multiple of the identity to the weights of a layer between equally many capsules of equal size.

    .. math:: W_{jj} \leftarrow W_{jj} + g J \mathbb 1

    With uniform couplings 1/J, capsule j then receives :math:`g\,u_j`, and further iterations increase its share. At
    the default initialisation g = 2 outweighs the random part, and lengths are kept if those of the first layer are.
    With three iterations, deep stacks without shortcuts learn from this initialisation, and from no spread of random
    weights that we know: see chapter 6.

    Args:
        layer: a layer with I = J and D = E; its weights are changed in place.
        gain: g.

    Raises:
        ValueError: a layer that changes the number or the size of capsules.

    >>> layer = RoutingCapsules(3, 4, 3, 4, weight_std=0.0)
    >>> add_identity_(layer)
    >>> layer.weight[1, 1].diagonal().detach()
    tensor([3., 3., 3., 3.])
    """
    I, J, E, D = layer.weight.shape
    if (I, D) != (J, E):
        raise ValueError(f"a layer that maps {I} capsules of {D} numbers to {J} of {E} has no identity")
    gain = finite_number("gain", gain)
    layer.weight.diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1).add_(gain * J)
