"""Measurements: every competitor computes the same, what cannot run says so, and a file holds all of it."""

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from capsnb import CapsNet, PrimaryCapsules, RoutingCapsules, bench
from capsnb.bench import CASES, COLUMNS, COMPETITORS, WITHOUT, measurement, shown, stacks, steps, undoing
from capsnb.bench.measurement import chosen
from capsnb.bench.steps import _network, training_step
from capsnb.bench.ways import _Problem

PLAIN = ("expanded", "materialised", "checkpoint", "eager", "fused", "auto")  # need neither compiler nor GPU
SMALL = {"cases": ["class layer"], "batch": 2}


def problem(batch: int = 2) -> _Problem:
    return _Problem((5, 2, 3, 4), batch, "cpu", seed=0)


@pytest.mark.parametrize("name", PLAIN)
def test_every_competitor_computes_the_definition(name):
    exercise = problem(batch=3)
    exercise.weight = nn.Parameter(exercise.weight.detach().double())
    exercise.inputs = [u.detach().double().requires_grad_() for u in exercise.inputs]
    exercise.g = exercise.g.double()
    found = exercise.round(COMPETITORS[name](exercise.weight, 3), exercise.inputs[0])
    for part, exact in zip(found, exercise.definition(3), strict=True):
        torch.testing.assert_close(part, exact, rtol=1e-9, atol=1e-12)


def test_the_definition_is_the_same_in_pieces():
    exercise = problem(batch=37)  # pieces of 16
    weight = exercise.weight.detach().double().requires_grad_()
    u = exercise.inputs[0].detach().double().requires_grad_()
    layer = COMPETITORS["eager"](nn.Parameter(weight), 2)
    v = layer(u)
    v.backward(exercise.g.double())
    for found, whole in zip(exercise.definition(2), (v, u.grad, layer.weight.grad), strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-15)


def test_rounds_take_the_inputs_in_turn_and_leave_no_gradients():
    exercise, seen = problem(), []

    def route(u):
        seen.append(next(k for k, known in enumerate(exercise.inputs) if known is u))
        assert u.grad is None and exercise.weight.grad is None
        return COMPETITORS["eager"](exercise.weight, 1)(u)

    turn = exercise.turns(route)
    for _ in range(4):
        _, du, dW = turn()
        assert du.any() and dW.any()
    assert seen == [0, 1, 2, 0]
    with pytest.raises(RuntimeError):
        exercise.round(lambda u: route(u)[:1], exercise.inputs[0])  # a gradient of another shape
    assert exercise.inputs[0].grad is None


def test_routing_gives_a_line_for_every_competitor():
    result = bench.routing(**SMALL, rounds=2, only=PLAIN)
    assert [(line["case"], line["name"]) for line in result.lines] == [
        ("class layer", name) for name in PLAIN
    ]
    assert set(result.columns) == set(COLUMNS["routing"])
    for line in result.lines:
        assert set(line) == {"case", "name", "failure", *result.columns} and line["failure"] is None
        assert 0 < line["lower"] <= line["median"] <= line["upper"]
        assert all(0 <= line[f"error_{part}"] < 1e-5 for part in ("v", "du", "dW"))
        assert line["times_auto"] == line["median"] / result["class layer", "auto"]["median"]
    I, D, J, E = CASES["class layer"]
    products, agreements = 2 * I * J * E * D, 2 * I * J * E  # of one image
    work = {name: result["class layer", name]["work"] for name in PLAIN}
    assert work["materialised"] == 2 * (3 * products + (3 + 2 + 1) * agreements)
    assert work["fused"] == 2 * ((3 + 3) * products + (2 * 2 + 1) * agreements)
    assert result.settings == {
        **{"batch": 2, "iterations": 3, "rounds": 2, "seed": 0, "dtype": "float32", "device": "cpu"}
    }


