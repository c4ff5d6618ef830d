"""Loss functions: margin loss, cross-entropy and reconstruction loss. Taught in chapters 4 and 14."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from capsnb.models import CapsuleOutput
from capsnb.values import finite_number, one_of

Classification = Literal["margin", "cross_entropy"]
CLASSIFICATIONS: tuple[str, ...] = get_args(Classification)


class CapsuleLoss(NamedTuple):
    """The loss and its two terms, each a scalar: total = margin + weight * reconstruction.

    With `classification="cross_entropy"`, `margin` holds the cross-entropy.
    """

    total: Tensor
    margin: Tensor
    reconstruction: Tensor


def margin_loss(
    lengths: Tensor, labels: Tensor, *, m_plus: float = 0.9, m_minus: float = 0.1, down_weight: float = 0.5
) -> Tensor:
    r"""Margin loss: the capsule of the right class shall be long and every other capsule short.

    .. math:: L_j = T_j \max(0, m^+ - |v_j|)^2 + \lambda (1 - T_j) \max(0, |v_j| - m^-)^2
       \qquad \text{(Sabour et al. 2017, eq. 4)}

    Args:
        lengths: :math:`|v_j|`, `[B, J]`, in [0, 1).
        labels: the class of each image, `[B]`, integers in [0, J).
        m_plus: :math:`m^+`; the term of the right capsule is zero above this length.
        m_minus: :math:`m^-`; the term of a wrong capsule is zero below this length.
        down_weight: :math:`\lambda`, weight of the wrong capsules, < 1 so that they do not dominate early training.

    Returns:
        The sum over J, averaged over B; a scalar >= 0.

    Raises:
        ValueError: `lengths` is not `[B, J]`, or `labels` is not `[B]`; a margin outside [0, 1] or a negative weight.
        IndexError: a label outside [0, J) (on the CPU).

    >>> import torch
    >>> margin_loss(torch.tensor([[0.5, 0.0]]), torch.tensor([0]))  # (0.9 - 0.5)^2
    tensor(0.1600)
    """
    if lengths.ndim != 2 or labels.shape != lengths.shape[:1]:
        raise ValueError(
            f"lengths [B, J] and labels [B] are expected, got {tuple(lengths.shape)} and {tuple(labels.shape)}"
        )
    m_plus = finite_number("m_plus", m_plus, at_least=0, at_most=1)
    m_minus = finite_number("m_minus", m_minus, at_least=0, at_most=1)
    down_weight = finite_number("down_weight", down_weight, at_least=0)
    present = (m_plus - lengths).clamp(min=0).square()
    absent = down_weight * (lengths - m_minus).clamp(min=0).square()
    target_correction = present.gather(1, labels[:, None]) - absent.gather(1, labels[:, None])
    return (absent.sum(1) + target_correction.squeeze(1)).mean()


def cross_entropy(lengths: Tensor, labels: Tensor) -> Tensor:
    r"""The cross-entropy of scores that are normalised to sum to one.

    .. math:: L = -\log \frac{|v_y|}{\sum_j |v_j|}

    For the scores of a softmax, whose sum is one already, this is the usual cross-entropy.

    Args:
        lengths: `[B, J]`, >= 0.
        labels: y, the class of each image, `[B]`, integers in [0, J).

    Returns:
        The mean over B; a scalar >= 0, finite even if the score of the right class is zero.

    >>> cross_entropy(torch.tensor([[0.25, 0.75]]), torch.tensor([0]))  # log 4
    tensor(1.3863)
    """
    tiny = torch.finfo(lengths.dtype).tiny
    probabilities = lengths / lengths.sum(dim=1, keepdim=True).clamp(min=tiny)
    return F.nll_loss(probabilities.clamp(min=tiny).log(), labels)


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    r"""The sum of the squared pixel errors of each image, averaged over the batch.

    .. math:: L_{recon} = \frac1B \sum_b \sum_{c,h,w} (\hat x - x)^2

    It is a sum over pixels, not a mean: the published weight 5e-4 belongs to the sum.

    Args:
        reconstruction: the decoder's output, `[B, C, H, W]`, in [0, 1].
        images: the target, same shape, in [0, 1] (a sigmoid cannot reach standardised pixels).

    Returns:
        A scalar >= 0.

    Raises:
        ValueError: the shapes differ.

    >>> import torch
    >>> reconstruction_loss(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3))
    tensor(9.)
    """
    if reconstruction.shape != images.shape:
        raise ValueError(
            f"reconstruction {tuple(reconstruction.shape)} and images {tuple(images.shape)} differ in shape; "
            "the target must be the preprocessed images that the decoder reconstructs"
        )
    return F.mse_loss(reconstruction, images, reduction="sum") / len(images)


def capsule_loss(
    output: CapsuleOutput,
    images: Tensor,
    labels: Tensor,
    reconstruction_weight: float = 5e-4,
    classification: Classification = "margin",
) -> CapsuleLoss:
    r"""Classification plus weighted reconstruction loss, :math:`L_{margin} + \lambda L_{recon}` (MoCapsNet, eq. 1).

    Args:
        output: the output of a capsule model for these images.
        images: the decoder's target, `[B, C, H, W]`, in [0, 1].
        labels: the class of each image, `[B]`.
        reconstruction_weight: :math:`\lambda`, weight of `reconstruction_loss`, >= 0.
        classification: "margin" for `margin_loss`; "cross_entropy" for a head with a softmax.

    Returns:
        `CapsuleLoss(total, margin, reconstruction)`; without a decoder the reconstruction term is zero. Call
        `.total.backward()`.

    Raises:
        ValueError: as `margin_loss` and `reconstruction_loss`; a negative weight; an unknown classification loss.
    """
    weight = finite_number("reconstruction_weight", reconstruction_weight, at_least=0)
    one_of("classification", classification, CLASSIFICATIONS)
    classification_loss = margin_loss if classification == "margin" else cross_entropy
    margin = classification_loss(output.lengths, labels)
    if output.reconstruction is None:
        return CapsuleLoss(margin, margin, margin.new_zeros(()))
    reconstruction = reconstruction_loss(output.reconstruction, images)
    return CapsuleLoss(margin + weight * reconstruction, margin, reconstruction)
