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
# The shortest chapter installs capsnb, and the others wait for it: at once, they would write the same files.
FIRST, *OTHERS = sorted(chapters.chapters(), key=chapters.seconds)

older_pytorch = pytest.mark.older_pytorch
asked_for = pytest.mark.skipif(
    not FOLDER,
    reason="chapters beside an older PyTorch download 3 GB: make test-all, or name a folder in CAPSNB_LONE",
)


@pytest.fixture(scope="session")
def older(once, settings):
    """What the clean environment held before any chapter ran there, and the error of the first one, if it failed."""

    def fill(place: Path) -> None:
        folder = Path(FOLDER).resolve()
        variables = lone.environment(folder)
        fetch = ["git", "clone", "--quiet", settings["repository"]["url"], str(place / "fetched")]
        try:
            subprocess.run(fetch, env=variables, check=True)  # what git answers for the book's address
            python = lone.prepare(folder, sys.executable, OLDEST)
        except (OSError, subprocess.CalledProcessError) as error:
            found = {"unavailable": str(error)}
        else:
            before = lone.installed(python)
            found = {
                "python": str(python),
                "before": before,
                "failure": lone.run(FIRST, python, variables)[1],
            }
        (place / "found.json").write_text(json.dumps(found))

    found = json.loads((once("older", fill) / "found.json").read_text())
    if "unavailable" in found:
        pytest.skip(f"the clean environment cannot be made here: {found['unavailable']}")
    return found


@pytest.fixture(scope="session")
def clean(older):
    """The Python of the clean environment, and its variables; nothing that was there may be another afterwards."""
    python = Path(older["python"])
    yield python, lone.environment(Path(FOLDER).resolve())
    after = lone.installed(python)
    assert not lone.changes(older["before"], after)
    assert "capsnb" in after


@older_pytorch
@asked_for
@pytest.mark.timeout(1860)
def test_the_first_chapter_installs_what_it_needs(older, clean):
    assert older["before"]["torch"].startswith(OLDEST) and "capsnb" not in older["before"]
    assert not older["failure"]


@pytest.mark.chapter
@older_pytorch
@asked_for
@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
@pytest.mark.timeout(1860)
def test_chapter_runs_beside_an_older_pytorch(path, clean):
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
