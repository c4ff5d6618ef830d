"""What holds on a GPU as it does on a CPU; `pytest -m gpu` runs these by themselves, `tools/gpu.py` first of all."""

import warnings

import pytest
import torch
from torch import nn

from capsnb import MoCapsNet, TrainConfig, fit, load_data, models
from capsnb.data import ImageData, Split
from capsnb.kernels import route
from capsnb.layers import default_weight_std

pytestmark = pytest.mark.gpu
ODD = [  # B, I, J, E, D
    (1, 1, 1, 1, 1),
    (3, 17, 5, 7, 3),
    (2, 3, 1, 4, 17),
    (7, 129, 33, 9, 5),
    (5, 257, 12, 6, 24),
    (2, 5, 1000, 16, 16),
    (300, 4, 3, 2, 2),
]


def passed(backend, sizes, dtype=torch.float32):
    """Outputs and both gradients on the GPU; the same inputs for all backends."""
    B, I, J, E, D = sizes
    draw = torch.Generator().manual_seed(0)
    u, W, dv = (torch.randn(*shape, generator=draw) for shape in ((B, I, D), (I, J, E, D), (B, J, E)))
    u, W, dv = (x.to("cuda", dtype) for x in (u, W * default_weight_std(I, J, E), dv))
    v = route(u.requires_grad_(), W.requires_grad_(), backend=backend)
    return v.detach(), *torch.autograd.grad(v, (u, W), dv)


@pytest.mark.parametrize("backend", ["fused", "triton", "auto"])
@pytest.mark.parametrize("sizes", [(128, 32, 32, 8, 8), (16, 33, 100, 16, 16)], ids=["hidden", "100 classes"])
def test_kernels_equal_the_definition(backend, sizes):
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    for found, exact in zip(passed(backend, sizes), passed("eager", sizes, torch.float64), strict=True):
        assert (found - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("sizes", ODD, ids=str)
def test_auto_runs_layers_of_any_size(sizes):
    for found, exact in zip(passed("auto", sizes), passed("eager", sizes, torch.float64), strict=True):
        assert (found - exact).norm() <= 1e-5 * exact.norm()


@pytest.fixture(scope="module")
def data():
    """Few images; the last batch is smaller than the others."""
    whole = load_data()
    return ImageData("few", whole.classes, whole.train.subset(range(40)), whole.test.subset(range(20)))


def trained(data, run_dir=None, **settings):
    torch.manual_seed(1)
    model = MoCapsNet(channels=8, capsule_types=2, blocks=1, decoder=(16,))
    config = TrainConfig(epochs=5, batch_size=16, **settings)  # in the fourth all steps are recorded
    history = fit(model, data, config, run_dir=run_dir, progress=False)
    return history["loss"], [weight.detach().clone() for weight in model.parameters()]


def assert_same_bits(found, expected):
    (losses, weights), (other_losses, other_weights) = found, expected
    assert losses == other_losses and len(weights) == len(other_weights)
    assert all(map(torch.equal, weights, other_weights))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits(data, precision):
    assert_same_bits(trained(data, precision=precision), trained(data, precision=precision))


def test_a_stopped_run_goes_on_to_the_same_bits(data, tmp_path, monkeypatch):
    from capsnb.training import loop

    epoch = loop._Trainer.epoch

    def stopping(trainer, number, bar):
        if number == 2:
            raise InterruptedError
        return epoch(trainer, number, bar)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "epoch", stopping)
        with pytest.raises(InterruptedError):
            trained(data, tmp_path)
    assert_same_bits(trained(data, tmp_path), trained(data))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_recorded_step_computes_what_a_plain_one_does(data, precision):
    plain_losses, plain_weights = trained(data, precision=precision, graph=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses, weights = trained(data, precision=precision)
    assert not [warning for warning in caught if "not recorded" in str(warning.message)]
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    for found, expected in zip(weights, plain_weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


class Trap(nn.Module):
    """Reads a number from the GPU while a step or a test batch is recorded, which ends the recording."""

    def __init__(self, training):
        super().__init__()
        self.network, self.springs_in = MoCapsNet(channels=8, capsule_types=2, decoder=(16,)), training

    def forward(self, images, labels=None):
        if torch.cuda.is_current_stream_capturing() and self.training == self.springs_in:
            images.sum().item()
        return self.network(images, labels)


@pytest.mark.parametrize("training", [True, False])
def test_a_recording_that_fails_leaves_nothing_behind(data, training):
    found = []
    for graph in (True, False):
        torch.manual_seed(1)
        model = Trap(training)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = fit(model, data, TrainConfig(epochs=6, batch_size=16, graph=graph), progress=False)
        assert any("not recorded" in str(warning.message) for warning in caught) == graph
        found.append((history["loss"], list(model.parameters())))
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.randn(3, device="cuda")
    assert_same_bits(*found)


RECORDED = {
    "sgd, accumulated": ({"optimizer": "sgd", "accumulate": 2, "learning_rate": 1e-4}, "MoCapsNet", {}),
    "adamw": ({"optimizer": "adamw"}, "ResCapsNet", {"blocks": 1}),
    "SDA": ({}, "CapsNet", {"routing": "sda"}),
    "EM": ({}, "CapsNet", {"routing": "em"}),
    "recomputed": ({}, "ResCapsNet", {"blocks": 1, "recompute": True}),
    "AlexCapsNet": ({"precision": "bf16"}, "AlexCapsNet", None),
    "ResNetCapsNet": ({}, "ResNetCapsNet", None),
}


@pytest.mark.parametrize("name", RECORDED)
def test_every_network_is_recorded_without_a_warning(data, name):
    changes, network, sizes = RECORDED[name]
    sizes = {} if sizes is None else {"channels": 8, "capsule_types": 2, "decoder": (16,), **sizes}
    turned = data.with_preprocess(rotate=10.0, resize=30)
    model = models.build(network, image_shape=turned.image_shape, **sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, turned, TrainConfig(epochs=5, batch_size=20, **changes), progress=False)


def test_test_batches_may_be_recorded_before_steps(data):
    """One step an epoch, and more than four test batches."""
    digits = load_data().test
    tests = Split(digits.images.repeat(3, 1, 1, 1), digits.labels.repeat(3))
    many = ImageData("many", data.classes, data.train, tests)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(
            MoCapsNet(channels=8, capsule_types=2), many, TrainConfig(epochs=5, batch_size=40), progress=False
        )


def test_a_second_run_needs_no_more_memory(data):
    peaks = []
    for _ in range(3):
        torch.manual_seed(1)
        model = MoCapsNet(channels=8, capsule_types=2)
        history = fit(model, data, TrainConfig(epochs=5, batch_size=16), progress=False)
        peaks.append(max(history["peak_memory"]))
        del model
    assert peaks[2] <= peaks[1]
