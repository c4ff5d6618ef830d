"""The checks of chapter 17: what is right, and what is wrong and why; see `test_checks.py`."""

import numpy as np
import torch

from capsnb.checks import ch17


def fitted(x, y):
    return torch.tensor(np.polyfit(x, y, 1)[0])


RIGHT = [
    (ch17.slope, fitted),
    (ch17.deepest, lambda memory, one, more: 0 if memory < one else 1 + int((memory - one) / more)),
    (ch17.win_rate, lambda a, b: ((a - b).sign().mean() + 1) / 2),
]
WRONG = [
    (ch17.slope, lambda x, y: (y[-1] - y[0]) / (x[-1] - x[0]), "first and the last"),
    (ch17.slope, lambda x, y: (y.diff() / x.diff()).mean(), "equally far apart"),
    (ch17.slope, lambda x, y: (x * y).sum() / (x * x).sum(), "through zero"),
    (ch17.slope, lambda x, y: ((x - x.mean()) * y).mean(), "covariance"),
    (ch17.slope, lambda x, y: 1 / fitted(x, y), "upside down"),
    (ch17.slope, lambda x, y: torch.corrcoef(torch.stack([x, y]))[0, 1], "correlation"),
    (ch17.slope, lambda x, y: fitted(x, y) + 1, "differ by up to 1"),
    (ch17.slope, lambda x, y: 3.0, "must return a tensor"),
    (ch17.deepest, lambda m, one, more: max((m - one) // more, 0), "one block short"),
    (ch17.deepest, lambda m, one, more: 1 + (m - one) // more, "answer is 0"),
    (ch17.deepest, lambda m, one, more: max(1 + (m - one) / more, 0), "round down"),
    (ch17.deepest, lambda m, one, more: m // more, "take that away first"),
    (ch17.deepest, lambda m, one, more: max(1 - (one - m) // more, 0), "Rounded up"),
    (ch17.deepest, lambda m, one, more: 3, "it should be 5, yours is 3"),
    (ch17.deepest, 5, "pass it without calling it"),
    (ch17.win_rate, lambda a, b: (a > b).double().mean(), "worth a half"),
    (ch17.win_rate, lambda a, b: (a >= b).double().mean(), "in full"),
    (ch17.win_rate, lambda a, b: 1 - ((a - b).sign().mean() + 1) / 2, "the other one"),
    (ch17.win_rate, lambda a, b: (a[:, None] - b).sign().mean() / 2 + 0.5, "every run with every other"),
    (ch17.win_rate, lambda a, b: (a > b).sum() + (a == b).sum() / 2, "number of pairs"),
    (ch17.win_rate, lambda a, b: (a - b).mean(), "How often"),
]
