"""Models converted from GGUF files, kept in the user's cache folder for the next time.

A copy is an ordinary checkpoint directory, moved into place in one piece, so no process ever sees half of
one. It has a list of its files with their sizes and checksums, which reveals a damaged copy. Before a copy
is read, only the size of the weights is checked, as they may be gigabytes that would be read twice on every
load; their checksum is checked if reading them fails.

A file's copy is found by the file's hash, so every load also reads the GGUF file once.
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
# Incremented when the same file is converted differently.
_FORMAT = 2
_LIST = "psr_lens.json"
_WEIGHTS = ".safetensors"
_CHUNK = 2**20
_UNFINISHED = ".unfinished-"
_A_DAY = 24 * 3600


@dataclass(frozen=True)
class Conversion:
    """What is known about a model converted from a GGUF file.

    Attributes:
        origin: The file.
        remarks: Warnings for every load: what the file does or holds that the model does not, worded to
            follow the file's name.
    """

    origin: GGUFOrigin
    remarks: tuple[str, ...] = ()


def cache_folder() -> Path | None:
    """Where copies are kept; None if the environment turns them off."""
    named = os.environ.get(VARIABLE, "").strip()
    if named.lower() == "off":
        return None
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("psr-lens", appauthor=False))


def folder_of_copy(file: Path, sha256: str, dtype: torch.dtype) -> Path | None:
    """Where the copy of a GGUF file belongs: a folder named by all that determines its contents.

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
    """What a copy was made from; None if it is missing or damaged.

    Args:
        folder: Where it belongs.
        thorough: Whether to read the weights too, for their checksum.
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
    """Write a copy and move it into place, replacing a damaged one.

    Returns:
        Its size in bytes.

    Raises:
        Exception: If it cannot be written; the type depends on the library that fails.
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
    """Move a copy to where it belongs; one that another process put there meanwhile stays."""
    # A directory can only replace an empty one.
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
    """Remove a copy, if there is one: first move it aside, then delete it.

    Raises:
        OSError: If it cannot be removed.
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
    """Remove what killed processes left, once nobody can still be writing to it."""
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