def test_wrong_and_silent_competitors_stand_out(monkeypatch):
    def one_iteration(weight, iterations):
        return COMPETITORS["eager"](weight, 1)

    def not_finite(weight, iterations):
        return lambda u: COMPETITORS["eager"](weight, iterations)(u) / 0

    def at_once(weight, iterations):
        raise RuntimeError("torch.compile is not supported here")

    def when_run(weight, iterations):
        return lambda u: [][0]

    odd = {f.__name__: f for f in (one_iteration, not_finite, at_once, when_run)}
    for name, build in odd.items():
        monkeypatch.setitem(COMPETITORS, name, build)
    result = bench.routing(**SMALL, rounds=1, only=[*odd, "eager"])
    lines = {line["name"]: line for line in result.lines}
    assert lines["one_iteration"]["error_v"] > 1e-3
    assert lines["not_finite"]["error_v"] == lines["not_finite"]["error_du"] == "non-finite"
    assert lines["eager"]["failure"] is None and lines["eager"]["times_auto"] is None
    for measured in (result, bench.memory(**SMALL, only=[*odd, "eager"])):
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


def test_memory_shows_who_keeps_what():
    batch, (I, D, J, E) = 4, CASES["class layer"]
    result = bench.memory(["class layer"], batch=batch, only=PLAIN)
    lines = {line["name"]: line for line in result.lines}
    assert set(lines["auto"]) == {"case", "name", "failure", *COLUMNS["memory"]}
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
    monkeypatch.setattr(steps, "CapsNet", partial(CapsNet, channels=8, capsule_types=3, decoder=(16,)))


@pytest.mark.usefixtures("small_networks")
def test_step_measures_networks_over_their_floor():
    result = bench.step(["MNIST"], batch=2, rounds=1)
    assert [line["name"] for line in result.lines] == ["eager", "fused", "auto", WITHOUT]
    floor = result["MNIST", WITHOUT]
    assert floor["times_floor"] == 1
    parameters = sum(p.nbytes for p in _network("auto", (1, 28, 28), 0).parameters())
    for line in result.lines:
        assert set(line) == {"case", "name", "failure", *COLUMNS["step"]} and line["failure"] is None
        assert line["times_floor"] == line["median"] / floor["median"]
        assert line["peak"] >= 4 * parameters or line is floor  # weights, gradients and two moments
    assert floor["peak"] < result["MNIST", "auto"]["peak"]


def routing_layers(model):
    return [module for module in model.modules() if isinstance(module, RoutingCapsules)]


@pytest.mark.usefixtures("small_networks")
def test_networks_differ_in_their_capsule_layers_alone():
    fused, eager, floor = (_network(name, (3, 32, 32), 0) for name in ("fused", "eager", WITHOUT))
    assert [layer.backend for layer in routing_layers(fused)] == ["fused"] * 4
    assert [layer.backend for layer in routing_layers(eager)] == ["eager"] * 4
    assert not any(isinstance(module, (PrimaryCapsules, RoutingCapsules)) for module in floor.modules())
    for (name, a), (_, b) in zip(fused.named_parameters(), eager.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    output = floor(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))
    assert output.capsules.shape == (2, 10, 16) and output.reconstruction.shape == (2, 3, 32, 32)
    rest = [p for name, p in fused.named_parameters() if not name.startswith("capsules")]
    assert len(list(floor.parameters())) == len(rest)
    assert all(torch.equal(a, b) for a, b in zip(floor.parameters(), rest, strict=True))


@pytest.mark.usefixtures("small_networks")
def test_a_training_step_trains():
    model = _network("auto", (1, 28, 28), 0)
    before = [parameter.clone() for parameter in model.parameters()]
    training_step(model, batch=2, seed=0)()
    for old, (name, new) in zip(before, model.named_parameters(), strict=True):
        assert new.grad is None and not torch.equal(old, new), name


def test_a_measurement_survives_its_file(tmp_path):
    result = bench.memory(**SMALL, only=["eager"])
    assert bench.read(result.save(tmp_path / "results" / "bench.json")) == result
    saved = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert {"hardware", "versions", "command", "date", "settings"} <= set(saved)
    assert set(saved["columns"]["saved"]) == {"unit", "meaning"}


