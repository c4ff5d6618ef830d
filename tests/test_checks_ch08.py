"""The checks of chapter 8: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import torch

from capsnb.checks import ch08


def scale(d_p, d_o, J, p):
    return (math.log(p * (J - 1)) - math.log(1 - p)) / (d_p - d_o)


def short(votes, u):
    length = u.norm(dim=-1)[:, :, None, None]
    return votes * (length / votes.norm(dim=-1, keepdim=True)).clamp(max=1)


def logits(votes, mean, variance, a):
    squares = (votes - mean[:, None]) ** 2 / (2 * variance[:, None])
    return a.log()[:, None] - squares.sum(-1) - (variance.log().sum(-1) / 2)[:, None]


def cost(shares, variance, beta_u):
    return shares * (beta_u + variance.sqrt().log().mean(-1)) * variance.shape[-1]


RIGHT = [
    (ch08.scale, scale),
    (ch08.scale, lambda d_p, d_o, J, p: math.log(p * (J - 1) / (1 - p)) / (d_p - d_o)),
    (ch08.shorten, short),
    (ch08.e_step, lambda *given: logits(*given).softmax(2)),
    (
        ch08.activation,
        lambda shares, variance, u, a: torch.sigmoid(a - cost(shares, variance, u)),
    ),
]
WRONG = [
    (ch08.scale, lambda *given: -scale(*given), "sign"),
    (ch08.scale, lambda d_p, d_o, J, p: scale(1, 0, J, p) / d_p - d_o, "below the line"),
    (
        ch08.scale,
        lambda d_p, d_o, J, p: math.log(p * (J - 1)) - math.log(1 - p) / (d_p - d_o),
        "above the line",
    ),
    (ch08.scale, lambda d_p, d_o, J, p: scale(d_p, d_o, 2, p), "J - 1 is missing"),
    (ch08.scale, lambda d_p, d_o, J, p: scale(d_p, d_o, J + 1, p), "not J"),
    (ch08.scale, lambda d_p, d_o, J, p: p / (1 - p) * (J - 1) / (d_p - d_o), "logarithm"),
    (ch08.scale, lambda d_p, d_o, J, p: d_p[0], "shape"),
    (ch08.shorten, lambda votes, u: votes, "Nothing"),
    (
        ch08.shorten,
        lambda votes, u: votes * u.norm(dim=-1)[:, :, None, None] / votes.norm(dim=-1, keepdim=True),
        "keeps its own",
    ),
    (
        ch08.shorten,
        lambda votes, u: (
            votes * (u.norm(dim=-1)[:, :, None, None] / votes.norm(dim=-1, keepdim=True)).clamp(min=1)
        ),
        "at most 1",
    ),
    (
        ch08.shorten,
        lambda votes, u: votes.clamp(*(sign * u.norm(dim=-1)[:, :, None, None] for sign in (-1, 1))),
        "turns the vote",
    ),
    (
        ch08.shorten,
        lambda votes, u: votes / votes.norm(dim=-1, keepdim=True).clamp(min=1),
        "length 1",
    ),
    (ch08.e_step, logits, "logarithms"),
    (ch08.e_step, lambda *given: logits(*given).softmax(1), "over I"),
    (
        ch08.e_step,
        lambda votes, mean, variance, a: logits(votes, mean, variance, a / a).softmax(2),
        "activations are missing",
    ),
    (
        ch08.e_step,
        lambda votes, mean, variance, a: (
            logits(votes, mean, variance, a) + (variance.log().sum(-1) / 2)[:, None]
        ).softmax(2),
        "lower at its top",
    ),
    (
        ch08.e_step,
        lambda votes, mean, variance, a: (
            logits(votes, mean, variance, a) - (variance.log().sum(-1) / 2)[:, None]
        ).softmax(2),
        "halve it",
    ),
    (
        ch08.e_step,
        lambda votes, mean, variance, a: (
            logits(votes, mean, variance, a)
            - ((votes - mean[:, None]) ** 2 / (2 * variance[:, None])).sum(-1)
        ).softmax(2),
        "in front of the squares",
    ),
    (
        ch08.e_step,
        lambda votes, mean, variance, a: logits(votes, mean, variance, a.exp()).softmax(2),
        "its logarithm",
    ),
    (
        ch08.activation,
        lambda shares, variance, u, a: a - cost(shares, variance, u),
        "logit",
    ),
    (
        ch08.activation,
        lambda shares, variance, u, a: torch.sigmoid(cost(shares, variance, u) - a),
        "sign",
    ),
    (
        ch08.activation,
        lambda shares, variance, u, a: torch.sigmoid(a - cost(shares, variance, u / variance.shape[-1])),
        "each of the E",
    ),
    (
        ch08.activation,
        lambda shares, variance, u, a: torch.sigmoid(a - cost(shares, variance**2, u)),
        "halve it",
    ),
    (
        ch08.activation,
        lambda shares, variance, u, a: torch.sigmoid(a - cost(1, variance, u)),
        "shares are missing",
    ),
]
