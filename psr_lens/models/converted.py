"""What was made of a GGUF file, kept in the user's cache folder for the next time.

A copy is an ordinary checkpoint directory, moved into its place in one piece, so that no process ever
sees half of one. With it goes a list of its files with their sizes and sums, by which a damaged copy is
known. Before a copy is read, the weights are held against their size alone, for they may be gigabytes
that would be read twice at every load; against their sum where reading them fails.

Which copy is a file's is told by the file's hash, so that every load reads the GGUF file once as well.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from psr_lens.models.gguf_file import GGUFOrigin
from psr_lens.storage.atomic import permit

VARIABLE = "PSR_LENS_CACHE"
"""Environment variable that names another folder; `off` keeps nothing."""
# Counts up when what is made of the same file changes.
_FORMAT = 2
_LIST = "psr_lens.json"
_WEIGHTS = ".safetensors"
_CHUNK = 2**20
_UNFINISHED = ".unfinished-"
_A_DAY = 24 * 3600


@dataclass(frozen=True)
class Conversion:
    """What there is to know of what was made of a GGUF file.

    Attributes:
        origin: The file.
        remarks: What the user is warned of at every load: what the file does or holds that the model
            does not, as it follows on the file's name.
    """

    origin: GGUFOrigin
    remarks: tuple[str, ...] = ()


def cache_folder() -> Path | None:
    """Where copies are kept; None where the environment says that none are."""
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() == "off":
        return None
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("psr-lens", appauthor=False))


def folder_of_copy(file: Path, sha256: str, dtype: torch.dtype) -> Path | None:
    """Where the copy of a GGUF file belongs: one folder for everything that decides what is in it.

    Args:
        file: The GGUF file.
        sha256: Its hash.
        dtype: Number type that the weights are kept in.
    """
    root = cache_folder()
    if root is None:
        return None
    from transformers import __version__

    name = str(dtype).removeprefix("torch.")
    key = json.dumps([_FORMAT, sha256, name, __version__])
    return root / "gguf" / f"{file.stem}-{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def find_copy(folder: Path, *, thorough: bool = False) -> Conversion | None:
    """What a copy was made of; None where there is none, or a damaged one.

    Args:
        folder: Where it belongs.
        thorough: Whether to read the weights too, for their sum.
    """
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        files = _files(folder)
        if {file.name for file in files} != set(listed["files"]):
            return None
        for file in files:
            size, total = listed["files"][file.name]
            if file.stat().st_size != size:
                return None
            if (thorough or file.suffix != _WEIGHTS) and _sum(file) != total:
                return None
        return Conversion(GGUFOrigin(**listed["gguf"]), tuple(listed["remarks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_copy(folder: Path, conversion: Conversion, model: Any, tokenizer: Any) -> int:
    """Write a copy and move it into its place, where it replaces a damaged one.

    Returns:
        Its size in bytes.

    Raises:
        Exception: If it cannot be written; of the types that the libraries below have for that.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_UNFINISHED))
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        sums = {file.name: [file.stat().st_size, _sum(file)] for file in _files(unfinished)}
        listed = {
            "gguf": asdict(conversion.origin),
            "remarks": conversion.remarks,
            "files": sums,
        }
        (unfinished / _LIST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
        # mkdtemp makes folders private, and safetensors its files; others may share the cache.
        for file in unfinished.iterdir():
            permit(file, 0o666)
        permit(unfinished, 0o777)
        _put_in_place(unfinished, folder)
        return sum(size for size, _ in sums.values())
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Move a copy to where it belongs; one that another process has put there meanwhile stays."""
    # A directory moves onto another only where that is empty.
    with contextlib.suppress(OSError):
        unfinished.rename(folder)
        return
    if find_copy(folder) is not None:
        return
    remove_copy(folder)
    try:
        unfinished.rename(folder)
    except OSError:
        if find_copy(folder) is None:
            raise


def remove_copy(folder: Path) -> None:
    """Take a copy away, if there is one: first out of its place and then from the disk.

    Raises:
        OSError: If it cannot be taken away.
    """
    if not folder.exists():
        return
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_UNFINISHED))
    try:
        folder.rename(aside / folder.name)
    except FileNotFoundError:
        # Another process took it away.
        pass
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """What killed processes left, once nobody can still be writing to it."""
    for left in parent.glob(f"{_UNFINISHED}*"):
        try:
            old = time.time() - left.stat().st_mtime > _A_DAY
        except OSError:
            continue
        if old:
            shutil.rmtree(left, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    """Every file but the list."""
    return sorted(file for file in folder.iterdir() if file.name != _LIST)


def _sum(file: Path) -> int:
    """CRC-32 of a file."""
    total = 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total
