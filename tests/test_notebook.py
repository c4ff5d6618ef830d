"""The first line of a chapter, and a torch that does not fit its torchvision."""

import json
import subprocess
import sys

import pytest
import torch

from capsnb import files, start_chapter
from capsnb.compat import check_torchvision


def test_profile_is_read_and_said(monkeypatch, capsys):
    monkeypatch.setenv("CAPSNB_PROFILE", "full")
    chapter = start_chapter()
    assert chapter.pick(quick=1, full=2) == 2
    assert "full profile" in capsys.readouterr().out
    monkeypatch.delenv("CAPSNB_PROFILE")
    assert start_chapter().profile == "quick"


def test_a_misspelt_profile_is_named(monkeypatch):
    monkeypatch.setenv("CAPSNB_PROFILE", "fast")
    with pytest.raises(ValueError, match="'fast'; set it to 'quick' or 'full'"):
        start_chapter()


def test_a_chapter_starts_from_its_seed():
    start_chapter(seed=3)
    first = torch.rand(3)
    start_chapter(seed=3)
    assert torch.equal(first, torch.rand(3))


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Chapter 1 was measured on a CPU and on a GPU, chapter 2 on a CPU alone, chapter 3 never."""

    def run(seconds, gpu=None):
        return {"seconds": seconds, "hardware": {"cores": 2, "gpu": gpu}}

    times = {
        "01_a": {"cpu": run(300), "gpu": run(40, "Tesla T4")},
        "02_b": {"cpu": run(23), "gpu": None},
        "03_c": {"cpu": None, "gpu": None},
    }
    (tmp_path / "chapters.json").write_text(json.dumps({"chapters": times}))
    monkeypatch.setattr(files, "results", lambda: tmp_path)


@pytest.mark.parametrize(
    ("number", "gpu", "expected"),
    [
        (1, None, "about 5 minutes on 2 CPU cores"),
        (1, "Tesla T4", "about 40 s on Tesla T4"),
        (2, "Tesla T4", "about 23 s on 2 CPU cores"),
        (3, None, "not timed yet"),
    ],
)
def test_the_first_line_says_what_was_found_and_how_long_it_takes(
    number, gpu, expected, measured, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: gpu)
    monkeypatch.delenv("CAPSNB_PROFILE", raising=False)
    assert start_chapter(number).device == ("cuda" if gpu else "cpu")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"GPU: {gpu} · " if gpu else "No GPU · ")
    assert f" · quick profile, {expected} · " in line


def test_a_chapter_that_does_not_exist_is_named(measured):
    with pytest.raises(ValueError, match="there is no chapter 4; choose from 1 to 3"):
        start_chapter(4)


@pytest.mark.parametrize("gpu", [False, True])
def test_colab_without_a_gpu_is_told_how_to_get_one(gpu, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    start_chapter()
    assert ("T4 GPU, then run all cells again" in capsys.readouterr().out) == (not gpu)


IMPORTS = """
import sys, capsnb
print(sorted({heavy} & set(sys.modules)))
for name in [name for name in sys.modules if name.partition(".")[0] in ("capsnb", "torchvision")]:
    del sys.modules[name]
sys.path.insert(0, {folder})
import capsnb
"""
HEAVY = {"matplotlib", "seaborn", "sklearn", "accelerate", "typer", "IPython", "mlxtend", "pandas"}


def test_importing_capsnb_is_light_and_a_pair_that_does_not_fit_is_one_clear_sentence(tmp_path):
    """Libraries that only some functions need are imported by those; the measuring machine lacks some of them.

    Then, in the same process, comes a torchvision that fails as the real one does beside another build of torch.
    """
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    code = IMPORTS.format(heavy=HEAVY, folder=repr(str(tmp_path)))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    last = found.stderr.strip().splitlines()[-1]
    assert found.returncode == 1
    assert last.startswith("ImportError: torch ") and "torchvision" in last and "do not fit together" in last
    assert "pip install" in last


def test_the_pair_here_fits():
    check_torchvision()
