"""A recorded step computes what a plain one does; what cannot be recorded is computed plainly, and says so."""

import contextlib
import dataclasses
import gc
import random
import re
import warnings
import weakref
from unittest import mock

import pytest
import torch
from torch import nn

from capsnb import CapsNet, MoCapsNet, ResCapsNet, TrainConfig, fit, load_data
from capsnb.training import loop, recording
from capsnb.training.recording import WARM_UP, CudaGraphs, Recorded
from tests.tape import FakeGraphs, Tape

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


class Normed(nn.Module):
    """A network with batch norm, whose statistics a step changes."""

    def __init__(self, between=None):
        super().__init__()
        self.norm, self.between, self.network = nn.BatchNorm2d(1), between, CapsNet(**SMALL)

    def forward(self, images, labels=None):
        images = self.norm(images)
        return self.network(images if self.between is None else self.between(images), labels)


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
        ({}, Normed),
    ],
    ids=["adam", "adamw", "sgd", "accumulate", "bf16", "entropy", "ResCapsNet", "MoCapsNet", "batch norm"],
)
def test_a_recorded_step_gives_the_numbers_of_a_plain_one(monkeypatch, data, change, network):
    config = dataclasses.replace(CONFIG, **change)
    fake = FakeGraphs(watching=False)  # MoCapsNet reads a number on a CPU, and does not on a GPU
    recorded = trained(monkeypatch, fake, data, config, network)
    assert fake.recorded == 3  # the whole batch, the last one, and the test batch
    assert_same(recorded, trained(monkeypatch, Refusing(), data, config, network))


def test_a_step_is_recorded_once_and_replayed_in_all_others(monkeypatch, data):
    fake = FakeGraphs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(monkeypatch, fake, data)
    whole, last, tests = 5 * 5, 5, 5
    assert (fake.recorded, fake.replayed) == (3, whole + last + tests - 3 * WARM_UP)


@pytest.mark.parametrize("change", [{"graph": False}, {"compile": True}])
def test_nothing_is_recorded_where_it_is_not_asked_for(monkeypatch, data, change):
    if change.get("compile"):
        monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    fake = FakeGraphs()
    trained(monkeypatch, fake, data, dataclasses.replace(CONFIG, **change))
    assert not fake.recorded


class Reading(nn.Module):
    """Does what depends on a value of a tensor, which the processor has to wait for."""

    def forward(self, x):
        return -x if x.mean() < -5 else x


class Failing(FakeGraphs):
    """Records test batches; of a step all is launched, nothing computed, and then the recording breaks off."""

    def record(self, work):
        if not torch.is_grad_enabled():
            return super().record(work)
        with Tape() as tape:
            work()
        with torch.no_grad():
            tape.undo()
        self.broken = True
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


@pytest.mark.parametrize(
    ("recorder", "between", "said"),
    [
        (FakeGraphs(), Reading(), "the processor waits in aten._local_scalar_dense"),
        (Failing(), None, "CUDA error: operation not permitted when stream is capturing$"),
    ],
)
def test_what_cannot_be_recorded_is_computed_plainly_and_said_once(
    monkeypatch, data, recorder, between, said
):
    with pytest.warns(UserWarning, match="is not recorded as a CUDA graph, and is slower: ") as caught:
        found = trained(monkeypatch, recorder, data, network=lambda: Normed(between))
    assert sum("a training step is not recorded" in str(warning.message) for warning in caught) == 1
    assert re.search(said, str(caught[0].message))
    with pytest.warns(UserWarning, match="because of a test"):
        assert_same(found, trained(monkeypatch, Refusing(), data, network=lambda: Normed(between)))


def test_ranger21_takes_plain_steps_and_says_so(monkeypatch, data):
    pytest.importorskip(
        "pytorch_optimizer", reason="Ranger21 is not installed: pip install pytorch_optimizer"
    )
    fake, config = FakeGraphs(), dataclasses.replace(CONFIG, optimizer="ranger21", epochs=3)
    with pytest.warns(UserWarning, match="a training step is not recorded .* Ranger21 computes numbers"):
        trained(monkeypatch, fake, data, config)
    assert fake.recorded == 0  # the third test batch is the last plain one


def test_hooks_are_called_in_each_step(monkeypatch, data):
    seen = []

    def network():
        model = CapsNet(**SMALL)
        model.primary.register_forward_hook(lambda *_: seen.append(model.training))
        return model

    fake = FakeGraphs()
    with pytest.warns(
        UserWarning, match="not recorded .*: primary has hooks, which a recording would not call"
    ):
        trained(monkeypatch, fake, data, dataclasses.replace(CONFIG, epochs=5), network)
    assert seen == [True] * 6 + [False] + ([True] * 6 + [False]) * 4
    assert fake.recorded == 0


