"""The memory of a training step from shapes: true to what is allocated, and without allocating."""

import pytest
import torch

from capsnb import AlexCapsNet, CapsNet, MoCapsNet, ResCapsNet, ResNetCapsNet
from capsnb.bench import peak_memory

NARROW = {"channels": 64, "capsule_types": 8}
NETWORKS = {
    "CapsNet": lambda: CapsNet(**NARROW),
    "CapsNet, votes stored": lambda: CapsNet(backend="eager", **NARROW),
    "CapsNet, recomputed": lambda: CapsNet(recompute=True, **NARROW),
    "ResCapsNet, 3 blocks": lambda: ResCapsNet(blocks=3, **NARROW),
    "MoCapsNet, 3 blocks": lambda: MoCapsNet(blocks=3, **NARROW),
    "AlexCapsNet": lambda: AlexCapsNet(),
    "ResNetCapsNet": lambda: ResNetCapsNet((1, 33, 33)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prediction_is_within_five_per_cent_of_the_measurement(name):
    predicted, found = peak_memory.predict(NETWORKS[name], 64), peak_memory.measure(NETWORKS[name], 64)
    assert predicted.peak == pytest.approx(found, rel=0.05)


def test_states_are_counted_exactly():
    model = CapsNet(**NARROW)
    assert peak_memory.predict(NETWORKS["CapsNet"], 2).states == 3 * 4 * sum(
        p.numel() for p in model.parameters()
    )


def test_nothing_is_allocated_for_a_network_that_does_not_fit():
    """A petabyte of feature maps."""
    predicted = peak_memory.predict(lambda: CapsNet(blocks=2), 10**9)
    assert predicted.peak > 10**15


def test_more_images_save_more_and_reversible_blocks_save_nothing():
    saved = {}
    for network in (ResCapsNet, MoCapsNet):
        for blocks in (1, 5):
            saved[network, blocks] = peak_memory.predict(
                lambda n=network, k=blocks: n(blocks=k, **NARROW), 64
            ).saved
    assert saved[MoCapsNet, 5] == saved[MoCapsNet, 1]
    assert saved[ResCapsNet, 5] > saved[ResCapsNet, 1]
    small, large = (peak_memory.predict(NETWORKS["CapsNet"], batch).saved for batch in (32, 64))
    assert large == pytest.approx(2 * small, rel=0.01)


def test_the_random_state_and_the_weights_outside_are_left_alone():
    before = torch.get_rng_state()
    peak_memory.predict(NETWORKS["CapsNet"], 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(CapsNet(**NARROW).conv.weight.data) is torch.Tensor


def test_the_table_adds_up():
    table = peak_memory.StepMemory(states=3_000_000, saved=2_000_000, peak=6_500_000).table()
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["3.0", "5.0", "6.5"]


def test_a_batch_below_one_is_refused():
    for function in (peak_memory.predict, peak_memory.measure):
        with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
            function(NETWORKS["CapsNet"], 0)
