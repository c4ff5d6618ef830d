"""The checks of chapter 18: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import ch18


def blind_loss(J, weight, high, low):
    length = (high + low * weight * (J - 1)) / (1 + weight * (J - 1))
    return (high - length) ** 2 + weight * (J - 1) * (length - low) ** 2


def longer(g, B, epsilon):
    step = lambda gradient: gradient / (abs(gradient) + epsilon)  # noqa: E731
    return step(B * g) / step(g)


def varied(u):
    return u.var(0, correction=0).mean().sqrt() / u.square().mean().sqrt()


RIGHT = [(ch18.plateau, blind_loss), (ch18.sum_over_mean, longer), (ch18.variation, varied)]
WRONG = [
    (ch18.plateau, lambda J, w, high, low: blind_loss(J + 1, w, high, low), "J - 1"),
    (ch18.plateau, lambda J, w, high, low: blind_loss(J, 1, high, low), "Lambda is missing"),
    (ch18.plateau, lambda J, w, high, low: (high + low * w * (J - 1)) / (1 + w * (J - 1)), "the length"),
    (ch18.plateau, lambda J, w, high, low: blind_loss(J, w, high, low) / (high - low), "enters squared"),
    (ch18.plateau, lambda J, w, high, low: blind_loss(J, w, 0.9, 0.1), "are arguments"),
    (ch18.plateau, lambda J, w, high, low: high**2, "length zero"),
    (ch18.plateau, 0.627, "pass it without calling it"),
    (ch18.sum_over_mean, lambda g, B, epsilon: B, "below epsilon alone"),
    (ch18.sum_over_mean, lambda g, B, epsilon: 1.0, "above epsilon alone"),
    (ch18.sum_over_mean, lambda g, B, epsilon: 1 / longer(g, B, epsilon), "upside down"),
    (ch18.sum_over_mean, lambda g, B, epsilon: B * (g + epsilon) / (B * g + epsilon), "no sign"),
    (ch18.sum_over_mean, lambda g, B, epsilon: B * abs(g) / (B * abs(g) + epsilon), "Divide by the mean's"),
    (ch18.sum_over_mean, lambda g, B, epsilon: longer(g, B, epsilon) / B, "numerators differ"),
    (ch18.variation, lambda u: u.std(correction=0) / u.square().mean().sqrt(), "over all numbers"),
    (ch18.variation, lambda u: varied(u) ** 2, "a square"),
    (ch18.variation, lambda u: varied(u) * u.square().mean().sqrt(), "a share"),
    (ch18.variation, lambda u: u.var(0).mean().sqrt() / u.square().mean().sqrt(), "B - 1"),
    (ch18.variation, lambda u: (u - u.mean(0)).abs().mean() / u.abs().mean(), "absolute values"),
    (
        ch18.variation,
        lambda u: u.var(1, correction=0).mean().sqrt() / u.square().mean().sqrt(),
        "the capsules of an image",
    ),
    (ch18.variation, lambda u: torch.ones(2), "check the axes"),
]
