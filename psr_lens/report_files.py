"""Reports on disk: a directory with one JSON file and a parquet table for every data frame.

The JSON file, `report.json`, holds what is not a table, the name and checksum of every table, and a
checksum of itself. Replacing it is the one step from an old report to a new one:

1. the new tables are written under temporary names that are their checksums;
2. `report.json` is replaced: from here on the new report is there, for a table that is not at its place
   yet is read from under its checksum;
3. the tables are moved to their places, and what the old report had beside them is removed: its page,
   the tables that the new one does not have, the reports in directories below.

So a process that ends at any moment, killed or not, leaves the old report or the new one: on every system
whose `os.replace` is one step, which Linux, macOS and Windows are. The next save finishes the third step
of an interrupted one and clears what is left of its first. A reader beside a writer reads again where the
report was replaced under its hands.

Only what a report wrote is ever removed. It is known by its name in a `report.json` above it, and is a
file; anything else at any depth makes a save refuse.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from psr_lens._types import check_whole
from psr_lens.files import alone_in, is_temporary, put, refuse_directories, refuse_more_than_memory

if TYPE_CHECKING:
    import pandas

FORMAT: Final = 2
PAGE: Final = "report.html"
"""The page about a report, beside it."""
_HEADER: Final = "report.json"
_REMOVED: Final = ".psr-lens-removed.json"
"""What `report.json` is called while the report that it heads is removed."""
_WAITING: Final = re.compile(r"\.psr-lens-[0-9a-f]{64}-[A-Za-z0-9_]+\.parquet")
_TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_NUMBER_BYTES: Final = 8


def write_report(
    path: str | Path,
    kind: str,
    header: Mapping[str, Any],
    tables: Mapping[str, "pandas.DataFrame"],
) -> Path:
    """Write a report: wherever this is interrupted, the old report or the new one is there.

    Args:
        path: The directory; a report that it holds is replaced, with its page and the reports below.
        kind: The report's class name.
        header: Anything that JSON can hold.
        tables: Data frames by name.

    Returns:
        The directory.

    Raises:
        ValueError: If something other than reports is at the path, or below it.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise ValueError(f"{str(path)!r} names no directory: pass where the report is to go")
    contents = {name: _parquet(table) for name, table in tables.items()}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    # What JSON cannot hold is found before anything is touched.
    content = json.loads(
        json.dumps({"format": FORMAT, "kind": kind, "tables": sums, "replaced": {}, **header})
    )
    refuse_foreign(path)
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(path) as alone:
            refuse_foreign(path)
            refuse_directories(path / name for name in _files(content))
            _place_tables(path)
            content["replaced"] = _left_over(path, sums)
            content["sha256"] = _checksum(content)
            text = json.dumps(content, indent=1, sort_keys=True) + "\n"
            waiting = {path / _waiting(name, sums[name]): contents[name] for name in sums}
            try:
                put({**waiting, path / _HEADER: text.encode()})
                _place_tables(path)
                _remove_replaced(path)
            finally:
                if alone:
                    _clear_waiting(path)
            for child in _directories(path):
                _remove_reports(child)
    except BaseException:
        if made:
            # Unless the report is there, or somebody else has put something in.
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    return path


def read_report(
    path: str | Path, kind: str
) -> tuple[dict[str, Any], "dict[str, pandas.DataFrame]"]:
    """Read what `write_report` wrote: the header and the tables.

    Raises:
        FileNotFoundError: If there is no report at the path.
        ValueError: If it is of another kind or format, damaged, or larger than this machine's memory.
    """
    path = Path(path)
    while True:
        text = _text(path)
        try:
            return _read(path, text, kind)
        except ValueError:
            # A save beside us may have replaced the report that this was the head of.
            if _text(path) == text:
                raise


def refuse_foreign(path: Path) -> None:
    """Refuse to replace anything that is not a report and nothing but one.

    Its page, reports in directories below it, and what an interrupted save has left may be there.

    Raises:
        ValueError: If something else is at the path, or in it at any depth.
    """
    if path.is_dir():
        foreign = next(_foreign(path, top=True), None)
        if foreign is None:
            return
        if _header(path) is not None:
            raise ValueError(
                f"{path} holds {foreign.relative_to(path).as_posix()!r} beside its report, which no "
                "report wrote: move it away, or choose another name"
            )
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists and is no report: choose another name")


# --- the fields of a header ---------------------------------------------------------------------


