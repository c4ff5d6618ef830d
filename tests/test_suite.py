"""The suite's own rules (`conftest.py`): who sees a GPU, which tests start first, what the summary says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
# A PyTorch that finds a GPU, unless the GPU is hidden in the way that CUDA knows.
TORCH = """
import os
from types import SimpleNamespace
cuda = SimpleNamespace(is_available=lambda: os.environ.get("CUDA_VISIBLE_DEVICES", os.environ["GPUS"]) != "")
"""
POLICY = """
'''
>>> import torch
>>> torch.cuda.is_available()
False
'''
import subprocess, sys
import pytest, torch

def test_here():
    assert not torch.cuda.is_available()

def test_in_a_subprocess():
    ask = "import sys, torch; sys.exit(torch.cuda.is_available())"
    assert not subprocess.run([sys.executable, "-c", ask]).returncode

@pytest.mark.gpu
def test_on_a_gpu():
    assert torch.cuda.is_available()
"""
SKIPPED = """
'''
>>> 1 + 1  # doctest: +SKIP
3
'''
import pytest

@pytest.mark.skipif(True, reason="no Chromium was found: install it")
@pytest.mark.parametrize("k", range(3))
def test_page(k):
    assert False

@pytest.mark.book
@pytest.mark.all_looks
def test_look():
    assert False

@pytest.mark.book
def test_chapter():
    assert False
"""


@pytest.fixture
def suite(tmp_path):
    """A function that runs pytest on one file, with this repository's rules and a PyTorch that is not one."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "chapters.py").write_text("seconds = None")  # there are no chapters

    def run(text: str, *options: str, gpus: str = "0") -> str:
        (tmp_path / "test_one.py").write_text(text)
        outer = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        outer.pop("CUDA_VISIBLE_DEVICES", None)
        plugins = ["-p", "xdist", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "test_one.py", *options],
            env={**outer, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tmp_path), "GPUS": gpus},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_gpu_is_hidden_from_all_tests_but_those_that_are_marked(suite, workers):
    said = suite(POLICY, "-n", workers, "--dist=worksteal")
    assert "3 passed, 1 skipped" in said, said
    assert "1  tests on a GPU run by themselves" in said


@pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ, reason="one process may use all cores: nothing is missing"
)
def test_a_worker_uses_one_thread():
    """Whoever imports PyTorch before `pytest_configure` runs gives each worker all cores."""
    import torch

    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_marked_tests_run_on_a_gpu_by_themselves(suite):
    said = suite(POLICY, "-m", "gpu")
    assert "1 passed, 3 deselected" in said, said
    said = suite(POLICY, "-m", "gpu", gpus="")
    assert "1 skipped, 3 deselected" in said and "1  PyTorch finds no GPU here" in said, said


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_did_not_run_is_said_by_reason(suite, workers):
    said = suite(SKIPPED, "-n", workers, "-m", "not all_looks and not book")
    assert "Tests that were skipped: 4 " in said, said
    assert "     3  no Chromium was found: install it\n        in test_one.py\n" in said
    assert "     1  doctests whose output differs from run to run" in said
    assert "Tests that another command runs: 2 " in said
    assert "     1  pages loaded in the dark and on a phone, and their contrast: make test-all\n" in said
    assert "     1  chapters and pages: make test\n" in said


def item(name: str, *fixtures: str, markers: tuple[str, ...] = ()) -> SimpleNamespace:
    params = {"path": Path(f"{name}.ipynb")}
    return SimpleNamespace(
        name=name,
        fixturenames=fixtures,
        callspec=SimpleNamespace(params=params),
        get_closest_marker=lambda marker: marker if marker in markers else None,
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("units", [0, 1, 50, 51])
def test_the_longest_chapters_start_first_and_pages_come_last(request, monkeypatch, workers, units):
    import chapters

    monkeypatch.setattr(chapters, "seconds", lambda path: float(path.stem.split()[1]))
    dealt = request.config.pluginmanager.get_plugin(str(ROOT / "conftest.py")).dealt
    of_chapters = [item(f"chapter {k}", "site", markers=("chapter",)) for k in (5, 60, 20, 90, 7)]
    older = [item(f"old {k}", "older", markers=("chapter", "older_pytorch")) for k in (300, 400)]
    others = [item(f"page {k}", "pages") for k in range(7)] + [item("wheel", "site")]
    items = [*older, *others, *of_chapters, *(item(f"unit {k}") for k in range(units))]
    names = [one.name for one in dealt(items, workers)]
    assert sorted(names) == sorted(one.name for one in items)
    if units < 50:
        return  # too few to fill up; still nothing is lost
    left = len(names)
    for k in range(workers):
        size = left // (workers - k)  # as xdist cuts the list
        piece, names, left = names[:size], names[size:], left - size
        kinds = "".join("M" if name in ("page 0", "wheel") else name[0].upper() for name in piece)
        assert re.fullmatch("M*C*O*U+P+", kinds), piece
        assert ("M" in kinds) == (k < 2), "what is made once is made by different workers"
        for kind in ("chapter", "old"):
            costs = [float(name.split()[1]) for name in piece if name.startswith(kind)]
            assert costs == sorted(costs, reverse=True)
