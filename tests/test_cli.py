"""The command line: a run in a folder, and one-line errors."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, fields, replace
from typing import Literal, get_type_hints

import numpy as np
import pytest
import torch
import typer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from capsnb import CapsNet, Preprocess, TrainConfig, bench, cli, evaluation, plots
from capsnb.cli import doctor, options, training
from capsnb.data import DATASETS
from capsnb.evaluation import evaluation_of_scores
from capsnb.experiments import RunResult
from capsnb.models import NETWORKS, build


def run(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["capsnb", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    captured = capsys.readouterr()
    return done.value.code or 0, captured.out, captured.err


TINY = ("--images", 100, "--epochs", 1, "--channels", 8, "--capsule-types", 2)


def test_train_then_evaluate_give_the_same_figures(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "train", tmp_path / "run", *TINY)
    assert code == 0 and "accuracy" in out
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"run.json", "checkpoint.pt"}
    first = RunResult.load(tmp_path / "run")
    assert first.evaluation.accuracy == first.history["test_accuracy"][-1]
    replace(first, evaluation=None).save(tmp_path / "run" / "run.json")
    code, again, _ = run(monkeypatch, capsys, "evaluate", tmp_path / "run")
    assert code == 0 and again.splitlines()[0] in out
    assert RunResult.load(tmp_path / "run") == first


def test_the_checkpoint_of_another_run_is_not_evaluated(monkeypatch, capsys, tmp_path):
    """Its weights fit, and its accuracy would be taken for this run's."""
    for name, option in (("a", ()), ("seed", ("--seed", 1)), ("once", ("--iterations", 1))):
        assert run(monkeypatch, capsys, "train", tmp_path / name, *TINY, *option)[0] == 0
    mine = (tmp_path / "a" / "checkpoint.pt").read_bytes()
    for name, difference in (("seed", "config.seed was 1 and is now 0"), ("once", "iterations=1")):
        (tmp_path / "a" / "checkpoint.pt").write_bytes((tmp_path / name / "checkpoint.pt").read_bytes())
        before = (tmp_path / "a" / "run.json").read_bytes()
        for command in (("evaluate", tmp_path / "a"), ("train", tmp_path / "a", *TINY)):
            code, _, err = run(monkeypatch, capsys, *command)
            assert code == 2 and "belongs to another run" in err and difference in err
        assert (tmp_path / "a" / "run.json").read_bytes() == before
        code, _, err = run(monkeypatch, capsys, "compare", tmp_path / "a", tmp_path / name)
        assert code == 2 and f"run.json and checkpoint.pt in {tmp_path / 'a'} are of two runs" in err
    (tmp_path / "a" / "checkpoint.pt").write_bytes(mine)
    assert run(monkeypatch, capsys, "evaluate", tmp_path / "a")[0] == 0


@pytest.mark.parametrize("option", [("--precision", "fp16"), ("--optimizer", "ranger21")])
def test_a_run_that_is_refused_leaves_no_record(monkeypatch, capsys, tmp_path, option):
    """The folder may then be used with settings that this machine can train with."""
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    command = ("train", tmp_path / "run", *TINY)
    assert run(monkeypatch, capsys, *command, *option)[0] == 2
    assert list((tmp_path / "run").iterdir()) == []
    assert run(monkeypatch, capsys, *command)[0] == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    assert run(monkeypatch, capsys, *command, *option)[0] == 2
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_the_record_is_there_before_training_and_whole_after_it(monkeypatch, capsys, tmp_path):
    from capsnb.experiments import run as run_module

    command = ("train", tmp_path / "run", *TINY, "--seed", 3)
    before = []
    train = run_module.fit

    def stopped(*_, **options):
        before.append(RunResult.load(options["run_dir"]))
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(run_module, "fit", stopped)
    assert run(monkeypatch, capsys, *command)[0] == 2
    code, _, err = run(monkeypatch, capsys, "compare", tmp_path / "run")
    assert code == 2 and "the run is not finished; run the same `capsnb train` again to resume it" in err
    monkeypatch.setattr(run_module, "fit", train)
    assert run(monkeypatch, capsys, *command)[0] == 0
    (asked,), result = before, RunResult.load(tmp_path / "run")
    assert asked.history is None and asked.run == result.run and asked.command == result.command
    assert result.command[:2] == ["capsnb", "train"] and result.command[-2:] == ["--seed", "3"]
    assert (result.run.data, result.run.images, result.run.config.seed) == ("mnist5k", 100, 3)
    assert result.hardware["cores"] and result.versions["torch"] and result.date and result.revision