def test_files_that_hold_no_measurement_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no measurement at .*bench\.json; make one with `capsnb bench`"
    ):
        bench.read(tmp_path / "bench.json")
    for content in (b"{", b"[]", b"{}", b'{"what": "routing"}', b"\xff"):
        (tmp_path / "bench.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"bench\.json is not a measurement"):
            bench.read(tmp_path / "bench.json")


def test_the_table_is_markdown_that_lines_up():
    result = bench.routing(**SMALL, rounds=1, only=["eager", "auto"])
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


@given(st.floats(1e-6, 1e4))
def test_three_digits_are_shown(seconds):
    text = shown(seconds, "s")
    assert float(text.replace(",", "")) == pytest.approx(seconds * 1e3, rel=5.1e-3)
    assert "e" not in text and shown(0.0, "s") == "0"


@pytest.mark.parametrize(
    ("measure", "arguments", "said"),
    [
        (bench.routing, {"only": ["egaer"]}, "unknown competitor 'egaer'; choose from: expanded; "),
        (bench.memory, {"cases": ["layer 1"]}, "unknown case 'layer 1'; choose from: MNIST, layer 1; "),
        (bench.step, {"only": ["expanded"]}, "unknown variant 'expanded'"),
        (bench.step, {"cases": ["mnist"]}, "unknown case 'mnist'; choose from: MNIST; CIFAR-10"),
        (bench.routing, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.memory, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.step, {"batch": 0}, "batch must be 1 or more, got 0"),
        (bench.routing, {"batch": 1, "rounds": 0, "only": ["eager"]}, "rounds must be 1 or more, got 0"),
        (
            bench.routing,
            {"batch": 1, "iterations": 0, "only": ["eager"]},
            "iterations must be 1 or more, got 0",
        ),
        (bench.routing, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.memory, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
        (bench.step, {"device": "meta"}, 'device is "meta"; choose "cpu" or "cuda"'),
    ],
)
def test_bad_arguments_are_named(measure, arguments, said):
    with pytest.raises(ValueError) as caught:
        measure(**arguments)
    assert said in str(caught.value)


def test_a_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match='device is "cuda", but PyTorch finds no GPU here'):
        bench.routing(device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("small_networks")
def test_a_gpu_is_measured_as_well():
    result = bench.routing(**SMALL, rounds=2, only=["eager", "fused", "triton", "auto"], device="cuda")
    assert all(line["error_dW"] < 1e-3 for line in result.lines) and result.hardware["gpu"]
    assert all(line["peak"] > 0 for line in bench.memory(**SMALL, only=["auto"], device="cuda").lines)
    assert all(line["peak"] > 0 for line in bench.step(["MNIST"], batch=2, rounds=1, device="cuda").lines)


def test_what_a_device_does_not_have_is_left_out():
    known = list(COMPETITORS)
    for device, missing in (("cpu", "triton"), ("cuda", "native")):
        chosen = chosen((), known, "competitor", leave=(bench.ELSEWHERE[device],))
        assert chosen == [name for name in known if name != missing]
    assert chosen(["triton"], known, "competitor", leave=("triton",)) == ["triton"]  # asked for by name


def test_side_by_side_has_a_row_for_each_case_and_a_column_for_each_name():
    measured = bench.memory(["class layer", "hidden layer"], batch=2, only=["eager", "fused"])
    table = measured.side_by_side(["fused", "eager"], lambda line: str(line["saved"]))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert rows[0] == ["", "fused", "eager"]
    for row, case in zip(rows[2:], ["class layer", "hidden layer"], strict=True):
        assert row == [case, *(str(measured[case, name]["saved"]) for name in ("fused", "eager"))]


def test_what_is_published_is_read_and_what_is_not_there_has_not_been_run(monkeypatch, tmp_path):
    monkeypatch.setattr(measurement, "results", lambda: tmp_path)
    assert bench.published("memory") is None
    measured = bench.memory(["class layer"], batch=1, only=["eager"])
    measured.save(tmp_path / "bench-memory.json")
    assert bench.published("memory") == measured
