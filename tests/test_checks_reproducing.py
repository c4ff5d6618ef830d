"""The checks of chapter 17: what is right, and what is wrong and why; see `test_checks.py`."""

import numpy as np
import torch

from capsnb.checks import reproducing


def fitted(x, y):
    return torch.tensor(np.polyfit(x, y, 1)[0])


RIGHT = [
    (reproducing.slope, fitted),
    (reproducing.deepest, lambda memory, one, more: 0 if memory < one else 1 + int((memory - one) / more)),
    (reproducing.ahead, lambda a, b: ((a - b).sign().mean() + 1) / 2),
]
WRONG = [
    (reproducing.slope, lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0]), "first and the last"),
    (reproducing.slope, lambda x, y: (y.diff() / x.diff()).mean(), "equally far apart"),
    (reproducing.slope, lambda x, y: (x * y).sum() / (x * x).sum(), "through zero"),
    (reproducing.slope, lambda x, y: ((x - x.mean()) * y).mean(), "covariance"),
    (reproducing.slope, lambda x, y: 1 / fitted(x, y), "upside down"),
    (reproducing.slope, lambda x, y: torch.corrcoef(torch.stack([x, y]))[0, 1], "correlation"),
    (reproducing.slope, lambda x, y: fitted(x, y) + 1, "differ by up to 1"),
    (reproducing.slope, lambda x, y: 3.0, "must return a tensor"),
    (reproducing.deepest, lambda m, one, more: max((m - one) // more, 0), "one block short"),
    (reproducing.deepest, lambda m, one, more: 1 + (m - one) // more, "answer is 0"),
    (reproducing.deepest, lambda m, one, more: max(1 + (m - one) / more, 0), "round down"),
    (reproducing.deepest, lambda m, one, more: m // more, "take that away first"),
    (reproducing.deepest, lambda m, one, more: max(1 - (one - m) // more, 0), "Rounded up"),
    (reproducing.deepest, lambda m, one, more: 3, "it should be 5, yours is 3"),
    (reproducing.deepest, 5, "hand it over uncalled"),
    (reproducing.ahead, lambda a, b: (a > b).double().mean(), "worth a half"),
    (reproducing.ahead, lambda a, b: (a >= b).double().mean(), "in full"),
    (reproducing.ahead, lambda a, b: 1 - ((a - b).sign().mean() + 1) / 2, "the other one"),
    (reproducing.ahead, lambda a, b: (a[:, None] - b).sign().mean() / 2 + 0.5, "every run with every other"),
    (reproducing.ahead, lambda a, b: (a > b).sum() + (a == b).sum() / 2, "number of pairs"),
    (reproducing.ahead, lambda a, b: (a - b).mean(), "How often"),
]
EXERCISES = [reproducing.slope, reproducing.deepest, reproducing.ahead]