def test_the_folder_of_the_data_is_recorded_and_used_again(monkeypatch, capsys, tmp_path):
    from capsnb.experiments import run as run_module

    load, roots = run_module.load_data, []

    def noted(name, root, **given):
        roots.append(root)
        return load(name, **given)

    monkeypatch.setattr(run_module, "load_data", noted)
    assert run(monkeypatch, capsys, "train", tmp_path, *TINY, "--root", "here")[0] == 0
    assert RunResult.load(tmp_path).root == "here"
    assert run(monkeypatch, capsys, "evaluate", tmp_path)[0] == 0
    assert run(monkeypatch, capsys, "evaluate", tmp_path, "--root", "there")[0] == 0
    assert roots == ["here", "here", "there"] and RunResult.load(tmp_path).root == "here"


def test_train_hands_on_how_to_compute(monkeypatch, capsys, tmp_path):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: compiled.append(mode) or model)
    code, _, _ = run(monkeypatch, capsys, "train", tmp_path, *TINY, "--compile", "--recompute")
    asked = RunResult.load(tmp_path).run
    assert code == 0 and len(compiled) == 1
    assert asked.sizes["recompute"] is True and asked.config.compile is True


def test_the_network_is_chosen_written_down_and_built_again(monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, "train", tmp_path, *TINY, "--model", "mocapsnet", "--gamma", 0.8)
    saved = RunResult.load(tmp_path)
    assert code == 0 and out.startswith("MoCapsNet")
    assert saved.run.model == "MoCapsNet" and (saved.run.sizes["blocks"], saved.run.sizes["gamma"]) == (
        1,
        0.8,
    )
    assert run(monkeypatch, capsys, "evaluate", tmp_path)[0] == 0
    assert RunResult.load(tmp_path) == saved
    for other, was in (
        (("rescapsnet",), "model was 'MoCapsNet' and is now 'ResCapsNet'"),
        (("mocapsnet", "--gamma", 0.9), "gamma was 0.8 and is now 0.9"),
    ):
        code, _, err = run(monkeypatch, capsys, "train", tmp_path, *TINY, "--model", *other)
        assert code == 2 and was in err
        assert RunResult.load(tmp_path) == saved


def test_the_routing_is_chosen_written_down_and_built_again(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "train", tmp_path, *TINY, "--routing", "sda")[0] == 0
    assert RunResult.load(tmp_path).run.sizes["routing"] == "sda"
    assert run(monkeypatch, capsys, "evaluate", tmp_path)[0] == 0
    code, _, err = run(monkeypatch, capsys, "train", tmp_path, *TINY)
    assert code == 2 and "routing was 'sda' and is now 'rba'" in err
    code, _, err = run(monkeypatch, capsys, "train", tmp_path / "other", *TINY, "--routing", "sba")
    assert code == 2 and "unknown routing 'sba'; choose one of rba, sda, em" in err


@pytest.mark.parametrize(
    ("model", "own", "sizes"),
    [
        ("alexcapsnet", (), {"capsule_types": 3}),
        ("resnetcapsnet", ("--channels", 4), {"capsule_types": 3, "channels": 4, "blocks": 3}),
    ],
)
def test_networks_with_a_backbone_are_trained_and_built_again(
    monkeypatch, capsys, tmp_path, model, own, sizes
):
    options = ("--images", 60, "--epochs", 1, "--capsule-types", 3, "--model", model, *own)
    images = ("--pad", 0, "--resize", 20, "--no-standardise", "--weight-std", 0.02)
    code, out, err = run(monkeypatch, capsys, "train", tmp_path, *options, *images)
    assert code == 0 and out.lower().startswith(model), err
    saved = RunResult.load(tmp_path)
    shared = {"image_shape": [1, 20, 20], "classes": 10, "routing": "rba", "weight_std": 0.02}
    assert (shared | sizes).items() <= saved.run.sizes.items()
    changed = {"pad": 0, "crop": None, "rotate": 0.0, "resize": 20, "standardise": False, "signed": False}
    assert saved.run.preprocess == changed
    assert run(monkeypatch, capsys, "evaluate", tmp_path)[0] == 0
    assert RunResult.load(tmp_path) == saved
    code, _, err = run(monkeypatch, capsys, "train", tmp_path, *options, *images[:-1], 0.5)
    assert code == 2 and "weight_std was 0.02 and is now 0.5" in err


def test_a_class_that_was_never_predicted_has_no_precision(capsys):
    training.report(evaluation_of_scores([0, 1], [[0.9, 0.1], [0.8, 0.2]], ("cat", "dog")))
    assert "cat: precision 50.00%, recall 100.00%" in (out := capsys.readouterr().out)
    assert "dog: precision –, recall 0.00%" in out


