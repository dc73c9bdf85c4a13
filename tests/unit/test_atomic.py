"""Files are whole or not there, and what dead writers leave is cleared."""

import fcntl
import os
import time

import pytest

from psr_lens.storage import atomic
from psr_lens.storage.atomic import write_bytes, write_files

LEFT = ".psr-lens-abc_1234.tmp"
"""What a killed process leaves."""


def names(directory):
    return sorted(child.name for child in directory.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "file", b"old")

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_of_several_files_none_is_touched_before_all_are_on_the_disk(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "deep" / "two"
    write_files({one: b"old", two: b"old"})
    opened = []

    def full(handle, mode):
        opened.append(handle)
        if len(opened) == 2:
            os.close(handle)
            raise OSError(28, "No space left on device")
        return os.fdopen(handle, mode)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", type("", (), {**vars(os), "fdopen": staticmethod(full)}))
        with pytest.raises(OSError, match="No space left"):
            write_files({one: b"new", two: b"new"})
    assert one.read_bytes() == two.read_bytes() == b"old"
    assert (names(tmp_path), names(two.parent)) == (["deep", "one"], ["two"])
    write_files({one: b"new", two: b"new"})
    assert one.read_bytes() == two.read_bytes() == b"new"


def test_a_directory_is_never_a_file_s_place(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken is a directory, and a file is to be written there"):
        write_files({tmp_path / "file": b"new", tmp_path / "taken": b"new"})
    assert names(tmp_path) == ["taken"]


def test_the_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "file", b"")
    modes = {child.stat().st_mode for child in tmp_path.iterdir()}
    assert len(modes) == 1


def test_the_next_write_clears_what_a_dead_one_left(tmp_path):
    near = ("psr-lens-abc_1234.tmp", ".psr-lens-notes.tmp", ".psr-lens-abc_1234.txt")
    for name in (LEFT, *near):
        (tmp_path / name).write_text("half")
    (tmp_path / ".psr-lens-abc_5678.tmp").mkdir()
    write_bytes(tmp_path / "file", b"new")
    assert names(tmp_path) == sorted([".psr-lens-abc_5678.tmp", "file", *near])


def test_nothing_of_a_living_writer_is_cleared(tmp_path, monkeypatch):
    """Another writer has the directory: what is young may be its own."""
    monkeypatch.setattr(atomic, "_PATIENCE", 0.05)
    (tmp_path / LEFT).write_text("half")
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_bytes(tmp_path / "file", b"new")
        assert names(tmp_path) == [LEFT, "file"]
        days_ago = time.time() - 2 * 24 * 3600
        os.utime(tmp_path / LEFT, (days_ago, days_ago))
        write_bytes(tmp_path / "file", b"newer")
    finally:
        os.close(handle)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"newer"


def test_two_paths_to_one_directory_are_one_directory(tmp_path, monkeypatch):
    """It is locked once: a write that locked it twice would wait for itself."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits for the lock"))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    write_files({tmp_path / "one": b"1", tmp_path / "link" / "two": b"2"})
    assert names(tmp_path) == ["link", "one", "two"]
