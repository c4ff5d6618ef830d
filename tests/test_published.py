"""Networks as MoCapsNet's published code computes them equal a loop that says so; they are not MoCapsNet."""

import pytest
import torch

from capsnb import CapsNet, MoCapsNet, ResCapsNet
from capsnb.experiments.published import NETWORKS, DoubledCapsNet, DoubledResCapsNet, PublishedMoCapsNet

SIZES = {"image_shape": (3, 32, 32), "channels": 4, "capsule_types": 1, "hidden_capsules": 6, "decoder": None}


def published(network, x, blocks, inner):
    """The published code in plain words: `x` goes in, comes back inside of `y`, and is added again."""
    layers = iter(network.capsules[1])
    for _ in range(blocks):
        y, v = x, torch.zeros_like(x)
        for _ in range(2):
            f = next(layers)
            if inner == "momentum":
                v = 0.9 * v + 0.1 * f(y)
                y = y + v
            elif inner == "residual":
                y = y + f(y)
        x = x + y
    return x


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize(
    ("network", "inner"),
    [(PublishedMoCapsNet, "momentum"), (DoubledResCapsNet, "residual"), (DoubledCapsNet, "nothing")],
)
def test_a_network_computes_what_the_published_loop_computes(network, inner, blocks):
    torch.manual_seed(0)
    model = network(blocks=blocks, **SIZES).double()
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    expected = published(model, x, blocks, inner)
    torch.testing.assert_close(model.capsules[1](x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS.values())
@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_silent_blocks_multiply_the_capsules_by_a_power_of_two(network, blocks):
    model = network(blocks=blocks, **SIZES)
    for layer in model.capsules[1]:
        torch.nn.init.zeros_(layer.weight)
    x = torch.randn(3, 6, 8)
    torch.testing.assert_close(model.capsules[1](x), 2**blocks * x)


def test_the_equations_multiply_nothing():
    """The control: with silent layers capsules stay as they are."""
    x = torch.randn(3, 6, 8)
    for network in (ResCapsNet, MoCapsNet):
        model = network(blocks=4, **SIZES)
        for layer in model.capsules[1]:
            torch.nn.init.zeros_(layer.weight)
        torch.testing.assert_close(model.capsules[1](x), x)


def test_they_have_the_weights_of_the_other_networks():
    torch.manual_seed(0)
    expected = CapsNet(blocks=2, **SIZES).state_dict()
    for network in NETWORKS.values():
        torch.manual_seed(0)
        found = network(blocks=2, **SIZES).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_builds_them_by_name_and_the_command_line_does_not():
    from capsnb.experiments import Run
    from capsnb.models import NETWORKS as OWN
    from capsnb.training import TrainConfig

    data = type("Data", (), {"image_shape": (3, 32, 32), "classes": ("a", "b")})
    sizes = {name: value for name, value in SIZES.items() if name != "image_shape"} | {"blocks": 1}
    for name, network in NETWORKS.items():
        assert type(Run("", "", name, sizes, TrainConfig()).build(data)) is network
        assert name.lower() not in OWN
