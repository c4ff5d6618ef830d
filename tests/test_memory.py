"""The memory of a training step from shapes: true to what is allocated, and without allocating."""

import pytest
import torch

from capsnb import AlexCapsNet, CapsNet, MoCapsNet, ResCapsNet, ResNetCapsNet, memory

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
    said, found = memory.predict(NETWORKS[name], 64), memory.measure(NETWORKS[name], 64)
    assert said.peak == pytest.approx(found, rel=0.05)


def test_states_are_counted_exactly():
    model = CapsNet(**NARROW)
    assert memory.predict(NETWORKS["CapsNet"], 2).states == 3 * 4 * sum(p.numel() for p in model.parameters())


def test_nothing_is_allocated_for_a_network_that_does_not_fit():
    """A petabyte of feature maps."""
    said = memory.predict(lambda: CapsNet(blocks=2), 10**9)
    assert said.peak > 10**15


def test_more_images_take_more_and_reversible_blocks_keep_nothing():
    kept = {}
    for network in (ResCapsNet, MoCapsNet):
        for blocks in (1, 5):
            kept[network, blocks] = memory.predict(lambda n=network, k=blocks: n(blocks=k, **NARROW), 64).kept
    assert kept[MoCapsNet, 5] == kept[MoCapsNet, 1]
    assert kept[ResCapsNet, 5] > kept[ResCapsNet, 1]
    small, large = (memory.predict(NETWORKS["CapsNet"], batch).kept for batch in (32, 64))
    assert large == pytest.approx(2 * small, rel=0.01)


def test_the_random_state_and_the_weights_outside_are_left_alone():
    before = torch.get_rng_state()
    memory.predict(NETWORKS["CapsNet"], 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(CapsNet(**NARROW).conv.weight.data) is torch.Tensor


def test_the_table_adds_up():
    table = memory.Memory(states=3_000_000, kept=2_000_000, peak=6_500_000).table()
    assert [line.split("|")[-2].strip() for line in table.splitlines()[2:]] == ["3.0", "5.0", "6.5"]


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="batch must be 1 or more, got 0"):
        memory.predict(NETWORKS["CapsNet"], 0)
