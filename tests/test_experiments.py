"""The registry: what has a file is not trained again, what was stopped is resumed, a table says what is missing."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from capsnb import Preprocess, TrainConfig, cli, fit, load_data, models
from capsnb.experiments import (
    STUDIES,
    Run,
    RunResult,
    check,
    execute,
    overview,
    reproduce,
    results,
    runs,
    study_rows,
    study_table,
)
from capsnb.training import CHECKPOINT, load_weights, loop

TINY = {"channels": 4, "capsule_types": 1, "blocks": 1, "hidden_capsules": 3, "decoder": None}


def squeezed(text):
    """A table without the blanks that align its columns."""
    return re.sub(" +", " ", text)


def tiny():
    for seed in (0, 1):
        config = TrainConfig(epochs=1, batch_size=50, seed=seed)
        for model in ("ResCapsNet", "MoCapsNet"):
            yield Run(
                "tiny", f"{model}, 1 block", model, TINY, config, preprocess={"rotate": 5.0}, images=200
            )


run_module = sys.modules["capsnb.experiments.run"]


@pytest.fixture(autouse=True)
def study(monkeypatch):
    monkeypatch.setitem(STUDIES, "tiny", tiny)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All but one run, trained by two workers."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "tiny", tiny)
        not_the_last = lambda run: run.name != "mocapsnet-1-block-seed1"  # noqa: E731
        assert reproduce("tiny", folder, workers=2, only=not_the_last, progress=False) == 0
    return folder


@pytest.mark.parametrize("study", [name for name in STUDIES if name != "tiny"])
def test_names_are_unique_and_first_seeds_come_first(study):
    every = runs(study)
    assert len({run.name for run in every}) == len(every)
    assert [run.config.seed for run in every] == sorted(run.config.seed for run in every)
    assert all(run.study == study for run in every)


def test_a_run_is_what_fit_gives(done):
    (first, *_) = runs("tiny")
    again = execute(first, done / "again")
    kept = RunResult.load(done / "tiny" / f"{first.name}.json", first)
    assert again.history.config == kept.history.config == first.config
    assert again.history["loss"] == pytest.approx(kept.history["loss"], rel=1e-4)  # threads may differ
    assert again.accuracy == pytest.approx(kept.accuracy, abs=0.01)


def test_what_is_there_is_not_run_again(done, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (done / "tiny").iterdir()}
    assert len(before) == 3
    assert reproduce("tiny", done, budget=0, progress=False) == 1
    assert {path: path.stat().st_mtime_ns for path in (done / "tiny").iterdir()} == before
    assert reproduce("tiny", tmp_path, budget=0, progress=False) == 4 and not list(tmp_path.iterdir())


def test_merging_two_machines_is_copying(done, tmp_path):
    for path in (done / "tiny").iterdir():
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / path.name).write_bytes(path.read_bytes())
    assert results("tiny", tmp_path) == results("tiny", done)
    assert {label: len(found) for label, found in results("tiny", done).items()} == {
        "ResCapsNet, 1 block": 2,
        "MoCapsNet, 1 block": 1,
    }


def test_the_table_says_what_is_missing(done, tmp_path):
    text = study_table("tiny", done)
    shares = [100 * found.accuracy for found in results("tiny", done)["ResCapsNet, 1 block"]]
    mean, spread = sum(shares) / 2, abs(shares[0] - shares[1]) / math.sqrt(2)
    assert f"| ResCapsNet, 1 block | {mean:.2f} ± {spread:.2f} (2) | {min(shares):.2f} |" in squeezed(text)
    assert study_table("tiny", tmp_path).count("not run yet") == 2


def test_a_file_of_another_run_or_half_a_file_is_refused(done, tmp_path):
    (first, *_) = runs("tiny")
    path = first.path(tmp_path)
    path.parent.mkdir()
    saved = json.loads((done / "tiny" / path.name).read_text())
    saved["run"]["sizes"]["channels"] = 5
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"seed0\.json .*it was damaged or edited"):
        results("tiny", tmp_path)
    del saved["format"], saved["digest"]  # as in a file from before there were any
    path.write_text(json.dumps(saved))
    for act in (results, reproduce):
        with pytest.raises(
            ValueError, match=r"seed0\.json belongs to another run: its sizes.*delete the file"
        ):
            act("tiny", tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"seed0\.json is not the record of a run"):
        results("tiny", tmp_path)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise FloatingPointError("the loss is not finite in epoch 1, step 2: margin is nan")

    monkeypatch.setattr(run_module, "fit", broken)
    (first, *_) = runs("tiny")
    execute(first, tmp_path)
    (found,) = results("tiny", tmp_path)[first.label]
    assert math.isnan(found.accuracy) and "step 2" in found.failure and found.history is None
    assert "| ResCapsNet, 1 block | nan (1) |" in squeezed(study_table("tiny", tmp_path))


def test_wrong_names_and_numbers_are_named():
    with pytest.raises(ValueError, match="unknown study 'dpeth'; choose one of"):
        runs("dpeth")
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        reproduce("tiny", workers=0)


def test_the_command_lists_and_trains(tmp_path, monkeypatch, capsys):
    for options in (["--list"], ["--budget", "0s"]):
        monkeypatch.setattr(sys, "argv", ["capsnb", "reproduce", "depth", "--out", str(tmp_path), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.count("not run yet") >= len({run.label for run in runs("depth")})
    assert f"{len(runs('depth'))} runs are left" in shown


def test_a_run_survives_json(done):
    for run in runs("tiny")[:3]:
        raw = json.loads((done / "tiny" / f"{run.name}.json").read_text())
        assert TrainConfig(**raw["run"]["config"]) == run.config
        assert {k: v for k, v in raw["run"].items() if k != "config"} == {
            k: v for k, v in dataclasses.asdict(run).items() if k != "config"
        }


def longer():
    """Runs of several epochs, the second of them of two networks that vote."""
    config = TrainConfig(epochs=3, batch_size=100)
    yield Run("longer", "alone", "CapsNet", TINY, config, images=300)
    yield Run("longer", "together", "CapsNet", TINY, config, members=2, images=300)


@pytest.fixture
def longer_study(monkeypatch):
    monkeypatch.setitem(STUDIES, "longer", longer)
    return runs("longer")


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(longer_study, tmp_path, monkeypatch):
    """The budget ends after two epochs; the second call is another machine that was given the folder."""
    (alone, _), clock = longer_study, [0.0]
    whole = execute(alone, tmp_path / "whole")
    monkeypatch.setattr(run_module.time, "monotonic", lambda: clock[0])
    train_epoch = loop._Trainer.epoch

    def slow(*arguments):
        clock[0] += 10  # seconds
        return train_epoch(*arguments)

    monkeypatch.setattr(loop._Trainer, "epoch", slow)
    assert execute(alone, tmp_path / "here", budget=25) is None
    assert not alone.path(tmp_path / "here").exists()
    (tmp_path / "here").rename(tmp_path / "there")
    went_on = execute(alone, tmp_path / "there", budget=25)
    assert clock[0] == 30, "an epoch was trained twice, or one too many"
    assert [record.loss for record in went_on.history.records] == [r.loss for r in whole.history.records]
    assert went_on.evaluation == whole.evaluation and went_on.seconds >= whole.history.seconds / 2
    assert not any((tmp_path / "there" / "unfinished" / "longer").iterdir())


KILLED = """
import os, signal, sys
from torch.nn.modules.module import register_module_forward_pre_hook
from capsnb import CapsNet
from test_experiments import STUDIES, longer, reproduce