def test_a_folder_of_version_0_1_is_refused_in_one_sentence(monkeypatch, capsys, tmp_path):
    old = {
        "network": "capsnet",
        "model": {"blocks": 0},
        "data": {},
        "preprocess": {},
        "config": {"epochs": 1},
    }
    (tmp_path / "run.json").write_text(json.dumps(old))
    for command in (("train", tmp_path, *TINY), ("evaluate", tmp_path), ("compare", tmp_path)):
        code, _, err = run(monkeypatch, capsys, *command)
        assert (
            code == 2 and "capsnb 0.1 wrote it, and kept a run in several files): train again, into an" in err
        )
    assert json.loads((tmp_path / "run.json").read_text()) == old


VALUES = {
    "epochs": st.integers(1, 9),
    "batch_size": st.integers(1, 500),
    "learning_rate": st.floats(1e-6, 1.0),
    "decay": st.floats(0.01, 1.0),
    "step_epochs": st.integers(1, 9),
    "reconstruction_weight": st.floats(0.0, 1.0),
    "accumulate": st.integers(1, 9),
    "seed": st.integers(0, 2**31),
    "pad": st.integers(0, 9),
    "crop": st.integers(1, 40),
    "rotate": st.floats(0.0, 180.0),
    "resize": st.integers(1, 99),
}


def values_of(dataclass):
    """A value for each field: of choices one of them, of a switch either, of a number what is in its range."""
    strategies = {}
    for name, hint in get_type_hints(dataclass).items():
        choices = getattr(hint, "__args__", ()) if name not in VALUES else ()
        other = st.booleans() if hint is bool else st.sampled_from(choices or [None])
        strategies[name] = VALUES.get(name, other)
    return st.fixed_dictionaries(strategies)


def called(cls, arguments):
    """What a command with an option for each field of `cls` is given for these arguments."""
    received = []
    command = options.with_options("config", options.field_options(cls), cls)(
        lambda config: received.append(config)
    )
    app = typer.Typer()
    app.command()(command)
    app(arguments, standalone_mode=False)
    return received[0]


@pytest.mark.parametrize("cls", [TrainConfig, Preprocess])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_every_field_is_an_option_and_arrives(cls, data):
    values = data.draw(values_of(cls))
    assume(not (values.get("standardise") and values.get("signed")))  # a pixel has one scale
    assert set(values) == {field.name for field in fields(cls)}
    arguments = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", str(value)]
    assert called(cls, arguments) == cls(**values)
    assert called(cls, []) == cls()


def test_train_has_an_option_for_every_field_and_every_size():
    command = typer.main.get_command(cli.app).commands["train"]
    described = {option.name: option.help for option in command.params}
    wanted = {field.name for cls in (TrainConfig, Preprocess) for field in fields(cls)}
    wanted |= {name for network in NETWORKS for name in options.sizes_of(network)}
    assert wanted <= set(described)
    assert all(described[name] for name in wanted), "an option without a word of help"


@pytest.mark.parametrize(("command", "parameter"), [("train", "data"), ("data", "name")])
def test_the_names_of_data_sets_are_said_and_completed(command, parameter):
    command = typer.main.get_command(cli.app).commands[command]
    (found,) = (one for one in command.params if one.name == parameter)
    assert all(name in found.help for name in (*DATASETS, "folder:PATH", "npz:PATH"))
    context = command.make_context("capsnb", ["x"], resilient_parsing=True)
    assert [item.value for item in found.shell_complete(context, "cifar")] == [
        "cifar10",
        "cifar100",
        "cifar100-coarse",
    ]
    assert {item.value for item in found.shell_complete(context, "")} == set(DATASETS)


