"""The checks of chapter 9: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capsnb import MomentumCapsules
from capsnb.checks import ch09


def counted(n, offset=0):
    return torch.arange(n + offset, offset, -1, dtype=torch.float64)


def slope(gamma):
    return (1 - gamma**0.5) / (1 + gamma**0.5)


RIGHT = [
    (ch09.shares, lambda n, gamma: 1 - gamma ** counted(n)),
    (ch09.shares, lambda n, gamma: torch.tensor([1 - gamma ** (n - i) for i in range(n)])),
    (ch09.half_life, math.log(0.5) / math.log(0.9)),
    (ch09.half_life, 6.58),
    (ch09.half_life, torch.tensor(6.5788)),
    (ch09.least_slope, slope),
    (ch09.least_slope, lambda gamma: (1 + gamma - 2 * math.sqrt(gamma)) / (1 - gamma)),
    (ch09.least_slope, lambda gamma: torch.tensor(slope(gamma))),
]
WRONG = [
    (ch09.shares, lambda n, gamma: 1 - gamma ** counted(n).flip(0), "reversed"),
    (ch09.shares, lambda n, gamma: 1 - gamma ** counted(n, -1), "not at 0"),
    (ch09.shares, lambda n, gamma: 1 - gamma ** counted(n, 1), "not two"),
    (ch09.shares, lambda n, gamma: (1 - gamma) * gamma ** counted(n, -1), "velocity"),
    (ch09.shares, lambda n, gamma: gamma ** counted(n), "not* arrived"),
    (ch09.shares, lambda n, gamma: (1 - gamma ** counted(n)) / (1 - gamma), "factor 1 - gamma is missing"),
    (ch09.shares, lambda n, gamma: 1 - gamma ** counted(n + 1), "check the axes"),
    (ch09.shares, lambda n, gamma: 0.5, "returned float"),
    (ch09.shares, 0.5, "function is expected"),
    (ch09.half_life, 5, "velocity fades"),
    (ch09.half_life, 10 * math.log(2), "close to 1"),
    (ch09.half_life, 10, "mass"),
    (ch09.half_life, 9, "late"),
    (ch09.half_life, -6.5788, "sign slipped"),
    (ch09.half_life, 1 / 6.5788, "Upside down"),
    (ch09.half_life, 7, "before rounding"),
    (ch09.half_life, -3, "before it is computed"),
    (ch09.half_life, 20, "should be 0.5"),
    (ch09.half_life, "7", "finite number"),
    (ch09.least_slope, lambda gamma: (1 - gamma) / (1 + gamma), "roots are missing"),
    (ch09.least_slope, lambda gamma: (1 - gamma**0.5) ** 2, "divide by it"),
    (ch09.least_slope, lambda gamma: 1 / slope(gamma), "other edge"),
    (ch09.least_slope, lambda gamma: 0.5, "differ by up to"),
    (ch09.least_slope, lambda gamma: 1 / gamma, "ZeroDivisionError"),
    (ch09.least_slope, 0.5, "function is expected"),
]


class Say(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what.expand_as(x)


@given(st.integers(1, 8), st.floats(0.3, 1, exclude_max=True))
def test_the_shares_that_are_accepted_are_those_of_the_package(n, gamma):
    stack = MomentumCapsules([Say(voice) for voice in torch.eye(n, dtype=torch.float64)], gamma)
    arrived = stack(torch.zeros(1, 1, n, dtype=torch.float64)).flatten()
    torch.testing.assert_close(arrived, 1 - gamma ** counted(n))


def changes_sign(gamma, force, layers=20_000):
    """Whether a ball that starts at rest on a spring ever passes the middle; rescaled, so that it never dies out."""
    x, velocity = 1.0, 0.0
    for _ in range(layers):
        velocity = gamma * velocity - (1 - gamma) * force * x
        x += velocity
        if x <= 0:
            return True
        x, velocity = 1.0, velocity / x
    return False


@given(st.floats(0.05, 0.95))
def test_the_slope_that_is_accepted_is_where_balls_begin_to_pass(gamma):
    assert not changes_sign(gamma, 0.99 * slope(gamma))
    assert changes_sign(gamma, 1.01 * slope(gamma))