def test_a_recorded_run_that_was_stopped_goes_on_to_the_same_bits(monkeypatch, data, tmp_path):
    whole = trained(monkeypatch, FakeGraphs(), data, run_dir=tmp_path / "whole")
    halves = tmp_path / "halves"
    first = trained(monkeypatch, FakeGraphs(), data, run_dir=halves, budget=0)
    assert not first[0]
    monkeypatch.setattr(loop.checkpoint, "save", stop_after(monkeypatch, 3))
    with pytest.raises(KeyboardInterrupt):
        trained(monkeypatch, FakeGraphs(), data, run_dir=halves)
    monkeypatch.undo()
    second = FakeGraphs()
    assert_same(trained(monkeypatch, second, data, run_dir=halves), whole)
    assert second.replayed == 2 * 5 - WARM_UP  # two epochs of five whole batches


def stop_after(monkeypatch, epochs):
    save, saved = loop.checkpoint.save, []

    def saving(*args, **parts):
        save(*args, **parts)
        saved.append(1)
        if len(saved) == epochs:
            raise KeyboardInterrupt

    return saving


def test_a_checkpoint_of_a_recorded_run_goes_on_plainly(monkeypatch, data, tmp_path):
    """As on a machine without a GPU: the learning rate is in a tensor of the first, and a number in the second."""
    monkeypatch.setattr(loop.checkpoint, "save", stop_after(monkeypatch, 4))
    with pytest.raises(KeyboardInterrupt):
        trained(monkeypatch, FakeGraphs(), data, run_dir=tmp_path)
    monkeypatch.undo()
    records, _ = trained(monkeypatch, None, data, run_dir=tmp_path)
    assert len(records) == CONFIG.epochs


def test_the_peak_of_memory_is_that_of_the_steps_that_allocate(monkeypatch, data):
    peaks = iter([900, 100, 100, 100, 100])
    monkeypatch.setattr(loop, "_peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(recording, "recorder", lambda device: None)
    history = fit(CapsNet(**SMALL), data, CONFIG, progress=False)
    assert list(history["peak_memory"]) == [900] * 5


def test_each_shape_has_a_recording_and_outputs_are_new_tensors():
    fake = FakeGraphs()
    double = Recorded(lambda x: (2 * x,), fake, "doubling")
    for length in (3, 5):
        found = [double(torch.full((length,), float(k)))[0] for k in range(WARM_UP + 2)]
        for k, doubled in enumerate(found):  # all of them: a replay leaves earlier outputs alone
            assert torch.equal(doubled, torch.full((length,), 2.0 * k))
    assert (fake.recorded, fake.replayed) == (2, 4)


def test_old_checkpoints_go_on_where_settings_were_added(monkeypatch, data, tmp_path):
    """A checkpoint from before there were graphs says nothing about them, and likewise of other settings."""
    monkeypatch.setattr(loop.checkpoint, "save", stop_after(monkeypatch, 4))
    with pytest.raises(KeyboardInterrupt):
        trained(monkeypatch, None, data, run_dir=tmp_path)
    monkeypatch.undo()
    path = tmp_path / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["run"]["config"]["deterministic"], saved["run"]["config"]["reduction"]
    del saved["run"]["preprocess"]["signed"]
    torch.save(saved, path)
    records, _ = trained(monkeypatch, None, data, run_dir=tmp_path)
    assert len(records) == CONFIG.epochs


@pytest.fixture
def gpu(monkeypatch):
    """What `CudaGraphs` asks of `torch.cuda`, without a GPU: the state of random numbers, and when it warns."""
    state = {"draws": torch.zeros(2), "mode": 0}
    monkeypatch.setattr(recording, "_stream", lambda device: mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: mock.MagicMock())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state["draws"].clone())
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: state["mode"])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: state.update(mode=mode))
    return state


def wait():
    warnings.warn("called a synchronizing CUDA operation (Triggered internally ...)", stacklevel=1)


def test_a_gpu_is_watched_for_what_a_graph_cannot_do(gpu):
    graphs = CudaGraphs(torch.device("cuda"))
    assert graphs.watch(lambda: gpu["mode"]) == ("warn", "")
    assert gpu["mode"] == 0
    done, reason = graphs.watch(lambda: [wait(), 3][1])
    assert done == 3
    assert re.fullmatch(r"the processor waits for the GPU in .*test_recording.py, line \d+", reason)
    _, reason = graphs.watch(lambda: warnings.warn("Synchronization debug mode is a prototype", stacklevel=1))
    assert reason == ""
    _, reason = graphs.watch(
        lambda: warnings.warn("The AccumulateGrad node's stream does not match", stacklevel=1)
    )
    assert reason == recording.KEPT
    _, reason = graphs.watch(lambda: gpu["draws"].add_(1))
    assert reason == "the network draws random numbers, as dropout does"


