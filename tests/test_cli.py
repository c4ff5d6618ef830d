"""The command line: a run in a folder, and one-line errors."""

import json

import pytest

from capsnb import cli


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
    assert files == {"run.json", "checkpoint.safetensors", "history.json", "evaluation.json"}
    first = (tmp_path / "run" / "evaluation.json").read_text()
    (tmp_path / "run" / "evaluation.json").unlink()
    code, again, _ = run(monkeypatch, capsys, "evaluate", tmp_path / "run")
    assert code == 0 and again.splitlines()[0] in out
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == json.loads(first)


def test_data_says_what_is_in_it(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "data", "mnist5k")
    assert code == 0 and "4,000 images" in out and "1,000 images" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("data", "mnist6k"), "mnist6k"),
        (("data", "mnist", "--root", "nowhere"), "nowhere"),
        (("train", "run", "--epochs", 0), "epochs must be 1 or more"),
        (("train", "run", "--schedule", "cosin"), "unknown schedule 'cosin'"),
        (("evaluate", "nowhere"), "run.json does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_damaged_run_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "run.json").write_text("{")
    code, _, err = run(monkeypatch, capsys, "evaluate", tmp_path)
    assert code == 2 and "run.json is damaged" in err
