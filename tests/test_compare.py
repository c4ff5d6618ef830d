"""Comparing runs: seeds become one row, data that differ never do, and every broken file is named."""

import re
import statistics
from dataclasses import asdict, replace
from html.parser import HTMLParser
from itertools import permutations

import pytest
import torch

from capsnb import CapsNet, Preprocess, cli, fit, load_data, models, summary
from capsnb.evaluation import Evaluation, evaluation_of_scores, wilson_interval
from capsnb.experiments import Run, RunResult, comparison, comparison_page
from capsnb.experiments.comparison import (
    COMPARISON_COLUMNS,
    ComparisonRow,
    comparison_table,
    join_seeds,
    read,
)
from capsnb.files import results
from capsnb.training import Epoch, History, TrainConfig

CLASSES = ("ant", "bee")


def evaluation(accuracy: float, count: int = 40, dataset: str = "noise") -> Evaluation:
    """Half the images of each class; the first ones are right."""
    truth = [i % 2 for i in range(count)]
    scores = [[0.9 - t, 0.1 + t] if i < accuracy * count else [t, 1 - t] for i, t in enumerate(truth)]
    return evaluation_of_scores(
        truth, [[max(0, min(1, s)) for s in row] for row in scores], CLASSES, dataset=dataset
    )


def history(
    seed: int, accuracies: tuple[float, ...] = (0.5, 0.92, 0.95), data: str = "noise", **config
) -> History:
    records = [
        Epoch(
            e, 0.8 / e, 0.7 / e, 40.0, 0.9, accuracy, 1e-3, 2.0 + seed + 10 * (e == 1), (100 + seed) * 2**20
        )
        for e, accuracy in enumerate(accuracies, 1)
    ]
    return History(
        "CapsNet", data, 1234, "cpu", TrainConfig(epochs=len(accuracies), seed=seed, **config), records
    )


def trained(
    seed: int, accuracy: float = 0.95, name: str = "CapsNet", past: History | None = None, **sizes
) -> RunResult:
    past = past or history(seed)
    return RunResult(
        Run("", name, "CapsNet", sizes, past.config, past.data),
        past,
        evaluation=evaluation(accuracy),
        mult_adds=5_000_000,
        source=f"runs/{name}-{seed}",
    )


def cells(row: ComparisonRow) -> dict[str, str]:
    (line,) = comparison_table([row]).splitlines()[-1:]
    return dict(zip(COMPARISON_COLUMNS, [cell.strip() for cell in line.strip("|").split("|")], strict=True))


def figures_of(found: Evaluation) -> tuple[float, float]:
    return found.macro_auc, found.calibration_error


def test_seeds_become_one_row_in_whatever_order_they_come():
    runs = [trained(2, 0.95), trained(0, 0.9), trained(1, 0.8), trained(0, 0.7, channels=16)]
    for order in permutations(runs):
        seen = {len(row.results): row for row in join_seeds(order)}
        assert [run.run.config.seed for run in seen[3].results] == [0, 1, 2]
        assert seen[1].results == (runs[3],)
        found = cells(seen[3])
        assert found["seeds"] == "3"
        assert found["accuracy / %"] == f"{100 * statistics.fmean([0.95, 0.9, 0.8]):.2f}"
        assert found["lowest to highest"] == "80.00 to 95.00"


@pytest.mark.parametrize(
    "other",
    [
        trained(1, name="ResCapsNet"),
        trained(1, channels=16),
        trained(1, past=history(1, learning_rate=2e-3)),
        trained(1, past=replace(history(1), device="another machine's GPU")),
        trained(1, past=replace(history(1), parameters=999)),
        replace(trained(1), run=replace(trained(1).run, members=4)),
        replace(trained(1), run=replace(trained(1).run, model="MoCapsNet")),
        replace(trained(1), run=replace(trained(1).run, preprocess={"rotate": 5.0})),
    ],
    ids=["name", "size", "configuration", "device", "parameters", "members", "network", "preprocess"],
)
def test_whatever_differs_beside_the_seed_is_another_row_with_its_own_label(other):
    first, second = join_seeds([trained(0), other])
    assert first.label != second.label
    assert len(join_seeds([trained(0), trained(1)])) == 1


