"""Measurements: all implementations compute the same, failures are reported, and a file holds everything."""

import json
import sys
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capsnb import PrimaryCapsules, RoutingCapsules, bench, files
from capsnb.bench import (
    IMPLEMENTATIONS,
    LAYER_SIZES,
    MEASUREMENTS,
    Bench,
    depth,
    format_value,
    inversion_error,
    measurement,
    routing_backends,
    scaling,
    training_step,
)
from capsnb.bench.measurement import UNAVAILABLE, select
from capsnb.bench.routing_backends import _Problem
from capsnb.bench.training_step import BASELINE, STEP_NETWORKS, STEP_VARIANTS, build_network, make_step

PLAIN = ("expanded", "materialised", "checkpoint", "eager", "fused", "auto")  # need neither compiler nor GPU
SMALL = {"cases": ["class layer"], "batch": 2}


def problem(batch: int = 2) -> _Problem:
    return _Problem((5, 2, 3, 4), batch, "cpu", seed=0)


@pytest.mark.parametrize("name", PLAIN)
def test_every_implementation_computes_the_definition(name):
    exercise = problem(batch=3)
    exercise.weight = nn.Parameter(exercise.weight.detach().double())
    exercise.inputs = [u.detach().double().requires_grad_() for u in exercise.inputs]
    exercise.g = exercise.g.double()
    found = exercise.round(IMPLEMENTATIONS[name](exercise.weight, 3), exercise.inputs[0])
    for part, exact in zip(found, exercise.exact(3), strict=True):
        torch.testing.assert_close(part, exact, rtol=1e-9, atol=1e-12)


def test_the_exact_values_do_not_depend_on_the_chunks():
    exercise = problem(batch=37)  # chunks of 16
    weight = exercise.weight.detach().double().requires_grad_()
    u = exercise.inputs[0].detach().double().requires_grad_()
    layer = IMPLEMENTATIONS["eager"](nn.Parameter(weight), 2)
    v = layer(u)
    v.backward(exercise.g.double())
    for found, whole in zip(exercise.exact(2), (v, u.grad, layer.weight.grad), strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-15)


def test_rounds_take_the_inputs_in_turn_and_leave_no_gradients():
    exercise, seen = problem(), []

    def route(u):
        seen.append(next(k for k, known in enumerate(exercise.inputs) if known is u))
        assert u.grad is None and exercise.weight.grad is None
        return IMPLEMENTATIONS["eager"](exercise.weight, 1)(u)

    turn = exercise.turns(route)
    for _ in range(4):
        _, du, dW = turn()
        assert du.any() and dW.any()
    assert seen == [0, 1, 2, 0]
    with pytest.raises(RuntimeError):
        exercise.round(lambda u: route(u)[:1], exercise.inputs[0])  # a gradient of another shape
    assert exercise.inputs[0].grad is None


def test_routing_gives_a_line_for_every_implementation():
    result = bench.measure_routing(**SMALL, rounds=2, only=PLAIN)
    assert [(line["case"], line["name"]) for line in result.lines] == [
        ("class layer", name) for name in PLAIN
    ]
    assert set(result.columns) == set(routing_backends.ROUTING_COLUMNS)
    for line in result.lines:
        assert set(line) == {"case", "name", "failure", *result.columns} and line["failure"] is None
        assert 0 < line["lower"] <= line["median"] <= line["upper"]
        assert all(0 <= line[f"error_{part}"] < 1e-5 for part in ("v", "du", "dW"))
        assert line["times_auto"] == line["median"] / result["class layer", "auto"]["median"]
    I, D, J, E = LAYER_SIZES["class layer"]
    products, agreements = 2 * I * J * E * D, 2 * I * J * E  # of one image
    work = {name: result["class layer", name]["work"] for name in PLAIN}
    assert work["materialised"] == 2 * (3 * products + (3 + 2 + 1) * agreements)
    assert work["fused"] == 2 * ((3 + 3) * products + (2 * 2 + 1) * agreements)
    assert result.settings == {
        **{"batch": 2, "iterations": 3, "rounds": 2, "seed": 0, "dtype": "float32", "device": "cpu"}
    }


