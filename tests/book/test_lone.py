"""Chapters in a clean environment, as in Colab: with an older PyTorch, without capsnb; nothing there may change."""

import json
import os
import subprocess
import sys
from pathlib import Path

import chapters
import lone
import pytest

FOLDER = os.environ.get("CAPSNB_LONE", "")
OLDEST = min(lone.TORCHVISION)

asked_for = pytest.mark.skipif(
    not FOLDER, reason="downloads 3 GB of an older PyTorch, once: CAPSNB_LONE=FOLDER make test"
)


@pytest.fixture(scope="module")
def clean(settings, tmp_path_factory):
    """The Python of the clean environment, and its variables; nothing that was there may be another afterwards."""
    folder = Path(FOLDER).resolve()
    variables = lone.environment(folder)
    fetch = [
        "git",
        "clone",
        "--quiet",
        settings["repository"]["url"],
        str(tmp_path_factory.mktemp("fetched")),
    ]
    try:
        subprocess.run(fetch, env=variables, check=True)  # what git answers for the book's address
        python = lone.prepare(folder, sys.executable, OLDEST)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the clean environment cannot be made here: {error}")
    before = lone.installed(python)
    assert before["torch"].startswith(OLDEST) and "capsnb" not in before
    yield python, variables
    after = lone.installed(python)
    assert not lone.changes(before, after)
    assert "capsnb" in after


@asked_for
@pytest.mark.parametrize("path", chapters.chapters(), ids=lambda path: path.stem)
@pytest.mark.timeout(1860)
def test_chapter_installs_what_it_needs(path, clean):
    _, failure = lone.run(path, *clean)
    assert not failure


def test_a_changed_environment_would_be_seen():
    before = {"torch": "2.6.0", "numpy": "2.0", "pip": "1"}
    assert lone.changes(before, {**before, "capsnb": "0.1"}) == {}
    assert lone.changes(before, {"torch": "2.7.0", "pip": "1"}) == {
        "torch": ["2.6.0", "2.7.0"],
        "numpy": ["2.0", None],
    }


def test_what_was_found_is_of_these_chapters(root):
    found = json.loads((root / "results" / "lone.json").read_text())
    assert set(found["chapters"]) == {path.stem for path in chapters.chapters()}, (
        "run: python tools/lone.py DIR"
    )
    assert found["versions"]["torch"].startswith(OLDEST) and not found["changed"]
    assert not any(one["failure"] for one in found["chapters"].values())
