"""Training: same seed same numbers, a killed run goes on, a broken loss stops."""

import copy
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from capsnb import (
    CapsNet,
    History,
    ImageData,
    ResCapsNet,
    ResNetCapsNet,
    TrainConfig,
    capsule_loss,
    fit,
    load_data,
)
from capsnb.defaults import default_settings
from capsnb.kernels import route
from capsnb.training import CHECKPOINT, OPTIMIZERS, SCHEDULES, checkpoint, load_weights, loop

SMALL = {"channels": 8, "capsule_types": 2, "decoder": (16,)}
CONFIG = TrainConfig(epochs=3, batch_size=32, learning_rate=3e-3, seed=5)

NO_RANGER = "Ranger21 is not installed: pip install pytorch_optimizer"
NO_COMPILER = "torch.compile found no C++ compiler: install one, or name it in CXX"


def digits() -> ImageData:
    return load_data("mnist5k").subset(train=160, test=50).with_preprocess(rotate=5.0)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return digits()


def tiny() -> CapsNet:
    torch.manual_seed(1)
    return CapsNet(**SMALL)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_bitwise_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def whole_run(data):
    """A run that nothing interrupted."""
    model = tiny()
    return fit(model, data, CONFIG, progress=False), weights(model)


def without_time(history: History) -> list[dict]:
    return [
        {k: v for k, v in dataclasses.asdict(r).items() if k not in ("seconds", "peak_memory")}
        for r in history.records
    ]


def test_same_seed_same_numbers(data, whole_run):
    model = tiny()
    history = fit(model, data, CONFIG, progress=False)
    assert without_time(history) == without_time(whole_run[0])
    assert_bitwise_equal(weights(model), whole_run[1])


def test_another_seed_other_numbers(data, whole_run):
    history = fit(tiny(), data, dataclasses.replace(CONFIG, epochs=1, seed=6), progress=False)
    assert history["loss"][0] != whole_run[0]["loss"][0]


def test_each_epoch_shows_the_images_in_another_order(data):
    class Recording(CapsNet):
        seen: list[list[int]] = []  # noqa: RUF012 (one list for this test)

        def forward(self, images, labels=None):
            if labels is not None:
                self.seen.append(labels.tolist())
            return super().forward(images, labels)

    model = Recording(channels=8, capsule_types=2, decoder=None)
    fit(model, data, dataclasses.replace(CONFIG, epochs=2), progress=False)
    first, second = (list(chain(*model.seen[part])) for part in (slice(5), slice(5, None)))
    assert first != second and sorted(first) == sorted(second)


def test_it_learns(data):
    history = fit(tiny(), data, TrainConfig(epochs=15, batch_size=16, learning_rate=5e-3), progress=False)
    assert history["loss"][-1] < 0.75 * history["loss"][0]
    assert history["train_accuracy"][-1] > 0.5


def test_the_loss_that_was_asked_for_is_minimised(data):
    network = ResNetCapsNet((1, 28, 28), channels=2, blocks=1, capsule_types=1, head="softmax")
    config = TrainConfig(epochs=1, batch_size=1000, learning_rate=1e-9, loss="cross_entropy")
    expected = -network(data.preprocess.train(data.train.images, torch.Generator())[0]).lengths.log().mean()
    found = fit(network, data, config, progress=False)["margin"]
    assert found == pytest.approx([expected.item()], rel=0.05)  # ten classes, and hardly a preference yet
    with pytest.raises(ValueError, match="unknown loss 'hinge'; choose one of margin, cross_entropy"):
        TrainConfig(loss="hinge")