def test_wrong_and_failing_implementations_stand_out(monkeypatch):
    def one_iteration(weight, iterations):
        return IMPLEMENTATIONS["eager"](weight, 1)

    def not_finite(weight, iterations):
        return lambda u: IMPLEMENTATIONS["eager"](weight, iterations)(u) / 0

    def at_once(weight, iterations):
        raise RuntimeError("torch.compile is not supported here")

    def when_run(weight, iterations):
        return lambda u: [][0]

    odd = {f.__name__: f for f in (one_iteration, not_finite, at_once, when_run)}
    for name, build in odd.items():
        monkeypatch.setitem(IMPLEMENTATIONS, name, build)
    result = bench.measure_routing(**SMALL, rounds=1, only=[*odd, "eager"])
    lines = {line["name"]: line for line in result.lines}
    assert lines["one_iteration"]["error_v"] > 1e-3
    assert lines["not_finite"]["error_v"] == lines["not_finite"]["error_du"] == "non-finite"
    assert lines["eager"]["failure"] is None and lines["eager"]["times_auto"] is None
    for measured in (result, bench.measure_memory(**SMALL, only=[*odd, "eager"])):
        for name, words in (
            ("at_once", "RuntimeError: torch.compile is not supported here"),
            ("when_run", "IndexError: list index out of range"),
        ):
            line = measured["class layer", name]
            assert line["failure"] == words
            assert all(line[column] is None for column in measured.columns)
            assert f"class layer, {name}: {words}" in measured.table()
        assert measured["class layer", "eager"]["saved"] is not None
    json.loads(json.dumps(asdict(result), allow_nan=False))
    assert "non-finite" in result.table()


def test_memory_of_each_implementation():
    batch, (I, D, J, E) = 4, LAYER_SIZES["class layer"]
    result = bench.measure_memory(["class layer"], batch=batch, only=PLAIN)
    lines = {line["name"]: line for line in result.lines}
    assert set(lines["auto"]) == {"case", "name", "failure", *routing_backends.MEMORY_COLUMNS}
    weights, votes = 4 * I * J * E * D, 4 * batch * I * J * E
    assert lines["expanded"]["saved"] >= batch * weights
    assert lines["expanded"]["largest"] == batch * weights
    assert lines["checkpoint"]["saved"] == 0
    assert lines["fused"]["saved"] < votes
    assert lines["materialised"]["working"] >= votes
    results = 4 * (batch * J * E + batch * I * D) + weights
    for line in result.lines:
        assert line["largest"] <= line["peak"] and line["working"] == line["peak"] - results


@pytest.fixture
def small_networks(monkeypatch):
    small = {"channels": 8, "capsule_types": 3, "decoder": (16,)}
    sizes = {
        "MNIST": small,
        "CIFAR-10": small,
        "AlexCapsNet": {"widths": (3, 4, 5, 6, 7), "capsule_types": 2},
        "ResNetCapsNet": {"image_shape": (1, 25, 25), "channels": 3, "blocks": 1},
    }
    for case, smaller in sizes.items():
        monkeypatch.setitem(STEP_NETWORKS, case, STEP_NETWORKS[case] | smaller)


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("case", ["MNIST", "AlexCapsNet", "ResNetCapsNet"])
def test_step_measures_networks_over_their_baseline(case):
    result = bench.measure_step([case], batch=2, rounds=1)
    assert [line["name"] for line in result.lines] == ["eager", "fused", "auto", BASELINE]
    baseline = result[case, BASELINE]
    assert baseline["times_baseline"] == 1
    parameters = sum(p.nbytes for p in build_network("auto", case, 0).parameters())
    for line in result.lines:
        assert (
            set(line) == {"case", "name", "failure", *training_step.STEP_COLUMNS} and line["failure"] is None
        )
        assert line["times_baseline"] == line["median"] / baseline["median"]
        assert line["peak"] >= 4 * parameters or line is baseline  # weights, gradients and two moments
    assert baseline["peak"] < result[case, "auto"]["peak"]


