"""A file is the old one or the new one."""

import errno
import os

import pytest

from capsnb.files import write_atomically


def test_text_and_bytes_arrive_whole_and_readable(tmp_path):
    path = write_atomically(tmp_path / "new" / "a.txt", "é")
    assert path.read_bytes() == "é".encode()
    assert write_atomically(path, b"\x00\x01").read_bytes() == b"\x00\x01"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = write_atomically(tmp_path / "a.txt", "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("step", ["fsync", "chmod"])
def test_a_file_system_that_lacks_a_call_keeps_the_file(tmp_path, monkeypatch, step):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, step, unsupported)
    assert write_atomically(tmp_path / "a.txt", "new").read_text() == "new"
