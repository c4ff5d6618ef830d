"""Scaled-distance and EM routing in tiles: the definitions' numbers, everywhere PyTorch goes, without stored votes."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnb import MomentumCapsules, RoutingCapsules
from capsnb.functional import squash
from capsnb.kernels import sda_em
from capsnb.kernels.sda_em import route_by_distance, route_by_em
from capsnb.profiling import peak_bytes, saved_bytes

both = pytest.mark.parametrize("way", [route_by_distance, route_by_em])
named = pytest.mark.parametrize("routing", ["sda", "em"])


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
    """Room for few votes, so that small layers have many tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sda_em, "TILE_BYTES", {"cpu": 2**11})
        yield


def problem(way, B=5, I=7, J=3, E=2, D=4, dtype=torch.float64, seed=0):
    """Capsules shorter than one, weights, what else the way has to learn, and a gradient of v."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    others = [draw(J, E)] if way is route_by_distance else [draw(J), draw(J)]
    leaves = [squash(draw(B, I, D)), draw(I, J, E, D) / 2, *others]
    return [x.requires_grad_() for x in leaves], draw(B, J, E)


def results(way, leaves, dv, iterations=3, **options):
    v = way(*leaves, iterations, **options)
    return v, *torch.autograd.grad(v, leaves, dv.to(v.dtype))


def assert_equal(found, expected, tolerance):
    for number, (x, y) in enumerate(zip(found, expected, strict=True)):
        assert x.shape == y.shape and x.dtype == y.dtype
        error = (x - y).norm() / y.norm().clamp(min=1e-12)
        assert error <= tolerance, f"result {number}: relative error {error:.1e}"


@both
@settings(max_examples=15)
@given(
    sizes=st.tuples(*[st.sampled_from([1, 2, 3, 5, 17])] * 5),
    iterations=st.integers(1, 4),
    detach=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(way, sizes, iterations, detach, seed):
    leaves, dv = problem(way, *sizes, seed=seed)
    found = results(way, leaves, dv, iterations, backend="fused", detach=detach)
    assert_equal(found, results(way, leaves, dv, iterations, backend="eager", detach=detach), 1e-9)


@both
@pytest.mark.parametrize(
    "sizes", [(5, 7, 3, 2, 4), (16, 144, 10, 16, 8), (16, 32, 32, 8, 8), (3, 1, 4, 2, 3)]
)
def test_equals_the_definition_in_float32(way, sizes):
    leaves, dv = problem(way, *sizes, dtype=torch.float32)
    found = results(way, leaves, dv, backend="fused")
    assert_equal(found, results(way, leaves, dv, backend="eager"), 1e-5)


def test_a_variance_far_from_zero_keeps_its_digits():
    """A mean of squares less the square of the mean would leave none of them in float32."""
    leaves, _ = problem(route_by_em, B=4, I=50, J=1, E=2, D=2)
    with torch.no_grad():
        leaves[0].copy_(leaves[0] / 100 + 3)
        leaves[1].copy_(torch.eye(2) + leaves[1] / 1000)
        leaves[2].zero_()
    expected = route_by_em(*leaves, backend="fused")
    found = route_by_em(*(x.float() for x in leaves), backend="fused")
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)


@both
def test_nothing_of_the_votes_size_is_saved_or_allocated(way, monkeypatch):
    monkeypatch.setattr(sda_em, "TILE_BYTES", {"cpu": 2**16})
    leaves, dv = problem(way, B=16, I=256, J=16, E=8, D=2, dtype=torch.float32)
    votes = 16 * 256 * 16 * 8 * 4

    def step(backend):
        torch.autograd.grad(way(*leaves, backend=backend), leaves, dv)

    def kept(backend):
        return saved_bytes(lambda: way(*leaves, backend=backend), ignore=leaves)

    step("fused")
    assert (
        kept("eager") >= votes and peak_bytes(lambda: step("eager")).largest >= votes
    )  # the witnesses can see
    assert 0 < kept("fused") <= votes / 16
    assert peak_bytes(lambda: step("fused")).largest <= votes / 8


@both
def test_auto_is_the_definition_for_small_votes_and_tiles_for_large_ones(way, monkeypatch):
    small, _ = problem(way)
    large, _ = problem(way, B=8, I=64, J=8, E=8)  # more than eight tiles
    monkeypatch.setattr(sda_em, "sum_over_tiles", lambda *_: pytest.fail("tiles"))
    assert torch.equal(way(*small), way(*small, backend="eager"))
    with pytest.raises(pytest.fail.Exception):
        way(*large)


@both
def test_an_empty_batch(way):
    leaves, dv = problem(way, B=0)
    v, _, dW, *_ = results(way, leaves, dv, backend="fused")
    assert v.shape == dv.shape and not dW.any()


@both
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_half_precision_and_autocast_are_computed_in_float32(way, backend):
    leaves, dv = problem(way, dtype=torch.float32)
    half = [x.bfloat16() for x in leaves]
    exact = way(*(x.float() for x in half), backend=backend)
    torch.testing.assert_close(way(*half, backend=backend), exact.bfloat16())
    expected = results(way, leaves, dv, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        v = way(*leaves, backend=backend)
    assert_equal((v, *torch.autograd.grad(v, leaves, dv)), expected, 1e-6)


@both
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_gradcheck_through_all_iterations(way, backend):
    leaves, _ = problem(way, B=2, I=3, J=3, E=2, D=2)
    assert torch.autograd.gradcheck(lambda *x: way(*x, backend=backend), leaves)


@both
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_the_length_of_a_silent_capsule_has_a_gradient(way, backend):
    leaves, dv = problem(way)
    leaves[0] = torch.zeros_like(leaves[0]).requires_grad_()
    assert all(x.isfinite().all() for x in results(way, leaves, dv, backend=backend))


@named
@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.usefixtures("fresh_compiler")
def test_layers_can_be_compiled_copied_and_pickled(routing, backend):
    torch.manual_seed(0)
    layer = RoutingCapsules(4, 4, 3, 2, routing=routing, backend=backend, iterations=2).double()
    u = torch.randn(16, 4, 4, dtype=torch.float64).requires_grad_()  # two tiles
    wanted = [u, *layer.parameters()]
    expected = (layer(u), *torch.autograd.grad(layer(u).sum(), wanted))
    compiled = torch.compile(layer, backend="aot_eager")
    assert_equal((compiled(u), *torch.autograd.grad(compiled(u).sum(), wanted)), expected, 1e-9)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(u), layer(u))


@named
@pytest.mark.usefixtures("fresh_compiler")
def test_the_automatic_choice_is_one_graph_and_can_be_exported(routing):
    layer = RoutingCapsules(70, 4, 10, 8, routing=routing, iterations=2)
    u = torch.randn(16, 70, 4)
    compiled = torch.compile(
        layer, backend="eager", fullgraph=True, dynamic=True
    )  # what is captured counts here
    torch.testing.assert_close(compiled(u), layer(u))
    torch.testing.assert_close(torch.export.export(layer, (u,)).module()(u), layer(u))


@named
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_momentum_capsules_compute_them_again(routing, backend):
    torch.manual_seed(0)
    made = [RoutingCapsules(6, 4, 6, 4, routing=routing, backend=backend) for _ in range(3)]
    stack = MomentumCapsules(made).double()
    x = torch.randn(5, 6, 4, dtype=torch.float64).requires_grad_()
    wanted, dv = [x, *stack.parameters()], torch.randn(5, 6, 4, dtype=torch.float64)
    found, plain = (torch.autograd.grad(run(x), wanted, dv) for run in (stack, stack.forward_plain))
    assert torch.equal(stack(x), stack.forward_plain(x))
    assert_equal(found, plain, 1e-9)


@both
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        ({"u": torch.zeros(2, 3, 4)}, r"got \(2, 3, 4\) and \(7, 3, 2, 4\)"),
        (
            {"backend": "native"},
            "backend 'native' has routing by agreement .* only; choose one of eager, fused, auto",
        ),
        ({"backend": "triton"}, "backend 'triton' has routing by agreement"),
    ],
)
def test_what_does_not_fit_is_named(way, change, said):
    (u, weight, *others), _ = problem(way)
    names = ["bias"] if way is route_by_distance else ["beta_use", "beta_activation"]
    given = {"u": u, "weight": weight, **dict(zip(names, others, strict=True))}
    with pytest.raises(ValueError, match=said):
        way(**{**given, **change})