def routing_layers(model):
    return [module for module in model.modules() if isinstance(module, RoutingCapsules)]


@pytest.mark.usefixtures("small_networks")
def test_networks_differ_in_their_capsule_layers_alone():
    fused, eager, baseline = (build_network(name, "CIFAR-10", 0) for name in ("fused", "eager", BASELINE))
    assert [layer.backend for layer in routing_layers(fused)] == ["fused"] * 4
    assert [layer.backend for layer in routing_layers(eager)] == ["eager"] * 4
    assert not any(isinstance(module, (PrimaryCapsules, RoutingCapsules)) for module in baseline.modules())
    for (name, a), (_, b) in zip(fused.named_parameters(), eager.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    output = baseline(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))
    assert output.capsules.shape == (2, 10, 16) and output.reconstruction.shape == (2, 3, 32, 32)
    rest = [p for name, p in fused.named_parameters() if not name.startswith("capsules")]
    assert len(list(baseline.parameters())) == len(rest)
    assert all(torch.equal(a, b) for a, b in zip(baseline.parameters(), rest, strict=True))


@pytest.mark.parametrize("case", ["AlexCapsNet", "ResNetCapsNet"])
def test_the_baseline_of_a_backbone_is_the_backbone_with_a_linear_head(case):
    native, baseline = (build_network(name, case, 0) for name in ("native", BASELINE))
    assert native.image_shape == baseline.image_shape == type(native)().image_shape, "the paper's sizes"
    assert [layer.backend for layer in routing_layers(native)] == ["native"]
    C, H, W = native.backbone(torch.zeros(1, *native.image_shape)).shape[1:]
    assert [tuple(p.shape) for p in baseline.head.parameters()] == [(10, C * H * W), (10,)]
    for one, other in zip(native.backbone.parameters(), baseline.backbone.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("case", ["MNIST", "AlexCapsNet", "ResNetCapsNet"])
def test_a_training_step_trains(case):
    model = build_network("auto", case, 0)
    before = [parameter.clone() for parameter in model.parameters()]
    make_step(model, batch=2, seed=0)()
    for old, (name, new) in zip(before, model.named_parameters(), strict=True):
        assert new.grad is None and not torch.equal(old, new), name


def test_a_measurement_survives_its_file(tmp_path):
    result = bench.measure_memory(**SMALL, only=["eager"])
    assert Bench.load(result.save(tmp_path / "results" / "bench.json")) == result
    saved = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert {"hardware", "versions", "command", "date", "settings"} <= set(saved)
    assert set(saved["columns"]["saved"]) == {"unit", "meaning"}


def test_files_that_hold_no_measurement_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no measurement at .*bench\.json; make one with `capsnb bench`"
    ):
        Bench.load(tmp_path / "bench.json")
    for content in (b"{", b"[]", b"{}", b'{"what": "routing"}', b"\xff"):
        (tmp_path / "bench.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"bench\.json is not a measurement"):
            Bench.load(tmp_path / "bench.json")


def test_the_table_is_markdown_that_lines_up():
    result = bench.measure_routing(**SMALL, rounds=1, only=["eager", "auto"])
    rows = result.table().splitlines()
    assert len(rows) == 4 and len({len(row) for row in rows}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][:4] == ["case", "", "median ms", "lower ms"] and "saved MB" in cells[0]
    assert set(cells[1][0]) == {"-"} and cells[1][2].endswith("-:")
    assert cells[3][:2] == ["class layer", "auto"] and cells[3][cells[0].index("times auto")] == "1.00"
    assert float(cells[2][2].replace(",", "")) == pytest.approx(
        result["class layer", "eager"]["median"] * 1e3, rel=6e-3
    )
    with pytest.raises(KeyError, match="no line"):
        result["class layer", "fused"]


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=9, unique=True),
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
)
def test_the_slope_of_a_line_is_found(x, first, each):
    assert depth.slope(x, [first + each * n for n in x]) == pytest.approx(each, rel=1e-6, abs=1e-3)
    assert depth.slope(x[:1], [first]) is None and depth.slope([2, 2], [1.0, 3.0]) is None
    assert (
        depth.slope([], []) is None and depth.slope([*range(1, 9), 20], [524288] * 9) == 0
    )  # to the last bit


