"""Routing without votes: the definition's numbers, everywhere PyTorch goes, and nothing of the votes' size."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capsnb import CapsNet, RoutingCapsules, routing_by_agreement, squash
from capsnb.kernels import BACKENDS, SAVES, native, route
from capsnb.layers import default_weight_std
from capsnb.profiling import peak_bytes, saved_bytes

HERE = Path(__file__).parent
compiles = native.library(3, 2, 4, torch.float32) is not None
needs_compiler = pytest.mark.skipif(
    not compiles, reason="no C++ compiler was found: install one, or name it in CXX"
)
backend = pytest.mark.parametrize("backend", ["fused", pytest.param("native", marks=needs_compiler)])
# Few sizes of layer, since each is compiled once; batches and numbers of input capsules are any.
LAYERS = [(1, 1, 1), (3, 2, 4), (7, 5, 3), (10, 16, 8), (32, 8, 8)]


def problem(B=5, I=7, J=3, E=2, D=4, dtype=torch.float64, seed=0):
    """u, W and a gradient of v; the votes are of order one."""
    generator = torch.Generator().manual_seed(seed)
    u, W, dv = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in ((B, I, D), (I, J, E, D), (B, J, E))
    )
    return u.requires_grad_(), W.requires_grad_(), dv


def results(u, W, dv, iterations=3, backend="eager", save="sums"):
    v = route(u, W, iterations, backend=backend, save=save)
    return v, *torch.autograd.grad(v, (u, W), dv)


def assert_equal(found, expected, tolerance):
    for name, x, y in zip(("v", "du", "dW"), found, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        error = (x - y).norm() / y.norm().clamp(min=1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@backend
@settings(max_examples=25)
@given(
    B=st.sampled_from([1, 2, 3, 8, 13, 33]),
    I=st.sampled_from([1, 2, 15, 16, 31, 61]),
    layer=st.sampled_from(LAYERS),
    iterations=st.integers(1, 4),
    save=st.sampled_from(SAVES),
    seed=st.integers(0, 99),
)
def test_equals_the_definition(backend, B, I, layer, iterations, save, seed):
    for dtype, tolerance in (
        (torch.float64, 1e-9),
        (torch.float32, 2e-5),
    ):  # few numbers may cancel in float32
        args = problem(B, I, *layer, dtype, seed)
        assert_equal(results(*args, iterations, backend, save), results(*args, iterations), tolerance)


@settings(max_examples=25)
@given(sizes=st.tuples(*[st.sampled_from([1, 2, 3, 5, 8, 17])] * 5), seed=st.integers(0, 99))
def test_tiles_equal_the_definition_for_layers_of_any_size(sizes, seed):
    args = problem(*sizes, seed=seed)
    assert_equal(results(*args, backend="fused"), results(*args), 1e-9)


@backend
@pytest.mark.parametrize("save", SAVES)
def test_many_tiles_and_slices_equal_the_definition(backend, save):
    args = problem(B=130, I=300, J=10, E=16, D=8)
    assert_equal(results(*args, backend=backend, save=save), results(*args), 1e-9)


@backend
@pytest.mark.parametrize("sizes", [(32, 144, 10, 16, 8), (32, 32, 32, 8, 8), (8, 1152, 32, 8, 8)])
def test_the_error_is_at_most_twice_that_of_the_plain_version(backend, sizes):
    """Against float64, for capsules shorter than one and weights as they are drawn."""
    u, W, dv = problem(*sizes, dtype=torch.float32)
    with torch.no_grad():
        u.copy_(squash(u))
        W *= default_weight_std(*sizes[1:4])
    exact = results(*(t.detach().double().requires_grad_() for t in (u, W)), dv.double())
    plain = results(u, W, dv)
    fast = results(u, W, dv, backend=backend)
    for name, x, y, z in zip(("v", "du", "dW"), exact, plain, fast, strict=True):
        assert (z - x).norm() <= 2 * (y - x).norm(), name


@backend
def test_two_runs_agree_to_the_last_bit_on_any_number_of_threads(backend):
    args = problem(B=33, I=100, J=10, E=16, D=8, dtype=torch.float32)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            runs.append(results(*args, backend=backend))
    finally:
        torch.set_num_threads(before)
    same = runs if backend == "native" else runs[1:]  # PyTorch's own products may depend on the threads
    for run in same[1:]:
        for x, y in zip(run[1:], same[0][1:], strict=True):
            assert torch.equal(x, y)


@backend
def test_nothing_of_the_votes_size_is_allocated(backend):
    u, W, dv = problem(B=64, I=512, J=32, E=8, D=8, dtype=torch.float32)
    votes = 64 * 512 * 32 * 8 * 4

    def step(backend):
        u.grad = W.grad = None
        route(u, W, backend=backend).backward(dv)

    step(backend)
    assert peak_bytes(lambda: step("eager")).largest >= votes  # the witness can see
    peak = peak_bytes(lambda: step(backend))
    assert peak.largest <= votes / 8
    assert peak.peak <= votes


@backend
def test_only_inputs_and_sums_are_saved_for_backward(backend):
    u, W, dv = problem(B=16, I=1152, J=32, E=8, D=8, dtype=torch.float32)
    sums = saved_bytes(lambda: route(u, W, backend=backend), ignore=(u, W))
    assert 0 < sums <= 2 * dv.numel() * dv.element_size()
    assert sums <= 0.02 * saved_bytes(lambda: route(u, W, backend="eager"), ignore=(u, W))


@backend
def test_with_save_inputs_nothing_else_is_saved(backend):
    u, _, _ = problem(B=16, I=64, J=10, E=16, D=8)
    layer = RoutingCapsules(64, 8, 10, 16, backend=backend, save="inputs").double()
    assert saved_bytes(lambda: layer(u), ignore=(u, layer.weight)) == 0


@pytest.mark.parametrize(("save", "count"), [("sums", 2 + 1), ("inputs", 2 + 2), ("couplings", 2)])
def test_couplings_are_computed_again_unless_they_were_saved(monkeypatch, save, count):
    """Two iterations of the forward pass compute couplings; the backward pass needs the last ones."""
    from capsnb.kernels import fused

    calls, real = [], fused._couplings
    monkeypatch.setattr(fused, "_couplings", lambda *a: calls.append(1) or real(*a))
    results(*problem(), backend="fused", save=save)
    assert len(calls) == count


@backend
@pytest.mark.parametrize("save", SAVES)
def test_a_weight_that_is_changed_before_the_backward_pass_is_noticed(backend, save):
    u, W, dv = problem()
    v = route(u, W, backend=backend, save=save)
    with torch.no_grad():
        W += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        v.backward(dv)


@backend
def test_an_empty_batch_passes_where_couplings_are_saved(backend):
    v, du, dW = results(*problem(B=0), backend=backend, save="couplings")
    assert v.shape == (0, 3, 2) and du.shape == (0, 7, 4) and not dW.any()


@backend
def test_gradients_that_are_not_contiguous(backend):
    u, W, dv = problem()
    for gradient in (dv[:, :, :1].expand_as(dv), dv.transpose(0, 1).contiguous().transpose(0, 1)):
        assert_equal(results(u, W, gradient, backend=backend), results(u, W, gradient), 1e-9)


@backend
def test_capsules_and_weights_that_are_not_contiguous(backend):
    u, W, dv = problem(B=4, I=6, J=3, E=2, D=4)
    scattered = u.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    expanded = u.detach()[:1].expand(4, -1, -1)
    turned = W.detach().transpose(0, 3).contiguous().transpose(0, 3).requires_grad_()
    assert not (scattered.is_contiguous() or turned.is_contiguous())
    assert_equal(results(scattered, turned, dv, backend=backend), results(u, W, dv), 1e-9)
    torch.testing.assert_close(route(expanded, W, backend=backend), route(expanded, W, backend="eager"))


@backend
def test_an_empty_batch_gives_empty_capsules_and_zero_gradients(backend):
    u, W, dv = problem(B=0)
    v, du, dW = results(u, W, dv, backend=backend)
    assert v.shape == dv.shape and du.shape == u.shape
    assert torch.equal(dW, torch.zeros_like(W))


@backend
def test_a_nan_is_not_swallowed(backend):
    u, W, _ = problem(B=9, I=20)
    with torch.no_grad():
        u[3, 5, 1] = float("nan")
        v = route(u, W, backend=backend)
    assert v[3].isnan().all()
    assert v[[0, 1, 2, 4, 5, 6, 7, 8]].isfinite().all()


@backend
def test_votes_that_agree_very_much_do_not_overflow(backend):
    u, W, dv = problem(dtype=torch.float32)
    with torch.no_grad():
        W *= 1e4
    assert_equal(results(u, W, dv, backend=backend), results(u, W, dv), 1e-4)


@backend
def test_a_second_derivative_is_refused(backend):
    u, W, dv = problem()
    (du,) = torch.autograd.grad(route(u, W, backend=backend), u, dv, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative.*backend='eager'"):
        du.sum().backward()


def test_the_full_gradient_goes_through_all_iterations():
    u, W, _ = problem(B=2, I=4, J=3, E=2, D=3)
    layer = RoutingCapsules(4, 3, 3, 2, detach=False).double()
    torch.autograd.gradcheck(layer, (u,))
    with pytest.raises(ValueError, match="detach=False needs backend='eager'"):
        route(u, W, backend="fused", detach=False)


@backend
def test_gradients_accumulate(backend):
    layer = RoutingCapsules(7, 4, 3, 2, backend=backend).double()
    u, _, dv = problem(B=6)
    layer(u).backward(dv)
    whole = layer.weight.grad.clone()
    layer.zero_grad()
    for rows in (slice(0, 2), slice(2, 6)):
        layer(u[rows]).backward(dv[rows])
    torch.testing.assert_close(layer.weight.grad, whole)


@pytest.mark.parametrize("backend", ["eager", "auto", "fused", pytest.param("native", marks=needs_compiler)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(backend, dtype):
    u, W, _ = problem(B=16, I=64, J=10, E=16, D=8, dtype=torch.float32)
    half = route(u.to(dtype), W.to(dtype), backend=backend)
    assert half.dtype == dtype
    exact = route(u.to(dtype).float(), W.to(dtype).float(), backend="eager")
    torch.testing.assert_close(half, exact.to(dtype))


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_definition_stays_in_float32(backend, dtype):
    """Also for small layers, for which "auto" takes it; gradients are computed outside, as PyTorch wants it."""
    u, W, dv = problem(dtype=torch.float32)
    expected = results(u, W, dv)
    with torch.autocast("cpu", dtype=dtype):
        v = route(u, W, backend=backend)
    assert_equal((v, *torch.autograd.grad(v, (u, W), dv)), expected, 1e-5)


@backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_routing_stays_in_float32(backend, dtype):
    u, W, dv = problem(dtype=torch.float32)
    expected = results(u, W, dv)
    with torch.autocast("cpu", dtype=dtype):
        v = route(u, W, backend=backend)
        gradients = torch.autograd.grad(v, (u, W), dv)
    assert_equal((v, *gradients), expected, 1e-5)


@backend
def test_pytorch_s_own_check_of_the_operators(backend):
    u, W, dv = problem()
    for save in ("sums", "inputs"):
        torch.library.opcheck(torch.ops.capsnb.route.default, (u, W, 3, backend, save))
    with torch.no_grad():
        for sums in ((dv, dv), (None, None)):
            torch.library.opcheck(torch.ops.capsnb.route_backward.default, (u, W, dv, *sums, 3, backend))


@backend
@pytest.mark.parametrize("save", SAVES)
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_equals_eager_in_one_graph(backend, save):
    layer = RoutingCapsules(7, 4, 3, 2, backend=backend, save=save).double()
    u, _, dv = problem()
    expected = (layer(u), *torch.autograd.grad(layer(u), (u, layer.weight), dv))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_equal((compiled(u), *torch.autograd.grad(compiled(u), (u, layer.weight), dv)), expected, 1e-9)


def test_a_whole_network_can_be_exported():
    model = CapsNet(channels=8, capsule_types=2, blocks=1, decoder=None).eval()
    images = torch.randn(2, 1, 28, 28)
    exported = torch.export.export(model, (images,))
    torch.testing.assert_close(exported.module()(images).lengths, model(images).lengths)


def test_a_backend_that_nobody_has_written_is_told():
    from capsnb.kernels import dispatch

    with pytest.raises(NotImplementedError, match="'mine' is in `BACKENDS`, but not here"):
        dispatch.choose_backend(torch.zeros(8, 4, 8), torch.zeros(4, 8, 4, 8), "mine")


def test_auto_never_takes_what_has_not_been_measured(monkeypatch):
    """On a CPU nothing of `capsnb.kernels.measured`, whose layers were measured on GPUs."""
    from capsnb.kernels import dispatch, measured

    monkeypatch.setattr(measured, "fastest", lambda *_: pytest.fail("a GPU's table on a CPU"))

    taken = []
    real = dispatch.choose_backend
    monkeypatch.setattr(dispatch, "choose_backend", lambda *a: taken.append(real(*a)) or taken[-1])
    route(*problem(B=16, I=64, J=10, E=16, D=8)[:2])
    assert [type(t).__name__ for t in taken] == ["Native" if compiles else "Fused"]


@pytest.mark.parametrize("sizes", [(5, 7, 3, 2, 4), (1, 1152, 10, 16, 8), (16, 4, 10, 16, 8)])
def test_auto_computes_small_layers_by_the_definition(monkeypatch, sizes):
    from capsnb.kernels import dispatch

    monkeypatch.setattr(dispatch, "choose_backend", lambda *_: pytest.fail("a small layer in tiles"))
    u, W, _ = problem(*sizes)
    assert torch.equal(route(u, W), route(u, W, backend="eager"))


def measured_layers():
    return {
        "7.5": {
            "layers": [{"sizes": [128, 1152, 32, 8, 8], "ms": {"eager": 9.0, "fused": 5.0, "triton": 7.0}}]
        },
        "9.0": {
            "layers": [
                {
                    "sizes": [128, 1152, 32, 8, 8],
                    "ms": {"eager": 1.0, "fused": 3.0, "triton": 2.0},
                    "blocks": {"gradients": {"rows": 8, "warps": 2}},
                },
                {"sizes": [128, 32, 32, 8, 8], "ms": {"eager": 1.0, "fused": 3.0, "triton": 2.0}},
                {"sizes": [128, 32, 100, 16, 8], "ms": {"eager": 3.0, "fused": 1.0, "triton": 2.0}},
            ]
        },
    }


@pytest.mark.parametrize(
    ("sizes", "gpu", "name"),
    [
        ((128, 1152, 32, 8, 8), 9.0, "triton"),  # the definition is faster, and would store 151 MB
        ((8, 1152, 32, 8, 8), 9.0, "eager"),  # 9 MB, like the hidden layer
        ((100, 40, 32, 8, 8), 8.9, "eager"),
        ((100, 40, 120, 16, 8), 9.0, "fused"),
        ((128, 1152, 32, 8, 8), 7.5, "fused"),
        ((128, 32, 32, 8, 8), 6.1, "fused"),  # the nearest GPU, and its only layer
        ((2**20, 32, 32, 8, 8), 12.0, "triton"),
    ],
)
def test_auto_takes_on_a_gpu_what_was_fastest_on_one_like_it(sizes, gpu, name):
    from capsnb.kernels import measured

    every = ("eager", "triton", "fused")
    assert measured.fastest(sizes, gpu, every, measured_layers()) == name
    assert measured.fastest(sizes, gpu, every, {}) == "fused"
    assert measured.fastest(sizes, gpu, ("fused",), measured_layers()) == "fused"  # without Triton


def test_auto_is_never_slower_on_a_measured_gpu_than_the_definition_where_votes_may_be_stored():
    """The committed table: each layer has its own best backend, and has been measured with all of them."""
    from capsnb.kernels import measured

    for gpu, entry in measured.measurements().items():
        assert entry["source"] and entry["layers"]
        for layer in entry["layers"]:
            B, I, J, E, D = layer["sizes"]
            taken = measured.fastest((B, I, J, E, D), float(gpu), ("eager", "triton", "fused"))
            small = 4 * B * I * J * E <= measured.MAX_VOTES
            assert layer["ms"][taken] == min(
                layer["ms"][name] for name in ("eager", "triton", "fused") if small or name != "eager"
            )


def test_only_the_same_layer_has_block_sizes_that_were_measured():
    from capsnb.kernels import measured

    table = measured_layers()
    assert measured.tuned((32, 8, 8), 9.0, "gradients", table) == {"rows": 8, "warps": 2}
    for layer, gpu, kernel in (
        ((32, 8, 8), 9.0, "iteration"),
        ((32, 8, 8), 7.5, "gradients"),
        ((16, 8, 8), 9.0, "gradients"),
    ):
        assert measured.tuned(layer, gpu, kernel, table) == {}


def test_auto_asks_the_table_on_a_gpu(monkeypatch):
    """With a GPU that is only said to be there."""
    from capsnb.kernels import dispatch, measured

    monkeypatch.setattr(measured, "capability", lambda _: 9.0)
    monkeypatch.setattr(measured, "measurements", measured_layers)
    monkeypatch.setattr(dispatch, "find_spec", lambda _: True)
    chosen, real = [], dispatch.choose_backend
    monkeypatch.setattr(
        dispatch, "_fastest", lambda *a, real=dispatch._fastest: chosen.append(real(*a)) or chosen[-1]
    )
    u, W, _ = problem(16, 32, 32, 8, 8, torch.float32)
    assert torch.equal(route(u, W), route(u, W, backend="eager")) and chosen == ["eager"]
    with pytest.raises(RuntimeError, match="backend='triton' needs"):  # a GPU, or Triton
        real(*problem(16, 1152, 32, 8, 8, torch.float32)[:2], "auto")
    monkeypatch.setattr(dispatch, "find_spec", lambda _: None)
    assert type(real(u, W, "auto")).__name__ == "Fused"
    empty = problem(B=0)
    assert route(*empty[:2]).shape == empty[2].shape


@pytest.fixture
def fresh_library(tmp_path, monkeypatch):
    """An empty cache folder, in which `native.library` compiles again."""
    monkeypatch.setenv("CAPSNB_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    yield tmp_path / "cache"
    native.library.cache_clear()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_working_compiler_auto_tiles_and_native_says_why(fresh_library, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    u, W, dv = problem(B=16, I=64, J=10, E=16, D=8)
    assert_equal(results(u, W, dv, backend="auto"), results(u, W, dv), 1e-9)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"):
        route(u, W, backend="native")


@needs_compiler
def test_kernels_are_compiled_once_and_again_when_the_file_is_damaged(fresh_library, monkeypatch):
    u, W, dv = problem()
    expected = results(u, W, dv)
    assert_equal(results(u, W, dv, backend="native"), expected, 1e-9)
    (built,) = fresh_library.iterdir()
    built.write_bytes(b"not a library")
    native.library.cache_clear()
    assert_equal(results(u, W, dv, backend="native"), expected, 1e-9)
    ctypes.CDLL(str(built))  # whole again
    native.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("compiled twice"))
    monkeypatch.setattr(native.subprocess, "run", subprocess.run)
    assert_equal(results(u, W, dv, backend="native"), expected, 1e-9)


@needs_compiler
def test_a_cache_folder_that_cannot_be_written_costs_time_only(fresh_library):
    fresh_library.write_text("a file, where the folder should be")
    u, W, dv = problem()
    assert_equal(results(u, W, dv, backend="native"), results(u, W, dv), 1e-9)


@needs_compiler
def test_a_layer_too_large_for_the_stack_is_tiled():
    u, W, _ = problem(B=16, I=1, J=200, E=100, D=2)
    with pytest.raises(RuntimeError, match="use 'fused'"):
        route(u, W, backend="native")
    torch.testing.assert_close(route(u, W), route(u, W, backend="eager"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 0}, "iterations must be 1 or more"),
        ({"backend": "magic"}, "unknown backend 'magic'; choose one of eager, fused, native, triton, auto"),
        ({"u": torch.zeros(2, 3, 4)}, r"got \(2, 3, 4\) and \(7, 3, 2, 4\)"),
        ({"u": torch.zeros(7, 4)}, r"\[B, I, D\]"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    u, W, _ = problem()
    with pytest.raises(ValueError, match=message):
        route(**{"u": u, "weight": W, **change})


def test_every_backend_can_be_chosen_by_a_layer():
    assert {RoutingCapsules(2, 2, 2, 2, backend=name).backend for name in BACKENDS} == set(BACKENDS)


@pytest.mark.parametrize("save", ["sums", "inputs"])
def test_summary_counts_the_arithmetic_of_the_operators(save):
    from torch.utils.flop_counter import FlopCounterMode

    B, I, J, E, D = 2, 7, 3, 2, 4
    u, W, dv = problem(B, I, J, E, D)
    with FlopCounterMode(display=False) as counter:
        route(u, W, 3, backend="fused", save=save).backward(dv)
    votes, sums = 2 * B * I * J * E * D, 2 * B * I * J * E
    forward = 3 * votes + 2 * 2 * sums
    backward = forward + 2 * votes if save == "inputs" else 3 * votes + sums
    assert counter.get_total_flops() == forward + backward


triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only: nothing is missing")


@triton
def test_triton_s_kernels_equal_the_definition_in_its_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    done = subprocess.run(
        [sys.executable, str(HERE / "triton_interpreted.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@triton
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_triton_s_kernels_become_machine_code_for_a_gpu(capability):
    """Translating them needs none. They take the shared memory that was expected, and numbers stay in registers."""
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    import kernel_report

    small, large = [(64, 32, 8, 8), (32, 10, 16, 8)], [(33, 100, 16, 16)]
    rows = kernel_report.report(small, [capability])
    assert len(rows) == 6
    for row in rows:
        assert row.blocks and row.registers and row.instructions, row
        assert row.spills <= 16, row  # bytes: four numbers
    rows += [row for row in kernel_report.report(large, [capability]) if row.blocks]
    assert len(rows) == (6 if capability == 75 else 9)  # weights of an input capsule are twice what a T4 has
    for row in rows:
        expected = row.blocks.shared(4, gradients=row.kernel == "gradients")
        assert row.shared <= expected <= kernel_report.SHARED[capability], row
    assert "registers" in kernel_report.table(rows)


@triton
@settings(max_examples=200)
@given(
    layer=st.tuples(*[st.sampled_from([1, 2, 3, 8, 10, 16, 32, 33, 100, 1000])] * 3),
    batch=st.sampled_from([1, 2, 7, 128, 1000]),
    kib=st.sampled_from([48, 64, 99, 163, 227]),
    gradients=st.booleans(),
    itemsize=st.sampled_from([4, 8]),
    tensor_cores=st.booleans(),
)
def test_triton_s_blocks_fit_into_the_shared_memory_of_any_gpu(
    layer, batch, kib, gradients, itemsize, tensor_cores
):
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    from capsnb.kernels.triton_backend import blocks

    J, E, D = layer
    kind = {"gradients": gradients, "itemsize": itemsize, "tensor_cores": tensor_cores}
    found = list(blocks(layer, batch, kib * 1024, **kind))
    for one in found:
        assert one.shared(itemsize, gradients=gradients) <= kib * 1024
        assert one.J >= J and one.E >= E and one.D >= D and one.J * one.E >= 16
        assert 1 <= one.warps <= 16 and 1 <= one.rows < 2 * batch
        assert one.precision == "ieee" or (tensor_cores and itemsize == 4 and one.rows >= 16)
    # A program holds the weights of an input capsule; padding makes them up to eight times as large.
    assert found or J * max(E, 16) * max(D, 8) * 8 * itemsize > kib * 1024


@triton
def test_triton_without_a_gpu_says_so():
    pytest.importorskip("triton", reason="Triton is not installed: PyTorch's CUDA builds bring it")
    u, W, _ = problem()
    with pytest.raises(RuntimeError, match="needs a GPU"):
        route(u, W, backend="triton")


def test_the_definition_is_what_eager_computes():
    u, W, _ = problem()
    votes = torch.einsum("ijed,bid->bije", W, u)
    torch.testing.assert_close(route(u, W, backend="eager"), routing_by_agreement(votes))
    assert isinstance(RoutingCapsules(7, 4, 3, 2).weight, nn.Parameter)
