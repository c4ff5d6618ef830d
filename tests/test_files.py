"""A file is the old one or the new one."""

import errno
import json
import os

import pytest

from capsnb.files import NewerFormatError, check_writable, from_json, to_json, write_atomically


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


def test_an_error_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'$"):
        write_atomically(tmp_path / "a.txt", "new")
    monkeypatch.undo()
    (tmp_path / "folder").write_text("a file where a folder should be")
    for path in (tmp_path / "folder" / "b.txt", tmp_path / "folder" / "deep" / "er" / "b.txt"):
        with pytest.raises(OSError, match=r"a file stands where a folder is needed: '.*[/\\]folder'$"):
            write_atomically(path, "new")
        with pytest.raises(OSError, match=r"a file stands where a folder is needed: '.*[/\\]folder'$"):
            check_writable(path.parent)
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_reader_that_forbids_the_rename_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    """As Windows does while a virus scanner reads the old file."""
    replace, refused = os.replace, []

    def busy(*paths):
        if len(refused) < 3:
            refused.append(paths)
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(*paths)

    monkeypatch.setattr(os, "replace", busy)
    assert write_atomically(tmp_path / "a.txt", "new").read_text() == "new" and len(refused) == 3


def test_what_a_killed_writer_left_is_removed_when_it_is_an_hour_old(tmp_path):
    old, young, others = (
        tmp_path / f".a.txt.{end}" for end in ("abcdefgh", "ijklmnop", "other.txt.abcdefgh")
    )
    for path in (old, young, others):
        path.write_text("half")
    os.utime(old, (0, 0))
    os.utime(others, (0, 0))
    write_atomically(tmp_path / "a.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.txt", young.name, others.name])


SAVED = {"accuracy": 0.1, "sizes": {"10": 1, "9": 2}, "classes": ["a", "é"], "history": None}


@pytest.mark.parametrize("indent", [None, 1])
def test_json_comes_back_and_every_single_damaged_letter_shows(indent):
    text = to_json(SAVED, indent)
    assert from_json(text, "a.json") == SAVED
    for place, letter in enumerate(text):
        for other in ("0", "x", '"', " "):
            damaged = text[:place] + other + text[place + 1 :]
            try:
                found = from_json(damaged, "a.json")
            except ValueError:
                continue
            assert found == SAVED, (letter, damaged)  # a space inside the layout, for example


def test_json_without_a_digest_is_an_older_version_s():
    old = json.dumps({"format": 2, "accuracy": 0.1})
    assert from_json(old, "a.json") == {"accuracy": 0.1}
    with pytest.raises(ValueError, match="damaged or edited"):
        from_json(old.replace("2", "3"), "a.json")
    with pytest.raises(NewerFormatError, match=r"a\.json was written by a newer capsnb \(format 4"):
        from_json(old.replace("2", "4"), "a.json")


def test_a_number_that_json_has_not_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"loss": float("nan")})
    with pytest.raises(ValueError, match="nested without end"):
        from_json("[" * 100_000, "a.json")


def test_long_names_and_names_that_are_no_text_are_written(tmp_path):
    name = "n" * 250 + ".txt"
    assert write_atomically(tmp_path / name, "x").name == name
    assert write_atomically(tmp_path / "a.txt", "runs/\udcff").read_bytes() == b"runs/\xff"
