"""One file for everything that is saved: named tensors and one JSON header, checked as a whole.

It is a safetensors file, so other tools can open it and nothing in it can run. Its only metadata is one
string under the key `psr_lens`:

    KIND FORMAT SHA256 HEADER

`KIND` is a word such as `steering`, `FORMAT` the number of this layout, `HEADER` a JSON object, and
`SHA256` the checksum of every byte of the file but its own 64 digits. All this is at the front of the file,
so kind and checksum are known before anything is parsed.

A file is trusted step by step: it begins like one of ours; it fits into memory; its bytes match the
checksum; then, since anyone can compute a checksum, all of its contents are checked.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Shaped
from safetensors.torch import save
from torch import Tensor

from psr_lens.storage.atomic import refuse_foreign_files, refuse_more_than_memory, write_bytes

FORMAT: Final = 2
SUFFIX: Final = ".safetensors"

_START: Final = b'{"__metadata__":{"psr_lens":"'
_ABOUT: Final = re.compile(re.escape(_START) + rb"([A-Za-z]+) ([0-9]{1,9}) ([0-9a-f]{64}) ")
_LONGEST_ABOUT: Final = 200
_LENGTH_BYTES: Final = 8
_MOST_HEADER: Final = 2**23
"""Most bytes of a header: parsed JSON takes a multiple of them in memory, and takes time."""
_MOST_OBJECTS: Final = 2**19
"""Most objects and lists in it, counted by their brackets before parsing."""
_DEEPEST: Final = 64
_MOST_AXES: Final = 16
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def container_path(path: str | Path) -> Path:
    """The path with the suffix `.safetensors`, added where it is missing.

    Raises:
        ValueError: If the path does not end in a file name.
    """
    path = Path(path)
    if not path.name:
        raise ValueError(f"{str(path)!r} names no file: pass the path of a {SUFFIX} file")
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


def _mark(kind: str) -> bytes:
    """What every file of a kind, and no other file, contains near its head."""
    return _START + kind.encode() + b" "


def is_container(path: Path) -> bool:
    """Whether a file begins as one of ours, whatever its kind."""
    return _begins(path, _START)


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(_LENGTH_BYTES + len(start))[_LENGTH_BYTES:] == start


def refuse_foreign(path: str | Path, kind: str) -> Path:
    """Refuse to write over anything but a file of the same kind.

    Returns:
        The path with `.safetensors`.

    Raises:
        ValueError: If something else is there.
    """
    path = container_path(path)
    if path.is_file() and is_container(path) and not _begins(path, _mark(kind)):
        raise ValueError(
            f"{path} is a file of psr_lens but no {kind}: choose another name, or delete it"
        )
    refuse_foreign_files({path: _mark(kind)})
    return path


def write_container(
    path: str | Path,
    kind: str,
    tensors: Mapping[str, Shaped[Tensor, "..."]],
    header: Mapping[str, Any],
) -> Path:
    """Write a file in one step: whatever happens, either the old file or the new one is there.

    Args:
        path: Where; `.safetensors` is added if missing. A file of the same kind is replaced.
        kind: A word: `steering`, `dataset`, `checkpoint`, or the class of a report.
        tensors: By name, of any shape.
        header: Anything that JSON can hold, with finite numbers.

    Returns:
        The path of the file.

    Raises:
        ValueError: If JSON cannot hold the header, a tensor is of an unsupported type, or something other
            than a file of this kind is at the path.
        OSError: If the file cannot be written.
    """
    content = container_bytes(kind, tensors, header)
    return write_bytes(refuse_foreign(path, kind), content)


def container_bytes(
    kind: str, tensors: Mapping[str, Shaped[Tensor, "..."]], header: Mapping[str, Any]
) -> bytes:
    """What `write_container` writes: the same bytes for the same content.

    Raises:
        ValueError: If JSON cannot hold the header, or a tensor is of an unsupported type.
    """
    try:
        # Through JSON twice: what is written can be read back, with its keys in order.
        plain = _parse(json.dumps(header, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the header of a {kind} cannot be kept as JSON: {error}") from None
    for name, own in tensors.items():
        if own.dtype not in _DTYPES.values():
            raise ValueError(f"{name} of a {kind} is of {own.dtype}, which is not kept: convert it")
    digits = "0" * 64
    text = f"{kind} {FORMAT} {digits} {json.dumps(plain, sort_keys=True)}"
    # Copies, because safetensors refuses tensors that share memory.
    stored = {
        name: own.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, own in tensors.items()
    }
    content = bytearray(save(stored, {"psr_lens": text}))
    about = _ABOUT.match(content, _LENGTH_BYTES)
    assert about is not None, "safetensors writes its metadata first, and a kind is a word"
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if length > _MOST_HEADER:
        raise ValueError(
            f"the header of a {kind} takes {length} bytes and at most {_MOST_HEADER} are read: keep less"
        )
    content[slice(*about.span(3))] = _checksum(content, about).encode()
    return bytes(content)


def read_container(
    path: str | Path, kind: str
) -> tuple[dict[str, Shaped[Tensor, "..."]], dict[str, Any]]:
    """Read what `write_container` wrote.

    Args:
        path: The file, with or without `.safetensors`.
        kind: The kind it must be.

    Returns:
        The tensors by name, on the CPU, and the header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, of another kind, of another format or of another program, or
            larger than this machine's memory.
    """
    given = Path(path)
    path = container_path(given) if given.name and container_path(given).is_file() else given
    if path.is_dir():
        raise ValueError(f"{str(given)!r} is a folder: name the {kind} file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} file {str(given)!r}")
    content, about = _whole(path)
    found = bytes(about[1]).decode()
    if found != kind:
        raise ValueError(f"{path} holds {_a(found)}, not {_a(kind)}: name {_a(kind)} file")
    try:
        tensors, text = _contents(content)
        return tensors, _parse(text.split(" ", 3)[3])
    except (KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged: it is no {kind} that can be read ({reason})"
        ) from None


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOUaeiou" else f"a {kind}"


def _whole(path: Path) -> tuple[bytearray, re.Match[bytes]]:
    """All bytes of a file, once they match its checksum, and the match of its front."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_LENGTH_BYTES + _LONGEST_ABOUT)
        if not head[_LENGTH_BYTES:].startswith(_START):
            raise ValueError(
                f"{path} was not written by psr_lens, or is damaged: it lacks its header"
            )
        found = _ABOUT.match(head, _LENGTH_BYTES)
        if found is None:
            raise ValueError(f"{path} is damaged, or of an early version of psr_lens: make it anew")
        if int(found[2]) != FORMAT:
            raise ValueError(
                f"{path} has format {int(found[2])} but this version of psr_lens reads {FORMAT}: use "
                "the version that wrote it, or make it anew"
            )
        refuse_more_than_memory(path, size)
        content = bytearray(size)
        file.seek(0)
        read = file.readinto(content)
    about = _ABOUT.match(content, _LENGTH_BYTES)
    if read != size or about is None or bytes(about[3]).decode() != _checksum(content, about):
        raise ValueError(f"{path} is damaged: its contents do not match their checksum")
    return content, about


