"""What was made of a GGUF file, kept in the user's cache folder for the next time.

Making it takes a minute, reading it a second. A copy is an ordinary checkpoint directory, moved into
its place in one piece, so that no process ever sees half of one; with it goes a list of its files
with their sizes and sums, by which a damaged copy is known.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from psr_lens.models.gguf_file import GGUFOrigin

VARIABLE = "PSR_LENS_CACHE"
"""Environment variable that names another folder; `off` keeps nothing."""
# Counts up when what is made of the same file changes.
_FORMAT = 1
_LIST = "psr_lens.json"
_CHUNK = 2**20
_UNFINISHED = ".unfinished-"
_A_DAY = 24 * 3600


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


def find_copy(folder: Path) -> GGUFOrigin | None:
    """What a copy was made of; None where there is none, or a damaged one."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        if listed["files"] != _sums(folder):
            return None
        return GGUFOrigin(**listed["gguf"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_copy(folder: Path, origin: GGUFOrigin, model: Any, tokenizer: Any) -> int:
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
        sums = _sums(unfinished)
        listed = {"gguf": asdict(origin), "files": sums}
        (unfinished / _LIST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
        if find_copy(folder) is None:
            remove_copy(folder)
        # A directory moves onto another only where that is empty: another process was faster.
        try:
            unfinished.rename(folder)
        except OSError:
            if find_copy(folder) is None:
                raise
        return sum(size for size, _ in sums.values())
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_copy(folder: Path) -> None:
    """Take a copy away, if there is one: first out of its place and then from the disk."""
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


def _sums(folder: Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file but the list."""
    found = {}
    for file in sorted(folder.iterdir()):
        if file.name == _LIST:
            continue
        size = total = 0
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                size, total = size + len(chunk), zlib.crc32(chunk, total)
        found[file.name] = [size, total]
    return found