def test_a_stopped_run_goes_on_to_the_same_weights(data, whole_run, tmp_path):
    class StopAfterTwoEpochs(Exception):
        pass

    class Dying(CapsNet):
        seen = 0

        def forward(self, images, labels=None):
            if labels is not None:
                Dying.seen += 1
                if Dying.seen > 12:  # 5 steps an epoch: stops in the middle of the third
                    raise StopAfterTwoEpochs
            return super().forward(images, labels)

    Dying.__name__ = "CapsNet"  # a run goes on as the network that it was
    torch.manual_seed(1)
    with pytest.raises(StopAfterTwoEpochs):
        fit(Dying(channels=8, capsule_types=2, decoder=(16,)), data, CONFIG, run_dir=tmp_path, progress=False)
    model = tiny()
    torch.manual_seed(99)  # the state of the process must not matter
    history = fit(model, data, CONFIG, run_dir=tmp_path, progress=False)
    assert without_time(history) == without_time(whole_run[0])
    assert_bitwise_equal(weights(model), whole_run[1])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_and_goes_on_where_it_stopped(optimizer, data, tmp_path):
    """What an optimizer knows beside its tensors, such as Ranger21's count of steps, must come back as well."""
    if optimizer == "ranger21":
        pytest.importorskip("pytorch_optimizer", reason=NO_RANGER)
    config = dataclasses.replace(CONFIG, epochs=4, optimizer=optimizer)
    steps = 0

    def stop(*_: object) -> None:
        nonlocal steps
        steps += torch.is_grad_enabled()
        if steps > 11:  # 5 steps an epoch: in the middle of the third
            raise Stopped

    whole, stopped, resumed = tiny(), tiny(), tiny()
    before = weights(whole)
    history = fit(whole, data, config, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    assert any(not torch.equal(before[name], value) for name, value in weights(whole).items())
    stopped.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        fit(stopped, data, config, run_dir=tmp_path, progress=False)
    again = fit(resumed, data, config, run_dir=tmp_path, progress=False)
    assert without_time(again) == without_time(history)
    assert_bitwise_equal(weights(resumed), weights(whole))


def test_ranger21_is_that_of_the_package():
    """Its own schedule is off: the learning rate of a step is the one that TrainConfig gives."""
    reference = pytest.importorskip("pytorch_optimizer", reason=NO_RANGER).Ranger21
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        OPTIMIZERS["ranger21"](ours.parameters(), lr=0.01),
        reference(theirs.parameters(), num_iterations=100, lr=0.01, disable_lr_scheduler=True),
    )
    for _ in range(3):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    assert_bitwise_equal(weights(ours), weights(theirs))


def test_an_absent_optimizer_says_what_to_install(monkeypatch, data):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pytorch_optimizer.*or choose another"):
        fit(tiny(), data, dataclasses.replace(CONFIG, optimizer="ranger21"), progress=False)


RUN = """
import os, signal, sys, torch
from test_training import CONFIG, digits, fit, tiny

torch.set_num_threads({threads})
model, steps = tiny(), 0

def kill(*_):
    global steps
    steps += torch.is_grad_enabled()
    if steps == 8:  # 5 steps an epoch: in the middle of the second
        os.kill(os.getpid(), signal.SIGKILL)

model.register_forward_pre_hook(kill)
fit(model, digits(), CONFIG, run_dir=sys.argv[1], progress=False)
"""


def test_kill_9_loses_at_most_the_epoch_that_was_running(data, whole_run, tmp_path):
    """Nothing can be put in order first; another process goes on."""
    script = RUN.format(threads=torch.get_num_threads())
    paths = os.pathsep.join([os.getcwd(), str(Path(__file__).parent)])
    env = {**os.environ, "PYTHONPATH": paths}
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=env, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert len(load_weights(tiny(), tmp_path / CHECKPOINT).records) == 1  # what is on disk is whole
    resumed = tiny()
    history = fit(resumed, data, CONFIG, run_dir=tmp_path, progress=False)
    assert without_time(history) == without_time(whole_run[0])
    assert_bitwise_equal(weights(resumed), whole_run[1])


def test_a_finished_run_returns_its_history_and_weights(data, whole_run, tmp_path):
    fit(tiny(), data, CONFIG, run_dir=tmp_path, progress=False)
    model = tiny()
    history = fit(model, data, CONFIG, run_dir=tmp_path, progress=False)
    assert len(history.records) == 3
    assert_bitwise_equal(weights(model), whole_run[1])


def test_a_checkpoint_of_another_run_is_refused_by_name(data, tmp_path):
    fit(tiny(), data, dataclasses.replace(CONFIG, epochs=1), run_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"config\.epochs was 1 and is now 3"):
        fit(tiny(), data, CONFIG, run_dir=tmp_path, progress=False)
    other = data.with_preprocess(rotate=6.0)
    with pytest.raises(ValueError, match=r"preprocess\.rotate was 5\.0 and is now 6\.0"):
        fit(tiny(), other, dataclasses.replace(CONFIG, epochs=1), run_dir=tmp_path, progress=False)
    with pytest.raises(
        ValueError, match=r"another network: its conv was Conv2d\(1, 8.* and is now Conv2d\(1, 9"
    ):
        load_weights(CapsNet(channels=9, capsule_types=2, decoder=(16,)), tmp_path / CHECKPOINT)