def test_anybodys_arrays_are_counted_and_trained_on(monkeypatch, capsys, tmp_path):
    pixels, labels = np.zeros((6, 28, 28, 3), np.uint8), np.array([0, 1, 0, 1, 0, 1])
    named = {"classes": np.array(["cat", "dog"])}
    np.savez(tmp_path / "pets.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels, **named)
    data = f"npz:{tmp_path / 'pets.npz'}"
    code, out, _ = run(monkeypatch, capsys, "data", data)
    assert code == 0 and "npz:pets: 2 classes, 3x28x28" in out and "train: 6 images (cat 3, dog 3)" in out
    code, out, _ = run(
        monkeypatch, capsys, "train", tmp_path / "run", "--data", data, "--epochs", 1, *TINY[4:]
    )
    assert code == 0 and "npz:pets: accuracy" in out and "dog" in out
    np.savez(tmp_path / "pets.npz", x_train=pixels + 1, y_train=labels, x_test=pixels, y_test=labels, **named)
    code, _, err = run(monkeypatch, capsys, "evaluate", tmp_path / "run")
    assert code == 2 and f"the images or labels of {data} are not those" in err
    (tmp_path / "pets.npz").unlink()
    code, _, err = run(monkeypatch, capsys, "data", data)
    assert code == 2 and "there is no file" in err and len(err.splitlines()) == 1


def test_reproduce_chooses_by_data_set(monkeypatch, capsys, tmp_path):
    from capsnb import experiments

    chosen = []

    def note(study, folder, *, only, **_):
        chosen.extend(filter(only, experiments.runs(study)))
        return 0

    monkeypatch.setattr(experiments, "reproduce", note)
    code, _, _ = run(monkeypatch, capsys, "reproduce", "table2", "--dataset", "cifar100", "--out", tmp_path)
    assert code == 0 and len(chosen) == 48 and {one.data for one in chosen} == {"cifar100"}


def test_help_says_what_a_size_is_where_networks_differ():
    found = {option.name: option.annotation.__metadata__[0].help for option in options.network_options()}
    deep, convolutional = (options.descriptions(NETWORKS[name]) for name in ("capsnet", "resnetcapsnet"))
    assert found["iterations"] == f"{deep['iterations'].rstrip('.')}; default 3"
    blocks = f"{deep['blocks'].rstrip('.')}; default 0 (capsnet), 1 (rescapsnet, mocapsnet)"
    assert found["blocks"] == f"{blocks}; or {convolutional['blocks'].rstrip('.')}; default 3 (resnetcapsnet)"


def test_a_new_field_is_a_new_option():
    @dataclass(frozen=True)
    class Longer(TrainConfig):
        """A configuration.

        Args:
            patience: epochs without progress
                before training stops.
            mode: how to stop.
        """

        patience: int = 3
        mode: Literal["early", "late"] = "late"

    assert called(Longer, []) == Longer()
    assert called(Longer, ["--patience", "5", "--mode", "early"]) == Longer(patience=5, mode="early")
    *_, patience, mode = options.field_options(Longer)
    assert patience.annotation.__metadata__[0].help == "epochs without progress before training stops"
    assert mode.annotation.__metadata__[0].metavar == "early|late"


@pytest.mark.parametrize("network", NETWORKS)
def test_complete_sizes_are_those_of_the_constructor(network):
    """Written down in full, they build the network that the constructor's own defaults build."""
    plain = build(network)
    full = build(network, image_shape=plain.image_shape, **options.complete_sizes(network, {}))
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in full.named_parameters()
    }
    assert repr(plain) == repr(full)
    own = set(inspect.signature(NETWORKS[network]).parameters)
    own -= {"image_shape", "classes", "decoder", "widths", "sizes", "head_options"}
    handed_on = {"capsule_dim", "class_dim", "iterations", "routing", "backend", "weight_std"}
    assert own | handed_on <= set(options.complete_sizes(network, {}))


def test_a_linear_head_is_given_none_of_a_capsule_heads_sizes(monkeypatch, capsys, tmp_path):
    head = ("--model", "alexcapsnet", "--head", "softmax", "--loss", "cross_entropy", "--epochs", 1)
    code, _, err = run(monkeypatch, capsys, "train", tmp_path, "--images", 60, *head)
    saved = RunResult.load(tmp_path).run
    assert code == 0 and "routing" not in saved.sizes and saved.config.loss == "cross_entropy", err


def test_data_says_what_is_in_it(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "data", "mnist5k")
    assert code == 0 and "4,000 images" in out and "1,000 images" in out


QUICK = ("--case", "class layer", "--batch", 2, "--only", "eager, auto", "--device", "cpu")


def test_bench_shows_a_table_and_writes_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(monkeypatch, capsys, "bench", "routing", *QUICK, "--rounds", 1, "--seed", 3)
    assert code == 0 and "| class layer | auto " in out and "bench-routing.json" in out
    written = bench.Bench.load(tmp_path / "results" / "bench-routing.json")
    assert written.table() in out and written.settings["seed"] == 3
    assert [line["name"] for line in written.lines] == ["eager", "auto"]
    assert written.command == ["capsnb", "bench", "routing", *map(str, QUICK), "--rounds", "1", "--seed", "3"]
    code, _, _ = run(monkeypatch, capsys, "bench", "memory", *QUICK, "--out", "mine.json")
    assert code == 0 and bench.Bench.load(tmp_path / "mine.json").what == "memory"
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["bench-routing.json"]


def test_bench_step_hands_on_its_options(monkeypatch, capsys, tmp_path):
    given: dict[str, object] = {}
    measured = bench.measure_memory(["class layer"], batch=1, only=["eager"])

    def step(cases, **options):
        given.update(cases=cases, **options)
        return measured

    monkeypatch.setitem(bench.MEASUREMENTS, "step", step)
    monkeypatch.chdir(tmp_path)
    options = ("--case", "MNIST", "--case", "CIFAR-10", "--batch", 4, "--rounds", 2, "--device", "cuda")
    code, _, _ = run(monkeypatch, capsys, "bench", "step", *options)
    assert code == 0 and (tmp_path / "results" / "bench-step-cuda.json").exists()
    assert given.pop("progress") in (True, False)
    assert given == {
        **{"cases": ["MNIST", "CIFAR-10"], "only": [], "device": "cuda", "batch": 4, "rounds": 2, "seed": 0}
    }


