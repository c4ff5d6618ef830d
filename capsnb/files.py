"""Files that are written whole or not at all, and JSON that shows damage."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write `content` to `path` so that a reader sees the old file or the new file, never a part of it.

    The bytes are written to a temporary file in the same folder and flushed to the disk (fsync). Then the file is
    renamed in one step (`os.replace`). A full disk or a killed process leaves the old file unchanged. Temporary files
    that killed processes left are removed when they are an hour old.

    Args:
        path: the file to write; missing parent folders are created.
        content: bytes, or text that is written as UTF-8; names of files in it keep bytes that are no text.

    Returns:
        The path that was written.

    Raises:
        OSError: the folder is not writable or the disk is full; names `path`, and the old file is unchanged.
    """
    path = Path(path)
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    temporary = None
    try:
        _make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            with _where_supported():
                os.fsync(file.fileno())
        with _where_supported():  # mkstemp creates private files, but results are shared
            os.chmod(temporary, 0o644)
        _replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if (
            isinstance(error, OSError)
            and not isinstance(error, NotADirectoryError)
            and error.filename2 is None
        ):
            error.filename = os.fspath(path)  # instead of none, or the temporary file's
        raise
    _remove_left_over(path)
    return path


def check_writable(folder: str | os.PathLike[str]) -> None:
    """See that files can be written into a folder, before there is work to lose; it is made if it is not there.

    Raises:
        OSError: they can not; names the folder.
    """
    _make_folder(Path(folder))
    with tempfile.TemporaryFile(dir=folder):
        pass


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(part for part in (folder, *folder.parents) if part.exists() or part.is_symlink())
        raise NotADirectoryError(
            errno.ENOTDIR, "a file stands where a folder is needed", os.fspath(file)
        ) from None


def _prefix(path: Path) -> str:
    return f".{path.name[:60]}."  # eight letters more must be a name that a file system takes


def _replace(temporary: str, path: Path) -> None:
    """Rename; on Windows a program that reads the old file, such as a virus scanner, forbids it for a moment."""
    for pause in (0.05, 0.1, 0.2, 0.4):
        try:
            return os.replace(temporary, path)
        except PermissionError:
            time.sleep(pause)
    os.replace(temporary, path)


def _remove_left_over(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` left beside it."""
    for left in path.parent.glob(glob.escape(_prefix(path)) + "?" * 8):
        try:
            if left.stat().st_mtime < time.time() - 3600:  # a younger one may be another process's
                left.unlink()
        except OSError:  # it was faster
            continue


@contextmanager
def _where_supported() -> Iterator[None]:
    """Do what some network and memory file systems refuse; a full disk is an error all the same."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise


# Of what capsnb saves. Files without a number are of version 1; from 3 on JSON has a digest.
VERSION = 3
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


@contextmanager
def reading(path: str | os.PathLike[str], what: str, remedy: str) -> Iterator[None]:
    """Say of a file whose content is wrong what it is not, why, and what to do; one of a newer capsnb says so itself.

    >>> with reading("run.json", "the record of a run", "delete it"):
    ...     {}["history"]
    Traceback (most recent call last):
    ValueError: run.json is not the record of a run ('history'): delete it
    """
    try:
        yield
    except NewerFormatError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)} is not {what} ({error}): {remedy}") from error


def to_json(saved: dict[str, Any], indent: int | None = None) -> str:
    """Return what is saved as JSON text, with the format's number and a digest that shows damage.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps({**FORMAT, **saved}, allow_nan=False)
    return json.dumps({**FORMAT, **saved, "digest": _digest(json.loads(text))}, indent=indent) + "\n"


def from_json(content: str | bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `to_json` was given; `path` is the file of the content, for messages.

    Raises:
        NewerFormatError: a newer version wrote it.
        ValueError: it is no JSON, or is damaged.

    >>> from_json(to_json({"accuracy": 0.9}).replace("0.9", "0.8"), "run.json")
    Traceback (most recent call last):
    ...
    ValueError: it was damaged or edited: its digest is not that of its content
    """
    try:
        saved = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested without end") from None
    if not isinstance(saved, dict):
        raise ValueError(f"it holds a {type(saved).__name__}, not a record")
    version, digest = saved.get("format", 1), saved.pop("digest", None)
    found = _digest(saved)
    check_format(saved, path)
    if digest != found and (digest is not None or version == VERSION):
        raise ValueError("it was damaged or edited: its digest is not that of its content")
    return saved


def _digest(saved: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(saved, sort_keys=True).encode(), digest_size=8).hexdigest()


def results() -> Path:
    """The folder of measurements: beside the package in a checkout, inside the package in an installed wheel."""
    package = Path(__file__).parent
    inside = package / "results"
    return inside if inside.exists() else package.parent / "results"
