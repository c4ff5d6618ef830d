"""The checks of chapter 2: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.checks import ch02
from capsnb.functional import squash
from capsnb.layers import RoutingCapsules

RIGHT = [
    (ch02.unsquash, lambda v: (v / (1 - v)).sqrt()),
    (ch02.unsquash, lambda v: (1 / (1 - v) - 1) ** 0.5),
    (ch02.weight_std, 4),
    (ch02.weight_std, 4.0),
    (ch02.weight_std, torch.tensor(4.0)),
    (ch02.gain, 2.5),
]
WRONG = [
    (ch02.unsquash, lambda v: v / (1 - v), "root is missing"),
    (ch02.unsquash, lambda v: v**2 / (1 + v**2), "the inverse"),
    (ch02.unsquash, lambda v: (v / (1 + v)).sqrt(), "sign slipped"),
    (ch02.unsquash, lambda v: ((1 - v) / v).sqrt(), "Upside down"),
    (ch02.unsquash, lambda v: v * 2, "must return to"),
    (ch02.unsquash, lambda v: v[:, None], "shape"),
    (ch02.unsquash, lambda v: 1.0, "it returned float"),
    (ch02.unsquash, lambda v: v.nope, "AttributeError"),
    (ch02.unsquash, 3.0, "function is expected"),
    (ch02.weight_std, 2, "length 1/2"),
    (ch02.weight_std, 1 / 8, "couplings are missing"),
    (ch02.weight_std, 16, "variance"),
    (ch02.weight_std, 32 / (16 * math.sqrt(8)), "random walk"),
    (ch02.weight_std, 32 / (4 * math.sqrt(32)), "E stands without its root"),
    (ch02.weight_std, 64 / math.sqrt(32), "E is missing"),
    (ch02.weight_std, 0.01, "MoCapsNet"),
    (ch02.weight_std, 1.0, "the typical |s| is 0.25"),
    (ch02.weight_std, "4", "One finite number"),
    (ch02.weight_std, True, "One finite number"),
    (ch02.weight_std, math.nan, "One finite number"),
    (ch02.gain, 2, "Divide it"),
    (ch02.gain, 1.25, "not the squash"),
    (ch02.gain, 6.25, "one more root"),
    (ch02.gain, 1.5, "every length shrinks"),
    (ch02.gain, 3.0, "does not stay"),
    (ch02.gain, [2.5], "One finite number"),
]


@given(st.floats(1e-3, 50))
def test_the_inverse_that_is_accepted_inverts_the_squash(length):
    v = squash(torch.tensor([length], dtype=torch.float64), eps=0.0)
    torch.testing.assert_close((v / (1 - v)).sqrt(), torch.tensor([length], dtype=torch.float64))


def test_the_spread_that_is_accepted_gives_length_one():
    torch.manual_seed(0)
    layer = RoutingCapsules(32, 8, 32, 8, weight_std=4.0)
    u = torch.nn.functional.normalize(torch.randn(500, 32, 8), dim=-1) / 2
    s = layer.votes(u).sum(dim=1) / 32
    assert s.square().sum(dim=-1).mean().sqrt().item() == pytest.approx(1, rel=0.1)


def test_the_gain_that_is_accepted_is_inverted_by_the_squash():
    assert squash(torch.tensor([2.5 * 0.8])).item() == pytest.approx(0.8)
