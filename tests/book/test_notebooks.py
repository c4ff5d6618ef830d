"""Chapters run as a reader has them: a lone file, capsnb from its wheel, no repository in sight."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chapters
import nbformat
import pytest

CHAPTERS = chapters.chapters()
CHAPTER_TIMEOUT = 900  # a machine in trouble; how fast a chapter is, results/chapters.json says

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize("path", [*CHAPTERS, *chapters.pages()], ids=lambda path: path.stem)

SETUP = """\
try:
    import capsnb
except ModuleNotFoundError:  # in Colab: install capsnb, keep the torch that is there
    %pip install -q "git+{url}"
    import capsnb
chapter = capsnb.start_chapter({number})
"""

BADGES = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{name}/blob/{branch}/book/{file})",
    "(https://raw.githubusercontent.com/{name}/{branch}/book/{file})",
)


@pytest.fixture
def lone_environment(site: Path) -> dict[str, str]:
    """The environment of a process that finds the wheel, which it can only read, in the quick profile.

    Chapters are tests in a pytest of their own, which options and workers of this one do not concern.
    """
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**outer, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "CAPSNB_PROFILE": "quick"}


def guards() -> dict[str, Path]:
    """What must hold after a chapter's last cell but teaches nothing, by chapter: plain assertions on its variables."""
    return {path.stem: path for path in Path(__file__).with_name("guards").glob("*.py")}


def test_guards_belong_to_chapters():
    assert guards() and guards().keys() <= {path.stem for path in CHAPTERS}


def test_the_wheel_shadows_the_repository(lone_environment, site, tmp_path):
    where = [sys.executable, "-c", "import capsnb; print(capsnb.__file__)"]
    found = subprocess.run(
        where, env=lone_environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()).is_relative_to(site)


def test_what_was_measured_travels_in_the_wheel(site, root):
    measured = {path.name for path in (root / "results").glob("*.json")}
    assert measured and measured <= {path.name for path in (site / "capsnb" / "results").iterdir()}


@pytest.mark.chapter
@each_notebook
@pytest.mark.timeout(CHAPTER_TIMEOUT + 60)
def test_chapter_runs_alone(path, lone_environment, tmp_path):
    notebook = chapters.read(path)
    if guard := guards().get(path.stem):
        notebook.cells.append(nbformat.v4.new_code_cell(guard.read_text(encoding="utf-8")))
    nbformat.write(notebook, tmp_path / path.name)
    (tmp_path / "plugins").mkdir()
    command = [sys.executable, "-m", "pytest", path.name, "--nbval-lax", "-x", "-q", "--tb=short"]
    command += ["-p", "no:cacheprovider", "-p", "nbval_patience", f"--nbval-cell-timeout={CHAPTER_TIMEOUT}"]
    shutil.copy(Path(__file__).with_name("nbval_patience.py"), tmp_path / "plugins" / "nbval_patience.py")
    lone_environment["PYTHONPATH"] += os.pathsep + str(tmp_path / "plugins")
    run = subprocess.run(
        command, cwd=tmp_path, env=lone_environment, timeout=CHAPTER_TIMEOUT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


@each_chapter
def test_opening_cells(path, settings):
    """Title and badges, card, set-up: the first three cells, with the address that _config.yml gives."""
    title, card, setup, *_ = chapters.read(path).cells
    repository = settings["repository"]
    address = {"name": repository["url"].removeprefix("https://github.com/"), "branch": repository["branch"]}
    assert re.match(r"# \S.*\n", title.source)
    for badge in BADGES:
        assert badge.format(**address, file=path.name) in title.source
    assert card.source.startswith("> **What you need**\n>\n> - "), "the second cell is the card"
    assert setup.cell_type == "code"
    assert setup.source == SETUP.format(url=repository["url"], number=int(path.name[:2])).strip()


@each_chapter
def test_card_holds_what_was_measured(path):
    notebook, figures = chapters.read(path), chapters.load_results().get(path.stem)
    assert figures, f"not measured yet: make chapter N={path.name[:2]}"
    assert figures["read_minutes"] == chapters.reading_minutes(notebook), (
        "run: python tools/chapters.py cards"
    )
    (said,) = notebook.cells[2].outputs
    assert re.match(
        r"(No GPU|GPU: .+) · \d+ CPU threads · quick profile, about \d+ (s|minutes) on ", said.text
    )
    chapters.refresh_card(notebook, figures)
    assert notebook == chapters.read(path), "run: python tools/chapters.py cards"


@each_notebook
def test_answers_fold_in_a_notebook_too(path):
    """A directive would stand open where nothing knows it: in Jupyter and in Colab, the solution for all to see."""
    prose = "\n\n".join(cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown")
    assert "{dropdown}" not in prose
    folded = re.findall(
        r"^<details>\n<summary>[^\n]+</summary>\n\n.*?\n\n</details>$", prose, re.DOTALL | re.MULTILINE
    )
    assert len(folded) == prose.count("<details>") == prose.count("</details>")


def test_results_name_only_chapters_that_exist():
    assert set(chapters.load_results()) == {path.stem for path in CHAPTERS}


@each_notebook
def test_outputs_are_committed_and_clean(path):
    """Executed from the first cell to the last, with no error, warning, widget or path of a machine."""
    code = [cell for cell in chapters.read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "execute it: make chapter"
    )
    for cell in code:
        expected_error = "raises-exception" in cell.metadata.get("tags", [])
        for output in cell.outputs:
            assert output.output_type != "error" or expected_error, output.get("evalue")
            assert output.get("name") != "stderr", output.text
            assert not any("widget" in kind for kind in output.get("data", {}))
    assert not re.search(r"/(?:root|home|Users|tmp|work|mnt)/", path.read_text(encoding="utf-8"))


@each_notebook
def test_tables_of_results_show_what_is_in_results(path):
    """A number on the page that `results/` does not give is an error, also one that was right last week."""
    now = chapters.read(path)
    chapters.refresh_tables(now)
    assert now == chapters.read(path), "run: python tools/chapters.py tables"


@each_notebook
def test_metadata_is_tidy(path):
    notebook = chapters.read(path)
    nbformat.validate(notebook)
    tidied = chapters.tidy(chapters.read(path))
    assert tidied == notebook, f"run: python tools/chapters.py tidy book/{path.name}"
    assert json.loads(path.read_text(encoding="utf-8"))["nbformat_minor"] == 5
