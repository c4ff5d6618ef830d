"""Two processes train as one: gradients, figures, checkpoints, errors. This file is also what they run.

The tests compare what `main` saved in two processes with what the same functions give here, in one.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from capsnb import (
    CapsNet,
    History,
    ImageData,
    MoCapsNet,
    MomentumCapsules,
    RoutingCapsules,
    Split,
    TrainConfig,
    cli,
    distributed,
    evaluate,
    fit,
    load_data,
)
from capsnb.experiments import RunResult
from capsnb.models import CapsuleOutput
from capsnb.training import CHECKPOINT, load_weights, loop, recording
from tests.tape import FakeGraphs

TIMEOUT = 120  # seconds; something hangs
SMALL = {"channels": 4, "capsule_types": 1, "decoder": None}
STEP = TrainConfig(epochs=1, batch_size=31, optimizer="sgd", learning_rate=0.1, seed=3)
RUN = dataclasses.replace(STEP, epochs=3, batch_size=6, learning_rate=0.05)


class Exact(nn.Module):
    """A network in float64, so that what is equal is equal to more digits than float32 has."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, images, labels=None):
        output = self.model(images.double(), labels)
        picture = output.reconstruction
        return output._replace(reconstruction=None if picture is None else picture.float())


class Plain(nn.Module):
    """A few weights with whatever a test puts between them; the ten lengths stand for capsules."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), *between, nn.Linear(8, 10), nn.Sigmoid())

    def forward(self, images, labels=None):
        lengths = self.net(images)
        return CapsuleOutput(lengths[..., None], lengths, None)


class Noting(nn.Module):
    """Notes PyTorch's own random numbers, one at each training step."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, x):
        if self.training:
            self.drawn.append(torch.rand(()).item())
        return x


class Breaking(nn.Module):
    """Does something to the last process at its step in the second epoch."""

    def __init__(self, what, at: int = 8) -> None:
        super().__init__()
        self.what, self.at, self.seen = what, at, 0

    def forward(self, x):
        self.seen += self.training
        if self.training and self.seen == self.at and distributed.rank() == distributed.world_size() - 1:
            return self.what(x)
        return x


def digits(train: int = 31, test: int = 50) -> ImageData:
    return load_data("mnist5k").subset(train=train, test=test).with_preprocess(rotate=10.0)


def threes() -> ImageData:
    """Five images of a single class for training, and one for the test."""
    data = load_data("mnist5k")
    images = data.train.images[data.train.labels == 3]
    train, test = (
        Split(some, torch.zeros(len(some), dtype=torch.long)) for some in (images[:5], images[5:6])
    )
    return ImageData("threes", ("three",), train, test)


