"""What others hold for the whole process changes no result, and what a run changes is put back."""

import os

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn

from capsnb import CapsNet, TrainConfig, fit, load_data
from capsnb.training import loop

SHARED = {kind.__name__: kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)}
CONFIG = TrainConfig(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def data():
    return load_data().subset(train=64, test=20)


def trained(data, config=CONFIG):
    torch.manual_seed(0)
    model = CapsNet(channels=8, capsule_types=2)
    history = fit(model, data, config, progress=False)
    return [p.detach().clone() for p in model.parameters()], history["loss"], model


@pytest.fixture(scope="module")
def undisturbed(data):
    return trained(data)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Each test leaves the state of Accelerate as it was."""
    before = {name: dict(state) for name, state in SHARED.items()}
    yield
    for name, state in SHARED.items():
        state.clear()
        state.update(before[name])


def accumulating():
    with Accelerator(cpu=True, gradient_accumulation_steps=4).accumulate(nn.Linear(2, 2)):
        pass


def half_precision():
    Accelerator(cpu=True, mixed_precision="bf16")


@pytest.mark.parametrize("disturb", [accumulating, half_precision])
def test_somebody_elses_accelerator_changes_nothing_and_keeps_its_settings(disturb, data, undisturbed):
    disturb()
    held = {name: dict(state) for name, state in SHARED.items()}
    weights, losses, _ = trained(data)
    assert losses == undisturbed[1]
    assert all(map(torch.equal, weights, undisturbed[0]))
    assert {name: dict(state) for name, state in SHARED.items()} == held


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_DYNAMO_BACKEND", "EAGER"),
        ("ACCELERATE_USE_FSDP", "true"),
    ],
)
def test_variables_of_accelerate_change_nothing_and_stay(variable, value, data, undisturbed, monkeypatch):
    monkeypatch.setenv(variable, value)
    before = dict(os.environ)
    weights, losses, _ = trained(data)
    assert losses == undisturbed[1]
    assert all(map(torch.equal, weights, undisturbed[0]))
    assert dict(os.environ) == before


class Stopped(Exception):
    """Somebody stops a run."""


@pytest.mark.parametrize("stop", [Stopped, KeyboardInterrupt])
def test_a_run_that_is_stopped_takes_its_autocast_off(stop, data, monkeypatch):
    def stop_it(*arguments):
        raise stop

    model = CapsNet(channels=8, capsule_types=2)
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(torch.is_autocast_enabled("cpu")))
    monkeypatch.setattr(loop, "_optimizer_step", stop_it)
    with pytest.raises(stop):
        fit(model, data, TrainConfig(epochs=1, batch_size=32, precision="bf16"), progress=False)
    assert seen == [True]
    model(torch.zeros(1, 1, 28, 28))
    assert seen == [True, False] and "forward" not in vars(model)


def test_random_numbers_go_on_where_they_were(data):
    model = CapsNet(channels=8, capsule_types=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(model, data, CONFIG, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(FloatingPointError):
        fit(model, data, TrainConfig(epochs=3, batch_size=32, learning_rate=1e30), progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_of_pytorch_are_as_they_were(data):
    def settings():
        return (
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        )

    before = settings()
    trained(data)
    assert settings() == before


def test_batch_norm_that_was_synchronised_comes_back():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    layers = [model[1], model[2][0]]
    with pytest.raises(Stopped), loop._layers_kept(model):
        loop.synchronise_batch_norm(model)
        assert all(isinstance(layer, nn.SyncBatchNorm) for layer in (model[1], model[2][0]))
        with torch.no_grad():
            model[1].running_mean += 1
            model[1].weight += 1
        model.eval()
        raise Stopped
    assert [model[1], model[2][0]] == layers and not any(layer.training for layer in layers)
    assert model[1].running_mean.tolist() == [1, 1] and model[1].weight.tolist() == [2, 2]


@pytest.mark.parametrize("size", [9, 10])
def test_a_last_batch_of_one_is_told_before_training_where_there_is_batch_norm(size, data):
    few = data.subset(train=size * 4 + 1)
    model = CapsNet(channels=8, capsule_types=2)
    model.conv = nn.Sequential(model.conv, nn.BatchNorm2d(8))
    config = TrainConfig(epochs=1, batch_size=size * 2)
    with pytest.raises(
        ValueError, match=rf"the last batch of {size * 4 + 1} images has 1, too few .* 'conv.1'"
    ):
        fit(model, few, config, progress=False)


def test_the_mean_of_an_epoch_is_over_images_not_batches(data):
    """With a learning rate of next to nothing the loss of an epoch is that of the network, however it is cut."""
    plain = data.with_preprocess(pad=0)  # no random crop
    losses = [
        trained(plain, TrainConfig(epochs=1, batch_size=size, learning_rate=1e-12))[1][0] for size in (64, 63)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_without_a_module_to_ask_memory_is_unknown(data, monkeypatch):
    """As on Windows."""
    import sys

    monkeypatch.setitem(sys.modules, "resource", None)
    _, _, _ = trained(data)
    assert loop._peak_memory(torch.device("cpu")) == 0