def test_a_run_of_another_network_whose_weights_would_fit_is_refused(data, tmp_path):
    once = dataclasses.replace(CONFIG, epochs=1)
    fit(ResCapsNet(**SMALL, blocks=0), data, once, run_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="model was 'ResCapsNet' and is now 'CapsNet'"):
        fit(tiny(), data, once, run_dir=tmp_path, progress=False)


def test_the_settings_of_a_network_are_part_of_a_run(data, tmp_path):
    """Fewer iterations of routing have the same weights, and are another network."""
    once = dataclasses.replace(CONFIG, epochs=1)
    fit(tiny(), data, once, run_dir=tmp_path, progress=False)
    other = CapsNet(**SMALL, iterations=1)
    with pytest.raises(ValueError, match=r"modules\.capsules\.0 was .*iterations=3.* now .*iterations=1"):
        fit(other, data, once, run_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"another network: its capsules\.0 was .*iterations=3"):
        load_weights(other, tmp_path)


def test_no_bit_of_a_checkpoint_can_flip_unseen(data, tmp_path):
    """PyTorch reads a weight with a flipped bit without a word."""
    once = dataclasses.replace(CONFIG, epochs=1)
    fit(tiny(), data, once, run_dir=tmp_path, progress=False)
    path = tmp_path / CHECKPOINT
    whole, reference = path.read_bytes(), checkpoint.read(path)
    for place in range(7, len(whole), len(whole) // 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = checkpoint.read(path)
        except ValueError as error:
            assert str(path) in str(error)
            continue
        assert found["history"] == reference["history"]  # between the records of the archive, nothing is read
        assert_bitwise_equal(found["model"], reference["model"])


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\xff" * 100])
def test_a_damaged_checkpoint_is_named(data, tmp_path, damage):
    config = dataclasses.replace(CONFIG, epochs=1)
    fit(tiny(), data, config, run_dir=tmp_path, progress=False)
    path = tmp_path / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt is not a whole checkpoint"):
        fit(tiny(), data, config, run_dir=tmp_path, progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_weights(tiny(), tmp_path / "nowhere")


def test_a_full_disk_keeps_the_last_whole_checkpoint(data, tmp_path, monkeypatch):
    written = []

    def full_after_one(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_after_one)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny(), data, CONFIG, run_dir=tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert len(load_weights(tiny(), tmp_path / CHECKPOINT).records) == 1


@pytest.mark.parametrize("term", ["margin", "reconstruction"])
def test_a_loss_that_is_not_finite_names_epoch_step_and_term_and_keeps_the_checkpoint(data, tmp_path, term):
    class Breaking(CapsNet):
        seen = 0

        def forward(self, images, labels=None):
            output = super().forward(images, labels)
            if labels is not None:
                Breaking.seen += 1
                if Breaking.seen == 8:  # the third step of the second epoch
                    bad = float("nan")
                    if term == "margin":
                        return output._replace(lengths=output.lengths * bad)
                    return output._replace(reconstruction=output.reconstruction * bad)
            return output

    torch.manual_seed(1)
    model = Breaking(channels=8, capsule_types=2, decoder=(16,))
    with pytest.raises(FloatingPointError, match=f"epoch 2, step 3: {term} is nan"):
        fit(model, data, CONFIG, run_dir=tmp_path, progress=False)
    kept = tiny()
    assert len(load_weights(kept, tmp_path / CHECKPOINT).records) == 1
    assert all(value.isfinite().all() for value in kept.state_dict().values())


def test_accumulated_batches_give_the_gradient_of_one_large_batch(data):
    """20 + 20 + 10 images against 50 at once: the last, smaller batch must weigh less."""
    small = data.subset(train=50, test=50, seed=1)
    config = TrainConfig(epochs=1, batch_size=20, accumulate=3, learning_rate=1e-3)
    large = dataclasses.replace(config, batch_size=50, accumulate=1)
    still = small.with_preprocess(pad=0, rotate=0.0)
    a, b = tiny().double(), tiny().double()
    for model, settings in ((a, config), (b, large)):
        with_sgd = dataclasses.replace(settings, optimizer="sgd", learning_rate=0.1)
        fit(CastToDouble(model), still, with_sgd, progress=False)
    for name, value in weights(a).items():
        torch.testing.assert_close(value, weights(b)[name], rtol=1e-9, atol=1e-12)


class CastToDouble(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, labels=None):
        output = self.model(images.double(), labels)
        return output._replace(reconstruction=output.reconstruction.float())


def test_bf16_runs_and_leaves_float32_weights_and_a_plain_forward(data):
    model = tiny()
    before = model.forward
    history = fit(model, data, dataclasses.replace(CONFIG, epochs=1, precision="bf16"), progress=False)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model.forward == before
    full = fit(
        tiny(), data, dataclasses.replace(CONFIG, epochs=1), progress=False
    )  # a later run in another precision
    assert history["loss"][0] == pytest.approx(full["loss"][0], rel=0.05)
    assert history["loss"][0] != full["loss"][0]


@pytest.mark.skipif(shutil.which("c++") is None, reason=NO_COMPILER)
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_run_finds_the_same_numbers(data):
    data = data.subset(train=64, test=10)
    plain = CapsNet(**SMALL | {"decoder": None})  # a C++ compiler works on each kernel for a second
    compiled = copy.deepcopy(plain)
    config = dataclasses.replace(CONFIG, epochs=1)
    histories = [
        fit(model, data, dataclasses.replace(config, compile=choice), progress=False)
        for model, choice in ((plain, False), (compiled, True))
    ]
    assert histories[1]["loss"] == pytest.approx(histories[0]["loss"], rel=1e-4)
    for name, value in weights(plain).items():
        torch.testing.assert_close(
            compiled.state_dict()[name], value, rtol=0, atol=2e-3
        )  # Adam's step is 3e-3


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_does_not_wait_to_read_a_number_from_the_device(scaled, data, monkeypatch):
    """On a GPU each such read would stop the queue; here they are counted."""
    if scaled:
        scale_on_the_cpu(monkeypatch)

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    counts = []
    for images in (64, 160):
        part, reads = data.subset(train=images, test=20), Reads()
        with reads:
            fit(tiny(), part, dataclasses.replace(CONFIG, epochs=1, batch_size=16), progress=False)
        counts.append(reads.count)
    assert 0 < counts[0] == counts[1]  # 4 steps and 10


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_precision_that_needs_a_gpu_says_what_to_use(precision, data):
    with pytest.raises(ValueError, match=f"'{precision}' needs a GPU; use 'bf16' or 'fp32'"):
        fit(tiny(), data, TrainConfig(precision=precision), progress=False)


def test_tf32_where_it_does_nothing_says_so(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(ValueError, match=r"'tf32' does nothing on Tesla T4.*use 'fp16' or 'fp32'"):
        fit(tiny(), data, TrainConfig(precision="tf32"), progress=False)


def test_tf32_is_set_for_a_run_and_put_back():
    """What a GPU would be told; here nothing is computed with it."""

    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with default_settings("fp32"):
        assert settings() == before
    for convolutions in (False, True):
        torch.backends.cudnn.allow_tf32 = convolutions
        with pytest.raises(ZeroDivisionError), default_settings("tf32"):
            assert settings() == ("high", True)
            raise ZeroDivisionError
        assert settings() == (before[0], convolutions)
    torch.backends.cudnn.allow_tf32 = before[1]


def scale_on_the_cpu(monkeypatch) -> torch.amp.GradScaler:
    """Give `fit` PyTorch's own scaler, here for float32: its first factors are too large for these gradients."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    make = loop._accelerator

    def scaled(config):
        accelerator = make(config)
        accelerator.scaler = scaler
        return accelerator

    monkeypatch.setattr(loop, "_accelerator", scaled)
    return scaler


@pytest.mark.parametrize("optimizer", ["adam", "ranger21"])  # fused, and one that the scaler does not call
def test_a_step_that_the_scaler_leaves_out_is_counted_and_shown(optimizer, data, monkeypatch, capsys):
    if optimizer == "ranger21":
        pytest.importorskip("pytorch_optimizer", reason=NO_RANGER)
    scaler = scale_on_the_cpu(monkeypatch)
    monkeypatch.setattr("capsnb.progress.DELAY", 0)
    model = tiny()
    sizes = {"epochs": 2, "batch_size": 4, "accumulate": 2, "reconstruction_weight": 1.0}
    history = fit(model, data, dataclasses.replace(CONFIG, optimizer=optimizer, **sizes))
    skipped = history["skipped_steps"]
    assert sum(skipped) == 127 - math.log2(scaler.get_scale())  # each one halves the factor
    assert 0 < skipped[0] < 20  # steps
    assert f"skipped steps: {skipped[0]}" in capsys.readouterr().err
    assert all(value.isfinite().all() for value in weights(model).values())


def test_a_history_from_before_steps_were_counted_has_skipped_none(whole_run):
    old = json.loads(whole_run[0].to_json())
    del old["format"], old["digest"]  # which were not there then either
    for record in old["records"]:
        del record["skipped_steps"]
    assert History.from_json(json.dumps(old)) == whole_run[0]


def test_capsules_are_float32_in_bf16(data):
    """Convolutions hand on three digits; routing, by the definition in batches this small, loses none of them."""
    model = tiny()
    seen = []
    layer = model.capsule_layers[0]
    layer.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0].detach().clone(), output.detach()))
    )
    weight = layer.weight.detach().clone()
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=2, precision="bf16")
    fit(model, data.subset(train=10, test=10), config, progress=False)
    u, v = seen[0]
    assert v.dtype == torch.float32
    exact = route(u.double(), weight.double(), backend="eager")
    assert (v - exact).abs().max() <= 1e-6 < (v.bfloat16() - exact).abs().max()


def test_a_model_with_too_few_classes_is_named(data):
    with pytest.raises(ValueError, match=r"has 4 class capsules, .* has 10 classes"):
        fit(CapsNet(classes=4, channels=8, capsule_types=2, decoder=None), data, CONFIG, progress=False)


def test_the_loop_minimises_the_capsule_loss(data):
    """One step of the loop equals one step written by hand."""
    config = TrainConfig(epochs=1, batch_size=160, schedule="constant")
    still = data.with_preprocess(pad=0, rotate=0.0)
    model, by_hand = tiny(), tiny()
    history = fit(model, still, config, progress=False)
    images, targets = still.preprocess.evaluate(still.train.images)
    loss = capsule_loss(by_hand(images, still.train.labels), targets, still.train.labels)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    loss.total.backward()
    optimizer.step()
    assert history["loss"][0] == pytest.approx(loss.total.item(), rel=1e-5)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, weights(by_hand)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_stay_in_range_and_end_where_they_should(schedule):
    config = TrainConfig(epochs=10, schedule=schedule, learning_rate=2.0, decay=0.5, step_epochs=3)
    rates = [config.learning_rate_at(t / 10) for t in range(101)]
    assert all(0 <= rate <= 2.0 + 1e-12 for rate in rates)
    ends = {
        "constant": 2.0,
        "exponential": 2.0 * 0.5**9,
        "step": 2.0 * 0.5**3,
        "cosine": 0.0,
        "one_cycle": 0.0,
    }
    assert rates[99] == pytest.approx(ends[schedule], abs=2e-3)
    assert max(rates) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"accumulate": 0},
        {"step_epochs": 0},
        {"learning_rate": 0},
        {"decay": 0},
        {"seed": -1},
        {"reconstruction_weight": -1},
        {"optimizer": "adamm"},
        {"schedule": "adamm"},
        {"precision": "adamm"},
        {"learning_rate": float("nan")},
        {"decay": 1.1},
    ],
)
def test_values_out_of_range_are_named(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=name) as error:
        TrainConfig(**wrong)
    assert str(value) in str(error.value)


def test_history_round_trip_and_damage(whole_run, tmp_path):
    history = whole_run[0]
    path = history.save(tmp_path / "history.json")
    assert History.load(path) == history
    assert history["epoch"] == [1, 2, 3]
    with pytest.raises(KeyError, match="test_accuracy"):
        history["accuracy"]
    path.write_text(json.dumps({"records": []}))
    with pytest.raises(ValueError, match=r"history\.json is not a history"):
        History.load(path)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_summed_loss_is_the_mean_times_the_images(data, accumulate):
    """By SGD, whose one step, of 32 or 96 images, shows the gradient."""
    same = dict(epochs=1, batch_size=32, optimizer="sgd", schedule="constant", accumulate=accumulate)
    whole = data.subset(train=32 * accumulate)
    images = len(whole.train)
    found = {}
    for reduction, rate in (("mean", 0.01), ("sum", 0.01 / images)):
        model = tiny().double()
        model.forward = lambda images, labels=None, own=model.forward: own(images.double(), labels)
        history = fit(
            model, whole, TrainConfig(reduction=reduction, learning_rate=rate, **same), progress=False
        )
        found[reduction] = history["loss"][0], weights(model)
    assert found["sum"][0] == pytest.approx(found["mean"][0], rel=1e-12)
    for name, value in found["mean"][1].items():
        torch.testing.assert_close(found["sum"][1][name], value, rtol=1e-9, atol=1e-12)