def test_bench_depth_and_gradients_hand_on_their_options(monkeypatch, capsys, tmp_path):
    given: dict[str, object] = {}
    measured = bench.measure_memory(["class layer"], batch=1, only=["eager"])
    for name in ("depth", "gradients"):
        monkeypatch.setitem(
            bench.MEASUREMENTS, name, lambda cases, **options: given.update(options) or measured
        )
    monkeypatch.chdir(tmp_path)
    options = ("--batch", 4, "--seed", 2, "--device", "cuda", "--only", "MoCapsNet")
    code, _, _ = run(monkeypatch, capsys, "bench", "depth", "--blocks", "1, 3", "--rounds", 2, *options)
    assert code == 0 and (tmp_path / "results" / "bench-depth-cuda.json").exists()
    assert (given["blocks"], given["rounds"], given["batch"], given["seed"]) == ([1, 3], 2, 4, 2)
    assert given["only"] == ["MoCapsNet"]
    given.clear()
    code, _, _ = run(monkeypatch, capsys, "bench", "gradients", *options)
    assert code == 0 and (tmp_path / "results" / "bench-gradients-cuda.json").exists()
    assert (given["batch"], given["seed"], "blocks" in given) == (4, 2, False)


def test_bench_scaling_hands_on_its_options(monkeypatch, capsys, tmp_path):
    given: dict[str, object] = {}
    measured = bench.measure_memory(["class layer"], batch=1, only=["eager"])
    monkeypatch.setitem(
        bench.MEASUREMENTS, "scaling", lambda cases, **options: given.update(options) or measured
    )
    monkeypatch.chdir(tmp_path)
    options = ("--count", 4, "--batch", 8, "--rounds", 2, "--seed", 1)
    code, _, _ = run(monkeypatch, capsys, "bench", "scaling", *options)
    assert code == 0 and (tmp_path / "results" / "bench-scaling.json").exists()
    assert given.pop("progress") in (True, False)
    assert given == {"count": 4, "batch": 8, "rounds": 2, "seed": 1, "device": "cpu", "only": []}


def test_memory_says_whether_it_fits_and_compares(monkeypatch, capsys):
    options = ("--blocks", 1, "--image", "1x28x28", "--batch", 8, "--channels", 16, "--capsule-types", 2)
    code, out, _ = run(monkeypatch, capsys, "memory", *options, "--measure")
    assert code == 0 and "**peak**" in out
    assert abs(float(out.split("predicted over measured:")[1]) - 1) < 0.05