def test_labels_name_what_differs_and_nothing_else():
    runs = [
        trained(0, channels=32, types=4),
        trained(0, channels=16, types=4),
        trained(0, name="MoCapsNet", types=4),
    ]
    assert [row.label for row in join_seeds(runs)] == [
        "CapsNet, channels 32",
        "CapsNet, channels 16",
        "MoCapsNet",
    ]


def test_one_seed_twice_is_refused():
    with pytest.raises(
        ValueError, match=r"runs/CapsNet-1 and copy are the same experiment with the same seed, 1"
    ):
        join_seeds([trained(0), trained(1), replace(trained(1), source="copy")])


def test_data_that_differ_are_never_in_one_table():
    other = replace(trained(1, past=history(1, data="other")), evaluation=None)
    with pytest.raises(
        ValueError, match=r"runs/CapsNet-0 and runs/CapsNet-1 have different data \(noise and other\)"
    ):
        join_seeds([trained(0), other])
    one, two = (replace(trained(seed), fingerprint="ab" * seed) for seed in (1, 2))
    with pytest.raises(
        ValueError, match=r"CapsNet-1 and .*CapsNet-2 have different images or labels \(ab and abab\)"
    ):
        join_seeds([trained(0), one, two])
    fewer = replace(trained(1), evaluation=evaluation(0.9, count=20))
    without = replace(trained(2), evaluation=None)
    with pytest.raises(ValueError, match=r"different test images .*'ant': 20.*'ant': 10.*compare them apart"):
        join_seeds([without, trained(0), fewer])
    with pytest.raises(ValueError, match="at least one run"):
        join_seeds([])


def test_cells_are_what_they_say():
    (row,) = join_seeds([trained(0, 0.9), trained(1, 0.8)])
    found = cells(row)
    low, high = wilson_interval(0.85, 40)  # 40 images, not 80: the seeds share them
    assert found["95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f}"
    assert (found["parameters"], found["MFLOP"]) == ("1,234", "10.0")
    assert found["s per epoch"] == "3.0"  # of 12, 2, 2 and 13, 3, 3
    assert found["peak memory / MiB"] == "101"  # of 100 and 101
    both = [run.evaluation for run in row.results]
    auc, error = (statistics.fmean(values) for values in zip(*map(figures_of, both), strict=True))
    assert float(found["macro AUC"]) == pytest.approx(auc, abs=6e-5)
    assert float(found["calibration error / %"]) == pytest.approx(100 * error, abs=0.06)


def test_what_was_not_saved_is_unknown_not_guessed():
    (row,) = join_seeds([trained(0), replace(trained(1, 0.8), evaluation=None, mult_adds=None)])
    found = cells(row)
    assert found["accuracy / %"] == "95.00"  # the second one's history ends with 0.95 as well
    assert [found[name] for name in ("95 % interval", "macro AUC", "calibration error / %")] == ["–"] * 3
    old = replace(evaluation(0.9), calibration=[], calibration_error=None)
    assert cells(join_seeds([replace(trained(0), evaluation=old)])[0])["calibration error / %"] == "–"


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([(0.5, 0.9, 0.8)], "2"),
        ([(0.5, 0.92, 0.8), (0.95, 0.2, 0.3)], "1 to 2"),
        ([(0.5, 0.92, 0.8), (0.5, 0.89, 0.89)], "2 to over 3"),
        ([(0.5, 0.6, 0.89)], "not in 3"),
    ],
)
def test_epochs_to_ninety_per_cent(accuracies, expected):
    runs = [trained(seed, past=history(seed, shares)) for seed, shares in enumerate(accuracies)]
    assert cells(join_seeds(runs)[0])["epochs to 90 %"] == expected