def built(kind: str, *between: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    if kind == "plain":
        return Plain(*between)
    if kind == "drawing":
        return CapsNet(**{**SMALL, "decoder": (16,)})
    if kind == "momentum":  # small layers would be computed by the definition
        return Exact(MoCapsNet(blocks=1, hidden_capsules=4, backend="fused", **SMALL))
    model = Exact(CapsNet(**SMALL, classes=1 if kind == "one class" else 10))
    if kind == "idle":  # a part that is not trained, and one that does nothing
        model.model.conv.requires_grad_(False)
        model.extra = nn.Linear(2, 2)
    return model


def trained(
    kind: str, config: TrainConfig, *between: nn.Module, train: int = 31, data: ImageData | None = None
) -> dict:
    """What a run leaves: history, weights before and after."""
    model = built(kind, *between)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = fit(model, digits(train) if data is None else data, config, progress=False)
    return {"history": history.to_json(), "before": before, "after": model.state_dict()}


def recorded(*run, **options) -> dict:
    """What a run leaves whose steps are recorded as on a GPU, and how often something was replayed."""
    fake, own = FakeGraphs(watching=False), recording.recorder
    recording.recorder = lambda device: fake
    try:
        return trained(*run, **options) | {"replayed": fake.replayed}
    finally:
        recording.recorder = own


def evaluated(batch_size: int, test: int = 50) -> str:
    torch.manual_seed(1)
    model = CapsNet(**{**SMALL, "decoder": (16,)})
    return json.dumps(dataclasses.asdict(evaluate(model, digits(test=test), batch_size=batch_size)))


def said(between: nn.Module) -> str:
    """What a run that must fail says."""
    with pytest.raises(FloatingPointError) as error:
        trained("plain", RUN, between)
    return str(error.value)


class Stopped(Exception):
    pass


def stopping(x):
    raise Stopped("only in the last process")


def stopped(folder: Path) -> None:
    """A run that all processes leave in the second epoch."""
    model = built("exact")
    seen = 0

    def stop(*_: object) -> None:
        nonlocal seen
        seen += torch.is_grad_enabled() and model.training
        if seen == 8:  # 6 steps an epoch
            raise Stopped

    model.register_forward_pre_hook(stop)
    with pytest.raises(Stopped):
        fit(model, digits(), RUN, run_dir=folder, progress=False)


def resumed(folder: Path) -> dict:
    model = built("exact")
    torch.manual_seed(99)  # the state of the process must not matter
    history = fit(model, digits(), RUN, run_dir=folder, progress=False)
    return {"history": history.to_json(), "after": model.state_dict()}


def synchronisations(config: TrainConfig) -> list[bool]:
    """For each batch, whether DDP added up gradients over the processes."""
    parallel, seen = nn.parallel.DistributedDataParallel, []
    forward = parallel.forward

    def noting(self, *arguments):
        seen.append(self.require_backward_grad_sync)
        return forward(self, *arguments)

    parallel.forward = noting
    trained("plain", config)
    parallel.forward = forward
    return seen


def gradients(module: nn.Module, x: torch.Tensor, whole: bool = True) -> list[torch.Tensor]:
    """Of the mean over 8 images, or of this process's half of them; DDP averages those of the halves."""
    rows = slice(None) if whole else slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    parallel = module if whole else nn.parallel.DistributedDataParallel(module)
    loss = parallel(x[rows]).square().sum(dim=(1, 2)).mean()
    module.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def capsule_layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Layers whose gradients are computed by code of this package, each with its input."""
    torch.manual_seed(0)
    made = {
        "fused": RoutingCapsules(6, 4, 3, 2, backend="fused"),
        "momentum": MomentumCapsules(RoutingCapsules(6, 4, 6, 4, backend="eager") for _ in range(4)),
    }
    return {name: (layer.double(), torch.randn(8, 6, 4, dtype=torch.float64)) for name, layer in made.items()}


EVALUATED = (7, 50), (50, 50), (50, 1)  # batch size and images: 8 batches, and one, which one process has
ACCUMULATE = dataclasses.replace(RUN, epochs=1, accumulate=4)
SCENARIOS = {
    "one step": lambda: trained("exact", STEP),
    "shares of 3, and of 1 and 0": lambda: trained("exact", RUN),
    "accumulated": lambda: trained("exact", ACCUMULATE),
    "momentum": lambda: trained("momentum", RUN),
    "idle": lambda: trained("idle", RUN),
    "float32 with decoder": lambda: trained("drawing", dataclasses.replace(STEP, batch_size=9)),
    "bf16": lambda: trained("drawing", dataclasses.replace(STEP, precision="bf16")),
    "one image": lambda: trained("exact", STEP, data=digits(1, 1)),
    "batches of one image": lambda: trained("exact", dataclasses.replace(STEP, batch_size=1), train=3),
    "a batch larger than the data": lambda: trained("exact", dataclasses.replace(STEP, batch_size=1000)),
    "one class": lambda: trained("one class", RUN, data=threes()),
    "one image, momentum": lambda: trained("momentum", ACCUMULATE, data=digits(1, 1)),
    "adam": lambda: trained("exact", dataclasses.replace(RUN, optimizer="adam", learning_rate=1e-3)),
    "recorded": lambda: recorded("exact", dataclasses.replace(RUN, epochs=5)),
    "recorded, accumulated, idle": lambda: recorded("idle", dataclasses.replace(ACCUMULATE, epochs=5)),
}


def main(folder: Path) -> None:
    """What each of the two processes does."""
    torch.manual_seed(0)
    found = {name: scenario() for name, scenario in SCENARIOS.items()}
    distributed.init()
    found["layers"] = {name: gradients(*given, whole=False) for name, given in capsule_layers().items()}
    found["evaluated"] = [evaluated(*sizes) for sizes in EVALUATED]
    found["nan"] = said(Breaking(lambda x: x * float("nan")))
    found["synchronisations"] = synchronisations(ACCUMULATE)
    noting = Noting()
    trained("plain", RUN, noting)
    found["drawn"] = noting.drawn
    found["norm"] = trained("plain", RUN, nn.BatchNorm1d(8), train=30)  # which takes no single image
    stopped(folder / "two, then one")
    found["one, then two"] = resumed(folder / "one, then two")
    distributed.init()  # again: it does no harm
    try:
        distributed.from_rank0(lambda: stopping(0) if distributed.rank() == 0 else None)
    except Stopped:
        found["first raised"] = True
    torch.save(found, folder / f"{distributed.rank()}.pt")
    trained("plain", RUN, Breaking(stopping))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "CUDA_VISIBLE_DEVICES": ""}


def launch(*command: str, launcher: tuple[str, ...], cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *launcher, *command],
        env=environment(),
        cwd=cwd,
        timeout=TIMEOUT,
        capture_output=True,
        text=True,
    )


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def ended(folder) -> subprocess.CompletedProcess:
    """Two processes that ran `main`."""
    stopped(folder / "one, then two")
    return launch(__file__, str(folder), launcher=TORCHRUN)


@pytest.fixture(scope="module")
def two(ended, folder) -> list[dict]:
    """What they found, by rank."""
    assert (folder / "1.pt").exists(), ended.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def figures(history: str) -> list[dict]:
    """What must not depend on the number of processes."""
    records = json.loads(history)["records"]
    return [{k: v for k, v in r.items() if k not in ("seconds", "peak_memory")} for r in records]


def assert_same_run(found: dict, expected: dict, rtol: float) -> None:
    for one, other in zip(figures(found["history"]), figures(expected["history"]), strict=True):
        for name in ("epoch", "train_accuracy", "test_accuracy", "learning_rate", "skipped_steps"):
            assert one[name] == other[name], name
        for name in ("loss", "margin", "reconstruction"):  # gathered in float32
            assert one[name] == pytest.approx(other[name], rel=max(rtol, 1e-6)), name
    for name, value in expected["after"].items():
        distance = (found["after"][name].double() - value.double()).norm()
        assert distance <= rtol * value.double().norm(), name


@cache
def alone(name: str) -> dict:
    """What a scenario gives in one process."""
    return SCENARIOS[name]()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("bf16", "float32 with decoder")])
def test_two_processes_train_as_one(two, name):
    """In float64: weights after all steps, and every figure of the history."""
    expected = alone(name)
    for found in two:
        assert_same_run(found[name], expected, rtol=1e-11)
    assert figures(two[0][name]["history"]) == figures(two[1][name]["history"])
    moved = [not torch.equal(expected["before"][n], value) for n, value in expected["after"].items()]
    assert any(moved)


def test_recorded_steps_of_two_processes_are_replayed(two):
    """The last batch is one image, which leaves the second process none; it replays all the same."""
    alone_replayed = alone("recorded")["replayed"]
    steps, tests, warm_up = 5 * 6, 5, recording.WARM_UP
    assert alone_replayed == steps + tests - 3 * warm_up
    first, second = (found["recorded"]["replayed"] for found in two)
    # Two recordings are a step here, with the sum over processes between them; the first process tests all images.
    assert first == steps + steps + tests - 4 * warm_up
    assert second == steps + steps - 3 * warm_up


def test_gradients_are_those_of_one_process(two):
    """16 and 15 of 31 images; the first step of SGD shows the gradient: (1 + momentum) times the learning rate."""
    expected = alone("one step")
    for name in expected["after"]:
        gradient, *others = (
            (run["one step"]["before"][name] - run["one step"]["after"][name]) / (1.9 * STEP.learning_rate)
            for run in ({"one step": expected}, *two)
        )
        assert gradient.abs().max() > 0
        for other in others:
            assert (other - gradient).norm() <= 1e-10 * gradient.norm(), name


@pytest.mark.parametrize("name", ["fused", "momentum"])
def test_gradients_of_halves_average_to_that_of_the_batch(two, name):
    """Of layers with a backward pass of their own; `forward_plain` has autograd's."""
    layer, x = capsule_layers()[name]
    if isinstance(layer, MomentumCapsules):
        layer.forward = layer.forward_plain
    for found in two:
        torch.testing.assert_close(found["layers"][name], gradients(layer, x))


def test_two_processes_train_as_one_in_float32_and_nearly_in_bf16(two):
    """Half a batch rounds as the whole does, up to the order of additions."""
    for found in two:
        assert_same_run(found["float32 with decoder"], alone("float32 with decoder"), rtol=1e-6)
        assert_same_run(found["bf16"], alone("bf16"), rtol=1e-3)


def test_the_shares_of_a_batch():
    """Every row once, in order, no share more than a row larger than another, the first ones the larger."""
    for rows in range(12):
        for among in range(1, 6):
            shares = [range(rows)[distributed.shard(rows, of=rank, among=among)] for rank in range(among)]
            sizes = [len(share) for share in shares]
            assert [row for share in shares for row in share] == list(range(rows))
            assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


def test_gradients_are_added_up_once_for_each_step(two):
    """Six batches of up to 6 images, four of them a step."""
    for found in two:
        assert found["synchronisations"] == [False, False, False, True, False, True]


def test_only_the_network_s_own_random_numbers_differ(two):
    """Dropout must not lose the same units of both shares; the first process draws as one alone does."""
    noting = Noting()
    trained("plain", RUN, noting)
    assert two[0]["drawn"] == noting.drawn
    assert not set(two[0]["drawn"]) & set(two[1]["drawn"])


def test_batch_norm_counts_the_first_process_s_share_on_cpus(two):
    """Each normalises its own images, so runs differ from one process's; both are left with the same statistics."""
    first, second = (found["norm"]["after"] for found in two)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert first["net.2.running_mean"].abs().min() > 0
    assert figures(two[0]["norm"]["history"]) == figures(two[1]["norm"]["history"])
    model = built("plain", nn.BatchNorm1d(8))
    model.load_state_dict(first)
    tested = History.from_json(two[0]["norm"]["history"])["test_accuracy"][-1]
    assert evaluate(model, digits(30)).accuracy == tested


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_norm_counts_over_all_gpus(device, monkeypatch):
    """What is made ready for GPUs is looked at here, not run."""

    class Anywhere:
        pass

    accelerator = Anywhere()
    accelerator.device = torch.device(device)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_: self)
    model = built("plain", nn.BatchNorm1d(8))
    loop._prepare_for_ddp(model, digits(), accelerator)
    assert isinstance(model.net[2], nn.SyncBatchNorm) == (device == "cuda")
    assert all(module.training for module in model.modules())
    assert accelerator.ddp_handler.find_unused_parameters is False


