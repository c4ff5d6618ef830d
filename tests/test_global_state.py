"""What others hold for the whole process changes no result, and what a run changes is put back."""

import os
import sys

import numpy as np
import pytest
import sklearn
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from survival.states import STATES, try_states
from torch import nn

from capsnb import CapsNet, TrainConfig, distributed, fit, load_data, plots, progress
from capsnb.defaults import default_settings
from capsnb.evaluation import evaluation_of_scores
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


# Those with an environment start an interpreter each; tools/survive.py tries them.
@pytest.mark.parametrize("name", [state.name for state in STATES if not state.environment])
def test_a_setting_of_the_process_changes_nothing_and_holds(name):
    (outcome,) = try_states([name])
    assert outcome.survived, outcome.detail


class Stopped(Exception):
    """Somebody stops a run."""


def settings():
    """What `default_settings` sets, and puts back."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device().type,
        "products": torch.get_float32_matmul_precision(),
        "convolutions": torch.backends.cudnn.allow_tf32,
        "NumPy's errors": np.geterr()["under"],
        "NumPy's texts": np.get_printoptions()["legacy"],
    }


@pytest.fixture
def unusual():
    """All of them are others than the defaults."""
    products = torch.get_float32_matmul_precision()
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.device("meta"),
        np.errstate(all="raise"),
        np.printoptions(legacy="1.25"),
    ):
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = False
        yield settings()
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("stop", [Stopped, KeyboardInterrupt])
def test_settings_come_back_however_a_run_ends(stop, data, unusual, monkeypatch):
    plain = {
        "gradients": True,
        "inference": False,
        "autocast": False,
        "dtype": torch.float32,
        "device": "cpu",
        "products": "highest",
        "convolutions": True,
        "NumPy's errors": "ignore",
        "NumPy's texts": False,
    }
    assert not plain.items() & unusual.items()
    seen = []

    def stop_it(*arguments):
        seen.append(settings())
        raise stop

    with default_settings():
        model = CapsNet(channels=8, capsule_types=2)
    monkeypatch.setattr(loop, "_optimizer_step", stop_it)
    with pytest.raises(stop):
        fit(model, data, CONFIG, progress=False)
    assert seen == [plain]
    assert settings() == unusual


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch has it from 2.9 on")
def test_an_operation_goes_on_inheriting_its_precision():
    convolution = torch.backends.mkldnn.conv
    torch.backends.fp32_precision = "bf16"
    try:
        with default_settings():
            assert convolution.fp32_precision == "ieee"
        assert convolution.fp32_precision == "bf16"
    finally:
        torch.backends.fp32_precision = "none"
    assert convolution.fp32_precision == "none"


def test_threads_that_accelerate_sets_are_put_back():
    before = torch.get_num_threads()
    with loop._own_accelerate_state():
        torch.set_num_threads(before + 1)
    assert torch.get_num_threads() == before


LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}


@pytest.mark.timeout(60)  # without the refusal it waits half an hour
@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR"])
def test_a_process_does_not_wait_where_variables_name_others_but_no_place(missing, data, monkeypatch):
    for name in LAUNCHED.keys() - {missing}:
        monkeypatch.setenv(name, LAUNCHED[name])
    with pytest.raises(ValueError, match="WORLD_SIZE names 2 processes, but RANK or MASTER_ADDR is not set"):
        fit(CapsNet(channels=8, capsule_types=2), data, CONFIG, progress=False)
    with pytest.raises(ValueError, match="unset WORLD_SIZE to work alone"):
        distributed.init()


def test_a_process_says_that_it_waits_for_others(monkeypatch, recwarn):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match="name 2 processes, and this one waits"), distributed.launched():
        assert os.environ["WORLD_SIZE"] == "2"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "torchrun")  # it starts them all
    recwarn.clear()
    with distributed.launched():
        pass
    assert not recwarn


def test_weights_that_cannot_be_trained_are_told_before_training(data):
    with torch.inference_mode():
        made_there = CapsNet(channels=8, capsule_types=2)
    with pytest.raises(ValueError, match=r"'conv\.weight' was made in torch.inference_mode\(\)"):
        fit(made_there, data, CONFIG, progress=False)
    with torch.device("meta"):
        nowhere = CapsNet(channels=8, capsule_types=2)
    with pytest.raises(ValueError, match=r"'conv\.weight' was made on the meta device"):
        fit(nowhere, data, CONFIG, progress=False)
    frozen = CapsNet(channels=8, capsule_types=2).requires_grad_(False)
    with pytest.raises(ValueError, match=r"no weight .* requires a gradient: call model.requires_grad_\(\)"):
        fit(frozen, data, CONFIG, progress=False)


def test_a_mode_of_the_model_before_training_changes_nothing(data, undisturbed):
    torch.manual_seed(0)
    model = CapsNet(channels=8, capsule_types=2).eval()
    assert fit(model, data, CONFIG, progress=False)["loss"] == undisturbed[1]
    assert all(map(torch.equal, model.parameters(), undisturbed[0]))


def test_scores_are_evaluated_whatever_arrays_scikit_learn_takes(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    scores, labels = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1]
    plain = evaluation_of_scores(labels, scores, ("cat", "dog"))
    with sklearn.config_context(array_api_dispatch=True):
        assert evaluation_of_scores(labels, scores, ("cat", "dog")) == plain
        assert sklearn.get_config()["array_api_dispatch"]


def test_bars_are_hidden_where_there_is_nothing_to_write_to_and_where_tqdm_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(
        progress, "_bar_class", lambda: lambda *_, **given: asked.append(given.get("disable"))
    )
    progress.progress_bar(range(3))  # tqdm reads TQDM_DISABLE
    progress.progress_bar(range(3), shown=False)
    monkeypatch.setattr(sys, "stderr", None)
    progress.progress_bar(range(3))
    assert asked == [None, True, True]


def test_a_style_is_used_where_ipython_cannot_be_imported(monkeypatch):
    import matplotlib

    monkeypatch.setitem(sys.modules, "IPython", None)
    with matplotlib.rc_context():
        plots.use_style()
        assert matplotlib.rcParams["svg.hashsalt"] == "capsnb"


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


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_gives_the_same_bits_unless_it_is_told_otherwise(deterministic, data, monkeypatch):
    cudnn, seen = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "deterministic", False)
    monkeypatch.setattr(cudnn, "benchmark", True)
    model = CapsNet(channels=8, capsule_types=2)
    model.register_forward_hook(lambda *_: seen.append((cudnn.deterministic, cudnn.benchmark)))
    fit(model, data, TrainConfig(epochs=1, batch_size=32, deterministic=deterministic), progress=False)
    assert set(seen) == {(True, False) if deterministic else (False, True)}
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


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


def test_a_model_that_fails_on_its_first_image_keeps_its_modes(data, monkeypatch):
    model = CapsNet(channels=8, capsule_types=2)
    model.decoder.eval()
    before = [module.training for module in model.modules()]
    monkeypatch.setattr(CapsNet, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop._has_unused_weights(model, data)
    assert [module.training for module in model.modules()] == before


def test_numbers_are_packed_for_a_page_whatever_new_tensors_are():
    rows = torch.tensor([[0.5, -1.0], [0.1, 0.3]])
    given = plots.packed(rows)
    numbers = plots.unpacked(given).tolist()
    with torch.device("meta"):
        assert plots.packed(rows) == given
        assert plots.unpacked(given).tolist() == numbers


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
