"""The checks of chapter 15 accept what is right and explain what is wrong."""

import re
from math import comb

import pytest
import torch
from scipy import stats

from capsnb.checks import judging
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
    (judging.images_needed, 19_112),
    (judging.images_needed, 1.96**2 * 0.995 * 0.005 / 0.001**2),
    (judging.images_needed, torch.tensor(19_000)),
    (judging.area, pairs),
    (judging.precision, worth),
    (judging.paired, coins),
    (judging.paired, lambda b, c: 2 * tail(b, c, int(min(b, c)))),
]
WRONG = [
    (judging.images_needed, 4975, "one standard error"),
    (judging.images_needed, 1.96 * 4975, "squared together"),
    (judging.images_needed, 19.1, "square the reach"),
    (judging.images_needed, 3_822_000, "1 - p is missing"),
    (judging.images_needed, 960_400, "worst case"),
    (judging.images_needed, 4778, "half the interval"),
    (judging.images_needed, 1.911, "same unit"),
    (judging.images_needed, 10_000, "solve for N"),
    (judging.images_needed, "many", "finite number"),
    (judging.area, lambda i, o: (i[:, None] > o).double().mean(), "Ties are missing"),
    (judging.area, lambda i, o: (i[:, None] >= o).double().mean(), "count as won"),
    (judging.area, lambda i, o: pairs(o, i), "other way round"),
    (judging.area, lambda i, o: pairs(i, o) * len(i) * len(o), "number of pairs"),
    (judging.area, lambda i, o: pairs(i, o) * len(i) * len(o) / (len(i) + len(o)), "n \\+ m"),
    (judging.area, lambda i, o: (i.mean() > o.mean()).double(), "compared the means"),
    (judging.area, lambda i, o: pairs(i, o) + 0.01, "differ by"),
    (judging.precision, lambda t, f, p: t / (t + f), "equally large"),
    (judging.precision, lambda t, f, p: t * p / (t * p + f * p), "equally large"),
    (judging.precision, lambda t, f, p: t * p, "among all images"),
    (judging.precision, lambda t, f, p: t, "true positive rate itself"),
    (judging.precision, lambda t, f, p: 1 - worth(t, f, p), r"\*false\* alarms"),
    (judging.precision, lambda t, f, p: t * p + (1 - f) * (1 - p), "alarm or not"),
    (judging.precision, lambda t, f, p: worth(t, f, 1 - p), "exchanged"),
    (judging.precision, lambda t, f: t, "stopped with TypeError"),
    (judging.paired, lambda b, c: tail(b, c, 4), "one side"),
    (judging.paired, lambda b, c: tail(b, c, 4) - tail(b, c, 3), "exactly this split"),
    (judging.paired, lambda b, c: 2 * (tail(b, c, 4) - tail(b, c, 3)), "Doubled, but"),
    (judging.paired, lambda b, c: 2 * tail(b, c, 3), "up to and with 4"),
    (judging.paired, lambda b, c: (b - c) ** 2 / (b + c), "chi-squared"),
    (judging.paired, lambda b, c: (b - c).abs(), "That is the difference"),
    (judging.paired, lambda b, c: b / (b + c), "smaller share"),
    (judging.paired, lambda b, c: 2 * tail(b, c, int(b)), "not for 12 and 4"),
    (judging.paired, lambda b, c: coins(b, c).item(), "must return a tensor"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_are_accepted(check, answer):
    verdict = check(answer)
    assert verdict.right is True, verdict
    assert verdict.message


@pytest.mark.parametrize(("check", "answer", "reason"), WRONG)
def test_wrong_answers_are_explained(check, answer, reason):
    verdict = check(answer)
    assert verdict.right is False, verdict
    assert re.search(reason, verdict.message), verdict.message


@pytest.mark.parametrize("check", [judging.images_needed, judging.area, judging.precision, judging.paired])
def test_an_untouched_exercise_is_open(check):
    assert check(...).right is None
    if check is not judging.images_needed:
        assert check(lambda *arguments: ...).right is None


def test_what_is_called_right_agrees_with_the_package_and_with_scipy():
    low, high = wilson_interval(judging.ACCURACY, 19_112)
    assert (high - low) / 2 == pytest.approx(judging.REACH, rel=0.01)
    random = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(60, 2, generator=random).round(decimals=1), torch.arange(60) % 2
    found = evaluation_of_scores(labels.numpy(), scores.numpy(), ("no", "yes")).auc["yes"]
    assert pairs(scores[labels == 1, 1], scores[labels == 0, 1]).item() == pytest.approx(found)
    assert judging.paired(lambda b, c: torch.tensor(stats.binomtest(12, 16).pvalue)).right