def test_evaluation_is_to_the_last_bit_that_of_one_process(two):
    """Eight batches, the last one smaller; one batch, and one image, of which the second process has none."""
    expected = [evaluated(*sizes) for sizes in EVALUATED]
    assert two[0]["evaluated"] == two[1]["evaluated"] == expected


def test_a_loss_that_is_not_finite_in_one_process_stops_both_with_the_same_words(two):
    expected = said(Breaking(lambda x: x * float("nan")))
    assert two[0]["nan"] == two[1]["nan"] == expected
    assert "epoch 2, step 2: margin is nan" in expected


def test_what_the_first_process_raises_is_raised_by_all(two):
    assert all(found["first raised"] for found in two)


def test_a_run_goes_on_with_another_number_of_processes(two, folder):
    """One epoch with one process and two with two, and the other way round, are three epochs with one."""
    expected = alone("shares of 3, and of 1 and 0")
    assert len(load_weights(built("exact"), folder / "one, then two" / CHECKPOINT).records) == 3
    assert len(load_weights(built("exact"), folder / "two, then one" / CHECKPOINT).records) == 1
    for found in (*(found["one, then two"] for found in two), resumed(folder / "two, then one")):
        assert_same_run(found, expected, rtol=1e-11)


def test_a_process_that_raises_ends_the_other_with_its_own_traceback(two, ended):
    assert ended.returncode == 1
    assert "in stopping" in ended.stderr and "Stopped: only in the last process" in ended.stderr


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_distributed import *