def test_the_slope_is_that_of_least_squares():
    x, y = [1, 2, 5, 20], [3.0, 1.0, 4.0, 1.5]
    best = min(
        (sum((a + b * n - m) ** 2 for n, m in zip(x, y, strict=True)), b)
        for b in (k / 1000 for k in range(-200, 200))
        for a in (k / 20 for k in range(0, 100))
    )[1]
    assert depth.slope(x, y) == pytest.approx(best, abs=2e-3)


SIZE = 4 * 2 * 32 * 8  # bytes of the capsules of two images in a hidden layer
LAYER = 4 * 32 * 32 * 8 * 8  # and of a layer's weights


def test_momentum_saves_the_same_at_every_depth_and_the_others_more():
    result = bench.measure_depth(["stack"], blocks=[3, 1, 2], batch=2, rounds=1)
    assert [line["case"] for line in result.lines[:: len(depth.STACKS)]] == [
        *("stack, 1 block", "stack, 2 blocks", "stack, 3 blocks", "stack, each block")
    ]
    assert {line["name"] for line in result.lines} == set(depth.STACKS)
    each = {name: result["stack, each block", name] for name in depth.STACKS}
    for name in depth.STACKS:
        lines = [result[f"stack, {n} block{'s' * (n > 1)}", name] for n in (1, 2, 3)]
        for n, line in enumerate(lines, 1):
            assert set(line) == {"case", "name", "failure", *depth.DEPTH_COLUMNS}
            assert line["failure"] is None or name == "momentumnet"
            assert line["blocks"] == n and line["states"] == 4 * 2 * n * LAYER
    moving = [result[f"stack, {n} blocks", "MoCapsNet"] for n in (2, 3)]
    assert [line["saved"] for line in moving] == [4 * SIZE] * 2  # the last x and velocity, in float64
    assert each["MoCapsNet"]["saved"] == 0
    assert each["MoCapsNet"]["states_and_saved"] == each["MoCapsNet"]["states"] == 8 * LAYER
    for name in ("CapsNet", "ResCapsNet", "MoCapsNet, autograd"):
        assert each[name]["saved"] > 2 * SIZE
    assert each["ResCapsNet, checkpoint"]["saved"] == SIZE  # the input of a block
    assert each["MoCapsNet, checkpoint"]["saved"] == 2 * SIZE


def test_layers_that_recompute_save_their_inputs():
    result = bench.measure_depth(
        ["stack"], blocks=[1, 2], batch=16, rounds=1, only=["ResCapsNet, recomputed"]
    )
    assert result["stack, each block", "ResCapsNet, recomputed"]["saved"] == 2 * 8 * SIZE


def test_ratios_are_those_to_the_residual_stack():
    result = bench.measure_depth(
        ["stack"], blocks=[1, 3], batch=2, rounds=2, only=["ResCapsNet", "MoCapsNet"]
    )
    for case in ("stack, 1 block", "stack, 3 blocks", "stack, each block"):
        residual, moving = (result[case, name] for name in ("ResCapsNet", "MoCapsNet"))
        for ratio, figure in depth.RATIOS.items():
            noise = min(moving[figure], residual[figure]) <= 0  # as a slope may be on a busy machine
            assert residual[ratio] == (1 if residual[figure] > 0 else None)
            assert moving[ratio] == (None if noise else moving[figure] / residual[figure])
    first, last = (result[f"stack, {n}", "MoCapsNet"] for n in ("1 block", "3 blocks"))
    each = result["stack, each block", "MoCapsNet"]
    for column in depth.SLOPES:
        assert each[column] == pytest.approx((last[column] - first[column]) / 2, abs=1e-9)
    alone = bench.measure_depth(["stack"], blocks=[1], batch=2, rounds=1, only=["MoCapsNet"])
    assert alone["stack, 1 block", "MoCapsNet"]["times_residual"] is None
    assert alone["stack, each block", "MoCapsNet"]["median"] is None


