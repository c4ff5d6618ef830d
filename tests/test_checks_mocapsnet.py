"""The checks of chapter 12: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch

from capsnb import MoCapsNet
from capsnb.checks import mocapsnet

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
    (mocapsnet.parameters, lambda n: REST + n * BLOCK),
    (mocapsnet.parameters, lambda n: torch.tensor(9_272_336 + (n - 1) * 131_072)),
    (mocapsnet.routed_layers, 42),
    (mocapsnet.routed_layers, 42.0),
    (mocapsnet.welch, t),
    (mocapsnet.converted, convert),
]
WRONG = [
    (mocapsnet.parameters, lambda n: REST, "does not grow"),
    (mocapsnet.parameters, lambda n: REST + n * BLOCK // 2, "two layers, and each"),
    (mocapsnet.parameters, lambda n: REST + 2 * n * BLOCK, "not four"),
    (mocapsnet.parameters, lambda n: REST + 7 * n, "adds 7"),
    (mocapsnet.parameters, lambda n: n * BLOCK, "rest is missing"),
    (mocapsnet.parameters, lambda n: 9_272_336 + n * BLOCK, "already has one"),
    (mocapsnet.parameters, lambda n: REST + (n - 1) * BLOCK, "One block is missing"),
    (mocapsnet.parameters, lambda n: REST - 1_411_344 + n * BLOCK, "decoder is missing"),
    (mocapsnet.parameters, lambda n: REST + 5 + n * BLOCK, "off by 5"),
    (mocapsnet.parameters, lambda n: "many", "finite number"),
    (mocapsnet.parameters, lambda n: REST + BLOCK if n == 1 else "many", "3 blocks"),
    (mocapsnet.parameters, lambda: 1, "stopped with TypeError"),
    (mocapsnet.routed_layers, 40, "hidden ones"),
    (mocapsnet.routed_layers, 41, "one behind"),
    (mocapsnet.routed_layers, 43, "convolution"),
    (mocapsnet.routed_layers, 22, "two layers"),
    (mocapsnet.routed_layers, 20, "two layers"),
    (mocapsnet.routed_layers, 42.5, "Two for each"),
    (mocapsnet.routed_layers, "42", "finite number"),
    (mocapsnet.welch, lambda a, b: a.mean() - b.mean(), "difference itself"),
    (mocapsnet.welch, lambda a, b: t(b, a), "other way round"),
    (mocapsnet.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() + b.var()).sqrt(), "single runs"),
    (mocapsnet.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)), "root"),
    (
        mocapsnet.welch,
        lambda a, b: (a.mean() - b.mean()) / (a.std() / len(a) ** 0.5 + b.std() / len(b) ** 0.5),
        "do not add",
    ),
    (
        mocapsnet.welch,
        lambda a, b: (
            (a.mean() - b.mean()) / (a.var(correction=0) / len(a) + b.var(correction=0) / len(b)).sqrt()
        ),
        "n - 1",
    ),
    (mocapsnet.welch, pooled, "pooled"),
    (mocapsnet.welch, lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a)).sqrt(), "second network"),
    (mocapsnet.welch, lambda a, b: (a.mean() - b.mean()) / (b.var() / len(b)).sqrt(), "first network"),
    (mocapsnet.welch, lambda a, b: 3 * t(a, b), "differ by"),
    (mocapsnet.welch, lambda a, b: t(a, b).item(), "must return a tensor"),
    (mocapsnet.welch, 3, "function is expected"),
    (mocapsnet.converted, lambda model, gamma, sizes: model, "not a ResCapsNet"),
    (mocapsnet.converted, lambda model, gamma, sizes: convert(model, 0.9, sizes), "hand gamma on"),
    (
        mocapsnet.converted,
        lambda model, gamma, sizes: MoCapsNet(gamma=gamma, **sizes | {"channels": 9}),
        "other shapes",
    ),
    (
        mocapsnet.converted,
        lambda model, gamma, sizes: MoCapsNet(gamma=gamma, **sizes),
        "not the model's",
    ),
    (mocapsnet.converted, shared, "share"),
    (mocapsnet.converted, lambda model: model, "stopped with TypeError"),
    (mocapsnet.converted, 3, "function is expected"),
]
EXERCISES = [mocapsnet.parameters, mocapsnet.routed_layers, mocapsnet.welch, mocapsnet.converted]


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_formula_is_the_package_s(blocks):
    """What the exercise calls right is counted in the network itself, at the paper's sizes."""
    with torch.device("meta"):
        network = MoCapsNet(blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == REST + blocks * BLOCK


def test_the_count_is_the_package_s():
    with torch.device("meta"):
        network = MoCapsNet(blocks=20)
    assert mocapsnet.routed_layers(len(network.capsule_layers)).right


def test_welch_is_scipy_s():
    from scipy import stats

    a, b = torch.rand(5, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    torch.testing.assert_close(t(a, b).item(), float(stats.ttest_ind(a, b, equal_var=False).statistic))


def test_the_generator_is_left_alone():
    """A check in the middle of a chapter must not change the numbers behind it."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    mocapsnet.converted(convert)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "check", [check for check in EXERCISES if check not in (mocapsnet.routed_layers, mocapsnet.parameters)]
)
def test_a_function_with_nothing_in_it_is_open(check):
    assert check(lambda *arguments: ...).right is None
