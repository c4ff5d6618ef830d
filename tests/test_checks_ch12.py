"""The checks of chapter 12: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch

from capsnb import MoCapsNet
from capsnb.checks import ch12

REST, BLOCK = 9_141_264, 131_072


def t(a, b):
    return (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()


def pooled(a, b):
    n, m = len(a), len(b)
    variance = ((n - 1) * a.var() + (m - 1) * b.var()) / (n + m - 2)
    return (a.mean() - b.mean()) / (variance * (1 / n + 1 / m)).sqrt()


def convert(model, gamma, sizes):
    found = MoCapsNet(gamma=gamma, **sizes)
    found.load_state_dict(model.state_dict())
    return found


def shared(model, gamma, sizes):
    found = MoCapsNet(gamma=gamma, **sizes)
    found.load_state_dict(model.state_dict(), assign=True)
    return found


RIGHT = [
    (ch12.parameters, lambda n: REST + n * BLOCK),
    (ch12.parameters, lambda n: torch.tensor(9_272_336 + (n - 1) * 131_072)),
    (ch12.routed_layers, 42),
    (ch12.routed_layers, 42.0),
    (ch12.welch, t),
    (ch12.converted, convert),
]
WRONG = [
    (ch12.parameters, lambda n: REST, "does not grow"),
    (ch12.parameters, lambda n: REST + n * BLOCK // 2, "two layers, and each"),
    (ch12.parameters, lambda n: REST + 2 * n * BLOCK, "not four"),
    (ch12.parameters, lambda n: REST + 7 * n, "adds 7"),
    (ch12.parameters, lambda n: n * BLOCK, "rest is missing"),
    (ch12.parameters, lambda n: 9_272_336 + n * BLOCK, "already has one"),
    (ch12.parameters, lambda n: REST + (n - 1) * BLOCK, "One block is missing"),
    (ch12.parameters, lambda n: REST - 1_411_344 + n * BLOCK, "decoder is missing"),
    (ch12.parameters, lambda n: REST + 5 + n * BLOCK, "off by 5"),
    (ch12.parameters, lambda n: "many", "finite number"),
    (ch12.parameters, lambda n: REST + BLOCK if n == 1 else "many", "3 blocks"),
    (ch12.parameters, lambda: 1, "stopped with TypeError"),
    (ch12.routed_layers, 40, "hidden ones"),
    (ch12.routed_layers, 41, "one behind"),
    (ch12.routed_layers, 43, "convolution"),
    (ch12.routed_layers, 22, "two layers"),
    (ch12.routed_layers, 20, "two layers"),
    (ch12.routed_layers, 42.5, "Two for each"),
    (ch12.routed_layers, "42", "finite number"),
    (ch12.welch, lambda a, b: a.mean() - b.mean(), "difference itself"),
    (ch12.welch, lambda a, b: t(b, a), "other way round"),
    (ch12.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() + b.var()).sqrt(), "single runs"),
    (ch12.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)), "root"),
    (
        ch12.welch,
        lambda a, b: (a.mean() - b.mean()) / (a.std() / len(a) ** 0.5 + b.std() / len(b) ** 0.5),
        "do not add",
    ),
    (
        ch12.welch,
        lambda a, b: (
            (a.mean() - b.mean()) / (a.var(correction=0) / len(a) + b.var(correction=0) / len(b)).sqrt()
        ),
        "n - 1",
    ),
    (ch12.welch, pooled, "pooled"),
    (ch12.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a)).sqrt(), "second network"),
    (ch12.welch, lambda a, b: (a.mean() - b.mean()) / (b.var() / len(b)).sqrt(), "first network"),
    (ch12.welch, lambda a, b: 3 * t(a, b), "differ by"),
    (ch12.welch, lambda a, b: t(a, b).item(), "must return a tensor"),
    (ch12.welch, 3, "function is expected"),
    (ch12.converted, lambda model, gamma, sizes: model, "not a ResCapsNet"),
    (ch12.converted, lambda model, gamma, sizes: convert(model, 0.9, sizes), "hand gamma on"),
    (
        ch12.converted,
        lambda model, gamma, sizes: MoCapsNet(gamma=gamma, **sizes | {"channels": 9}),
        "other shapes",
    ),
    (
        ch12.converted,
        lambda model, gamma, sizes: MoCapsNet(gamma=gamma, **sizes),
        "not the model's",
    ),
    (ch12.converted, shared, "share"),
    (ch12.converted, lambda model: model, "stopped with TypeError"),
    (ch12.converted, 3, "function is expected"),
]


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_formula_is_the_package_s(blocks):
    """What the exercise calls right is counted in the network itself, at the paper's sizes."""
    with torch.device("meta"):
        network = MoCapsNet(blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == REST + blocks * BLOCK


def test_the_count_is_the_package_s():
    with torch.device("meta"):
        network = MoCapsNet(blocks=20)
    assert ch12.routed_layers(len(network.capsule_layers)).right


def test_welch_is_scipy_s():
    from scipy import stats

    a, b = torch.rand(5, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    torch.testing.assert_close(t(a, b).item(), float(stats.ttest_ind(a, b, equal_var=False).statistic))


def test_the_generator_is_left_alone():
    """A check in the middle of a chapter must not change the numbers behind it."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    ch12.converted(convert)
    assert torch.equal(torch.get_rng_state(), state)