@pytest.mark.parametrize("name", list(depth.STACKS))
def test_all_stacks_of_a_kind_compute_the_same(name):
    if name == "momentumnet":
        pytest.importorskip(
            "momentumnet", reason="momentumnet, a baseline, is not installed: pip install capsnb[bench]"
        )
    x, g, layers = depth.hidden_layers(2, 4, "cpu", seed=0)
    like = {"ResCapsNet": "ResCapsNet", "CapsNet": "CapsNet"}.get(name.partition(",")[0], "MoCapsNet")
    wanted = [x, *(layer.weight for layer in layers)]
    found, expected = (depth.STACKS[kind](list(layers)) for kind in (name, like))
    torch.testing.assert_close(found(x), expected(x), rtol=1e-3, atol=1e-3)
    for a, b in zip(*(torch.autograd.grad(f(x), wanted, g) for f in (found, expected)), strict=True):
        assert (a - b).norm() <= 1e-2 * b.norm()
    depth._round(found, x, g, wanted[1:])
    assert all(tensor.grad is None for tensor in wanted)


@pytest.fixture
def small_models(monkeypatch):
    small = {"channels": 8, "capsule_types": 3, "decoder": (16,)}
    for name, sizes in depth.MODELS.items():
        monkeypatch.setitem(depth.MODELS, name, sizes | small)


@pytest.mark.usefixtures("small_models")
def test_networks_are_measured_with_and_without_votes():
    result = bench.measure_depth(["network"], blocks=[1, 2, 3], batch=4, rounds=1)
    names = [name for name in depth.NAMES if name in depth.DEPTH_NETWORKS]
    assert [line["name"] for line in result.lines] == names * 4
    each = {name: result["network, each block", name] for name in names}
    votes = 4 * 4 * 32 * 32 * 8
    for n in (1, 2, 3):
        for name in names:
            line = result[f"network, {n} block{'s' * (n > 1)}", name]
            model = depth.build_depth_network(name, n, depth.IMAGE_SHAPE, 0)
            assert line["states"] == 4 * sum(p.nbytes for p in model.parameters())
            assert line["states_and_saved"] == line["states"] + line["saved"]
            assert line["gpu_used"] is None
            # Of inference: the shallowest and the deepest.
            assert (line["inference"] is None) == (n == 2 or name not in depth.MODELS)
            assert line["non_finite"] == 0
            assert line["peak"] > line["states"]
    for stored in ("", depth.STORED):
        assert each[f"MoCapsNet{stored}"]["saved"] == 0
    assert each["ResCapsNet, votes stored"]["saved"] >= 2 * votes
    assert 0 < each["ResCapsNet"]["saved"] <= each["ResCapsNet, votes stored"]["saved"]
    assert each["MoCapsNet"]["states"] == each["ResCapsNet"]["states"] == pytest.approx(8 * LAYER)
    assert result["network, 1 block", "MoCapsNet"]["inference_residual"] > 0
    for line in each.values():  # a slope can be noise, and the ratio of two such says nothing
        both_rise = (
            line["inference"] is not None and min(line["inference"], each["ResCapsNet"]["inference"]) > 0
        )
        assert (line["inference_residual"] is not None) == both_rise
    json.dumps(asdict(result), allow_nan=False)


@pytest.mark.usefixtures("small_models")
def test_networks_of_a_depth_share_their_weights_and_differ_in_their_backend():
    for name in depth.MODELS:
        plain, stored = (
            depth.build_depth_network(which, 2, depth.IMAGE_SHAPE, 0) for which in (name, name + depth.STORED)
        )
        assert {layer.backend for layer in stored.capsule_layers} == {"eager"}
        assert {layer.backend for layer in plain.capsule_layers} == {"auto"}
        for a, b in zip(plain.parameters(), stored.parameters(), strict=True):
            assert torch.equal(a, b)


