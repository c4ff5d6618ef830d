"""The checks of chapter 6: what is right, and what is wrong and why; see `test_checks.py`."""

import math

import pytest
import torch

from capsnb import RoutingCapsules, margin_loss
from capsnb.checks import ch06
from capsnb.layers import add_identity_


def growth(u, w, fu, fw):
    def share(x, y):
        return (y - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)

    return share(fu, fw) / share(u, w)


def with_package(W, gain):
    J, _, E, _ = W.shape
    layer = RoutingCapsules(J, E, J, E).double()
    layer.weight.data = W.clone()
    add_identity_(layer, gain)
    return layer.weight.detach()


def ones_at(J, E):
    return torch.eye(J, dtype=torch.float64)[:, :, None, None], torch.eye(E, dtype=torch.float64)


def size(x):
    return x.flatten(1).norm(dim=1)


RIGHT = [
    (ch06.constant_answer, 0.5236),
    (ch06.constant_answer, torch.tensor(0.524)),
    (ch06.relative_growth, growth),
    (ch06.horizon, 13),
    (ch06.horizon, math.log(1000, 1.7)),
    (ch06.horizon, 14),
    (ch06.identity, with_package),
    (
        ch06.identity,
        lambda W, g: W + g * len(W) * torch.einsum("ij,ed->ijed", *(torch.eye(n).double() for n in W.shape[1:3])),
    ),
]  # fmt: skip
WRONG = [
    (ch06.constant_answer, 27 / 110, "best length"),
    (ch06.constant_answer, 0.81, "silence"),
    (ch06.constant_answer, 0.576, "factor 1/2"),
    (ch06.constant_answer, 0.88, "length 1/2"),
    (ch06.constant_answer, 0.64, "length 0.1"),
    (ch06.constant_answer, 0.2133, "nine wrong"),
    (ch06.constant_answer, 0.0, "both margins"),
    (ch06.constant_answer, 0.3, "derivative"),
    (ch06.constant_answer, "0.5", "finite number"),
    (ch06.relative_growth, lambda u, w, fu, fw: size(fw - fu) / size(w - u), "absolute perturbation"),
    (ch06.relative_growth, lambda u, w, fu, fw: 1 / growth(u, w, fu, fw), "Upside down"),
    (ch06.relative_growth, lambda u, w, fu, fw: size(fw - fu) / size(fu), "after the layer"),
    (ch06.relative_growth, lambda u, w, fu, fw: growth(u, w, fu, fw).mean(), "mean over the images"),
    (
        ch06.relative_growth,
        lambda u, w, fu, fw: (fw - fu).norm() / fu.norm() / (w - u).norm() * u.norm(),
        "whole batch",
    ),
    (ch06.relative_growth, lambda u, w, fu, fw: growth(u, w, fu, fw) ** 2, "root is missing"),
    (
        ch06.relative_growth,
        lambda u, w, fu, fw: size(fw - fu) / size(fw) / size(w - u) * size(w),
        "unperturbed ones",
    ),
    (ch06.relative_growth, lambda u, w, fu, fw: 2 * growth(u, w, fu, fw), "differ by up to"),
    (ch06.relative_growth, lambda u: u, "TypeError"),
    (ch06.horizon, 588, "does not add up"),
    (ch06.horizon, 1428.6, "thousandth"),
    (ch06.horizon, math.log(1000), "logarithm of 1.7"),
    (ch06.horizon, 3, "powers of ten"),
    (ch06.horizon, 10, "should be 1000"),
    (ch06.horizon, 1e9, "should be 1000"),
    (ch06.horizon, -1, "Solve"),
    (ch06.identity, lambda W, g: with_package(W, g / len(W)), "J is missing"),
    (ch06.identity, lambda W, g: W + g * len(W) * torch.eye(W.shape[2]).double(), "all of them"),
    (ch06.identity, lambda W, g: W + g * len(W) * ones_at(*W.shape[1:3])[0], "Whole matrices"),
    (ch06.identity, lambda W, g: with_package(W, g) - W, "random part"),
    (ch06.identity, lambda W, g: with_package(W, g * W.shape[2] / len(W)), "number of capsules"),
    (ch06.identity, lambda W, g: with_package(W, -g), "differ by up to"),
    (ch06.identity, lambda W, g: W[0], "shape"),
]


def test_the_loss_that_is_accepted_is_the_least_of_all_constant_answers():
    lengths = torch.linspace(0, 1, 1001, dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.long)
    losses = torch.stack([margin_loss(length.expand(1, 10), labels) for length in lengths])
    assert ch06.constant_answer(losses.min()).right
    assert lengths[losses.argmin()].item() == pytest.approx(27 / 110, abs=1e-3)
