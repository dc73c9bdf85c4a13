"""Lists of different lengths as tensors: their contents end to end, and where each ends."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens.storage.fields import take


def pack_ids(name: str, sequences: Sequence[Sequence[int]]) -> dict[str, Shaped[Tensor, " number"]]:
    """Sequences of whole numbers as two tensors.

    Args:
        name: What the tensors' names begin with.
        sequences: Each of any length.
    """
    flat = [number for own in sequences for number in own]
    return {name: torch.tensor(flat, dtype=torch.int64), f"{name}.ends": _ends(sequences)}


def take_ids(name: str, tensors: dict[str, Shaped[Tensor, "..."]]) -> list[tuple[int, ...]]:
    """The inverse of `pack_ids`: removes its tensors from those given.

    Raises:
        ValueError: If one is missing or wrong, or a number is negative.
    """
    flat = take(tensors, name, torch.int64, 1).tolist()
    if flat and min(flat) < 0:
        raise ValueError(f"{name} holds {min(flat)}: nothing in it may be below 0")
    bounds = _bounds(name, tensors, len(flat))
    return [tuple(flat[begin:end]) for begin, end in bounds]


def pack_texts(name: str, texts: Sequence[str]) -> dict[str, Shaped[Tensor, " byte"]]:
    """Texts as two tensors, in UTF-8.

    Args:
        name: What the tensors' names begin with.
        texts: The texts.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    joined = bytearray(b"".join(encoded))
    content = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.tensor([])
    return {name: content.to(torch.uint8), f"{name}.ends": _ends(encoded)}


def take_texts(name: str, tensors: dict[str, Shaped[Tensor, "..."]]) -> list[str]:
    """The inverse of `pack_texts`: removes its tensors from those given.

    Raises:
        ValueError: If one is missing or wrong, or a text is not UTF-8.
    """
    content = bytes(take(tensors, name, torch.uint8, 1).numpy())
    bounds = _bounds(name, tensors, len(content))
    return [content[begin:end].decode("utf-8", "surrogatepass") for begin, end in bounds]


def _ends(sequences: Sequence[Sequence[int]]) -> Tensor:
    lengths = torch.tensor([len(own) for own in sequences], dtype=torch.int64)
    return lengths.cumsum(0)


def _bounds(name: str, tensors: dict[str, Tensor], length: int) -> list[tuple[int, int]]:
    """Where each begins and ends."""
    ends = take(tensors, f"{name}.ends", torch.int64, 1).tolist()
    begins = [0, *ends][: len(ends)]
    if (
        any(end < begin for begin, end in zip(begins, ends, strict=True))
        or [0, *ends][-1] != length
    ):
        raise ValueError(f"{name} of {length} numbers is not what {name}.ends says")
    return list(zip(begins, ends, strict=True))
