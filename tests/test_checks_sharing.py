"""The checks of chapter 16: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import sharing

RIGHT = [
    (sharing.factor, 64),
    (sharing.factor, torch.tensor(2.0**6)),
    (sharing.weights, lambda sizes: sizes / sizes.sum()),
    (sharing.weights, lambda sizes: sizes.double() / 50),
    (sharing.share, lambda mine, rows, processes: mine / (rows / processes)),
    (sharing.sent, lambda size, n: 2 * (size - size / n)),
]
WRONG = [
    (sharing.factor, 32, "even one: zero"),
    (sharing.factor, 2**16, "Smaller ones have fewer"),
    (sharing.factor, 2**30, "makes it 1"),
    (sharing.factor, 6, "exponent"),
    (sharing.factor, 2, "still make zero"),
    (sharing.factor, 128, "smaller power"),
    (sharing.factor, "64", "finite number"),
    (sharing.weights, lambda sizes: torch.full((3,), 1 / 3), "count double"),
    (sharing.weights, lambda sizes: torch.ones(3), "adds up means"),
    (sharing.weights, lambda sizes: sizes, "sum to one"),
    (sharing.weights, lambda sizes: (1 / sizes) / (1 / sizes).sum(), "turn the fraction round"),
    (sharing.weights, lambda sizes: sizes[:2] / 50, "check the axes"),
    (sharing.weights, lambda sizes: sizes / 49, "differ by up to"),
    (sharing.weights, lambda sizes: 0.4, "must return a tensor"),
    (sharing.share, lambda mine, rows, n: mine / rows, "once more"),
    (sharing.share, lambda mine, rows, n: 1, "equally many"),
    (sharing.share, lambda mine, rows, n: n, "counts as much"),
    (sharing.share, lambda mine, rows, n: rows / (n * mine) if mine else 0, "upside down"),
    (sharing.share, lambda mine, rows, n: mine / rows / n, "Multiply by the number"),
    (
        sharing.share,
        lambda mine, rows, n: 2 * mine / rows,
        r"For \(3, 8, 3\) it should be 1.125, yours is 0.75",
    ),
    (sharing.share, lambda mine, rows, n: rows / mine, "stopped with ZeroDivisionError"),
    (sharing.share, 0.5, "hand it over uncalled"),
    (sharing.sent, lambda size, n: (n - 1) / n * size, "as long again"),
    (sharing.sent, lambda size, n: (n - 1) * size, "only pieces travel"),
    (sharing.sent, lambda size, n: 2 * (n - 1) * size, "whole gradients"),
    (sharing.sent, lambda size, n: 2 * size, "limit for many"),
    (sharing.sent, lambda size, n: size, "The gradients once"),
    (sharing.sent, lambda size, n: 2 * (n - 1) / n, "it should be 150, yours is 1.5"),
    (sharing.sent, lambda size, n: "all", "finite number"),
]
EXERCISES = [sharing.factor, sharing.weights, sharing.share, sharing.sent]


def test_what_the_first_check_says_of_fp16_is_so():
    gradient = torch.tensor(2.0**-30)
    assert (gradient * 32).half() == 0 < (gradient * 64).half()