def test_reproduce_chooses_rows_and_goes_on(monkeypatch, capsys, tmp_path):
    """Two rows of a table in its quick form, one epoch each; a second call has nothing to do."""
    from capsnb.experiments import STUDIES, runs

    small = {"channels": 4, "capsule_types": 1, "hidden_capsules": 3, "decoder": None}
    rows = [
        replace(run, sizes=run.sizes | small, config=replace(run.config, epochs=1), images=200)
        for run in runs("table1-quick")
    ]
    monkeypatch.setitem(STUDIES, "table1-quick", lambda: iter(rows))
    command = ("reproduce", "table1", "--profile", "quick", "--dataset", "mnist5k", "--out", tmp_path)
    chosen = (*command, "--blocks", "1", "--seeds", 1)
    code, out, _ = run(monkeypatch, capsys, *chosen)
    files = sorted(path.name for path in (tmp_path / "table1-quick").iterdir())
    assert code == 0 and files == [
        "mnist-mocapsnet-1-block-seed0.json",
        "mnist-rescapsnet-1-block-seed0.json",
    ]
    assert "| MNIST, MoCapsNet, 2 blocks | 99.25 ± 0.11 | not run yet |" in re.sub(" +", " ", out)
    before = [path.stat().st_mtime_ns for path in (tmp_path / "table1-quick").iterdir()]
    assert run(monkeypatch, capsys, *chosen)[0] == 0
    assert [path.stat().st_mtime_ns for path in (tmp_path / "table1-quick").iterdir()] == before
    code, out, _ = run(monkeypatch, capsys, "reproduce", "--check", "--out", tmp_path)
    assert code == 0 and "belongs to its row" in out
    (tmp_path / "table1-quick" / "stray.json").write_text("{}")
    code, out, _ = run(monkeypatch, capsys, "reproduce", "--check", "--out", tmp_path)
    assert code == 1 and "stray.json belongs to no row of table1-quick" in out
    listed = run(monkeypatch, capsys, "reproduce", "--list", "--out", tmp_path)[1]
    assert re.search(r"table1 .* 96 \| +0 \|", listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "mnist6k"), "mnist6k"),
        (("data", "mnist", "--root", "nowhere"), "nowhere"),
        (("train", "run", "--epochs", 0), "epochs must be 1 or more"),
        (("train", "run", "--schedule", "cosin"), "unknown schedule 'cosin'"),
        (
            ("train", "run", "--model", "mocapsent"),
            "unknown model 'mocapsent'; choose one of capsnet, rescapsnet",
        ),
        (("train", "run", "--model", "mocapsnet", "--gamma", 0), "gamma must be in (0, 1], got 0"),
        (
            ("train", "run", "--gamma", 0.5),
            "capsnet has no gamma; leave --gamma out, or give --model one of: mocapsnet",
        ),
        (
            ("train", "run", "--model", "alexcapsnet", "--blocks", 2),
            "alexcapsnet has no blocks; leave --blocks out, or give --model one of: capsnet, rescapsnet",
        ),
        (("train", "run", "--model", "alexcapsnet", "--channels", 8), "alexcapsnet has no channels"),
        (("train", "run", "--model", "resnetcapsnet", "--recompute"), "resnetcapsnet has no recompute"),
        (("train", "run", "--model", "alexcapsnet", "--resize", 14), "cannot take images of 1x14x14"),
        (("evaluate", "nowhere"), "nowhere does not exist: name a folder that `capsnb train` wrote"),
        (
            ("bench", "depth", "--blocks", "1,two"),
            "blocks must be whole numbers separated by commas, got '1,two'",
        ),
        (("bench", "depth", "--blocks", "0"), "blocks must be 1 or more, got 0"),
        (("bench", "gradients", "--case", "tenth"), "unknown case 'tenth'"),
        (("bench", "routing", "--only", "egaer"), "unknown implementation 'egaer'"),
        (("bench", "step", "--case", "layer 1"), "unknown case 'layer 1'; choose from: MNIST; CIFAR-10"),
        (("bench", "depth", "--image", "32x32"), "an image is channels x height x width, such as 3x32x32"),
        (("memory", "--image", "1x8x8"), "images of 8x8 pixels are too small"),
        (("memory", "--batch", 0), "batch must be 1 or more, got 0"),
        (("memory", "--model", "alexcapsnet", "--blocks", 2), "alexcapsnet has no blocks"),
        (("reproduce",), "name what to reproduce: depth"),
        (("reproduce", "table9"), "unknown study 'table9'"),
        (("reproduce", "table1", "--budget", "8"), "budget is a time such as 90s, 8m or 2h, got '8'"),
        (("reproduce", "table1", "--profile", "tiny"), "unknown profile 'tiny'; choose full or quick"),
        (("reproduce", "table1", "--blocks", 9), "blocks must be among 1, 2, 3, 4, 5, 6, 7, 8, got '9'"),
        (("reproduce", "table1", "--dataset", "cifar10", "--seeds", 0), "seeds must be 1 or more, got 0"),
        (("reproduce", "backbones", "--data", "nowhere", "--seeds", 1), "in the run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "run.json").write_text("{")
    code, _, err = run(monkeypatch, capsys, "evaluate", tmp_path)
    assert code == 2 and "run.json is not the record of a run" in err


@pytest.fixture
def pets(tmp_path):
    """Two classes of grey noise, of 28x28 pixels."""
    noise = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = noise.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / name / f"{k}.png")
    return tmp_path / "pets"


PETS = ("--epochs", 1, "--channels", 8, "--capsule-types", 2)


def another_setting(pets):
    return ("--no-standardise",), "preprocess.standardise was True and is now False"


def a_renamed_class(pets):
    for part in ("train", "test"):
        (pets / part / "cat").rename(pets / part / "zebra")
    return (), "was trained on the classes cat, dog; the data now has dog, zebra"


def a_changed_image(pets):
    Image.new("L", (28, 28), 9).save(pets / "train" / "cat" / "0.png")
    return (), "the images or labels of folder:"


def another_folder_of_the_same_name(pets):
    moved = pets.parent / "elsewhere" / "pets"
    shutil.copytree(pets, moved)
    Image.new("L", (28, 28), 9).save(moved / "test" / "cat" / "0.png")
    shutil.rmtree(pets)
    shutil.copytree(moved, pets)
    return (), "the images or labels of folder:"


@pytest.mark.parametrize(
    "change", [another_setting, a_renamed_class, a_changed_image, another_folder_of_the_same_name]
)
def test_a_run_is_resumed_and_evaluated_only_as_what_it_was(monkeypatch, capsys, pets, change):
    folder, data = pets.parent / "run", ("--data", f"folder:{pets}")
    assert run(monkeypatch, capsys, "train", folder, *data, *PETS)[0] == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    more, message = change(pets)
    code, _, err = run(monkeypatch, capsys, "train", folder, *data, *PETS, *more)
    assert code == 2 and message in err
    if change is not another_setting:
        code, _, err = run(monkeypatch, capsys, "evaluate", folder)
        assert code == 2 and message in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["macro", "accuracy", "weighted avg", "$x$ <b>"])
