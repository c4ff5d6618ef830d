"""The zip for a room without a network: it reads, searches and installs from wherever it was unpacked."""

import subprocess
import sys
import zipfile

import bundle
import pytest


@pytest.fixture(scope="module")
def unpacked(pages, tmp_path_factory):
    place = tmp_path_factory.mktemp("classroom")
    bundle.bundle(pages, place / "book.zip")
    with zipfile.ZipFile(place / "book.zip") as archive:
        archive.extractall(place)
    return place / bundle.FOLDER


def test_it_holds_pages_notebooks_and_wheel(unpacked, root):
    assert {path.name for path in (root / "book").glob("*.ipynb")} == {
        path.name for path in (unpacked / "notebooks").iterdir()
    }
    (wheel,) = (unpacked / "wheels").glob("*.whl")
    assert wheel.name in (unpacked / "README.txt").read_text()
    with zipfile.ZipFile(wheel) as inside:
        names = set(inside.namelist())
    assert {"capsnb/assets/mnist5k.npz", "capsnb/results/chapters.json"} <= names


def test_the_line_in_its_readme_installs_it(unpacked, tmp_path):
    (line,) = [one for one in (unpacked / "README.txt").read_text().splitlines() if "pip install" in one]
    command = line.split()[1:]
    subprocess.run(
        [sys.executable, *command, "--quiet", "--target", tmp_path / "site"], cwd=unpacked, check=True
    )
    ask = "import capsnb; print(len(capsnb.load_data('mnist5k').train), capsnb.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", ask], env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path, check=True,
        capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert int(said[0]) == 4000 and said[1].startswith(str(tmp_path))


def test_it_reads_from_the_disk(unpacked, tab):
    page = tab.open((unpacked / "html" / "index.html").as_uri(), "light")
    page.locator(".chapter-map a").first.click()
    page.wait_for_load_state()
    assert "Why capsules" in page.title()
    assert not tab.errors and not tab.outside


def test_without_pages_it_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="make book"):
        bundle.bundle(tmp_path, tmp_path / "book.zip")
    assert not (tmp_path / "book.zip").exists()
