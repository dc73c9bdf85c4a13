"""Files, written whole or not at all.

Everything that this package writes goes through here. A file is written under a temporary name
(`.psr-lens-XXXXXXXX.tmp`) in its own directory and then moved into place by `os.replace`, which is atomic
on Linux, macOS and Windows: however the process ends, SIGKILL included, either the old file or the new one
is there. (After a power failure it is up to the file system.)

Where the system can lock directories (Linux and macOS, local disks), a directory has one writer at a time.
That writer knows that any temporary file there was left by a dead process, and removes it. Elsewhere, or if
someone holds the lock for long, only those older than a day are removed.
"""

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import fcntl

_PREFIX: Final = ".psr-lens-"
_TEMPORARY: Final = re.compile(r"\.psr-lens-[a-z0-9_]{8}\.tmp")
_PATIENCE: Final = 5.0
"""Seconds to wait for a directory's lock. Not forever: our caller may hold it, as
`flock DIRECTORY psr-lens ...` does."""
_OLD: Final = 24 * 3600.0


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        ValueError: If a directory is at the path.
        OSError: If the directory cannot be made or written to.
    """
    path = Path(path)
    write_files({path: content})
    return path


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write several files: first all under temporary names, then each into place, in the order given.

    Raises:
        ValueError: If a directory is at one of the paths.
        OSError: If a directory cannot be made or written to.
    """
    refuse_directories(files)
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for directory in sorted({path.parent.resolve() for path in files}):
            stack.enter_context(alone_in(directory))
        put(files)


def refuse_directories(paths: Iterable[Path]) -> None:
    """Refuse to put a file in a directory's place.

    Raises:
        ValueError: If a directory is at one of the paths.
    """
    for path in paths:
        if path.is_dir():
            raise ValueError(
                f"{path} is a directory, and a file is to be written there: move it away, or choose "
                "another name"
            )


def refuse_foreign_files(marks: Mapping[Path, bytes]) -> None:
    """Check, before the work, that whatever is at the paths of the future files is ours.

    Args:
        marks: By path, what every file that we write there contains near its head.

    Raises:
        ValueError: If a directory is at one of the paths, or a file without the mark.
    """
    refuse_directories(marks)
    for path, mark in marks.items():
        there = path.exists() or path.is_symlink()
        if there and not (path.is_file() and mark in _head(path)):
            raise ValueError(
                f"{path} exists and psr_lens did not write it: move it away, or choose another name"
            )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2**20)


def put(files: Mapping[Path, bytes]) -> None:
    """`write_files` for a caller that is already `alone_in` the directories."""
    staged: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX, suffix=".tmp")
            staged[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            # mkstemp makes files private.
            permit(Path(name), 0o666)
        for path, temporary in staged.items():
            os.replace(temporary, path)
    except BaseException:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
        raise


def permit(path: Path, most: int) -> None:
    """Give something that was created private the permissions of anything new.

    Args:
        path: A file or a folder.
        most: The permissions before the process's umask: 0o666 for a file.
    """
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(most & ~mask)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[bool]:
    """Be the only writer in a directory, and remove what dead ones left in it.

    Yields:
        Whether that is certain; False if the system has no such lock, or it could not be taken.
    """
    with _locked(directory) as alone:
        for child in directory.iterdir():
            if is_temporary(child) and (alone or time.time() - _changed(child) > _OLD):
                child.unlink(missing_ok=True)
        yield alone


def is_temporary(path: Path) -> bool:
    """Whether it is a temporary file of one of our writes."""
    return bool(_TEMPORARY.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def refuse_more_than_memory(what: str | Path, size: int) -> None:
    """Refuse what does not fit into memory, before taking any.

    Args:
        what: What declares the size.
        size: Bytes it would take.

    Raises:
        ValueError: If that is more than this machine has.
    """
    memory = _memory()
    if size > memory:
        raise ValueError(
            f"{what} would take {size / 2**30:.3g} GiB and this machine has {memory / 2**30:.3g}: it "
            "is damaged, or belongs on a larger one"
        )


def _memory() -> int:
    """Bytes of memory in this machine; unbounded if the system does not say."""
    if sys.platform == "win32":
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    if sys.platform == "win32":
        yield False
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        yield _lock(handle)
    finally:
        # A child forked meanwhile shares the lock: closing alone would not release it.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int) -> bool:
    if sys.platform == "win32":
        return False
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        except OSError:
            return False
        else:
            return True
