"""The checks of chapter 16: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import ch16

RIGHT = [
    (ch16.loss_scale, 64),
    (ch16.loss_scale, torch.tensor(2.0**6)),
    (ch16.weights, lambda sizes: sizes / sizes.sum()),
    (ch16.weights, lambda sizes: sizes.double() / 50),
    (ch16.loss_weight, lambda mine, rows, processes: mine / (rows / processes)),
    (ch16.ring_bytes, lambda size, n: 2 * (size - size / n)),
]
WRONG = [
    (ch16.loss_scale, 32, "even one: zero"),
    (ch16.loss_scale, 2**16, "Smaller ones have fewer"),
    (ch16.loss_scale, 2**30, "makes it 1"),
    (ch16.loss_scale, 6, "exponent"),
    (ch16.loss_scale, 2, "still make zero"),
    (ch16.loss_scale, 128, "smaller power"),
    (ch16.loss_scale, "64", "finite number"),
    (ch16.weights, lambda sizes: torch.full((3,), 1 / 3), "count double"),
    (ch16.weights, lambda sizes: torch.ones(3), "adds up means"),
    (ch16.weights, lambda sizes: sizes, "sum to one"),
    (ch16.weights, lambda sizes: (1 / sizes) / (1 / sizes).sum(), "turn the fraction round"),
    (ch16.weights, lambda sizes: sizes[:2] / 50, "check the axes"),
    (ch16.weights, lambda sizes: sizes / 49, "differ by up to"),
    (ch16.weights, lambda sizes: 0.4, "must return a tensor"),
    (ch16.loss_weight, lambda mine, rows, n: mine / rows, "once more"),
    (ch16.loss_weight, lambda mine, rows, n: 1, "equally many"),
    (ch16.loss_weight, lambda mine, rows, n: n, "counts as much"),
    (ch16.loss_weight, lambda mine, rows, n: rows / (n * mine) if mine else 0, "upside down"),
    (ch16.loss_weight, lambda mine, rows, n: mine / rows / n, "Multiply by the number"),
    (
        ch16.loss_weight,
        lambda mine, rows, n: 2 * mine / rows,
        "For (3, 8, 3) it should be 1.125, yours is 0.75",
    ),
    (ch16.loss_weight, lambda mine, rows, n: rows / mine, "stopped with ZeroDivisionError"),
    (ch16.loss_weight, 0.5, "pass it without calling it"),
    (ch16.ring_bytes, lambda size, n: (n - 1) / n * size, "as long again"),
    (ch16.ring_bytes, lambda size, n: (n - 1) * size, "only pieces travel"),
    (ch16.ring_bytes, lambda size, n: 2 * (n - 1) * size, "whole gradients"),
    (ch16.ring_bytes, lambda size, n: 2 * size, "limit for many"),
    (ch16.ring_bytes, lambda size, n: size, "The gradients once"),
    (ch16.ring_bytes, lambda size, n: 2 * (n - 1) / n, "it should be 150, yours is 1.5"),
    (ch16.ring_bytes, lambda size, n: "all", "finite number"),
]


def test_what_the_first_check_says_of_fp16_is_so():
    gradient = torch.tensor(2.0**-30)
    assert (gradient * 32).half() == 0 < (gradient * 64).half()