def test_watching_keeps_other_warnings_and_leaves_the_mode_as_it_was(gpu):
    graphs = CudaGraphs(torch.device("cuda"))
    with pytest.warns(UserWarning, match="of somebody else"):
        assert graphs.watch(lambda: warnings.warn("of somebody else", stacklevel=1)) == (None, "")
    gpu["mode"] = 2
    with pytest.raises(ZeroDivisionError):
        graphs.watch(lambda: 1 / 0)
    assert gpu["mode"] == 2


class Counting(nn.Module):
    """Counts in Python, as a schedule does."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        return x * (1 + self.steps / 1000)


class Dropping(nn.Module):
    """Leaves a layer out now and then, by a random number of Python."""

    def forward(self, x):
        return x if random.random() < 0.5 else -x


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (Counting, "between.steps changes in Python, which a replay would not do"),
        (Dropping, "the state of Python's random numbers changes in Python"),
        (lambda: nn.Dropout(0.1), "the state of PyTorch's random numbers changes in Python"),
    ],
)
def test_what_changes_in_python_is_not_recorded(monkeypatch, data, between, said):
    random.seed(0)
    with pytest.warns(UserWarning, match=said):
        found = trained(monkeypatch, FakeGraphs(), data, network=lambda: Normed(between()))
    random.seed(0)
    with pytest.warns(UserWarning, match="because of a test"):
        assert_same(found, trained(monkeypatch, Refusing(), data, network=lambda: Normed(between())))


def test_a_recording_that_failed_leaves_nothing_behind(monkeypatch, data):
    """Its gradients were never computed: a step must not add to them; and nothing else is recorded or replayed."""
    failing = Failing()
    with pytest.warns(UserWarning, match="a training step is not recorded"):
        found = trained(monkeypatch, failing, data)
    assert failing.replayed == 0
    with pytest.warns(UserWarning, match="because of a test"):
        assert_same(found, trained(monkeypatch, Refusing(), data))


def test_gradients_from_before_are_not_added(monkeypatch, data):
    def used():
        model = CapsNet(**SMALL)
        model(torch.ones(2, 1, 28, 28)).lengths.sum().backward()
        return model

    expected = trained(monkeypatch, None, data)
    assert_same(trained(monkeypatch, None, data, network=used), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_caller_s_autocast_does_not_keep_older_weights(monkeypatch, data, precision):
    config = dataclasses.replace(CONFIG, epochs=2, precision=precision)
    expected = trained(monkeypatch, None, data, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(trained(monkeypatch, None, data, config), expected)


def test_a_finished_run_holds_nothing(monkeypatch, data):
    kept, made = [], loop._Trainer.__init__

    def noting(trainer, *arguments):
        made(trainer, *arguments)
        kept.append(weakref.ref(trainer))

    monkeypatch.setattr(loop._Trainer, "__init__", noting)
    gc.collect()
    gc.disable()
    try:
        trained(monkeypatch, FakeGraphs(), data)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_another_way_of_computing_is_the_same_run(monkeypatch, data, tmp_path):
    """A run that was recorded goes on without recording."""
    monkeypatch.setattr(loop.checkpoint, "save", stop_after(monkeypatch, 2))
    with pytest.raises(KeyboardInterrupt):
        trained(monkeypatch, FakeGraphs(), data, run_dir=tmp_path)
    monkeypatch.undo()
    plain = dataclasses.replace(CONFIG, graph=False)
    records, _ = trained(monkeypatch, None, data, plain, run_dir=tmp_path)
    assert len(records) == CONFIG.epochs


class Graph:
    """`torch.cuda.graph`, whose recording may fail where it ends."""

    def __init__(self, graph, pool=None, *, stream, capture_error_mode="global"):
        self.fails = pool is not None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_a_gpu_is_cleaned_up_after_a_recording_that_failed(gpu, monkeypatch):
    ended, whole = [], []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", mock.MagicMock)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *pool: ended.append(pool), raising=False)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: whole.append(1))
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    graphs = CudaGraphs(torch.device("cuda"))
    with pytest.raises(RuntimeError, match="previous error"):
        graphs.record(lambda: ())
    assert graphs.broken and ended == [(0, (0, 1))] and whole == [1]
    assert gc.isenabled()
