"""Build the book into _build/html; a warning fails the build. Run it as `make book`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def toc_pages() -> list[str]:
    """Return the names of the pages in reading order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def build(output: Path, *, fresh: bool = False) -> int:
    """Build the pages into `output/_build/html` and return the exit status of Jupyter Book."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "book"]
    command += [
        "--config",
        str(ROOT / "_config.yml"),
        "--toc",
        str(ROOT / "_toc.yml"),
        "--path-output",
        str(output),
    ]
    command += ["--warningiserror", "--nitpick", "--keep-going"]
    command += ["--all"] * fresh
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - Jupyter Book, on this book


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT, help="gets _build (default: the repository)")
    parser.add_argument("--fresh", action="store_true", help="read every page again, also unchanged ones")
    arguments = parser.parse_args()
    sys.exit(build(arguments.output, fresh=arguments.fresh))
