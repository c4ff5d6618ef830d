"""Put the built book, the notebooks and capsnb's wheel into one zip that needs no network. Run it as `make bundle`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from capsnb.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "capsnb-book"
README = """\
Capsule networks, from the squash up: the whole book, for a place without a network.

To read: open html/index.html in a browser. Search, mathematics and live figures work from the disk.

To run a chapter: capsnb is in wheels/, with the 5,000 digits and the measured results inside. Where PyTorch and
torchvision are installed,

    python -m pip install --no-index --no-deps wheels/{wheel}

adds it and touches nothing else; without --no-index --no-deps pip fetches what is missing. Then open notebooks/ in
Jupyter.
"""


def wheel(place: Path) -> Path:
    """Build capsnb's wheel into a folder and return its path."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - build, on this repository
    return next(place.glob("*.whl"))


def bundle(html: Path, target: Path) -> None:
    """Write the zip, whole or not at all.

    Raises:
        FileNotFoundError: the book is not built.
    """
    if not (html / "index.html").is_file():
        raise FileNotFoundError(f"no index.html in {html}: build the book first, with make book")
    with tempfile.TemporaryDirectory() as scratch:
        built = wheel(Path(scratch))
        files = {
            f"html/{path.relative_to(html).as_posix()}": path for path in html.rglob("*") if path.is_file()
        }
        files |= {f"notebooks/{path.name}": path for path in (ROOT / "book").glob("*.ipynb")}
        files[f"wheels/{built.name}"] = built
        whole = Path(scratch) / target.name
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{FOLDER}/README.txt", README.format(wheel=built.name))
            for name, path in sorted(files.items()):
                archive.write(path, f"{FOLDER}/{name}")
        write_atomically(target, whole.read_bytes())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built book")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / f"{FOLDER}.zip")
    arguments = parser.parse_args()
    try:
        bundle(arguments.html, arguments.output)
    except FileNotFoundError as problem:
        sys.exit(f"capsnb: {problem}")
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