@contextlib.contextmanager
def wrong_fields(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong in making a report of header and tables into one line.

    Raises:
        ValueError: If a field or a column is missing or wrong.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds no report that this version knows: {' '.join(str(error).split())} is "
            "missing, unknown or wrong"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} holds no report that this version knows: {error}") from None


def whole(header: Mapping[str, Any], name: str, least: int = 0) -> int:
    """A field that is a whole number.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is no whole number, or below `least`.
    """
    found = check_whole(name, header[name])
    if found < least:
        raise ValueError(f"{name}={found}: it must be at least {least}")
    return found


def number(header: Mapping[str, Any], name: str) -> float:
    """A field that is a finite number.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is no finite number.
    """
    found = header[name]
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ValueError(f"{name}={found!r}: it must be a finite number")
    return float(found)


def choice(header: Mapping[str, Any], name: str, choices: Sequence[str]) -> Any:
    """A field that is one of several words.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is another.
    """
    if header[name] not in choices:
        raise ValueError(f"{name}={header[name]!r}: it is one of {', '.join(choices)}")
    return header[name]


def mapping(header: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object.

    Raises:
        KeyError: If it is missing.
        ValueError: If it is none.
    """
    if not isinstance(header[name], dict):
        raise ValueError(f"{name}={header[name]!r}: it must be an object")
    return header[name]


# --- what lies in a directory -------------------------------------------------------------------


def _foreign(path: Path, *, top: bool = False) -> Iterator[Path]:
    """What no report wrote, in a directory and below it; an empty directory is nobody's loss."""
    header = _header(path)
    names = set() if header is None else _files(header)
    for child in sorted(path.iterdir()):
        if child.is_symlink():
            yield child
        elif child.is_dir():
            if child.name in names or (top and child.name in (_HEADER, PAGE)):
                yield child
            else:
                yield from _foreign(child)
        elif child.exists() and not _is_ours(child, header):
            yield child


def _is_ours(file: Path, header: Mapping[str, Any] | None) -> bool:
    """Whether a report with that header, or a save of ours on the way, wrote a file beside it."""
    if is_temporary(file) or _is_waiting(file):
        return True
    if header is None:
        return False
    return file.name in _files(header) or _is_replaced(file, header)


def _is_replaced(file: Path, header: Mapping[str, Any]) -> bool:
    """Whether a file is what the report before the one with that header has left."""
    with contextlib.suppress(FileNotFoundError):
        # Of that very content alone: a file of that name may be a new one.
        return file.name in header["replaced"] and _sha256(file) == header["replaced"][file.name]
    return True


def _files(header: Mapping[str, Any]) -> set[str]:
    """The names of the files of a report."""
    return {_HEADER, _REMOVED, PAGE, *map(_file, header["tables"])}


def _left_over(path: Path, sums: Mapping[str, str]) -> dict[str, str]:
    """Checksums of the present report's files in whose places the next one, with those tables, has none."""
    header = _header(path)
    if header is None:
        return {}
    earlier = {name for name in header["replaced"] if _is_replaced(path / name, header)}
    names = {PAGE, *map(_file, header["tables"]), *earlier} - set(map(_file, sums))
    return {name: _sha256(path / name) for name in sorted(names) if (path / name).is_file()}


def _place_tables(path: Path) -> None:
    """Move the tables that wait to their places; those that are there already are left alone."""
    header = _header(path)
    tables = {} if header is None else header["tables"]
    for name, checksum in tables.items():
        waiting = path / _waiting(name, checksum)
        if waiting.is_file():
            os.replace(waiting, path / _file(name))


def _remove_replaced(path: Path) -> None:
    """Remove what the report before the present one has left beside it."""
    header = _header(path)
    if header is None:
        return
    for name in header["replaced"]:
        if _is_replaced(path / name, header):
            (path / name).unlink(missing_ok=True)
    (path / _REMOVED).unlink(missing_ok=True)


def _clear_waiting(path: Path) -> None:
    """Remove the tables that wait for no report: those of a save that did not come to its second step."""
    header = _header(path)
    needed = {} if header is None else header["tables"]
    waiting = {_waiting(name, checksum) for name, checksum in needed.items()}
    for child in path.iterdir():
        if _is_waiting(child) and child.name not in waiting:
            child.unlink(missing_ok=True)


def _remove_reports(path: Path) -> None:
    """Remove a report and those below it; a directory that this empties goes too."""
    ours = False
    for child in _directories(path):
        _remove_reports(child)
        ours = ours or not child.exists()
    with alone_in(path):
        header = _header(path)
        if header is not None and (path / _HEADER).is_file():
            # In one step it is no report any more, and still says what belongs to it.
            os.replace(path / _HEADER, path / _REMOVED)
        for child in path.iterdir():
            if child.is_file() and child.name != _REMOVED and _is_ours(child, header):
                child.unlink(missing_ok=True)
                ours = True
        if header is not None:
            (path / _REMOVED).unlink(missing_ok=True)
    if ours:
        # What came in meanwhile stays.
        with contextlib.suppress(OSError):
            path.rmdir()


def _directories(path: Path) -> list[Path]:
    return [child for child in path.iterdir() if child.is_dir() and not child.is_symlink()]


def _is_waiting(path: Path) -> bool:
    return bool(_WAITING.fullmatch(path.name)) and path.is_file() and not path.is_symlink()


def _waiting(table: str, checksum: str) -> str:
    return f".psr-lens-{checksum}-{table}.parquet"


def _file(table: str) -> str:
    return f"{table}.parquet"


# --- header and tables --------------------------------------------------------------------------


def _text(path: Path) -> str:
    """What stands in `report.json`."""
    file = path / _HEADER
    if not file.is_file():
        raise FileNotFoundError(f"no report at {str(path)!r}: it would hold a file {_HEADER}")
    refuse_more_than_memory(file, file.stat().st_size)
    return file.read_text(encoding="utf-8", errors="replace")


def _parse(text: str, where: Path) -> dict[str, Any]:
    """The header, if it is one, whole, and of this format.

    Raises:
        ValueError: If it is not.
    """
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not {"kind", "format", "tables"} <= header.keys():
        raise ValueError(f"{where} is damaged, or no report of psr_lens")
    if header["format"] != FORMAT:
        raise ValueError(
            f"{where} has format {header['format']!r} but this version of psr_lens reads {FORMAT}: use "
            "the version that wrote it, or measure anew"
        )
    recorded = header.pop("sha256", None)
    if recorded != _checksum(header):
        raise ValueError(f"{where} is damaged: its contents do not match their checksum")
    names = [*mapping(header, "tables"), *mapping(header, "replaced")]
    sums = [*header["tables"].values(), *header["replaced"].values()]
    plain = [name.removesuffix(".parquet") for name in names if name != PAGE]
    if not all(map(_TABLE_NAME.fullmatch, plain)) or not all(isinstance(own, str) for own in sums):
        raise ValueError(f"{where} is damaged: it names tables {names}, which no report has")
    return header


def _header(path: Path) -> dict[str, Any] | None:
    """The header of a report, or of what is left of one that is removed; None where there is none."""
    for name in (_HEADER, _REMOVED):
        file = path / name
        with contextlib.suppress(OSError, ValueError):
            if file.is_file() and not file.is_symlink():
                return _parse(file.read_text(encoding="utf-8"), file)
    return None


def _read(path: Path, text: str, kind: str) -> tuple[dict[str, Any], "dict[str, pandas.DataFrame]"]:
    header = _parse(text, path / _HEADER)
    found, sums = header.pop("kind"), header.pop("tables")
    del header["format"], header["replaced"]
    if found != kind:
        raise ValueError(f"{path} holds a {found}, not a {kind}: load it with {found}.load")
    return header, {name: _table(path, name, checksum) for name, checksum in sums.items()}


def _table(path: Path, name: str, checksum: str) -> "pandas.DataFrame":
    """A table, from its place or from where it waits to be moved there."""
    place = path / _file(name)
    # The place twice: the table may get there while we look where it waits.
    for file in (place, path / _waiting(name, checksum), place):
        if file.is_file() and not file.is_symlink():
            try:
                refuse_more_than_memory(file, file.stat().st_size)
                content = file.read_bytes()
            except FileNotFoundError:
                # Moved to its place between the two looks.
                continue
            if hashlib.sha256(content).hexdigest() == checksum:
                return _frame(content, place)
    raise ValueError(f"{place} is missing or damaged: it does not match its checksum")


def _parquet(table: "pandas.DataFrame") -> bytes:
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()


def _frame(content: bytes, file: Path) -> "pandas.DataFrame":
    import pandas as pd
    from pyarrow import parquet

    try:
        declared = parquet.read_metadata(io.BytesIO(content))
        size = declared.num_rows * declared.num_columns * _NUMBER_BYTES
    except Exception as error:  # every failure is one line for the user
        raise ValueError(f"{file} is no table that can be read: {error}") from None
    # A few bytes can stand for any number of equal rows.
    refuse_more_than_memory(file, size)
    try:
        return pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # every failure is one line for the user
        raise ValueError(f"{file} is no table that can be read: {error}") from None


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
