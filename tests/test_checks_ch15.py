"""The checks of chapter 15: what is right, and what is wrong and why; see `test_checks.py`."""

from math import comb

import pytest
import torch
from scipy import stats

from capsnb.checks import ch15
from capsnb.evaluation import evaluation_of_scores, wilson_interval


def pairs(inside, outside):
    won, tied = inside[:, None] > outside, inside[:, None] == outside
    return (won.double() + tied.double() / 2).mean()


def worth(tpr, fpr, prevalence):
    return tpr * prevalence / (tpr * prevalence + fpr * (1 - prevalence))


def coins(b, c):
    return torch.tensor(stats.binomtest(int(b), int(b + c)).pvalue)


def tail(b, c, last):
    n = int(b + c)
    return torch.tensor(sum(comb(n, k) for k in range(last + 1)) / 2**n)


RIGHT = [
    (ch15.images_needed, 19_112),
    (ch15.images_needed, 1.96**2 * 0.995 * 0.005 / 0.001**2),
    (ch15.images_needed, torch.tensor(19_000)),
    (ch15.area, pairs),
    (ch15.precision, worth),
    (ch15.mcnemar_test, coins),
    (ch15.mcnemar_test, lambda b, c: 2 * tail(b, c, int(min(b, c)))),
]
WRONG = [
    (ch15.images_needed, 4975, "one standard error"),
    (ch15.images_needed, 1.96 * 4975, "squared together"),
    (ch15.images_needed, 19.1, "square the half-width"),
    (ch15.images_needed, 3_822_000, "1 - p is missing"),
    (ch15.images_needed, 960_400, "worst case"),
    (ch15.images_needed, 4778, "half the interval"),
    (ch15.images_needed, 1.911, "same unit"),
    (ch15.images_needed, 10_000, "solve for N"),
    (ch15.images_needed, "many", "finite number"),
    (ch15.area, lambda i, o: (i[:, None] > o).double().mean(), "Ties are missing"),
    (ch15.area, lambda i, o: (i[:, None] >= o).double().mean(), "count as won"),
    (ch15.area, lambda i, o: pairs(o, i), "other way round"),
    (ch15.area, lambda i, o: pairs(i, o) * len(i) * len(o), "number of pairs"),
    (ch15.area, lambda i, o: pairs(i, o) * len(i) * len(o) / (len(i) + len(o)), "n + m"),
    (ch15.area, lambda i, o: (i.mean() > o.mean()).double(), "compared the means"),
    (ch15.area, lambda i, o: pairs(i, o) + 0.01, "differ by"),
    (ch15.precision, lambda t, f, p: t / (t + f), "equally large"),
    (ch15.precision, lambda t, f, p: t * p / (t * p + f * p), "equally large"),
    (ch15.precision, lambda t, f, p: t * p, "among all images"),
    (ch15.precision, lambda t, f, p: t, "true positive rate itself"),
    (ch15.precision, lambda t, f, p: 1 - worth(t, f, p), "*false* alarms"),
    (ch15.precision, lambda t, f, p: t * p + (1 - f) * (1 - p), "alarm or not"),
    (ch15.precision, lambda t, f, p: worth(t, f, 1 - p), "exchanged"),
    (ch15.precision, lambda t, f: t, "stopped with TypeError"),
    (ch15.mcnemar_test, lambda b, c: tail(b, c, 4), "one side"),
    (ch15.mcnemar_test, lambda b, c: tail(b, c, 4) - tail(b, c, 3), "exactly this split"),
    (ch15.mcnemar_test, lambda b, c: 2 * (tail(b, c, 4) - tail(b, c, 3)), "Doubled, but"),
    (ch15.mcnemar_test, lambda b, c: 2 * tail(b, c, 3), "up to and with 4"),
    (ch15.mcnemar_test, lambda b, c: (b - c) ** 2 / (b + c), "chi-squared"),
    (ch15.mcnemar_test, lambda b, c: (b - c).abs(), "That is the difference"),
    (ch15.mcnemar_test, lambda b, c: b / (b + c), "smaller share"),
    (ch15.mcnemar_test, lambda b, c: 2 * tail(b, c, int(b)), "not for 12 and 4"),
    (ch15.mcnemar_test, lambda b, c: coins(b, c).item(), "must return a tensor"),
]


def test_what_is_called_right_agrees_with_the_package_and_with_scipy():
    low, high = wilson_interval(ch15.ACCURACY, 19_112)
    assert (high - low) / 2 == pytest.approx(ch15.HALF_WIDTH, rel=0.01)
    random = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(60, 2, generator=random).round(decimals=1), torch.arange(60) % 2
    found = evaluation_of_scores(labels.numpy(), scores.numpy(), ("no", "yes")).auc["yes"]
    assert pairs(scores[labels == 1, 1], scores[labels == 0, 1]).item() == pytest.approx(found)
    assert ch15.mcnemar_test(lambda b, c: torch.tensor(stats.binomtest(12, 16).pvalue)).right
