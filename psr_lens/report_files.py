"""Reports on disk: a directory with one JSON file and a parquet table for every data frame.

The JSON file holds what is not a table, and a checksum of each table. The directory is made under a
temporary name and then moved, so an interrupted save leaves what was there before.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas

FORMAT: Final = 1
_HEADER: Final = "report.json"


def write_report(
    path: str | Path,
    kind: str,
    header: Mapping[str, Any],
    tables: Mapping[str, "pandas.DataFrame"],
) -> Path:
    """Write a report.

    Args:
        path: The directory; one that holds a report is replaced.
        kind: The report's class name.
        header: Anything that JSON can hold.
        tables: Data frames by name.

    Returns:
        The directory.

    Raises:
        ValueError: If something other than a report is at the path.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise ValueError(f"{str(path)!r} names no directory: pass where the report is to go")
    refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        sums: dict[str, str] = {}
        for name, table in tables.items():
            table.to_parquet(fresh / f"{name}.parquet", index=False)
            sums[name] = _sha256(fresh / f"{name}.parquet")
        content = {"format": FORMAT, "kind": kind, "tables": sums, **header}
        (fresh / _HEADER).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        fresh.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
            path.rename(old / path.name)
            try:
                fresh.rename(path)
            except BaseException:
                (old / path.name).rename(path)
                old.rmdir()
                raise
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return path


def read_report(
    path: str | Path, kind: str
) -> tuple[dict[str, Any], "dict[str, pandas.DataFrame]"]:
    """Read what `write_report` wrote: the header and the tables.

    Raises:
        FileNotFoundError: If there is no report at the path.
        ValueError: If it is of another kind, of a newer format, or damaged.
    """
    import pandas as pd

    path = Path(path)
    if not (path / _HEADER).is_file():
        raise FileNotFoundError(f"no report at {str(path)!r}: it would hold a file {_HEADER}")
    header = _header(path)
    if header is None:
        raise ValueError(f"{path / _HEADER} is damaged, or no report of psr_lens")
    found, sums, version = (header.pop(key) for key in ("kind", "tables", "format"))
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version} but this version of psr_lens reads {FORMAT}: upgrade it"
        )
    if found != kind:
        raise ValueError(f"{path} holds a {found}, not a {kind}: load it with {found}.load")
    tables: dict[str, pandas.DataFrame] = {}
    for name, checksum in sums.items():
        file = path / f"{name}.parquet"
        if not file.is_file() or _sha256(file) != checksum:
            raise ValueError(f"{file} is missing or damaged: it does not match its checksum")
        tables[name] = pd.read_parquet(file)
    return header, tables


def refuse_foreign(path: Path) -> None:
    """Refuse to replace anything that is not a report and nothing but one.

    Its page and reports in directories below it may be there.

    Raises:
        ValueError: If something else is at the path, or in it.
    """
    if not path.exists():
        return
    header = _header(path) if path.is_dir() else None
    if header is None:
        raise ValueError(f"{path} exists and is no report: choose another name")
    known = {_HEADER, "report.html", *(f"{name}.parquet" for name in header["tables"])}
    foreign = sorted(
        child.name
        for child in path.iterdir()
        if child.name not in known and not _reports_only(child)
    )
    if foreign:
        raise ValueError(
            f"{path} holds {foreign[0]!r} beside its report, which saving would delete: move it away, "
            "or choose another name"
        )


def _reports_only(path: Path) -> bool:
    """Whether a directory is a report, or holds reports alone."""
    if not path.is_dir():
        return False
    return _header(path) is not None or all(_reports_only(child) for child in path.iterdir())


def _header(path: Path) -> dict[str, Any] | None:
    """The header of a report; None where there is none that can be read."""
    try:
        header = json.loads((path / _HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(header, dict) and {"kind", "format", "tables"} <= header.keys()
    return header if whole and isinstance(header["tables"], dict) else None


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
