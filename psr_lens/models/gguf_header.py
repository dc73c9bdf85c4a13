"""The header of a GGUF file: its metadata and the list of its tensors, in a fraction of a second.

The `gguf` package makes an object of every word of the vocabulary, which takes many seconds; here they are
skipped. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# By the number of a value's type in the file.
_SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))) | {
    10: "<Q",
    11: "<q",
    12: "<d",
}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the list.

    Attributes:
        name: llama.cpp's name for it.
        shape: Its sizes, the fastest-varying first.
        type: The number of its type.
        start: Where its bytes begin, from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    start: int

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GGUFHeader:
    """Everything before the weights.

    Attributes:
        values: The metadata; arrays are left out.
        tensors: The list of tensors.
    """

    values: Mapping[str, Any]
    tensors: tuple[TensorEntry, ...]


def read_header(file: Path) -> GGUFHeader:
    """Read everything before the weights.

    Raises:
        ValueError: If it is cut off, or of an unknown version.
        OSError: If the file cannot be read.
    """
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        try:
            return _Reading(mapped).header()
        except (struct.error, IndexError, OverflowError, RecursionError):
            raise ValueError("it ends in the middle of its header") from None


class _Reading:
    """A position in the bytes of a file that advances with every read."""

    def __init__(self, mapped: mmap.mmap):
        self._bytes, self._at = mapped, len(MAGIC)

    def header(self) -> GGUFHeader:
        version = self._scalar("<I")
        if version not in _VERSIONS:
            raise ValueError(f"it is of version {version}, and versions 2 and 3 can be read")
        n_tensors, n_values = self._scalar("<Q"), self._scalar("<Q")
        values = {}
        for _ in range(n_values):
            name = self._string()
            value = self._value(self._scalar("<I"))
            if value is not None:
                values[name] = value
        entries = [self._entry() for _ in range(n_tensors)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(
                f"it says that its weights are aligned to {alignment!r} bytes, which must be a whole "
                "number of at least 1"
            )
        first = -(-self._at // alignment) * alignment
        return GGUFHeader(
            values,
            tuple(TensorEntry(name, shape, kind, first + at) for name, shape, kind, at in entries),
        )

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        shape = tuple(self._scalar("<Q") for _ in range(self._scalar("<I")))
        return name, shape, self._scalar("<I"), self._scalar("<Q")

    def _scalar(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._bytes, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _string(self) -> str:
        length = self._scalar("<Q")
        found = self._bytes[self._at : self._at + length]
        if len(found) < length:
            raise IndexError
        self._at += length
        return found.decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        """A value, None for an array."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise ValueError(f"it holds a value of the unknown type {kind}")
            return self._scalar(_SCALARS[kind])
        of, count = self._scalar("<I"), self._scalar("<Q")
        if of == _STRING:
            self._pass_over_strings(count)
        elif of in _SCALARS:
            self._at += count * struct.calcsize(_SCALARS[of])
        else:
            for _ in range(count):
                self._value(of)
        return None

    def _pass_over_strings(self, count: int) -> None:
        length, at, unpack = struct.Struct("<Q"), self._at, struct.Struct("<Q").unpack_from
        for _ in range(count):
            at += length.size + unpack(self._bytes, at)[0]
        self._at = at
