"""Run chapters as Colab does: python tools/lone.py FOLDER [--python PYTHON] [--torch 2.6.0] [03 ...].

FOLDER gets a virtual environment with Jupyter's kernel and a PyTorch that was there before, and nothing of capsnb. Each
chapter then runs alone in an empty folder. Its set-up cell installs capsnb as it stands there, from the address
that it names; git answers for that address with the commit that is checked out here. Nothing that was there may change
but by addition. What was found goes into results/lone.json; chapters that are named are added to the others there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from chapters import ROOT, chapters

from capsnb.files import write_atomically
from capsnb.profiling import hardware

RESULTS = ROOT / "results" / "lone.json"
TORCHVISION = {"2.6.0": "0.21.0"}  # the oldest pair that capsnb promises to work with
INSTALLED = (
    "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
)


def prepare(folder: Path, python: str, torch: str) -> Path:
    """Make the environment, unless it is there, take capsnb out of it, and return its Python."""
    inside = folder / "venv" / "bin" / "python"
    if not inside.exists():
        there = [
            f"torch=={torch}",
            f"torchvision=={TORCHVISION[torch]}",
            "ipykernel",
            "nbclient",
            "matplotlib",
        ]
        try:
            _run([python, "-m", "venv", folder / "venv"], check=True)
            _run([inside, "-m", "pip", "install", "--quiet", *there], check=True)
        except BaseException:
            shutil.rmtree(folder / "venv", ignore_errors=True)  # half of it would pass for all of it
            raise
    _run([inside, "-m", "pip", "uninstall", "--quiet", "--yes", "capsnb"], check=True)
    return inside


def _run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a Python that the caller named, or the one that was made of it."""
    return subprocess.run(command, **options)  # noqa: S603 - no shell, and no text from elsewhere


def installed(python: Path) -> dict[str, str]:
    """Return what an environment holds, by name."""
    said = _run([python, "-c", INSTALLED], check=True, capture_output=True, text=True).stdout
    return json.loads(said)


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str | None]]:
    """Return what was there before and is not now, or is another version: by name, the two versions."""
    return {
        name: [version, after.get(name)] for name, version in before.items() if after.get(name) != version
    }


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of a machine that knows nothing of this repository but what git fetches from its address."""
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    left_out = ("PYTHONPATH", "CAPSNB_PROFILE", "CAPSNB_CACHE", "VIRTUAL_ENV")
    return {
        **{name: value for name, value in os.environ.items() if name not in left_out},
        "XDG_CACHE_HOME": str(folder / "cache"),
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
    }


def run(path: Path, python: Path, variables: dict[str, str]) -> tuple[float, str]:
    """Execute one chapter in an empty folder; return its seconds and the last line of its error, if it failed."""
    with tempfile.TemporaryDirectory() as empty:
        shutil.copy(path, empty)
        command = [python, "-m", "jupyter", "execute", "--timeout=1800", path.name]
        start = time.perf_counter()
        done = _run(command, cwd=empty, env=variables, capture_output=True, text=True, check=False)
    lines = (done.stderr or done.stdout).strip().splitlines() if done.returncode else []
    return time.perf_counter() - start, lines[-1] if lines else ""


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("numbers", nargs="*")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch", default="2.6.0", choices=TORCHVISION)
    arguments = parser.parse_args()
    python = prepare(arguments.folder.resolve(), arguments.python, arguments.torch)
    before, variables = installed(python), environment(arguments.folder.resolve())
    version = _run([python, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    found: dict[str, Any] = {}
    for path in chapters(arguments.numbers):
        seconds, failure = run(path, python, variables)
        found[path.stem] = {"seconds": round(seconds, 1), "failure": failure}
        print(f"{path.stem}: {seconds:.0f} s {failure}", flush=True)
    after = installed(python)
    changed = changes(before, after)
    print(
        f"changed by the set-up cell: {changed or 'nothing'}; added: {', '.join(sorted(after.keys() - before.keys()))}"
    )
    result = {
        "about": "Written by tools/lone.py: every chapter alone, as Colab would run it.",
        "command": f"python tools/lone.py DIR --python PYTHON --torch {arguments.torch}",
        "hardware": hardware(),
        "versions": {"python": version, **{name: before[name] for name in ("torch", "torchvision", "numpy")}},
        "changed": changed,
        "chapters": found,
    }
    known = json.loads(RESULTS.read_text()) if arguments.numbers else result
    if known["versions"] == result["versions"]:  # named chapters are added to those that were run before
        result["chapters"] = dict(sorted((known["chapters"] | found).items()))
        write_atomically(RESULTS, json.dumps(result, indent=2) + "\n")
    else:
        print(f"not added to {RESULTS.name}, which is of {known['versions']}: run all chapters")
    sys.exit(bool(changed) or any(one["failure"] for one in found.values()))


if __name__ == "__main__":
    main()