def test_non_finite_weights_are_counted(monkeypatch, small_models):
    model = depth.build_depth_network("CapsNet", 1, depth.IMAGE_SHAPE, 0)

    def breaking(model, batch, seed):
        return lambda: model.conv.bias.data.fill_(float("nan"))

    monkeypatch.setattr(depth, "make_step", breaking)
    result = bench.measure_depth(["network"], blocks=[1], batch=2, rounds=1, only=["CapsNet"])
    assert result["network, 1 block", "CapsNet"]["non_finite"] == model.conv.bias.numel()


@pytest.mark.parametrize("measure", ["depth", "gradients"])
def test_a_missing_package_is_a_failure(monkeypatch, measure):
    monkeypatch.setitem(sys.modules, "momentumnet", None)
    if measure == "depth":
        result = bench.measure_depth(
            ["stack"], blocks=[1, 2], batch=2, rounds=1, only=["ResCapsNet", "momentumnet"]
        )
    else:
        result = bench.measure_gradients(
            sweeps=[(2, 0.9)], batch=2, only=["textbook, float64", "momentumnet, float32"]
        )
    lines = [x for x in result.lines if x["name"].startswith("momentumnet") and "each" not in x["case"]]
    assert len(lines) == 2
    for line in lines:
        assert line["failure"].startswith("ModuleNotFoundError") and "momentumnet" in line["failure"]
        assert f"{line['case']}, {line['name']}: ModuleNotFoundError" in result.table()


def test_gradients_are_compared_and_float32_states_show(tmp_path):
    result = bench.measure_gradients(sweeps=[(2, 0.9), (16, 0.9), (16, 0.3)], batch=4)
    assert [line["name"] for line in result.lines[:5]] == list(inversion_error.INVERSION_VARIANTS)
    deep = {
        name: result["16 layers, gamma 0.9, default weights", name]
        for name in inversion_error.INVERSION_VARIANTS
    }
    for name in ("MomentumCapsules, float64", "textbook, float64"):
        assert max(deep[name][c] for c in ("error_dx", "error_dW", "inversion_error")) < 1e-9
    package, book = deep["MomentumCapsules, float32"], deep["textbook, float32"]
    assert package["inversion_error"] == 0 and package["error_dx"] < 1e-5 and package["error_dW"] < 1e-4
    assert book["inversion_error"] > 1e-6 and book["error_dx"] > 10 * package["error_dx"]
    mild = result["16 layers, gamma 0.9, weights times 0.1", "textbook, float32"]
    assert mild["inversion_error"] < book["inversion_error"] and mild["layers"] == 16 and mild["gamma"] == 0.9
    refused = result["16 layers, gamma 0.3, default weights", "MomentumCapsules, float32"]
    assert refused["failure"].startswith("ValueError: inverting 16 layers") and refused["error_dx"] is None
    assert Bench.load(result.save(tmp_path / "b.json")) == result


def test_a_wrong_gradient_of_one_layer_shows(monkeypatch):
    def wrong(layers, gamma):
        stack = inversion_error.textbook(layers, gamma)

        def run(x):
            layers[1].weight.register_hook(lambda gradient: gradient * 1.01)
            return stack(x)

        return run

    monkeypatch.setitem(
        inversion_error.INVERSION_VARIANTS,
        "wrong",
        inversion_error.Variant(wrong, inversion_error.loop, torch.float64),
    )
    result = bench.measure_gradients(["default weights"], sweeps=[(3, 0.9)], batch=2, only=["wrong"])
    (line,) = result.lines
    assert line["error_dx"] < 1e-9
    assert line["error_dW"] == pytest.approx(1.01**2 - 1)  # by the book, hooks are called inside and outside


