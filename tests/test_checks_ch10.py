"""The checks of chapter 10: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.checks import ch10


def home(x, v, f, gamma):
    x = x - v
    return torch.stack([x, (v - (1 - gamma) * f(x)) / gamma])


RIGHT = [
    (ch10.inverse_step, home),
    (
        ch10.inverse_step,
        lambda x, v, f, gamma: torch.stack([x - v, v / gamma + (1 - 1 / gamma) * f(x - v)]),
    ),
    (ch10.deepest, 269),
    (ch10.deepest, math.floor(6 / -math.log10(0.95))),
    (ch10.bits, math.log2(4 / 3)),
    (ch10.bits, 0.415),
    (ch10.bits, torch.tensor(0.415)),
    (ch10.iterations_needed, 20),
    (ch10.iterations_needed, math.ceil(6 / math.log10(2))),
]
WRONG = [
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x, home(x, v, f, g)[1]]),
        "what came out of the layer",
    ),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x - v, (v - (1 - g) * f(x)) / g]),
        "evaluated at x_{n+1}",
    ),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x - v, v - (1 - g) * f(x - v)]),
        "division by gamma is missing",
    ),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x - v, (v - (1 - g) * f(x - v)) * g]),
        "*divide* by gamma",
    ),
    (ch10.inverse_step, lambda x, v, f, g: torch.stack([x - v, (v - f(x - v)) / g]), "factor 1 - gamma"),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x - v, (v + (1 - g) * f(x - v)) / g]),
        "takes it off",
    ),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x - v, v / g - (1 - g) * f(x - v)]),
        "whole difference",
    ),
    (
        ch10.inverse_step,
        lambda x, v, f, g: torch.stack([x + v, (v - (1 - g) * f(x + v)) / g]),
        "velocity once more",
    ),
    (ch10.inverse_step, lambda x, v, f, g: home(x, v, f, g).flip(0), "other order"),
    (ch10.inverse_step, lambda x, v, f, g: home(x, v, f, g)[0], "check the axes"),
    (ch10.inverse_step, lambda x, v, f, g: home(x, v, f, g) + 1, "differ by up to 1"),
    (ch10.inverse_step, lambda x, v, f, g: tuple(home(x, v, f, g)), "returned tuple"),
    (ch10.inverse_step, 3, "function is expected"),
    (ch10.deepest, 270, "round down"),
    (ch10.deepest, 6 / -math.log10(0.95), "whole*"),
    (ch10.deepest, math.floor(6 / -math.log(0.95)), "log10, not log"),
    (ch10.deepest, 81, "bits"),
    (ch10.deepest, 131, "gamma = 0.9"),
    (ch10.deepest, -269, "sign"),
    (ch10.deepest, 500, "would cost 11.1"),
    (ch10.deepest, "269", "finite number"),
    (ch10.bits, -math.log2(4 / 3), "sign"),
    (ch10.bits, math.log(4 / 3), "natural"),
    (ch10.bits, math.log10(4 / 3), "decimal"),
    (ch10.bits, 2, "gives"),
    (ch10.bits, math.log2(3), "comes back out"),
    (ch10.bits, math.log2(10 / 9), "gamma = 0.9"),
    (ch10.bits, 0.25, "values"),
    (ch10.bits, 1, "tell 2 states apart"),
    (ch10.bits, 1e6, "far off"),
    (ch10.iterations_needed, math.log2(1e6), "round up"),
    (ch10.iterations_needed, 19, "round up"),
    (ch10.iterations_needed, 6, "decimal *digit*"),
    (ch10.iterations_needed, 6 / math.log(2), "logarithms"),
    (ch10.iterations_needed, 21, "fewer would do"),
    (ch10.iterations_needed, 3, "may still be 0.12"),
    (ch10.iterations_needed, -200, "huge"),
]


@given(st.floats(0.1, 1), st.integers(0, 99))
def test_the_inverse_that_is_accepted_inverts_the_recurrence(gamma, seed):
    x, v = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    after = gamma * v + (1 - gamma) * x.cos()
    torch.testing.assert_close(home(x + after, after, torch.cos, gamma), torch.stack([x, v]))


def test_the_bits_that_are_accepted_are_what_a_store_of_remainders_holds():
    """V -> 3/4 V on whole numbers, with what is dropped kept: the store grows by log2(4/3) bits per layer."""
    V, store, held = 10**40, 0, []
    for _ in range(200):
        store, V = 4 * store + V % 4, V // 4
        V, store = 3 * V + store % 3, store // 3
        held.append(store)
    assert math.log2(held[199] / held[99]) / 100 == pytest.approx(math.log2(4 / 3), rel=0.01)
