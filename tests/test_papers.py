"""The papers' tables: each number is there once, and the run behind it is what the paper describes."""

import json
import math
from dataclasses import asdict, replace
from importlib.resources import files

import pytest
import torch

from capsnb import History, Preprocess, models
from capsnb.experiments import (
    TABLES,
    RunResult,
    paper_numbers,
    reported_accuracies,
    runs,
    study_rows,
    study_table,
    table_forms,
)
from capsnb.experiments.published import NETWORKS
from capsnb.training.history import Epoch

SHAPES = {"mnist": (1, 28, 28), "mnist5k": (1, 28, 28)}  # of the others: three channels, 32 pixels
CLASSES = {"cifar100": 100}


def _percent(record):
    value = record["accuracy_percent"]
    return (value["mean"], value["std"]) if isinstance(value, dict) else (value, None)


@pytest.mark.parametrize("table", TABLES)
def test_each_number_of_a_table_stands_in_one_row(table):
    records, said = paper_numbers()[table], reported_accuracies(table)
    assert len(said) == len(records), "two rows share a label"
    assert sorted(round(100 * row.accuracy, 6) for row in said.values()) == sorted(
        _percent(record)[0] for record in records
    )
    assert set(said) == {run.label for run in runs(table)}


@pytest.mark.parametrize("table", TABLES)
def test_data_that_differ_are_different_rows(table):
    seen = {}
    for run in runs(table):
        assert seen.setdefault(run.label, run.data) == run.data


def test_the_setup_of_section_4_1():
    """Batches of 128, 30 epochs on MNIST and 60 elsewhere, Adam from 1e-3 decayed by 0.96, N(0, 0.01^2), crops."""
    for run in [*runs("table1"), *runs("table2")]:
        config = run.config
        assert config.epochs == (30 if run.data == "mnist" else 60)
        assert (config.batch_size, config.learning_rate, config.optimizer) == (128, 1e-3, "adam")
        assert [config.learning_rate_at(t) for t in (0, 2)] == pytest.approx([1e-3, 1e-3 * 0.96**2])
        assert (run.sizes["weight_std"], run.preprocess, run.images) == (0.01, {}, None)
    assert Preprocess() == Preprocess(pad=2, crop=None, rotate=0, resize=None, standardise=True)
    assert {run.sizes["blocks"] for run in runs("table1")} == set(range(1, 9))


def test_table_3_varies_optimizer_and_routing():
    found = {run.label: run for run in runs("table3")}
    run = found["CIFAR-10, MoCapsNet, 5 blocks, Adam, SDA"]
    assert (run.sizes["routing"], run.config.optimizer, run.sizes["blocks"]) == ("sda", "adam", 5)
    assert found["CIFAR-10, ResCapsNet, 3 blocks, Ranger21, RBA"].config.optimizer == "ranger21"
    assert found["CIFAR-10, CapsNet (2-Conv + 4-ensemble)"].members == 4
    assert found["CIFAR-10, CapsNet (2-Conv)"].model == "TwoConvCapsNet"
    assert "Xi et al. 2017" in reported_accuracies("table3")["CIFAR-10, CapsNet"].source


def test_table_5_varies_learning_rate_capsules_and_batch():
    for record, run in zip(
        paper_numbers()["table5"],
        [run for run in runs("table5") if run.config.seed == 0],
        strict=True,
    ):
        config = run.config
        assert (config.learning_rate, config.batch_size, config.epochs, config.optimizer) == (
            record["learning_rate"],
            record["batch_size"],
            100,
            "ranger21",
        )
        assert run.sizes["hidden_capsules"] == record["capsules"] and run.sizes["blocks"] == 2


def test_the_four_results_of_the_second_paper():
    for run in runs("backbones"):
        many = "several GPUs" in run.label
        assert (run.config.accumulate, run.config.precision) == ((4, "fp16") if many else (1, "fp32"))
        assert run.config.batch_size == (64 if many else 32), "32 images on each of two GPUs"
        assert f"{run.config.epochs} epochs" in run.label


def test_the_most_informative_rows_come_first():
    order = [(run.config.seed, run.sizes["blocks"]) for run in runs("table1")]
    assert order[0] == (0, 1) and order[-1][0] == 2
    assert [seed for seed, _ in order] == sorted(seed for seed, _ in order)
    assert list(dict.fromkeys(blocks for _, blocks in order))[:2] == [1, 7], (
        "the paper's best depth comes second"
    )


def test_rows_as_printed_sum_the_loss_as_the_published_code_does():
    for table in TABLES:
        assert {run.config.reduction for run in runs(table)} == {"mean" if table == "backbones" else "sum"}
        if table != "backbones":
            assert {run.config.reduction for run in runs(f"{table}-trainable")} == {"mean"}
        assert {run.config.reduction for run in runs(f"{table}-quick")} == {"mean"}


def test_a_trainable_row_differs_only_in_its_initialisation_and_the_reduction_of_its_loss():
    for table in set(TABLES) - {"backbones"}:
        for a, b in zip(runs(table), runs(f"{table}-trainable"), strict=True):
            assert a.sizes["weight_std"] == 0.01 and b.sizes["weight_std"] in (0.3, None)
            changed = replace(a.config, reduction="mean")
            assert replace(a, study=b.study, sizes=b.sizes, config=changed) == b
            assert {**a.sizes, "weight_std": 0} == {**b.sizes, "weight_std": 0}
        assert [row.reported for row in study_rows(f"{table}-trainable")] == [
            row.reported for row in study_rows(table)
        ]