@given(st.floats(1e-6, 1e4))
def test_values_have_three_digits(seconds):
    text = format_value(seconds, "s")
    assert float(text.replace(",", "")) == pytest.approx(seconds * 1e3, rel=5.1e-3)
    assert "e" not in text and format_value(0.0, "s") == "0" and format_value(-seconds, "s") == f"-{text}"
    assert (format_value(16, ""), format_value(0.9, ""), format_value(0, "")) == ("16", "0.9", "0")


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (
            bench.measure_routing,
            {"only": ["egaer"]},
            "unknown implementation 'egaer'; choose from: expanded; ",
        ),
        (
            bench.measure_memory,
            {"cases": ["layer 1"]},
            "unknown case 'layer 1'; choose from: MNIST, layer 1; ",
        ),
        (bench.measure_step, {"only": ["expanded"]}, "unknown variant 'expanded'"),
        (bench.measure_step, {"cases": ["mnist"]}, "unknown case 'mnist'; choose from: MNIST; CIFAR-10"),
        (bench.measure_routing, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.measure_memory, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.measure_step, {"batch": 0}, "batch must be 1 or more, got 0"),
        (
            bench.measure_routing,
            {"batch": 1, "rounds": 0, "only": ["eager"]},
            "rounds must be 1 or more, got 0",
        ),
        (
            bench.measure_routing,
            {"batch": 1, "iterations": 0, "only": ["eager"]},
            "iterations must be 1 or more, got 0",
        ),
        (bench.measure_routing, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.measure_memory, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.measure_step, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.measure_depth, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.measure_gradients, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (
            bench.measure_depth,
            {"only": ["MoCapsnet"]},
            "unknown name 'MoCapsnet'; choose from: CapsNet; ResCapsNet",
        ),
        (bench.measure_depth, {"cases": ["stacks"]}, "unknown case 'stacks'; choose from: network; stack"),
        (bench.measure_depth, {"blocks": [1, 0]}, "blocks must be 1 or more, got 0"),
        (bench.measure_depth, {"blocks": []}, "blocks must be 1 or more, got 0"),
        (bench.measure_depth, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.measure_depth, {"rounds": 0}, "rounds must be 1 or more, got 0"),
        (
            bench.measure_gradients,
            {"only": ["textbook"]},
            "unknown name 'textbook'; choose from: MomentumCapsules, fl",
        ),
        (
            bench.measure_gradients,
            {"cases": ["a tenth"]},
            "unknown case 'a tenth'; choose from: default weights; we",
        ),
        (bench.measure_gradients, {"sweeps": [(0, 0.9)]}, "layers must be 1 or more, got 0"),
        (bench.measure_gradients, {"sweeps": [(2, 1.5)]}, "gamma must be in (0, 1], got 1.5"),
        (bench.measure_gradients, {"sweeps": []}, "sweeps must be 1 or more, got 0"),
        (bench.measure_gradients, {"batch": 0}, "batch must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_named(measure, arguments, message):
    with pytest.raises(ValueError) as caught:
        measure(**arguments)
    assert message in str(caught.value)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match='device is "cuda", but PyTorch finds no GPU here'):
        bench.measure_routing(device="cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("small_networks")
def test_a_gpu_is_measured_as_well():
    result = bench.measure_routing(
        **SMALL, rounds=2, only=["eager", "fused", "triton", "auto"], device="cuda"
    )
    assert all(line["error_dW"] < 1e-3 for line in result.lines) and result.hardware["gpu"]
    assert all(line["peak"] > 0 for line in bench.measure_memory(**SMALL, only=["auto"], device="cuda").lines)
    assert all(
        line["peak"] > 0 for line in bench.measure_step(["MNIST"], batch=2, rounds=1, device="cuda").lines
    )


def test_what_a_device_does_not_have_is_left_out():
    known = list(IMPLEMENTATIONS)
    for device, missing in (("cpu", "triton"), ("cuda", "native")):
        rest = select((), known, "implementation", exclude=(UNAVAILABLE[device],))
        assert rest == [name for name in known if name != missing]
    assert select(["triton"], known, "implementation", exclude=("triton",)) == ["triton"]  # asked for by name


def test_side_by_side_has_a_row_for_each_case_and_a_column_for_each_name():
    measured = bench.measure_memory(["class layer", "hidden layer"], batch=2, only=["eager", "fused"])
    table = measured.side_by_side(["fused", "eager"], lambda line: str(line["saved"]))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert rows[0] == ["", "fused", "eager"]
    for row, case in zip(rows[2:], ["class layer", "hidden layer"], strict=True):
        assert row == [case, *(str(measured[case, name]["saved"]) for name in ("fused", "eager"))]
    one = measured.side_by_side(["fused"], lambda line: "x", ["hidden layer"])
    assert "hidden layer" in one and "class layer" not in one


def test_committed_results_are_loaded_where_they_exist(monkeypatch, tmp_path):
    monkeypatch.setattr(measurement, "results", lambda: tmp_path)
    assert bench.committed("memory") is None
    measured = bench.measure_memory(["class layer"], batch=1, only=["eager"])
    measured.save(tmp_path / "bench-memory.json")
    assert bench.committed("memory") == measured


def test_scaling_compares_images_per_second_and_process():
    measured = bench.measure_scaling(["MNIST"], batch=2, rounds=1, only=[scaling.STRONG, scaling.WEAK])
    assert [line["name"] for line in measured.lines] == [scaling.ONE, scaling.STRONG, scaling.WEAK]
    one, strong, weak = measured.lines
    assert set(measured.columns) == set(scaling.SCALING_COLUMNS)
    for line, working, images in ((one, 1, 2), (strong, 2, 2), (weak, 2, 4)):
        assert (line["processes"], line["images"]) == (working, images)
        assert 0 < line["lower"] <= line["median"] <= line["upper"]
    assert one["efficiency"] == 1 and one["all_reduced"] is None
    assert weak["efficiency"] == pytest.approx(one["median"] / weak["median"])  # ideally nothing takes longer
    assert strong["efficiency"] == pytest.approx(
        one["median"] / (2 * strong["median"])
    )  # ideally half the time
    assert weak["all_reduced"] == sum(p.nbytes for p in build_network("auto", "MNIST", 0).parameters())
    assert (measured.settings["count"], measured.settings["threads_each"]) == (2, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 1}, "count must be 2 or more, got 1"),
        ({"batch": 3}, "batch must be a multiple of count=2, got 3"),
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"rounds": 0}, "rounds must be 1 or more, got 0"),
        ({"device": "cuda"}, 'device is "cuda"; scaling is measured on "cpu"'),
        ({"only": ["apart"]}, "unknown variant 'apart'; choose from: one process; independent processes"),
        ({"cases": ["SVHN"]}, "unknown case 'SVHN'; choose from: MNIST; CIFAR-10"),
    ],
)
def test_scaling_refuses_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        bench.measure_scaling(**wrong)


