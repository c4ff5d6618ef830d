"""What the tests of the book share: the installed wheel, the built pages, a browser."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import build_book
import bundle
import pytest
import screenshots
import yaml
from filelock import FileLock

ROOT = build_book.ROOT
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Mark all tests of the book, and those that need a browser."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("book")
            if "chromium" in item.fixturenames:
                item.add_marker("browser")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def settings() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


@pytest.fixture(scope="session")
def once(request, tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns a folder of this name, which the first worker that asks fills for all of them.

    A folder has its name only when it is complete: if a worker dies, its lock is free and the next one begins anew.
    What failed for one worker fails for all of them, and is not tried again.
    """
    place = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        place = place.parent  # which the workers of a run share

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        with FileLock(place / f"{name}.lock"):
            failed = place / f"{name}.failed"
            if failed.exists():
                pytest.fail(f"{failed.read_text()} (in another worker; its output stands there)")
            if not (place / name).exists():
                draft = Path(tempfile.mkdtemp(dir=place))
                try:
                    fill(draft)
                except Exception as error:
                    failed.write_text(str(error))
                    raise
                draft.rename(place / name)
        return place / name

    return made


@pytest.fixture(scope="session")
def site(once) -> Iterator[Path]:
    """The wheel, built and installed into a folder of its own, as a reader's pip would; nobody may write into it."""

    def install(place: Path) -> None:
        wheel = bundle.wheel(place)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*command, "--target", str(place / "site"), str(wheel)], check=True)
        for path in (place / "site", *(place / "site").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

    place = once("wheel", install) / "site"

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (place, *place.rglob("*"))}

    there = written()
    yield place
    assert written() == there, (
        "something was written into the installed package, which may belong to somebody else"
    )


@pytest.fixture(scope="session")
def pages(once) -> Path:
    """The folder of the pages, all of them built anew with warnings as errors."""

    def build(place: Path) -> None:
        assert build_book.build(place, fresh=True) == 0, "the book does not build; the warnings stand above"

    return once("book", build) / "_build" / "html"


@pytest.fixture(scope="session")
def chromium():
    if screenshots.find_browser() is None:
        pytest.skip(
            "no Chromium was found: install Chromium or Chrome, or name one in the variable CAPSNB_CHROMIUM"
        )
    with screenshots.browser() as running:
        yield running


@pytest.fixture(scope="session")
def tab(chromium) -> Iterator[screenshots.Tab]:
    """One tab for all tests that only need a page as it is after loading."""
    with screenshots.Tab(chromium) as tab:
        yield tab


@pytest.fixture
def page(request, pages, tab):
    """The page that a module of tests calls PAGE; it must ask for nothing outside and write no errors."""
    yield tab.open((pages / request.module.PAGE).as_uri(), "light")
    assert not tab.errors and not tab.outside
