"""The checks of chapter 13: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import torch

from capsnb.checks import ch13


def slope(x, y):
    return ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()


def lost(base):
    return lambda gamma: math.floor(6 / -math.log(gamma, base))


RIGHT = [
    (ch13.states, 16 * 2 * 32 * 32 * 8 * 8 / 1e6),
    (ch13.states, 2.1),
    (ch13.slope, slope),
    (ch13.slope, lambda x, y: torch.linalg.lstsq(torch.stack([x, x**0], 1), y[:, None]).solution[0]),
    (ch13.break_even_batch, lambda J, E: 4 * J * E),
    (ch13.deepest, lost(10)),
]
WRONG = [
    (ch13.states, 0.524, "weights alone"),
    (ch13.states, 1.05, "count four"),
    (ch13.states, 1.57, "One of four"),
    (ch13.states, 0.262, "one layer"),
    (ch13.states, 4.19, "float64"),
    (ch13.states, 185, "Count the numbers"),
    (ch13.states, "2.1", "finite number"),
    (ch13.slope, lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0]), "between them"),
    (ch13.slope, lambda x, y: (x * y).sum() / (x * x).sum(), "origin"),
    (ch13.slope, lambda x, y: (y / x).mean(), "everything else"),
    (ch13.slope, lambda x, y: y.diff().mean(), "further apart"),
    (ch13.slope, lambda x, y: ((x - x.mean()) * y).mean(), "covariance"),
    (ch13.slope, lambda x, y: 1 / slope(x, y), "Upside down"),
    (ch13.slope, lambda x, y: y, "One number"),
    (ch13.slope, lambda x, y: slope(x, y) + 1, "subtract both means"),
    (ch13.break_even_batch, lambda J, E: J * E, "weights alone"),
    (ch13.break_even_batch, lambda J, E: 2 * J * E, "Count four"),
    (ch13.break_even_batch, lambda J, E: 3 * J * E, "Count four"),
    (ch13.break_even_batch, lambda J, E: 4 * (J * E) ** 2, "cancel"),
    (ch13.break_even_batch, lambda J, E: 16 * J * E, "four bytes"),
    (ch13.break_even_batch, lambda J, E: 7, "Set B J E"),
    (ch13.break_even_batch, lambda J: J, "stopped with TypeError"),
    (ch13.deepest, lost(math.e), "natural"),
    (ch13.deepest, lost(2), "six bits"),
    (ch13.deepest, lambda gamma: lost(10)(gamma) + 1, "One too many"),
    (ch13.deepest, lambda gamma: -lost(10)(gamma), "sign"),
    (ch13.deepest, lambda gamma: 7, "n layers cost"),
    (ch13.deepest, lambda: 7, "stopped with TypeError"),
]