COMMITTED = sorted(files.results().glob("bench-*.json"))
COLUMNS = {
    "routing": routing_backends.ROUTING_COLUMNS,
    "memory": routing_backends.MEMORY_COLUMNS,
    "step": training_step.STEP_COLUMNS,
    "depth": depth.DEPTH_COLUMNS,
    "gradients": inversion_error.GRADIENT_COLUMNS,
    "scaling": scaling.SCALING_COLUMNS,
}
NAMES = {
    "routing": IMPLEMENTATIONS,
    "memory": IMPLEMENTATIONS,
    "step": STEP_VARIANTS,
    "depth": depth.NAMES,
    "gradients": inversion_error.INVERSION_VARIANTS,
    "scaling": scaling.SCALING_VARIANTS,
}


def test_every_measurement_has_committed_results():
    assert {Bench.load(path).what for path in COMMITTED} == set(MEASUREMENTS) == set(COLUMNS) == set(NAMES)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_results_use_the_names_of_the_code(path):
    result = Bench.load(path)
    assert path.stem.startswith(f"bench-{result.what}")
    units = {
        name: {"unit": unit, "meaning": meaning} for name, (unit, meaning) in COLUMNS[result.what].items()
    }
    assert result.columns.items() <= units.items()
    assert {line["name"] for line in result.lines} <= set(NAMES[result.what])
    assert all(set(line) == {"case", "name", "failure", *result.columns} for line in result.lines)
