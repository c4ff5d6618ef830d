"""A recorded step computes what a plain one does; what cannot be recorded is computed plainly, and says so."""

import dataclasses

import pytest
import torch
from torch import nn

from capsnb import CapsNet, MoCapsNet, ResCapsNet, TrainConfig, fit, load_data
from capsnb.training import recording
from capsnb.training.recording import WARM_UP, Recorded
from tests.tape import FakeGraphs

SMALL = {"channels": 8, "capsule_types": 2, "decoder": (16,), "backend": "fused"}
# 167 images in batches of 32: the last batch has seven
CONFIG = TrainConfig(epochs=5, batch_size=32, learning_rate=3e-3, seed=5, schedule="one_cycle")


class Refusing(FakeGraphs):
    """Records nothing."""

    def watch(self, work):
        return work(), "because of a test"


@pytest.fixture(scope="module")
def data():
    return load_data("mnist5k").subset(train=167, test=50).with_preprocess(rotate=5.0)


def trained(monkeypatch, recorder, data, config=CONFIG, network=None, **options):
    """History and weights of a run with a recorder, or with steps that are computed as on a GPU and not recorded."""
    monkeypatch.setattr(recording, "recorder", lambda device: recorder)
    torch.manual_seed(1)
    network = network() if network else CapsNet(**SMALL)
    history = fit(network, data, config, progress=False, **options)
    records = [dataclasses.asdict(record) for record in history.records]
    for record in records:
        del record["seconds"], record["peak_memory"]
    return records, network.state_dict()


def assert_same(a, b):
    assert a[0] == b[0]
    assert all(torch.equal(a[1][name], b[1][name]) for name in a[1] | b[1])


@pytest.mark.filterwarnings("ignore:.*is not recorded")
@pytest.mark.parametrize(
    ("change", "network"),
    [
        ({}, None),
        ({"optimizer": "adamw", "schedule": "step"}, None),
        ({"optimizer": "sgd", "learning_rate": 1e-4}, None),
        ({"accumulate": 2}, None),
        ({"precision": "bf16"}, None),
        ({"loss": "cross_entropy"}, None),
        ({}, lambda: ResCapsNet(blocks=1, **SMALL)),
        ({}, lambda: MoCapsNet(blocks=1, **SMALL)),
        ({}, lambda: nn.Sequential(nn.BatchNorm2d(1), CapsNet(**SMALL))),
    ],
    ids=["adam", "adamw", "sgd", "accumulate", "bf16", "entropy", "ResCapsNet", "MoCapsNet", "batch norm"],
)
def test_a_recorded_step_gives_the_numbers_of_a_plain_one(monkeypatch, data, change, network):
    if change == {} and network is not None and "BatchNorm" in repr(network()):
        build = network
        network = lambda: WithLabels(build())  # noqa: E731
    config = dataclasses.replace(CONFIG, **change)
    fake = FakeGraphs(watching=False)  # MoCapsNet reads a number on a CPU, and does not on a GPU
    recorded = trained(monkeypatch, fake, data, config, network)
    assert fake.recorded == 3  # the whole batch, the last one, and the test batch
    assert_same(recorded, trained(monkeypatch, Refusing(), data, config, network))


class WithLabels(nn.Module):
    """Hand labels to the second of two modules."""

    def __init__(self, pair):
        super().__init__()
        self.first, self.second = pair

    def forward(self, images, labels=None):
        return self.second(self.first(images), labels)