@pytest.mark.parametrize(
    "study",
    [*TABLES, *(f"{table}-quick" for table in TABLES), "one-per-cent", "forty-layers", "forty-layers-quick"],
)
def test_every_row_builds_its_network(study):
    for run in runs(study):
        if run.config.seed:
            continue
        shape = Preprocess(**run.preprocess).output_shape(SHAPES.get(run.data, (3, 32, 32)))
        with torch.device("meta"):
            sizes = {"image_shape": shape, "classes": CLASSES.get(run.data, 10)} | run.sizes
            network = NETWORKS.get(run.model) or getattr(models, run.model)
            model = network(**sizes | {"decoder": None})
        assert sum(p.numel() for p in model.parameters()) > 0


def test_a_quick_row_differs_in_size_alone():
    whole, small = runs("table3"), runs("table3-quick")
    assert [run.label for run in whole] == [run.label for run in small]
    for a, b in zip(whole, small, strict=True):
        assert (a.model, a.members, a.config.seed, a.config.optimizer) == (
            b.model,
            b.members,
            b.config.seed,
            b.config.optimizer,
        )
        assert {k: v for k, v in a.sizes.items() if k != "weight_std"}.items() <= b.sizes.items()
        assert b.images == 4000 and b.config.epochs == 8
    assert {run.data for run in runs("table1-quick")} == {"mnist5k", "svhn"}


def test_the_study_of_one_per_cent_changes_one_thing_at_a_time():
    found = {run.label: run for run in runs("one-per-cent") if run.config.seed == 0}
    residual, published = found["ResCapsNet"], found["MoCapsNet as published"]
    assert found["ResCapsNet, default weights"].difference(residual)[1:] == (None, 0.01)
    assert {run.data for run in found.values()} == {"cifar100"}
    assert len({json.dumps(asdict(run.config)) for run in found.values()}) == 1
    assert residual.sizes == published.sizes and residual.preprocess == {
        "standardise": False,
        "signed": True,
    }


def test_forty_layers_are_twenty_blocks_in_full_size_and_narrow():
    whole, narrow = runs("forty-layers"), runs("forty-layers-quick")
    assert {run.sizes["blocks"] for run in whole + narrow} == {20}
    assert {(run.config.learning_rate, run.images) for run in whole} == {(1e-4, None)}
    assert {run.images for run in narrow} == {4000} and len(narrow) == len(whole) == 6


def test_the_numbers_travel_with_the_package():
    raw = json.loads((files("capsnb") / "assets" / "papers.json").read_text(encoding="utf-8"))
    assert raw == paper_numbers() and set(raw) >= {"table1", "table4", "figures", "sources"}
    assert all(math.isfinite(_percent(r)[0]) for table in TABLES for r in raw[table])
    assert asdict(next(iter(reported_accuracies("table1").values())))["spread"] == pytest.approx(1e-4)


def finished(run, accuracy, folder, seconds=90.0):
    """A record of a run as if it had been trained."""
    epoch = Epoch(1, 1.0, 1.0, 0.0, 0.5, accuracy, 1e-3, seconds, 0)
    history = History(run.model, run.data, 1, "cpu", run.config, [epoch])
    RunResult(run, history, seconds=seconds).save(run.path(folder))


def cells(table):
    """The cells of a Markdown table's lines."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_table_shows_the_paper_beside_each_form_that_was_run(tmp_path):
    finished(runs("table1-trainable")[0], 0.9951, tmp_path, 600)
    for run in runs("table1-quick"):
        if run.data == "mnist5k" and run.sizes["blocks"] == 1 and run.config.seed < 2:
            finished(run, 0.97 + run.config.seed / 100, tmp_path)
    head, _, *lines = cells(study_table("table1", tmp_path))
    assert head == [
        "run",
        "paper / %",
        "from N(0, 0.3²) / % (seeds)",
        "minutes",
        "quick form / % (seeds)",
        "minutes",
    ]
    table = {line[0]: line[1:] for line in lines}
    assert table["MNIST, ResCapsNet, 1 block"] == [
        "99.41 ± 0.01",
        "99.51 (1)",
        "10.0",
        "97.50 ± 0.71 (2)",
        "1.5",
    ]
    assert table["MNIST, MoCapsNet, 1 block"] == ["99.42 ± 0.04", "–", "–", "97.50 ± 0.71 (2)", "1.5"]
    assert table["SVHN, MoCapsNet, 1 block"] == ["92.68 ± 0.23", "not run yet", "–", "–", "–"]
    for form in ("table1-quick", "table1-trainable"):
        assert study_table(form, tmp_path) == study_table("table1", tmp_path)
    assert list(table_forms("table1", tmp_path)) == ["from N(0, 0.3²)", "quick form"]


def test_a_table_of_which_nothing_was_run_is_the_paper_s(tmp_path):
    assert table_forms("backbones", tmp_path) == {}
    head, *lines = cells(study_table("backbones", tmp_path))
    assert head == ["run", "paper / %"] and {len(line) for line in lines} == {2}