def end(x):
    os.kill(os.getpid(), signal.SIGKILL)

fit(built("plain", Breaking(end)), digits(), RUN, run_dir=sys.argv[1], progress=False)
"""


def test_a_process_that_is_killed_ends_the_other(tmp_path):
    """Without a launcher that would end it: the first process notices by itself, and its checkpoint stays whole."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent)), str(tmp_path)]
    started = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = environment() | {name: str(value) for name, value in place.items()}
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert started[1].returncode == -signal.SIGKILL, errors[1]
    assert started[0].returncode == 1 and "Connection " in errors[0], errors[0]
    assert len(load_weights(built("plain", Breaking(None)), tmp_path / CHECKPOINT).records) == 1


TINY = ("--images", "64", "--epochs", "1", "--channels", "4", "--capsule-types", "1")


def test_the_command_line_writes_and_says_everything_once(tmp_path, monkeypatch, capsys):
    """`accelerate launch` here, `torchrun` above: the same code."""
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0")
    done = launch("-m", "capsnb", "train", "run", *TINY, launcher=launcher, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("accuracy") == 1 and done.stdout.count("parameters") == 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"run.json", CHECKPOINT}
    result = RunResult.load(tmp_path / "run")
    assert result.evaluation.accuracy == result.history["test_accuracy"][-1]
    monkeypatch.setattr(
        "sys.argv", ["capsnb", "evaluate", str(tmp_path / "run")]
    )  # the same figures in one process
    with pytest.raises(SystemExit):
        cli.main()
    assert RunResult.load(tmp_path / "run") == result


if __name__ == "__main__":
    main(Path(sys.argv[1]))