def test_a_class_may_be_called_anything(monkeypatch, capsys, pets, name):
    for part in ("train", "test"):
        (pets / part / "cat").rename(pets / part / name)
    code, out, err = run(monkeypatch, capsys, "train", pets.parent / "run", "--data", f"folder:{pets}", *PETS)
    assert code == 0 and name in out, err
    evaluation = RunResult.load(pets.parent / "run").evaluation
    assert set(evaluation.auc) == {name, "dog"} and 0 <= evaluation.macro_auc <= 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_says_what_would_fit(monkeypatch, capsys, tmp_path, error):
    from capsnb.bench import peak_memory
    from capsnb.experiments import run as run_module

    def fail(*_, **__):
        raise error

    def needed(batch):
        return peak_memory.predict(lambda: CapsNet(channels=8, capsule_types=2), batch).peak

    monkeypatch.setattr(run_module, "fit", fail)
    for free, advice in (
        (needed(32), f"; --batch-size 32 needs {needed(32) / 1e9:.1f} GB"),
        (10, "; even one image at a time needs 0.0 GB: choose a smaller network or images"),
        (2 * needed(128), ", but others may take it: choose a smaller --batch-size"),
    ):
        monkeypatch.setattr(run_module, "free_memory", lambda free=free: free)
        code, _, err = run(monkeypatch, capsys, "train", tmp_path / "run", *TINY)
        assert code == 2 and "out of memory: a step with batches of 128 needs about 0.0 GB" in err
        assert advice in err and err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's addresses")
