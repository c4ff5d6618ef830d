"""Each check of chapter 4 accepts a right answer and tells why each anticipated wrong one is wrong."""

import pytest
import torch
from torch.nn import functional as F

import capsnb
from capsnb.checks import ch04


def refused(verdict, *words):
    assert verdict.right is False
    for word in words:
        assert word in verdict.message


@pytest.mark.parametrize("check", [ch04.margin_by_hand, ch04.to_capsules, ch04.masked, ch04.loss_slopes])
def test_untouched_answer_is_neither_right_nor_wrong(check):
    assert check(...).right is None
    assert check(None).right is None
    assert "Not answered yet" in repr(check(...))


@pytest.mark.parametrize("check", [ch04.to_capsules, ch04.masked])
def test_functions_with_nothing_in_them(check):
    assert check(lambda *arguments: ...).right is None
    refused(check(7), "function")
    refused(check(lambda *arguments: 7), "returned int")
    refused(check(lambda *arguments: torch.zeros(2) @ torch.zeros(3)), "RuntimeError")
    refused(check(lambda: None), "TypeError")


def test_margin_by_hand_agrees_with_the_package():
    truth = capsnb.margin_loss(torch.tensor([ch04.HAND_LENGTHS]), torch.tensor([ch04.HAND_LABEL]))
    assert ch04.margin_by_hand(truth).right
    assert ch04.margin_by_hand(0.2**2 + 0.5 * 0.3**2).right


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (0.2 + 0.5 * 0.3, "before squaring"),
        (0.2**2 + 0.3**2, "down-weighted"),
        (0.2**2 + 0.5 * (0.3**2 + 0.05**2), "below 0.1"),
        ((0.2**2 + 0.5 * 0.3**2) / 3, "mean"),
        (0.2**2, "right class alone"),
        (0.5 * 0.3**2, "wrong classes alone"),
        (0.5 * (0.2**2 + 0.3**2), "in full"),
        ((0.2 + 0.5 * 0.3) ** 2, "added first"),
        (3, "one by one"),
        ("0.085", "number"),
        (True, "number"),
    ],
)
def test_margin_by_hand_says_what_was_left_out(answer, word):
    refused(ch04.margin_by_hand(answer), word)


def right_capsules(features, types, dim):
    B, _, H, W = features.shape
    return features.view(B, types, dim, H, W).permute(0, 1, 3, 4, 2).reshape(B, -1, dim)


def test_to_capsules_accepts_what_primary_capsules_do():
    assert ch04.to_capsules(right_capsules).right
    layer = capsnb.PrimaryCapsules(2, capsule_types=3, dim=4, kernel_size=3)
    images = torch.randn(2, 2, 13, 15)
    torch.testing.assert_close(capsnb.squash(right_capsules(layer.conv(images), 3, 4)), layer(images))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda f, types, dim: f.reshape(len(f), -1, dim), "neighbouring pixels"),
        (
            lambda f, types, dim: (
                f.unflatten(1, (types, dim)).permute(0, 1, 4, 3, 2).reshape(len(f), -1, dim)
            ),
            "H before W",
        ),
        (lambda f, types, dim: f.permute(0, 2, 3, 1).reshape(len(f), -1, dim), "order"),
        (
            lambda f, types, dim: (
                f.unflatten(1, (dim, types)).permute(0, 2, 3, 4, 1).reshape(len(f), -1, dim)
            ),
            "(types, dim)",
        ),
        (lambda f, types, dim: right_capsules(f, types, dim).flip(1), "first capsule"),
        (lambda f, types, dim: capsnb.squash(right_capsules(f, types, dim)), "first capsule"),
        (lambda f, types, dim: f, "shape"),
    ],
)
def test_to_capsules_says_what_a_capsule_holds_instead(answer, word):
    refused(ch04.to_capsules(answer), word)


def right_mask(capsules, labels):
    return (capsules * F.one_hot(labels, capsules.shape[1])[:, :, None]).flatten(1)


def by_prediction(capsules, labels):
    return right_mask(capsules, capsules.norm(dim=-1).argmax(1))


def test_masked_accepts_the_label():
    assert ch04.masked(right_mask).right


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (by_prediction, "prediction"),
        (lambda capsules, labels: capsules.flatten(1), "Nothing is masked"),
        (lambda capsules, labels: capsules.flatten(1) - right_mask(capsules, labels), "upside down"),
        (lambda capsules, labels: capsules[torch.arange(len(labels)), labels], "whose"),
        (lambda capsules, labels: right_mask(capsules, labels).unflatten(1, (4, 5)), "side by side"),
        (lambda capsules, labels: right_mask(capsules, labels)[:, :7], "[3, 20]"),
        (lambda capsules, labels: F.normalize(right_mask(capsules, labels)), "unchanged"),
    ],
)
def test_masked_says_what_the_decoder_sees(answer, word):
    refused(ch04.masked(answer), word)


def test_pulls_agree_with_autograd():
    slopes = []
    for m_minus in ch04.SLOPE_MARGINS:
        lengths = torch.tensor([[1.0, ch04.SLOPE_LENGTH]], requires_grad=True)
        capsnb.margin_loss(lengths, torch.tensor([0]), m_minus=m_minus).backward()
        slopes.append(lengths.grad[0, 1].item())
    assert ch04.loss_slopes(slopes).right
    assert ch04.loss_slopes((0.2, 0.1, 0)).right
    assert ch04.loss_slopes(torch.tensor(slopes)).right


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((0.02, 0.005, 0), "losses themselves"),
        ((0.4, 0.2, 0), "down-weighted"),
        ((0.1, 0.05, 0), "factor of 2"),
        ((-0.2, -0.1, 0), "descent"),
        ((0.2, 0.1, -0.1), "flat"),
        ((1, 2, 3), "Differentiate"),
        (0.2, "Three"),
        ("abc", "Three"),
        ((0.2, 0.1, "0"), "Three"),
    ],
)
def test_pulls_say_what_was_left_out(answer, word):
    refused(ch04.loss_slopes(answer), word)


def test_pulls_half_answered():
    assert ch04.loss_slopes((0.2, ..., ...)).right is None
