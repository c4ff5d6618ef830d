"""The checks of chapter 13: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import torch

from capsnb.checks import billing


def slope(x, y):
    return ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()


def lost(base):
    return lambda gamma: math.floor(6 / -math.log(gamma, base))


RIGHT = [
    (billing.states, 16 * 2 * 32 * 32 * 8 * 8 / 1e6),
    (billing.states, 2.1),
    (billing.slope, slope),
    (billing.slope, lambda x, y: torch.linalg.lstsq(torch.stack([x, x**0], 1), y[:, None]).solution[0]),
    (billing.even, lambda J, E: 4 * J * E),
    (billing.deepest, lost(10)),
]
WRONG = [
    (billing.states, 0.524, "weights alone"),
    (billing.states, 1.05, "count four"),
    (billing.states, 1.57, "One of four"),
    (billing.states, 0.262, "one layer"),
    (billing.states, 4.19, "float64"),
    (billing.states, 185, "Count the numbers"),
    (billing.states, "2.1", "finite number"),
    (billing.slope, lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0]), "between them"),
    (billing.slope, lambda x, y: (x * y).sum() / (x * x).sum(), "origin"),
    (billing.slope, lambda x, y: (y / x).mean(), "everything else"),
    (billing.slope, lambda x, y: y.diff().mean(), "further apart"),
    (billing.slope, lambda x, y: ((x - x.mean()) * y).mean(), "covariance"),
    (billing.slope, lambda x, y: 1 / slope(x, y), "Upside down"),
    (billing.slope, lambda x, y: y, "One number"),
    (billing.slope, lambda x, y: slope(x, y) + 1, "subtract both means"),
    (billing.even, lambda J, E: J * E, "weights alone"),
    (billing.even, lambda J, E: 2 * J * E, "Count four"),
    (billing.even, lambda J, E: 3 * J * E, "Count four"),
    (billing.even, lambda J, E: 4 * (J * E) ** 2, "cancel"),
    (billing.even, lambda J, E: 16 * J * E, "four bytes"),
    (billing.even, lambda J, E: 7, "Set B J E"),
    (billing.even, lambda J: J, "stopped with TypeError"),
    (billing.deepest, lost(math.e), "natural"),
    (billing.deepest, lost(2), "six bits"),
    (billing.deepest, lambda gamma: lost(10)(gamma) + 1, "One too many"),
    (billing.deepest, lambda gamma: -lost(10)(gamma), "sign"),
    (billing.deepest, lambda gamma: 7, "n layers cost"),
    (billing.deepest, lambda: 7, "stopped with TypeError"),
]
EXERCISES = [billing.states, billing.slope, billing.even, billing.deepest]