def test_a_network_that_does_not_fit_is_one_line(tmp_path):
    import resource

    command = [
        sys.executable,
        "-m",
        "capsnb",
        "train",
        str(tmp_path / "run"),
        "--resize",
        "300",
        "--batch-size",
        "64",
    ]
    limit = 12 * 10**9
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 2 and "out of memory: a step with batches of 64 needs about" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("model", [(), ("--model", "alexcapsnet", "--head", "softmax"), ("--routing", "sda")])
def test_a_folder_of_one_class_is_trained_evaluated_and_compared(monkeypatch, capsys, pets, model):
    """Nothing can be confused, and there is no ROC curve; nobody warns of what is so."""
    for part in ("train", "test"):
        shutil.rmtree(pets / part / "dog")
    folder, options = pets.parent / "run", ("--epochs", 1, "--capsule-types", 2, "--batch-size", 500, *model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        code, _, err = run(monkeypatch, capsys, "train", folder, "--data", f"folder:{pets}", *options)
        assert code == 0, err
        assert run(monkeypatch, capsys, "evaluate", folder)[0] == 0
        assert run(monkeypatch, capsys, "compare", folder, "--out", pets.parent / "page")[0] == 0
    found = RunResult.load(folder).evaluation
    assert (found.accuracy, found.confusion, found.macro_auc, found.count) == (1.0, [[4]], None, 4)
    with pytest.raises(ValueError, match="has a ROC curve: it holds a single class"):
        plots.roc(found)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("shape '[1]' is invalid\nand much more"), "shape '[1]' is invalid (capsnb --debug"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), "out of memory. Tried ... (capsnb --debug"),
        (MemoryError(), "MemoryError (capsnb --debug"),
    ],
)
def test_errors_of_pytorch_are_one_line_and_debug_shows_where(monkeypatch, capsys, error, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(training, "load_data", fail)
    code, _, err = run(monkeypatch, capsys, "data")
    assert code == 2 and says in err and "Traceback" not in err and err.count("\n") == 1
    monkeypatch.setattr("sys.argv", ["capsnb", "--debug", "data"])
    with pytest.raises(type(error)):
        cli.main()


def test_ctrl_c_says_how_to_resume(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "load_data", stop)
    code, _, err = run(monkeypatch, capsys, "data")
    assert code == 130 and "the same command resumes" in err


def test_memory_predicts_without_allocating(monkeypatch, capsys):
    """A network of 36 GB: its weights alone are more than most machines have."""
    code, out, _ = run(
        monkeypatch, capsys, "memory", "--model", "capsnet", "--image", "3x227x227", "--classes", 196
    )
    assert code == 0
    predicted = float(re.search(r"moments\W+([\d,.]+)", out)[1].replace(",", ""))
    assert predicted > 30_000
    if sys.platform == "linux":
        resource = pytest.importorskip("resource", reason="this system does not count memory")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8e6  # KiB


@pytest.mark.parametrize("part", ["run.json", "checkpoint.pt"])
def test_what_a_newer_version_wrote_is_not_called_damaged(monkeypatch, capsys, tmp_path, part):
    folder = tmp_path / "run"
    assert run(monkeypatch, capsys, "train", folder, *TINY)[0] == 0
    path = folder / part
    if part == "run.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "new": 1}))
    else:
        torch.save(torch.load(path, weights_only=True) | {"format": 99}, path)
    code, _, err = run(monkeypatch, capsys, "evaluate", folder)
    assert code == 2 and f"{part} was written by a newer capsnb (format 99; this one reads up to 3)" in err


# A command line of each command that ends at once, since the work itself is left out below.
COMMANDS = {
    "train": ("run", "--channels", 4, "--capsule-types", 1),
    "evaluate": ("trained",),
    "compare": ("trained",),
    "data": (),
    "memory": ("--channels", 4, "--capsule-types", 1, "--batch", 2),
    "doctor": (),
    "reproduce": ("table1", "--dataset", "mnist5k", "--profile", "quick"),
    **{f"bench {what}": () for what in ("routing", "memory", "step", "depth", "gradients", "scaling")},
}
VALUES_TO_TRY = ("0", "-1", "nan", "inf", "1e30", "99999999999999999999", "", "../x", "no such word")
# Which of them an option takes; of the others it says what is wrong.
ANY = {*VALUES_TO_TRY}
LARGE = {"1e30", "99999999999999999999"}
TAKEN = {
    "seed": {"0"},
    "pad": {"0"},
    "rotate": {"0"},
    "reconstruction_weight": {"0", *LARGE},
    "learning_rate": LARGE,
    "weight_std": {"0", *LARGE},
    "identity": {"0", "-1", *LARGE},
    "train blocks": {"0"},
    "memory blocks": {"0"},
    "root": ANY,
    "out": ANY - {""},
    "compare out": ANY,  # the folder "" is the current one
    "reproduce out": ANY,
}


def every_option(command=None, path=()):
    """The commands of the program and their options that take a value."""
    command = typer.main.get_command(cli.app) if command is None else command
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from every_option(below, (*path, name))
        return
    for parameter in command.params:
        if parameter.param_type_name == "option" and not parameter.is_flag:
            yield " ".join(path), parameter.name, parameter.opts[0]


OPTIONS = list(every_option())


class Reached(Exception):
    """Work would begin."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "trained"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as done:
        patch.setattr("sys.argv", ["capsnb", "train", str(folder), *map(str, TINY)])
        cli.main()
    assert not done.value.code
    return folder


@pytest.fixture
def no_work(monkeypatch, tmp_path, trained):
    """An empty folder to work in, and commands that end where their work would begin."""
    from capsnb.bench import depth, inversion_error, routing_backends, scaling, training_step
    from capsnb.experiments import comparison_page, registry
    from capsnb.experiments import run as runs

    def reached(*_, **__):
        raise Reached

    work = {
        "train_and_evaluate": runs,
        "evaluate": evaluation,
        "save": comparison_page,
        "ProcessPoolExecutor": registry,
        "_questions": doctor,
        "networks": depth._Run,
        "hidden_layers": inversion_error,
        "build": routing_backends._Problem,
        "times": scaling._Run,
        "build_network": training_step,
    }
    for name, place in work.items():
        monkeypatch.setattr(place, name, reached)
    loaded = {}
    load = runs.load_data
    monkeypatch.setattr(
        runs, "load_data", lambda name, root, **given: loaded.get(name) or load(name, root, **given)
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(trained, "trained")
    return tmp_path / "here"


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*") if path.is_file()}


def test_every_command_is_tried():
    assert {command for command, *_ in OPTIONS} <= COMMANDS.keys(), "add the new command to COMMANDS"


@pytest.mark.parametrize(("command", "name", "flag"), OPTIONS, ids=[f"{o[0]} {o[2]}" for o in OPTIONS])
def test_an_option_takes_a_value_or_says_what_is_wrong_before_work(
    monkeypatch, capsys, no_work, command, name, flag
):
    taken = TAKEN.get(f"{command} {name}", TAKEN.get(name, ()))
    words = ("only", "unknown") if name == "only" else (name, flag.strip("-"))
    wrong = []
    for value in VALUES_TO_TRY:
        shutil.rmtree(no_work / "run", ignore_errors=True)
        before = files_in(no_work)
        line = (*command.split(), *COMMANDS[command], flag, value)
        line = (*line, "--model", "mocapsnet") if name == "gamma" else line
        try:
            code, _, err = run(monkeypatch, capsys, *line)
        except Reached:
            code, err = 0, capsys.readouterr().err
        if value in taken:
            refused = code != 0
        else:
            lines = 1 if not err.startswith("Usage:") else err.count("\n")
            told = any(word in err for word in words) and err.count("\n") == lines
            refused = code != 2 or not told or "Traceback" in err or files_in(no_work) != before
        if refused:
            wrong.append(f"{flag} {value!r}: {code} {err}")
    assert not wrong, "\n".join(wrong)
