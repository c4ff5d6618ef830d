"""The squash: the one non-linearity of a capsule network. Taught in chapter 2, *Vectors that squash*."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from capsnb.values import finite_number, whole_number

# Added to a squared length under the square root. A capsule that is shorter than its root, 1e-12, is shortened once
# more. The derivative at zero has epsilon^(-3/2) in it, which float32 holds down to 1e-25.
EPSILON = 1e-24
# PyTorch 2.6 cannot tell export from compilation; there a program of torch.export holds our operators.
_exporting = getattr(torch.compiler, "is_exporting", bool)
# Private to PyTorch, which has no public way to ask; where it is gone, torch.func says by itself what it cannot do.
_under_torch_func = getattr(torch._C, "_are_functorch_transforms_active", bool)


def transformed() -> bool:
    """Whether `torch.func` or forward mode transforms what is computed."""
    return _under_torch_func() or getattr(forward_ad, "_current_level", -1) >= 0


def needs_definition() -> bool:
    """Whether PyTorch exports, traces or transforms: it then knows its own operators alone."""
    return _exporting() or torch.jit.is_tracing() or transformed()


def added(eps: float = EPSILON) -> float:
    """Return what is added to a squared length: epsilon, but above 1e-8 in an export, since ONNX's takes less for 0."""
    return max(eps, 1.0000001e-8) if eps and _exporting() else eps


def squash(s: Tensor, dim: int = -1, eps: float = EPSILON) -> Tensor:
    r"""Shorten a vector to a length below one and keep its direction.

    .. math:: v = \frac{|s|^2}{1 + |s|^2} \, \frac{s}{|s|}
       \qquad \text{(Sabour et al. 2017, eq. 1)}

    The epsilon is *inside* the square root, :math:`|s| \approx \sqrt{|s|^2 + \epsilon}`. With the epsilon outside, the
    gradient at s = 0 is 0/0, and one capsule of length zero makes all weights NaN. Half-precision input is computed in
    float32, because the square of a length above 255 overflows in float16.

    Args:
        s: floating-point tensor of any shape that holds vectors of any length.
        dim: the axis along which a vector's numbers lie.
        eps: added to the squared length under the square root; negligible where :math:`|s| \gg \sqrt{\epsilon}`.

    Returns:
        v, shape and dtype of `s`, with :math:`|v| < 1` (rounding may give 1 for very long s) and
        :math:`|v| \approx |s|^2` for short s.

    Raises:
        TypeError: `s` does not hold floating-point numbers, or another argument is no number.
        ValueError: an axis that `s` does not have, or a negative epsilon.

    >>> squash(torch.tensor([3.0, 4.0])).norm()  # 25/26
    tensor(0.9615)
    """
    if not s.is_floating_point():
        raise TypeError(f"squash needs floating-point vectors, got {s.dtype}; call .float() on them first")
    if dim != -1 or eps != EPSILON:  # the default, in every iteration of every layer, costs nothing
        dim = whole_number("dim", dim, at_least=-s.ndim, at_most=s.ndim - 1)
        eps = finite_number("eps", eps, at_least=0)
    vectors = s.float() if s.dtype in (torch.float16, torch.bfloat16) else s
    squared = vectors.square().sum(dim, keepdim=True)
    v = squared / (1 + squared) * vectors * torch.rsqrt(squared + added(eps))
    return v.to(s.dtype)


def squash_gradient(s: Tensor, dv: Tensor, eps: float = EPSILON) -> Tensor:
    r"""The gradient of `squash` along the last axis, computed from s alone; it equals autograd's.

    .. math:: v = f(|s|^2)\, s, \quad ds = f\, dv + 2 f'\, (s \cdot dv)\, s, \quad
       f(q) = \frac{q}{(1 + q)\sqrt{q + \epsilon}}, \quad
       f' = f \Big(\frac{1}{q (1 + q)} - \frac{1}{2 (q + \epsilon)}\Big)

    Args:
        s: the input of `squash`, float32 or float64.
        dv: the gradient of v, same shape.
        eps: as in `squash`.

    Returns:
        The gradient of s, same shape.
    """
    squared = s.square().sum(-1, keepdim=True)
    inverse_length = torch.rsqrt(squared + eps)
    factor = squared / (1 + squared) * inverse_length
    # f', without the division by q
    slope = inverse_length / (1 + squared).square() - factor * inverse_length.square() / 2
    return factor * dv + 2 * slope * (s * dv).sum(-1, keepdim=True) * s
