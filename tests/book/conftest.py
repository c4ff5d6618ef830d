"""What the tests of the book share: the installed wheel, the built pages, a browser."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import build_book
import bundle
import pytest
import screenshots
import yaml

ROOT = build_book.ROOT


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def settings() -> dict:
    return yaml.safe_load((ROOT / "_config.yml").read_text())


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Iterator[Path]:
    """The wheel, built and installed into a folder of its own, as a reader's pip would; nobody may write into it."""
    place = tmp_path_factory.mktemp("wheel")
    wheel = bundle.wheel(place)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(place / "site"), str(wheel)], check=True)

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [place / "site", *(place / "site").rglob("*")]}

    there = written()
    for path in there:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield place / "site"
    assert written() == there, (
        "something was written into the installed package, which may belong to somebody else"
    )
    for path in there:
        path.chmod(0o755)


@pytest.fixture(scope="session")
def pages(tmp_path_factory) -> Path:
    """The folder of the pages, all of them built anew with warnings as errors."""
    place = tmp_path_factory.mktemp("book")
    assert build_book.build(place, fresh=True) == 0, "the book does not build; the warnings stand above"
    return place / "_build" / "html"


@pytest.fixture(scope="session")
def chromium():
    if screenshots.find_browser() is None:
        pytest.skip("no browser: install Chromium, or name one in CAPSNB_CHROMIUM")
    with screenshots.browser() as running:
        yield running


@pytest.fixture
def page(request, pages, chromium):
    """The page that a module of tests calls PAGE; it must ask for nothing outside and write no errors."""
    page, errors, outside = screenshots.open_page(chromium, (pages / request.module.PAGE).as_uri(), "light")
    yield page
    page.context.close()
    assert not errors and not outside
