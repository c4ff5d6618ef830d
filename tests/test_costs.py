"""Table 4 and the figures: the paper's numbers, ours where they were measured, "not run yet" where they were not."""

import pytest

from capsnb import bench, experiments
from capsnb.experiments import costs


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_nothing_is_guessed(tmp_path):
    table = cells(experiments.table4(tmp_path))
    assert len(table) == 24 and all(line[3] == line[5] == "not run yet" for line in table)
    assert [line[2] for line in table if line[:2] == ["SVHN", "8"]] == ["8,900"]
    assert all(line[2] == "not run yet" for line in cells(experiments.slopes(tmp_path)))


def test_table_4_is_what_was_measured():
    found = bench.committed("depth-3x32x32")
    for data, blocks, _, residual, _, momentum in cells(experiments.table4()):
        if data in ("CIFAR-10", "SVHN"):
            case = f"network, {blocks} block{'s' * (blocks != '1')}"
            for cell, name in ((residual, "ResCapsNet"), (momentum, "MoCapsNet")):
                assert int(cell.replace(",", "")) == round(found[case, name]["peak"] / 1e6)


def test_of_a_gpu_table_4_shows_allocator_and_process(tmp_path):
    measured = bench.committed("depth-3x32x32")
    for line in measured.lines:
        line["gpu_used"] = 1_234_000_000
    measured.save(tmp_path / "bench-depth-3x32x32-cuda.json")
    text = experiments.table4(tmp_path, "cuda")
    assert "ResCapsNet, allocator" in text.splitlines()[0] and "MoCapsNet, process" in text.splitlines()[0]
    first = next(line for line in cells(text) if line[:2] == ["CIFAR-10", "1"])
    assert len(first) == 8 and first[4] == first[7] == "1,234"


def test_slopes_are_the_papers_and_ours():
    lines = {line[0]: line[1:] for line in cells(experiments.slopes())}
    paper, ours = lines["time a block, MoCapsNet over the other"]
    assert paper == "1.83" and 1 < float(ours) < 2
    assert lines["ResCapsNet, memory a block / MB"][0] == "174.2"
    found = bench.committed("depth")
    times = [found["stack, each block", name]["median"] for name in ("MoCapsNet", "ResCapsNet")]
    assert float(ours) == pytest.approx(times[0] / times[1], abs=0.005)


def test_only_what_is_missing_is_measured(tmp_path, monkeypatch):
    asked = []
    small = bench.measure_depth(["network"], blocks=[1], batch=1, rounds=1, only=["MoCapsNet"])

    def depth(cases=(), **options):
        asked.append((list(cases), options.get("image_shape")))
        return small

    monkeypatch.setattr(costs.bench, "measure_depth", depth)
    experiments.measure_costs(tmp_path, progress=False)
    assert asked == [(["network"], (1, 28, 28)), (["network"], (3, 32, 32)), ([], None)]
    experiments.measure_costs(tmp_path, progress=False)
    assert len(asked) == 3
    first = cells(experiments.table4(tmp_path))[0]
    assert first[:5] == ["MNIST", "1", "4,462", "not run yet", "4,320"] and first[5].isdecimal()
