"""Atomic writes: a file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
            with _where_supported():
                os.fsync(file.fileno())
        with _where_supported():  # mkstemp creates private files, but results are shared
            os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextmanager
def _where_supported() -> Iterator[None]:
    """Do what some network and memory file systems refuse; a full disk is an error all the same."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise


VERSION = 2  # of what capsnb saves; files without a number are of version 1
FORMAT = {"format": VERSION}


class NewerFormatError(ValueError):
    """A newer capsnb wrote the file, so it is not damaged."""


def check_format(saved: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Take the number of the format out of what was saved; refuse that of a newer capsnb by name.

    Raises:
        NewerFormatError: a newer version wrote the file.

    >>> check_format({"format": 99}, "run.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    capsnb.files.NewerFormatError: run.json was written by a newer capsnb (format 99; ...): update capsnb
    """
    version = saved.pop("format", 1)
    if isinstance(version, int) and version > VERSION:
        raise NewerFormatError(
            f"{os.fspath(path)} was written by a newer capsnb (format {version}; this one reads up to {VERSION}): "
            "update capsnb"
        )


def results() -> Path:
    """The folder of measurements: beside the package in a checkout, inside the package in an installed wheel."""
    package = Path(__file__).parent
    inside = package / "results"
    return inside if inside.exists() else package.parent / "results"
