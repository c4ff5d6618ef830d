"""Studies: what has a file is not trained again, a file of another run is refused, a table says what is missing."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from capsnb import TrainConfig, experiments
from capsnb.experiments import STUDIES, Run, finished, load, perform, reproduce, runs, table

TINY = {"channels": 4, "capsule_types": 1, "blocks": 1, "hidden_capsules": 3, "decoder": None}


def tiny():
    for seed in (0, 1):
        config = TrainConfig(epochs=1, batch_size=500, seed=seed)
        for model in ("ResCapsNet", "MoCapsNet"):
            yield Run("tiny", f"{model}, 1 block", model, TINY, config, preprocess={"rotate": 5.0})


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
    again = perform(first, done / "again")
    kept = load(done / "tiny" / f"{first.name}.json", first)
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
    assert finished("tiny", tmp_path) == finished("tiny", done)
    assert {label: len(found) for label, found in finished("tiny", done).items()} == {
        "ResCapsNet, 1 block": 2,
        "MoCapsNet, 1 block": 1,
    }


def test_the_table_says_what_is_missing(done, tmp_path):
    text = table("tiny", done)
    shares = [100 * found.accuracy for found in finished("tiny", done)["ResCapsNet, 1 block"]]
    assert f"| ResCapsNet, 1 block | 2 | {sum(shares) / 2:.2f} |" in text
    assert table("tiny", tmp_path).count("not run yet") == 2


def test_a_file_of_another_run_or_half_a_file_is_refused(done, tmp_path):
    (first, *_) = runs("tiny")
    path = tmp_path / "tiny" / f"{first.name}.json"
    path.parent.mkdir()
    saved = json.loads((done / "tiny" / path.name).read_text())
    saved["run"]["sizes"]["channels"] = 5
    path.write_text(json.dumps(saved))
    for act in (finished, reproduce):
        with pytest.raises(
            ValueError, match=r"seed0\.json belongs to another run: its sizes.*delete the file"
        ):
            act("tiny", tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"seed0\.json is not a finished run"):
        finished("tiny", tmp_path)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise FloatingPointError("the loss is not finite in epoch 1, step 2: margin is nan")

    monkeypatch.setattr(experiments, "fit", broken)
    (first, *_) = runs("tiny")
    perform(first, tmp_path)
    (found,) = finished("tiny", tmp_path)[first.label]
    assert math.isnan(found.accuracy) and "step 2" in found.failure and found.history is None
    assert "| ResCapsNet, 1 block | 1 | nan |" in table("tiny", tmp_path)


def test_wrong_names_and_numbers_are_named():
    with pytest.raises(ValueError, match="unknown study 'dpeth'; choose one of"):
        runs("dpeth")
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        reproduce("tiny", workers=0)


def test_the_command_lists_and_trains(tmp_path):
    command = [sys.executable, "-m", "capsnb", "reproduce", "depth", "--out", str(tmp_path)]
    shown = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    assert shown.count("not run yet") == len({run.label for run in runs("depth")})
    left = subprocess.run([*command, "--budget", "0"], capture_output=True, text=True, check=True).stdout
    assert f"{len(runs('depth'))} runs are left" in left


def test_a_run_survives_json(done):
    for run in runs("tiny")[:3]:
        raw = json.loads((done / "tiny" / f"{run.name}.json").read_text())
        assert TrainConfig(**raw["run"]["config"]) == run.config
        assert {k: v for k, v in raw["run"].items() if k != "config"} == {
            k: v for k, v in dataclasses.asdict(run).items() if k != "config"
        }
