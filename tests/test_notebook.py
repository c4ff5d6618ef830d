"""The first line of a chapter, and a torch that does not fit its torchvision."""

import subprocess
import sys

import pytest
import torch

from capsnb import start_chapter
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
    start_chapter(3)
    first = torch.rand(3)
    start_chapter(3)
    assert torch.equal(first, torch.rand(3))


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
