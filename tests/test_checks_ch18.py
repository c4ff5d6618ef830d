"""The checks of chapter 18: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import ch18


def blind_loss(J):
    length = (0.9 + 0.1 * (J - 1) / 2) / (1 + (J - 1) / 2)
    return (0.9 - length) ** 2 + (J - 1) / 2 * (length - 0.1) ** 2


def change(g, rate, epsilon):
    return -rate / (1 + epsilon / abs(g)) * (1 if g > 0 else -1)


def varied(u):
    return u.var(0, correction=0).mean().sqrt() / u.square().mean().sqrt()


RIGHT = [(ch18.plateau, blind_loss), (ch18.adam_step, change), (ch18.variation, varied)]
WRONG = [
    (ch18.plateau, lambda J: 0.64 * J / (2 + J), "J - 1"),
    (ch18.plateau, lambda J: 0.64 * (J - 1) / J, "Lambda is missing"),
    (ch18.plateau, lambda J: (0.9 + (J - 1) / 20) / (1 + (J - 1) / 2), "the length"),
    (ch18.plateau, lambda J: (J - 1) / (J + 1), "0.64"),
    (ch18.plateau, lambda J: 0.9**2, "length zero"),
    (ch18.plateau, 0.627, "pass it without calling it"),
    (ch18.adam_step, lambda g, rate, epsilon: -rate * g / abs(g), "Epsilon is missing"),
    (ch18.adam_step, lambda g, rate, epsilon: -change(g, rate, epsilon), "the sign"),
    (ch18.adam_step, lambda g, rate, epsilon: -rate * g / (g + epsilon) if g + epsilon else 0.0, "no sign"),
    (ch18.adam_step, lambda g, rate, epsilon: -rate * g / (g * g + epsilon) ** 0.5, "outside the root"),
    (ch18.adam_step, lambda g, rate, epsilon: -rate * g, "gradient descent"),
    (ch18.adam_step, lambda g, rate, epsilon: change(g, 1.0, epsilon), "the learning rate"),
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
