"""The checks of chapter 4: what is right, and what is wrong and why; see `test_checks.py`."""

import torch
from torch.nn import functional as F

import capsnb
from capsnb.checks import ch04


def right_capsules(features, types, dim):
    B, _, H, W = features.shape
    return features.view(B, types, dim, H, W).permute(0, 1, 3, 4, 2).reshape(B, -1, dim)


def right_mask(capsules, labels):
    return (capsules * F.one_hot(labels, capsules.shape[1])[:, :, None]).flatten(1)


def by_prediction(capsules, labels):
    return right_mask(capsules, capsules.norm(dim=-1).argmax(1))


RIGHT = [
    (ch04.margin_by_hand, 0.2**2 + 0.5 * 0.3**2),
    (ch04.to_capsules, right_capsules),
    (ch04.masked, right_mask),
    (ch04.loss_slopes, (0.2, 0.1, 0)),
    (ch04.loss_slopes, torch.tensor([0.2, 0.1, 0])),
]
WRONG = [
    (ch04.margin_by_hand, 0.2 + 0.5 * 0.3, "before squaring"),
    (ch04.margin_by_hand, 0.2**2 + 0.3**2, "down-weighted"),
    (ch04.margin_by_hand, 0.2**2 + 0.5 * (0.3**2 + 0.05**2), "below 0.1"),
    (ch04.margin_by_hand, (0.2**2 + 0.5 * 0.3**2) / 3, "mean"),
    (ch04.margin_by_hand, 0.2**2, "right class alone"),
    (ch04.margin_by_hand, 0.5 * 0.3**2, "wrong classes alone"),
    (ch04.margin_by_hand, 0.5 * (0.2**2 + 0.3**2), "in full"),
    (ch04.margin_by_hand, (0.2 + 0.5 * 0.3) ** 2, "added first"),
    (ch04.margin_by_hand, 3, "one by one"),
    (ch04.margin_by_hand, "0.085", "number"),
    (ch04.margin_by_hand, True, "number"),
    (ch04.to_capsules, lambda f, types, dim: f.reshape(len(f), -1, dim), "neighbouring pixels"),
    (
        ch04.to_capsules,
        lambda f, types, dim: f.unflatten(1, (types, dim)).permute(0, 1, 4, 3, 2).reshape(len(f), -1, dim),
        "H before W",
    ),
    (ch04.to_capsules, lambda f, types, dim: f.permute(0, 2, 3, 1).reshape(len(f), -1, dim), "order"),
    (
        ch04.to_capsules,
        lambda f, types, dim: f.unflatten(1, (dim, types)).permute(0, 2, 3, 4, 1).reshape(len(f), -1, dim),
        "(types, dim)",
    ),
    (ch04.to_capsules, lambda f, types, dim: right_capsules(f, types, dim).flip(1), "first capsule"),
    (ch04.to_capsules, lambda f, types, dim: capsnb.squash(right_capsules(f, types, dim)), "first capsule"),
    (ch04.to_capsules, lambda f, types, dim: f, "shape"),
    (ch04.masked, by_prediction, "prediction"),
    (ch04.masked, lambda capsules, labels: capsules.flatten(1), "Nothing is masked"),
    (ch04.masked, lambda capsules, labels: capsules.flatten(1) - right_mask(capsules, labels), "upside down"),
    (ch04.masked, lambda capsules, labels: capsules[torch.arange(len(labels)), labels], "whose"),
    (ch04.masked, lambda capsules, labels: right_mask(capsules, labels).unflatten(1, (4, 5)), "side by side"),
    (ch04.masked, lambda capsules, labels: right_mask(capsules, labels)[:, :7], "[3, 20]"),
    (ch04.masked, lambda capsules, labels: F.normalize(right_mask(capsules, labels)), "unchanged"),
    (ch04.loss_slopes, (0.02, 0.005, 0), "losses themselves"),
    (ch04.loss_slopes, (0.4, 0.2, 0), "down-weighted"),
    (ch04.loss_slopes, (0.1, 0.05, 0), "factor of 2"),
    (ch04.loss_slopes, (-0.2, -0.1, 0), "descent"),
    (ch04.loss_slopes, (0.2, 0.1, -0.1), "flat"),
    (ch04.loss_slopes, (1, 2, 3), "Differentiate"),
    (ch04.loss_slopes, 0.2, "Three"),
    (ch04.loss_slopes, "abc", "Three"),
    (ch04.loss_slopes, (0.2, 0.1, "0"), "Three"),
    (ch04.to_capsules, 7, "function"),
    (ch04.to_capsules, lambda *arguments: 7, "returned int"),
    (ch04.to_capsules, lambda *arguments: torch.zeros(2) @ torch.zeros(3), "RuntimeError"),
    (ch04.to_capsules, lambda: None, "TypeError"),
    (ch04.masked, 7, "function"),
    (ch04.masked, lambda *arguments: 7, "returned int"),
    (ch04.masked, lambda *arguments: torch.zeros(2) @ torch.zeros(3), "RuntimeError"),
    (ch04.masked, lambda: None, "TypeError"),
]


def test_margin_by_hand_agrees_with_the_package():
    truth = capsnb.margin_loss(torch.tensor([ch04.HAND_LENGTHS]), torch.tensor([ch04.HAND_LABEL]))
    assert ch04.margin_by_hand(truth).right


def test_to_capsules_accepts_what_primary_capsules_do():
    layer = capsnb.PrimaryCapsules(2, capsule_types=3, dim=4, kernel_size=3)
    images = torch.randn(2, 2, 13, 15)
    torch.testing.assert_close(capsnb.squash(right_capsules(layer.conv(images), 3, 4)), layer(images))


def test_pulls_agree_with_autograd():
    slopes = []
    for m_minus in ch04.SLOPE_MARGINS:
        lengths = torch.tensor([[1.0, ch04.SLOPE_LENGTH]], requires_grad=True)
        capsnb.margin_loss(lengths, torch.tensor([0]), m_minus=m_minus).backward()
        slopes.append(lengths.grad[0, 1].item())
    assert ch04.loss_slopes(slopes).right
    assert ch04.loss_slopes(torch.tensor(slopes)).right


def test_pulls_half_answered():
    assert ch04.loss_slopes((0.2, ..., ...)).right is None
