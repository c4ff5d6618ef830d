"""Checks for the exercises of chapter 15, *How good is it, really?*."""

from __future__ import annotations

from math import comb
from statistics import NormalDist

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_number, compare_tensors

ACCURACY, HALF_WIDTH = 0.995, 0.001


def images_needed(answer: object) -> Verdict:
    """Check how many test images give a 95 % interval of ± 0.1 percentage points at an accuracy of 99.5 %.

    Args:
        answer: a number, or `...`.

    Returns:
        Right, or which step was left out.

    >>> images_needed(19_000).right
    True
    """
    z, variance = NormalDist().inv_cdf(0.975), ACCURACY * (1 - ACCURACY)
    truth = z**2 * variance / HALF_WIDTH**2
    praise = "Nearly twice MNIST's test set. A tenth of the width always takes a hundred times the images."
    mistakes = {
        variance / HALF_WIDTH**2:
            "That is one standard error. A 95 % interval extends 1.96 standard errors to each side.",
        z * variance / HALF_WIDTH**2: "The half-width is z standard errors, so z is squared together with them.",
        z**2 * variance / HALF_WIDTH: "The square root of N is still there: square the half-width as well.",
        z**2 * ACCURACY / HALF_WIDTH**2: "The variance of one image is p (1 - p): the factor 1 - p is missing.",
        z**2 * 0.25 / HALF_WIDTH**2:
            "That is the worst case, an accuracy of one half. At 99.5 % far fewer are needed.",
        truth / 4: "0.1 points to each side, not from end to end: use half the interval's width.",
        truth / 1e4: "0.1 points are 0.001, not 0.1: accuracy and half-width must have the same unit.",
    }  # fmt: skip
    advice = "Set z √(p (1 - p) / N) equal to 0.001, with z = 1.96 and p = 0.995, and solve for N."
    return check_number(answer, {truth: praise}, mistakes, advice, relative=0.015)


def area(answer: object) -> Verdict:
    """Check the area under a ROC curve, counted in pairs: scores `[n]` of the class and `[m]` of all others.

    Args:
        answer: function of (inside, outside), or `...`.

    Returns:
        Right, or what was counted instead.

    >>> area(lambda inside, outside: (inside[:, None] > outside).double().mean()).right
    False
    """
    inside = torch.tensor([0.9, 0.7, 0.7, 0.4, 0.2], dtype=torch.float64)
    outside = torch.tensor([0.1, 0.7, 0.3, 0.4, 0.2, 0.2, 0.8], dtype=torch.float64)
    result = call_answer(answer, inside, outside)
    won, tied = inside[:, None] > outside, inside[:, None] == outside  # [n, m]
    half = won.double() + 0.5 * tied.double()
    mistakes = {
        "Ties are missing: a pair with equal scores is worth a half.": won.double().mean(),
        "Ties count as won here. Equal scores do not rank the pair, so they are worth a half.":
            (won | tied).double().mean(),
        "The other way round: the class's own images should score higher.": 1 - half.mean(),
        "That is the number of pairs. Divide by all n m of them.": half.sum(),
        "Divided by n + m. There are n m pairs.": half.sum() / (len(inside) + len(outside)),
        "You compared the means. Compare each pair.":
            (inside.mean() > outside.mean()).double(),
    }  # fmt: skip
    praise = (
        "The chance that an image of the class scores above one of the others. No threshold, no class size."
    )
    return compare_tensors(result, half.mean(), mistakes, praise, "one number")


def precision(answer: object) -> Verdict:
    """Check the precision, from the two rates of a ROC curve and the prevalence of the class.

    Args:
        answer: function of tensors (tpr, fpr, prevalence), each `[n]`, or `...`.

    Returns:
        Right, or which part was forgotten.

    >>> precision(lambda tpr, fpr, prevalence: tpr / (tpr + fpr)).right
    False
    """
    tpr, fpr, prevalence = torch.tensor(
        [[0.99, 0.95, 0.8], [0.01, 0.02, 0.3], [0.1, 0.001, 0.3]], dtype=torch.float64
    )
    result = call_answer(answer, tpr, fpr, prevalence)
    hits, false = tpr * prevalence, fpr * (1 - prevalence)
    mistakes = {
        "That is right if both groups are equally large. Weight each rate by its group's share.": tpr / (tpr + fpr),
        "Those are the hits among all images. Divide by all alarms, right and false.": hits,
        "Those are the hits that were found, among the class: the true positive rate itself.": tpr,
        "That is the share of *false* alarms. The question is about the right ones.": false / (hits + false),
        "That is the accuracy: how often it is right, alarm or not. Of the alarms alone, how many are right?":
            hits + (1 - fpr) * (1 - prevalence),
        "The shares are exchanged: the class has the prevalence, the others have the rest.":
            tpr * (1 - prevalence) / (tpr * (1 - prevalence) + fpr * prevalence),
    }  # fmt: skip
    praise = (
        "Bayes' rule. The second case: 95 % found, 2 % false alarms, and of twenty-two alarms one is right."
    )
    return compare_tensors(result, hits / (hits + false), mistakes, praise, "[n]")


def mcnemar_test(answer: object) -> Verdict:
    """Check McNemar's exact test of two networks on the same images.

    Args:
        answer: function of two numbers of images as tensors (only the first network wrong, only the second wrong), or
            `...`.

    Returns:
        Right, or what the number is instead.

    >>> mcnemar_test(lambda b, c: (b - c) ** 2 / (b + c)).right
    False
    """
    b, c = torch.tensor(4), torch.tensor(12)
    result = call_answer(answer, b, c)
    least, n = 4, 16
    chances = torch.tensor([comb(n, k) / 2**n for k in range(n + 1)], dtype=torch.float64)
    tail = chances[: least + 1].sum()
    mistakes = {
        "That is one side. The difference could have had the other sign: double it.": tail,
        "That is the probability of exactly this split. Add all splits that are more extreme.": chances[least],
        "Doubled, but only this very split. Add all splits that are more extreme, then double.":
            2 * chances[least],
        "That split itself belongs to the tail: add up to and with 4.": 2 * chances[:least].sum(),
        "That is McNemar's statistic, for the chi-squared table. With so few images count exactly: 16 fair coins.":
            torch.tensor((b - c).item() ** 2 / n, dtype=torch.float64),
        "That is the difference. How probable is it, if a fair coin decides each of the 16 images?":
            torch.tensor(8.0, dtype=torch.float64),
        "That is the smaller share of the two. How probable is 4 of 16 or fewer with a fair coin?":
            torch.tensor(0.25, dtype=torch.float64),
    }  # fmt: skip
    praise = "4 against 12 looks like a clear win, but 16 tosses of a fair coin are as uneven one time in thirteen."
    verdict = compare_tensors(result, 2 * tail, mistakes, praise, "one number")
    if verdict.right and not _symmetric(answer):
        return Verdict(
            False, "Right for 4 and 12, but not for 12 and 4: take the smaller of the two, whichever it is."
        )
    return verdict


def _symmetric(answer: object) -> bool:
    one, other = (call_answer(answer, torch.tensor(b), torch.tensor(c)) for b, c in ((4, 12), (12, 4)))
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and torch.allclose(one.double(), other.double())
    )