def _checksum(content: bytearray, about: re.Match[bytes]) -> str:
    view = memoryview(content)
    digest = hashlib.sha256(view[: about.start(3)])
    digest.update(view[about.end(3) :])
    return digest.hexdigest()


def _contents(content: bytearray) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, as views of its bytes, and its metadata string."""
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    begin = _LENGTH_BYTES + length
    if length > min(_MOST_HEADER, len(content) - _LENGTH_BYTES):
        raise ValueError(f"a header of {length} bytes")
    entries = _parse(content[_LENGTH_BYTES:begin].decode())
    metadata = entries.pop("__metadata__")
    if set(metadata) != {"psr_lens"}:
        raise ValueError("other metadata beside the header")
    tensors = {}
    for name, entry in entries.items():
        tensors[name], begin = _tensor(content, begin, length + _LENGTH_BYTES, entry)
    if begin != len(content):
        raise ValueError(f"{len(content) - begin} bytes that belong to no tensor")
    return tensors, metadata["psr_lens"]


def _tensor(
    content: bytearray, begin: int, origin: int, entry: Mapping[str, Any]
) -> tuple[Tensor, int]:
    """The tensor that begins at a place, and where it ends.

    Args:
        content: The file.
        begin: Where the tensor before this one ends: there are no gaps.
        origin: Where the first one begins.
        entry: What the file says about it.
    """
    dtype, shape, offsets = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if len(entry) != 3 or len(shape) > _MOST_AXES:
        raise ValueError("a tensor with other fields or too many axes")
    if any(type(size) is not int or size < 0 for size in (*shape, *offsets)):
        raise ValueError("a shape or place that is not of whole numbers")
    # Empty axes count as 1, so strides are bounded too.
    if math.prod(max(size, 1) for size in shape) >= 2**63:
        raise ValueError("a shape that is out of bounds")
    count = math.prod(shape)
    end = begin + count * dtype.itemsize
    if offsets != [begin - origin, end - origin] or end > len(content) or begin % dtype.itemsize:
        raise ValueError("a tensor whose place is not that of its shape")
    if count == 0:
        return torch.empty(shape, dtype=dtype), end
    raw = torch.frombuffer(content, dtype=torch.uint8, count=end - begin, offset=begin)
    if dtype == torch.bool and int(raw.max()) > 1:
        raise ValueError("a truth value that is neither 0 nor 1")
    return raw.view(dtype).reshape(shape), end


def _parse(text: str) -> dict[str, Any]:
    """Parse a JSON object: no name twice, only finite numbers, no endless nesting.

    Raises:
        ValueError: If it breaks one of these rules.
        RecursionError: If it is nested deeper than Python can follow.
    """
    if text.count("[") + text.count("{") > _MOST_OBJECTS:
        raise ValueError(f"a header of more than {_MOST_OBJECTS} objects and lists")
    found = json.loads(
        text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite
    )
    if not isinstance(found, dict):
        raise ValueError("a header that is no object")
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        inner = (own.values() if isinstance(own, dict) else own for own in level)
        level = [child for own in inner for child in own if isinstance(child, dict | list)]
        if not level:
            return found
    raise ValueError(f"a header nested deeper than {_DEEPEST} levels")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a header with a name twice")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"the number {text}")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"the number {text[:20]}")
    return found
