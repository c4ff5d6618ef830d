"""The margin loss against a loop, the reconstruction loss as a sum, and their weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from capsnb import CapsuleOutput, capsule_loss, margin_loss, reconstruction_loss
from capsnb.losses import cross_entropy


def margin_in_loops(lengths: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    for row, label in zip(lengths.tolist(), labels.tolist(), strict=True):
        for j, length in enumerate(row):
            total += max(0, 0.9 - length) ** 2 if j == label else 0.5 * max(0, length - 0.1) ** 2
    return total / len(lengths)


@given(B=st.integers(1, 5), J=st.integers(1, 6), seed=st.integers(0, 99))
def test_margin_equals_the_loop(B, J, seed):
    torch.manual_seed(seed)
    lengths, labels = torch.rand(B, J, dtype=torch.float64), torch.randint(J, (B,))
    assert margin_loss(lengths, labels).item() == pytest.approx(margin_in_loops(lengths, labels), rel=1e-12)


def test_all_capsules_silent_cost_0_81():
    assert margin_loss(torch.zeros(3, 10), torch.tensor([0, 4, 9])).item() == pytest.approx(0.81)


def test_inside_both_margins_costs_nothing():
    assert margin_loss(torch.tensor([[0.95, 0.05, 0.1]]), torch.tensor([0])) == 0


def test_gradcheck():
    lengths = torch.rand(
        4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3])
    assert torch.autograd.gradcheck(lambda x: margin_loss(x, labels), (lengths,))


@given(B=st.integers(1, 4), side=st.integers(1, 5))
def test_reconstruction_sums_pixels_and_averages_images(B, side):
    assert reconstruction_loss(torch.zeros(B, 2, side, side), torch.full((B, 2, side, side), 0.5)).item() == (
        pytest.approx(0.25 * 2 * side * side)
    )


def test_total_weighs_its_terms():
    output = CapsuleOutput(torch.zeros(2, 3, 4), torch.rand(2, 3), torch.rand(2, 1, 5, 5))
    images, labels = torch.rand(2, 1, 5, 5), torch.tensor([0, 2])
    loss = capsule_loss(output, images, labels, reconstruction_weight=0.25)
    torch.testing.assert_close(loss.margin, margin_loss(output.lengths, labels))
    torch.testing.assert_close(loss.total, loss.margin + 0.25 * loss.reconstruction)
    without = capsule_loss(output._replace(reconstruction=None), images, labels)
    assert without.total == without.margin and without.reconstruction == 0


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        margin_loss(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(2,\) and \(2,\)"):
        margin_loss(torch.zeros(2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="differ in shape"):
        reconstruction_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))


@given(st.integers(1, 5), st.integers(2, 6))
def test_cross_entropy_of_a_softmax_is_the_usual_one(B, J):
    sums = (5 * torch.randn(B, J, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(J, (B,))
    found, usual = cross_entropy(sums.softmax(1), labels), F.cross_entropy(sums, labels)
    torch.testing.assert_close(found, usual)
    torch.testing.assert_close(*(torch.autograd.grad(loss, sums)[0] for loss in (found, usual)))
    loss = capsule_loss(
        CapsuleOutput(sums[:, :, None], sums.softmax(1), None), sums, labels, 0.0, "cross_entropy"
    )
    torch.testing.assert_close(loss.total, F.cross_entropy(sums, labels))


def test_cross_entropy_takes_shares_and_stays_finite():
    scores = torch.tensor([[0.1, 0.3], [0.0, 0.4], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 0, 0])
    loss = cross_entropy(scores, labels)
    loss.backward()
    assert loss.isfinite() and scores.grad.isfinite().all()
    assert scores.grad[0] @ scores.detach()[0] == pytest.approx(
        0, abs=1e-6
    )  # shares do not change when all scores grow alike
    assert cross_entropy(scores[:1], labels[:1]).item() == pytest.approx(-math.log(0.75))


def test_an_unknown_loss_is_not_taken_for_the_cross_entropy():
    output = CapsuleOutput(torch.rand(2, 3, 4), torch.rand(2, 3), None)
    with pytest.raises(
        ValueError, match="unknown classification 'crossentropy'; choose one of margin, cross_entropy"
    ):
        capsule_loss(output, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), classification="crossentropy")
