"""What PyTorch exports, traces, compiles or transforms computes what the network computes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call

from capsnb.kernels import route
from capsnb.layers import RoutingCapsules
from capsnb.models import build
from capsnb.routing import assignments

SMALL = {"channels": 8, "capsule_types": 2}
CAPSNETS = {
    "capsnet": ("capsnet", SMALL),
    "rescapsnet": ("rescapsnet", SMALL),
    "mocapsnet": ("mocapsnet", SMALL),
    "sda": ("capsnet", {**SMALL, "routing": "sda", "decoder": (8,)}),
    "em": ("capsnet", {**SMALL, "routing": "em", "decoder": (8,)}),
    "recompute": ("capsnet", {**SMALL, "recompute": True}),
}
BACKBONES = {
    "alexcapsnet": ("alexcapsnet", {"image_shape": (3, 78, 78), "widths": (8,) * 5, "capsule_types": 2}),
    "resnetcapsnet": ("resnetcapsnet", {"image_shape": (3, 32, 32), "capsule_types": 2}),
}
each_capsnet = pytest.mark.parametrize("name", CAPSNETS)
each_kind = pytest.mark.parametrize("name", ["capsnet", "mocapsnet", "recompute"])
each_network = pytest.mark.parametrize("name", [name for name in CAPSNETS | BACKBONES if name != "recompute"])
# PyTorch's own, about what it does not use any more.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "torch.jit.TracerWarning")
]


def network(name):
    torch.manual_seed(0)
    kind, sizes = (CAPSNETS | BACKBONES)[name]
    return build(kind, **sizes).eval()


def pictures(model, count=20):
    """As many as let `auto` take our operator, not the definition."""
    return torch.randn(count, *model.image_shape)


def in_onnx(module, inputs, path, **options):
    """A function of NumPy arrays: the module as ONNX Runtime computes it, exported with two images."""
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime"
    )
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install onnxscript")
    torch.onnx.export(module.eval(), inputs, path, verbose=False, **options)
    session = runtime.InferenceSession(path)
    names = [entry.name for entry in session.get_inputs()]
    return lambda *tensors: session.run(None, dict(zip(names, (t.numpy() for t in tensors), strict=True)))


@each_network
@torch.no_grad()
def test_onnx_computes_the_same_for_any_batch(name, tmp_path):
    """Each is compared with float64: an untrained deep network amplifies the rounding of both."""
    model = network(name)
    run = in_onnx(
        model, (pictures(model, 2),), tmp_path / "model.onnx", dynamo=True, dynamic_shapes=({0: "batch"},)
    )
    exact = copy.deepcopy(model).double()
    for count in (1, 2, 20):
        images = pictures(model, count)
        found = [torch.from_numpy(array) for array in run(images)]
        here, expected = (
            [t for t in output if t is not None] for output in (model(images), exact(images.double()))
        )
        assert len(found) == len(expected)
        for other, own, wanted in zip(found, here, expected, strict=True):
            assert (other - wanted).abs().max() < 1e-5 + 10 * (own - wanted).abs().max()
            assert (other - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("routing", ["rba", "sda", "em"])
@torch.no_grad()
def test_capsules_of_length_zero_stay_finite_in_onnx(routing, tmp_path):
    layer = RoutingCapsules(6, 4, 3, 2, routing=routing)
    if routing == "sda":
        nn.init.zeros_(layer.bias)
    run = in_onnx(layer, (torch.randn(2, 6, 4),), tmp_path / "layer.onnx", dynamo=True)
    silent = torch.zeros(2, 6, 4)
    np.testing.assert_allclose(run(silent)[0], layer(silent), atol=1e-6)


class Assignments(nn.Module):
    """`assignments` of votes to clouds."""

    def forward(self, votes, mean, variance, logit):
        """See `assignments`."""
        return assignments(votes, mean, variance, logit)


def test_clouds_that_are_hardly_active_get_their_votes_in_onnx(tmp_path):
    votes, mean = torch.randn(2, 6, 3, 4), torch.randn(2, 3, 4)
    variance, logit = torch.rand(2, 3, 4) + 0.5, torch.tensor([[-300.0, -301, -302], [40, 0, -25]])
    run = in_onnx(
        Assignments(), (votes, mean, variance, torch.zeros(2, 3)), tmp_path / "assignments.onnx", dynamo=True
    )
    expected = assignments(*(t.double() for t in (votes, mean, variance, logit)))
    np.testing.assert_allclose(run(votes, mean, variance, logit)[0], expected, atol=1e-5)


@each_kind
@torch.no_grad()
def test_the_older_exporter_of_onnx_has_one_size_of_batch(name, tmp_path):
    model = network(name)
    images = pictures(model)
    run = in_onnx(model, (images,), tmp_path / "model.onnx", dynamo=False)
    np.testing.assert_allclose(run(images)[1], model(images).lengths, atol=1e-4)


@each_kind
def test_an_exported_program_needs_pytorch_only_and_takes_any_batch(name):
    model = network(name)
    program = torch.export.export(
        model, (pictures(model, 2),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert not any("capsnb" in str(node.target) for node in program.graph.nodes)
    images = pictures(model)
    torch.testing.assert_close(program.module()(images).lengths, model(images).lengths, atol=1e-4, rtol=0)


@each_capsnet
def test_a_traced_network_takes_any_batch(name):
    model = network(name)
    images = pictures(model)
    traced = torch.jit.trace(model, (images[:5],), check_trace=False)
    torch.testing.assert_close(traced(images)[1], model(images).lengths, atol=1e-4, rtol=0)
    assert "capsnb::" not in str(traced.inlined_graph)


@each_capsnet
@pytest.mark.filterwarnings("ignore:MomentumCapsules stores")
def test_torch_func_differentiates_the_network(name):
    model = network(name).double()
    images = pictures(model).double()
    weights = {key: p for key, p in model.named_parameters() if not key.startswith("decoder")}

    def loss(weights, images):
        return functional_call(model, weights, (images,)).lengths.square().sum()

    expected = dict(zip(weights, torch.autograd.grad(loss(weights, images), weights.values()), strict=True))
    found = torch.func.grad(loss)(weights, images)
    single = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images[:, None])
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(single[key].sum(0), gradient, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "fused", "eager"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("routing", ["rba", "sda", "em"])
def test_forward_mode_and_backward_agree(routing, backend, grad):
    """A custom operator without a rule for forward mode returns no tangent, in silence."""
    layer = RoutingCapsules(64, 4, 10, 16, routing=routing, backend=backend).double()
    u = torch.randn(20, 64, 4, dtype=torch.float64, requires_grad=True)
    direction, weights = torch.randn_like(u), torch.randn(20, 10, 16, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(layer(u), u, weights)
    with torch.set_grad_enabled(grad):
        _, tangent = torch.func.jvp(layer, (u,), (direction,))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(layer(forward_ad.make_dual(u, direction)))
    torch.testing.assert_close((tangent * weights).sum(), (gradient * direction).sum())
    torch.testing.assert_close(dual.tangent, tangent)


@pytest.mark.usefixtures("fresh_compiler")
def test_one_compiled_graph_takes_any_batch():
    """The length of a tensor is a Python number: it fixed the size, and each size was compiled anew."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    weight = torch.randn(64, 10, 16, 8)
    compiled = torch.compile(
        lambda u: route(u, weight, backend="fused"), backend=backend, fullgraph=True, dynamic=True
    )
    for count in (2, 3, 5):
        u = torch.randn(count, 64, 8)
        torch.testing.assert_close(compiled(u), route(u, weight, backend="fused"))
    assert len(graphs) == 1


@pytest.mark.usefixtures("fresh_compiler")
def test_what_is_recomputed_compiles_in_one_graph():
    model = network("recompute")
    images = pictures(model)
    wanted = list(model.conv.parameters())
    expected = torch.autograd.grad(model(images).lengths.sum(), wanted)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(images).lengths.sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
