"""The study of waking networks: its cells, what is looked at, and a file that goes on where it stopped."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from capsnb import TrainConfig, capsule_loss, fit, load_data, margin_loss
from capsnb.experiments.published import PublishedMoCapsNet

ROOT = Path(__file__).resolve().parent.parent
specification = importlib.util.spec_from_file_location("waking", ROOT / "tools" / "waking.py")
waking = importlib.util.module_from_spec(specification)
sys.modules["waking"] = waking
specification.loader.exec_module(waking)

TINY = {"channels": 4, "capsule_types": 1, "hidden_capsules": 4, "decoder": None}


def test_the_cells_are_all_combinations_and_each_seed_comes_whole():
    cells = list(waking.cells())
    assert len(cells) == len(set(cells)) == (5 + 2 + 5) * 3 * 2 * 3
    order = [(cell.spread is None, cell.seed) for cell in cells]
    assert order == sorted(order)
    first = cells[:5]
    assert {cell.network for cell in first} == set(waking.NETWORKS)
    assert {(cell.classes, cell.spread, cell.reduction) for cell in first} == {(100, 0.01, "sum")}
    assert {cell.network for cell in cells if cell.spread == 0.3} == {"ResCapsNet", "MoCapsNet"}


def test_what_is_seen_is_what_a_step_computes():
    """The first look is at the first step, before the optimizer has changed anything."""
    data = load_data("mnist5k").subset(train=64, test=20).with_preprocess(pad=0)
    torch.manual_seed(0)
    model = PublishedMoCapsNet(blocks=1, **TINY)
    images, targets = data.preprocess.evaluate(data.train.images)
    output = model(images, data.train.labels)
    u = model._primary_capsules(images).detach()
    loss = capsule_loss(output, targets, data.train.labels).total
    (gradient,) = torch.autograd.grad(loss, [model.capsule_layers[-1].weight])
    margin = margin_loss(output.lengths, data.train.labels)
    seen = waking.look(model, every=3)
    fit(model, data, TrainConfig(epochs=7, batch_size=64), progress=False)
    assert [len(values) for values in dataclasses.astuple(seen)] == [3] * 4  # steps 0, 3 and 6, no test batch
    assert seen.length[0] == pytest.approx(output.lengths.mean().item(), rel=1e-4)
    assert seen.margin[0] == pytest.approx(margin.item(), rel=1e-4)
    assert seen.gradient[0] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-3)
    spread = (u - u.mean(0)).square().mean().sqrt() / u.square().mean().sqrt()
    assert seen.variation[0] == pytest.approx(spread.item(), rel=1e-4)


def test_a_study_that_was_stopped_trains_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(waking, "ProcessPoolExecutor", OneProcess)
    monkeypatch.setattr(waking, "as_completed", iter)
    trained = []

    def train(cell, root):
        trained.append(cell)
        return {"cell": dataclasses.asdict(cell)}

    monkeypatch.setattr(waking, "trained", train)
    monkeypatch.setattr(waking, "cells", lambda: iter(list(CELLS)))
    monkeypatch.setattr(sys, "argv", ["waking.py", "--out", str(tmp_path), "--budget", "0"])
    waking.main()
    assert trained == CELLS[:1]
    monkeypatch.setattr(sys, "argv", ["waking.py", "--out", str(tmp_path)])
    waking.main()
    assert trained == CELLS
    written = json.loads((tmp_path / "waking.json").read_bytes())
    assert [record["cell"] for record in written["cells"]] == [dataclasses.asdict(cell) for cell in CELLS]


CELLS = [waking.Cell("ResCapsNet", spread, 10, "sum", 0) for spread in (0.01, 0.1, 0.3)]


class OneProcess:
    """A pool without processes."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        result = function(*arguments)
        return type("Future", (), {"result": lambda self: result})()
