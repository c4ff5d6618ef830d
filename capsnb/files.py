"""Atomic writes: a file is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new file, never a part of it.

    The bytes are written to a temporary file in the same folder and flushed to the disk (fsync). Then the file is
    renamed in one step (`os.replace`). A full disk or a killed process leaves the old file unchanged.

    Args:
        path: the file to write; missing parent folders are created.
        content: bytes, or text that is written as UTF-8.

    Returns:
        The path that was written.

    Raises:
        OSError: the folder is not writable or the disk is full; the old file is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp creates private files, but results are shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def results() -> Path:
    """The folder of measurements: beside the package in a checkout, inside the package in an installed wheel."""
    package = Path(__file__).parent
    inside = package / "results"
    return inside if inside.exists() else package.parent / "results"
