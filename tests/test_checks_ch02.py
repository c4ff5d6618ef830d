"""Checks of chapter 2: right answers pass, and each wrong turn is named."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.checks import ch02
from capsnb.functional import squash
from capsnb.layers import RoutingCapsules

EVERY = pytest.mark.parametrize("check", [ch02.unsquash, ch02.weight_std, ch02.gain])


@EVERY
@pytest.mark.parametrize("blank", [..., None])
def test_untouched(check, blank):
    assert check(blank).right is None


def test_untouched_function():
    assert ch02.unsquash(lambda length: ...).right is None


@given(st.floats(1e-3, 50))
def test_the_inverse_that_is_accepted_inverts_the_squash(length):
    v = squash(torch.tensor([length], dtype=torch.float64), eps=0.0)
    torch.testing.assert_close((v / (1 - v)).sqrt(), torch.tensor([length], dtype=torch.float64))


def test_right_inverses():
    assert ch02.unsquash(lambda v: (v / (1 - v)).sqrt()).right
    assert ch02.unsquash(lambda v: (1 / (1 - v) - 1) ** 0.5).right


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda v: v / (1 - v), "root is missing"),
        (lambda v: v**2 / (1 + v**2), "the inverse"),
        (lambda v: (v / (1 + v)).sqrt(), "sign slipped"),
        (lambda v: ((1 - v) / v).sqrt(), "Upside down"),
        (lambda v: v * 2, "must return to"),
        (lambda v: v[:, None], "shape"),
        (lambda v: 1.0, "it returned float"),
        (lambda v: v.nope, "AttributeError"),
        (3.0, "function is expected"),
    ],
)
def test_wrong_inverses(answer, why):
    verdict = ch02.unsquash(answer)
    assert verdict.right is False
    assert why in verdict.message


@pytest.mark.parametrize("answer", [4, 4.0, torch.tensor(4.0)])
def test_right_spread(answer):
    assert ch02.weight_std(answer).right


def test_the_spread_that_is_accepted_gives_length_one():
    torch.manual_seed(0)
    layer = RoutingCapsules(32, 8, 32, 8, weight_std=4.0)
    u = torch.nn.functional.normalize(torch.randn(500, 32, 8), dim=-1) / 2
    s = layer.votes(u).sum(dim=1) / 32
    assert s.square().sum(dim=-1).mean().sqrt().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (2, "length 1/2"),
        (1 / 8, "couplings are missing"),
        (16, "variance"),
        (32 / (16 * math.sqrt(8)), "random walk"),
        (32 / (4 * math.sqrt(32)), "E stands without its root"),
        (64 / math.sqrt(32), "E is missing"),
        (0.01, "MoCapsNet"),
        (1.0, "the typical |s| is 0.25"),
        ("4", "One finite number"),
        (True, "One finite number"),
        (math.nan, "One finite number"),
    ],
)
def test_wrong_spreads(answer, why):
    verdict = ch02.weight_std(answer)
    assert verdict.right is False
    assert why in verdict.message


def test_right_gain():
    assert ch02.gain(2.5).right
    assert squash(torch.tensor([2.5 * 0.8])).item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (2, "Divide it"),
        (1.25, "not the squash"),
        (6.25, "one more root"),
        (1.5, "every length shrinks"),
        (3.0, "does not stay"),
        ([2.5], "One finite number"),
    ],
)
def test_wrong_gains(answer, why):
    verdict = ch02.gain(answer)
    assert verdict.right is False
    assert why in verdict.message