TINY = ("--images", "100", "--epochs", "1", "--channels", "4", "--capsule-types", "1")


def command(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["capsnb", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    captured = capsys.readouterr()
    return done.value.code or 0, captured.out, captured.err


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two seeds of one tiny network and another one, as `capsnb train` leaves them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name, more in {"a0": (), "a1": ("--seed", "1"), "b0": ("--channels", "5")}.items():
            patch.setattr("sys.argv", ["capsnb", "train", str(folder / name), *TINY, *more])
            with pytest.raises(SystemExit, match="0"):
                cli.main()
    return folder


def test_a_saved_run_is_read_as_it_was_trained(saved):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    result = read(saved / "a1")
    assert torch.equal(torch.get_rng_state(), state)
    assert result.history["test_accuracy"][-1] == result.accuracy == result.evaluation.accuracy
    assert result.mult_adds == summary(CapsNet(channels=4, capsule_types=1)).total_mult_adds
    assert (result.run.data, result.run.images, result.run.config.seed) == ("mnist5k", 100, 1)
    assert [row.label for row in join_seeds(map(read, (saved / "a0", saved / "b0", saved / "a1")))] == [
        *("CapsNet, channels 4", "CapsNet, channels 5")
    ]


def test_a_network_trained_in_a_notebook_stands_beside_the_saved_ones(saved):
    data = load_data("mnist5k").subset(train=100)
    torch.manual_seed(1)
    network = CapsNet(channels=4, capsule_types=1)
    past = fit(network, data, TrainConfig(epochs=1, seed=1), progress=False)
    result = RunResult.of(network, data, past, label="mine")
    same = read(saved / "a1")
    assert result.history["loss"] == same.history["loss"] and result.mult_adds == same.mult_adds
    assert result.run.preprocess == asdict(Preprocess()) and result.accuracy == past["test_accuracy"][-1]
    assert [row.label for row in join_seeds([same, result])] == ["CapsNet", "mine"]


def test_the_command_shows_the_table_and_writes_both_files(saved, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(monkeypatch, capsys, "compare", saved / "a0", saved / "a1", saved / "b0")
    assert (
        code == 0
        and re.search(r"\| CapsNet, channels 4 +\| +2 \|", out)
        and "mnist5k[train=100], 1,000 test images" in out
    )
    written = (tmp_path / "comparison" / "comparison.md").read_text()
    assert out.split("\n\nwritten to")[0] in written
    assert all(note in written for note in comparison.NOTES)
    assert f"CapsNet, channels 4: {saved / 'a0'}, {saved / 'a1'}" in written
    assert (tmp_path / "comparison" / "comparison.html").read_text().startswith("<!doctype html>")
    code, _, err = command(monkeypatch, capsys, "compare", saved / "a0", "nowhere")
    assert code == 2 and "nowhere does not exist: name a folder that `capsnb train` wrote" in err


def test_a_missing_and_a_damaged_record_are_named(saved, tmp_path):
    record = tmp_path / "run.json"
    whole = (saved / "a0" / "run.json").read_bytes()
    for broken in (b"", whole[:-20], b"\xff\xfe", b"3", b"[]", b"{}"):
        record.write_bytes(broken)
        with pytest.raises(
            ValueError, match=f"{re.escape(str(record))} is not the record of a run.*train again"
        ):
            read(tmp_path)
    record.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{re.escape(str(record))} does not exist: name a folder that"
    ):
        read(tmp_path)


def test_a_run_that_is_not_finished_is_refused(saved, tmp_path):
    replace(read(saved / "a0"), history=None, evaluation=None).save(tmp_path / "run.json")
    with pytest.raises(
        ValueError, match="the run is not finished; run the same `capsnb train` again to resume it"
    ):
        read(tmp_path)
    with pytest.raises(ValueError, match="is not finished: only finished runs are compared"):
        join_seeds([RunResult.load(tmp_path)])


def test_an_old_file_of_a_study_has_no_evaluation_but_everything_else(tmp_path):
    (path,) = (results() / "depth").glob("mocapsnet-1-block-seed0.json")
    result, saved = read(path), RunResult.load(path)
    assert (result.run.label, result.accuracy, result.evaluation) == (
        "MoCapsNet, 1 block",
        saved.accuracy,
        None,
    )
    network = models.MoCapsNet(**result.run.sizes)
    assert saved.mult_adds is None and result.mult_adds == summary(network).total_mult_adds
    stopped = replace(saved, history=None, failure="the loss is not finite in epoch 1")
    stopped.save(tmp_path / "stopped.json")
    with pytest.raises(
        ValueError, match=r"stopped\.json has no accuracy \(the loss is not finite in epoch 1\)"
    ):
        read(tmp_path / "stopped.json")
    (tmp_path / "half.json").write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"half\.json is not the record of a run"):
        read(tmp_path / "half.json")


def test_a_study_s_file_has_its_evaluation():
    result = read(results() / "head-ablation" / "alexcapsnet-capsules-seed0.json")
    assert result.accuracy == result.evaluation.accuracy
    assert sum(map(sum, result.evaluation.confusion)) == result.evaluation.count == 1000
    assert "97.8" in comparison_table(join_seeds([result]))


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


def test_the_page_asks_for_nothing_and_every_figure_can_be_read_aloud():
    runs = [trained(0, name="<b>A & B</b>"), trained(1, name="<b>A & B</b>"), trained(0, 0.8, "C|D")]
    page = comparison_page.page(join_seeds(runs))
    tags = Tags(page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(http|@import", page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    assert "<b>" not in page and "&lt;b&gt;A &amp; B&lt;/b&gt;" in page
    drawn = [attributes for tag, attributes in tags.found if tag == "svg"]
    assert len(drawn) == 1 + 2 * 3  # curves; confusion, ROC and reliability of each row
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in drawn)
    assert all("max-width:100%" in svg["style"] for svg in drawn)
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 5
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags.found
    place = next(i for i, (tag, _) in enumerate(tags.found) if tag == "table")
    assert tags.found[place - 1][1]["class"] == "wide"  # wider than a phone, it scrolls in its own box
    assert re.search(r"\.wide \{[^}]*overflow-x: auto", page) and "prefers-color-scheme: dark" in page
    assert "C\\|D" in comparison_table(join_seeds(runs))


def test_figures_are_of_the_lowest_seed_not_of_the_best():
    titles = dict(comparison_page.figures(join_seeds([trained(4, 0.95), trained(1, 0.7)])))
    assert [title for title in titles if "seed 1" in title] == list(titles)[1:]
    assert "70.0 % of 40 images right" in titles["CapsNet (seed 1): confusion matrix"].alt
    assert "mean and range of 2 seeds" in titles["Training"].alt
    only_histories = [replace(trained(seed), evaluation=None) for seed in (0, 1)]
    assert list(dict(comparison_page.figures(join_seeds(only_histories)))) == ["Training"]


def test_what_cannot_be_drawn_leaves_no_half_result(tmp_path, monkeypatch):
    def broken(_):
        raise ValueError("cannot draw")

    monkeypatch.setattr(comparison_page, "figures", broken)
    with pytest.raises(ValueError, match="cannot draw"):
        comparison_page.save(join_seeds([trained(0)]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_are_text_in_the_table(tmp_path):
    odd = replace(trained(0), run=replace(trained(0).run, label="<b>*Caps*</b> $x$ | y"), source="runs/<i>")
    table, page = (
        path.read_text(encoding="utf-8") for path in comparison_page.save(join_seeds([odd]), tmp_path)
    )
    assert r"\<b>\*Caps\*\</b> \$x\$ \| y |" in table and r"runs/\<i>" in table
    assert "&lt;b&gt;*Caps*&lt;/b&gt; $x$ | y" in page and "<b>*" not in page