STUDIES["longer"], steps = longer, 0

def kill(module, _):
    global steps
    steps += isinstance(module, CapsNet) and module.training
    if steps == 5:  # 3 steps an epoch: in the middle of the second
        os.killpg(0, signal.SIGKILL)  # the worker, and who waits for it

register_module_forward_pre_hook(kill)
if __name__ == "__main__":
    reproduce("longer", sys.argv[1], only=lambda run: run.members == 1, progress=False)
"""


def test_a_killed_run_loses_at_most_an_epoch(longer_study, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(Path(__file__).parent)])}
    command = [sys.executable, script, tmp_path]
    killed = subprocess.run(command, env=env, start_new_session=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    kept = tmp_path / "unfinished" / "longer" / "alone-seed0" / CHECKPOINT
    assert len(load_weights(models.CapsNet(**TINY), kept).records) == 1 and not (tmp_path / "longer").exists()
    done = execute(longer_study[0], tmp_path)
    again = execute(longer_study[0], tmp_path / "again")
    losses = [record.loss for record in again.history.records]
    assert [record.loss for record in done.history.records] == pytest.approx(losses, rel=1e-4)  # threads


def test_networks_that_vote_give_the_mean_of_their_scores(longer_study, tmp_path):
    _, together = longer_study
    data = load_data().subset(train=300)
    found = execute(together, tmp_path)
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = models.CapsNet(**TINY)
        config = dataclasses.replace(together.config, seed=seed)
        fit(model, data, config, progress=False)
        with torch.inference_mode():
            scores.append(model.eval()(data.preprocess.evaluate(data.test.images)[0]).lengths)
    right = (sum(scores).argmax(dim=1) == data.test.labels).double().mean().item()
    assert found.accuracy == pytest.approx(right, abs=2e-3)
    assert found.accuracy == found.evaluation.accuracy != found.history["test_accuracy"][-1]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def some():
        config = TrainConfig(epochs=1, batch_size=100)
        yield Run("some", "elsewhere", "CapsNet", TINY, config, data="mnist", images=200)
        yield Run("some", "here", "CapsNet", TINY, config, images=200)

    monkeypatch.setitem(STUDIES, "some", some)
    with pytest.raises(ExceptionGroup, match="1 of 2 runs of some failed") as failed:
        reproduce("some", tmp_path, root=str(tmp_path), progress=False)
    (error,) = failed.value.exceptions
    assert isinstance(error, FileNotFoundError) and "elsewhere-seed0" in error.__notes__[0]
    assert list(results("some", tmp_path)) == ["here"]


def test_every_file_belongs_to_its_row(done, tmp_path):
    shutil.copytree(done / "tiny", tmp_path / "tiny")
    assert check(tmp_path) == []
    (first, *_) = runs("tiny")
    first.path(tmp_path).rename(tmp_path / "tiny" / "other-seed0.json")
    (tmp_path / "tiny" / "mocapsnet-1-block-seed0.json").write_text("{")
    wrong = check(tmp_path)
    assert len(wrong) == 2
    assert (
        "is not the record of a run" in wrong[0] and "other-seed0.json belongs to no row of tiny" in wrong[1]
    )


def test_the_projects_own_results_belong_to_their_rows():
    assert check() == []


def test_the_overview_counts_and_asks(done):
    text = squeezed(overview(done))
    assert "| tiny | | 4 | 3 | 0." in text
    assert (
        "| table1 | MoCapsNet's table 1: 1 to 8 blocks on MNIST and SVHN, three seeds. | 96 | 0 | – |" in text
    )


def test_a_row_has_mean_and_spread_of_its_seeds(done):
    row = study_rows("tiny", done)[0]
    a, b = (found.accuracy for found in row.results)
    assert row.mean == pytest.approx((a + b) / 2) and row.spread == pytest.approx(abs(a - b) / math.sqrt(2))
    assert study_rows("tiny", done)[1].spread is None, "one seed has no spread"


def test_numbers_of_blocks_that_no_paper_has_come_last(monkeypatch):
    deep = [
        Run("deep", f"{blocks} blocks", "CapsNet", {"blocks": blocks}, TrainConfig()) for blocks in (10, 1)
    ]
    monkeypatch.setitem(STUDIES, "deep", lambda: iter(deep))
    assert [run.sizes["blocks"] for run in runs("deep")] == [1, 10]


def test_preprocessing_that_is_left_out_is_the_default():
    """Also in a record that is older than a setting."""
    config = TrainConfig()
    full = dataclasses.asdict(Preprocess())
    older = {name: value for name, value in full.items() if name != "signed"}
    runs_alike = [Run("", "", "CapsNet", {}, config, preprocess=settings) for settings in (full, older, {})]
    assert all(one.difference(other) is None for one in runs_alike for other in runs_alike)
    rotated = Run("", "", "CapsNet", {}, config, preprocess={"rotate": 5.0})
    assert runs_alike[2].difference(rotated) == ("preprocess.rotate", 0.0, 5.0)


def test_a_run_follows_no_setting_of_the_caller_and_leaves_his_random_numbers(done, tmp_path):
    (first, *_) = runs("tiny")
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker of `done`; sums depend on it in their last digits
    torch.set_default_dtype(torch.float64)
    try:
        execute(first, tmp_path)
    finally:
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    assert torch.equal(torch.random.get_rng_state(), before)
    (theirs, *_), (ours, *_) = (results("tiny", folder)[first.label] for folder in (done, tmp_path))
    assert ours.history["loss"] == theirs.history["loss"]


def test_a_budget_that_is_spent_before_training_leaves_the_run_for_the_next_call(tmp_path):
    (first, *_) = runs("tiny")
    assert execute(first, tmp_path, budget=1e-9) is None
    assert not first.path(tmp_path).exists()
