"""Fields of a header, checked as they are read: a missing or wrong one raises a ValueError."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as shown
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens._types import check_whole

Value = TypeVar("Value")

_LONGEST: Final = 300
_MOST: Final = 2**63 - 1


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn any error in a file's contents into one line that names the file.

    Args:
        path: The file.
        what: What it is read as: `steering`, `report`, `checkpoint`.

    Raises:
        ValueError: If a field or a tensor is missing, unknown or wrong.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(_line(path, what, error)) from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        told = f"{_line(path, what, error)} is missing, unknown or wrong"
        raise ValueError(told) from None


def _line(path: str | Path, what: str, error: Exception) -> str:
    told = " ".join(str(error)[: 2 * _LONGEST].split())[:_LONGEST] or type(error).__name__
    return f"{path} holds no {what} that this version knows: {told}"


def only(header: Mapping[str, Any], *names: str) -> None:
    """Refuse an object that does not have exactly these fields.

    Raises:
        ValueError: If it lacks one or has another.
    """
    for name in names:
        _field(header, name)
    others = sorted(header.keys() - set(names))
    if others:
        raise ValueError(f"it has fields {shown(others)}, which are unknown")


def whole(header: Mapping[str, Any], name: str, least: int = 0) -> int:
    """A field that is a whole number.

    Raises:
        ValueError: If it is missing, not a whole number, below `least` or above 2^63 - 1.
    """
    found = check_whole(name, _field(header, name))
    if not least <= found <= _MOST:
        raise ValueError(f"{name}={shown(found)}: it must be at least {least} and at most {_MOST}")
    return found


def number(header: Mapping[str, Any], name: str) -> float:
    """A field that is a finite number.

    Raises:
        ValueError: If it is missing or not a finite number.
    """
    found = _field(header, name)
    # JSON allows an int of any length, which may not fit a float.
    if type(found) not in (int, float) or not abs(found) <= sys.float_info.max:
        raise ValueError(f"{name}={shown(found)}: it must be a finite number")
    return float(found)


def flag(header: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false.

    Raises:
        ValueError: If it is missing or neither.
    """
    found = _field(header, name)
    if not isinstance(found, bool):
        raise ValueError(f"{name}={shown(found)}: it must be true or false")
    return found


def text(header: Mapping[str, Any], name: str) -> str:
    """A field that is text.

    Raises:
        ValueError: If it is missing or not text.
    """
    found = _field(header, name)
    if not isinstance(found, str):
        raise ValueError(f"{name}={shown(found)}: it must be text")
    return found


def choice(header: Mapping[str, Any], name: str, choices: Sequence[str]) -> Any:
    """A field that is one of several words.

    Raises:
        ValueError: If it is missing or none of them.
    """
    found = _field(header, name)
    if not isinstance(found, str) or found not in choices:
        raise ValueError(f"{name}={shown(found)}: it is one of {', '.join(choices)}")
    return found


def mapping(header: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object.

    Raises:
        ValueError: If it is missing or not an object.
    """
    found = _field(header, name)
    if not isinstance(found, dict):
        raise ValueError(f"{name}={shown(found)}: it must be an object")
    return found


def listed(
    header: Mapping[str, Any], name: str, check: Callable[[Mapping[str, Any], str], Value]
) -> list[Value]:
    """A list field whose items another of these functions checks: `listed(header, "layers", whole)`.

    Raises:
        ValueError: If it is missing or not a list, or an item is wrong.
    """
    found = _field(header, name)
    if not isinstance(found, list):
        raise ValueError(f"{name}={shown(found)}: it must be a list")
    return [check({name: own}, name) for own in found]


def if_there(header: Mapping[str, Any], name: str, check: Callable[..., Value]) -> Value | None:
    """A field checked by another of these functions; None if it is not there.

    Raises:
        ValueError: If it is wrong.
    """
    return check(header, name) if name in header else None


def take(
    tensors: dict[str, Shaped[Tensor, "..."]], name: str, dtype: torch.dtype, axes: int
) -> Shaped[Tensor, "..."]:
    """Remove a tensor from those that were read; `only(tensors)` then refuses what is left.

    Raises:
        ValueError: If it is missing, of another number type, or has another number of axes.
    """
    found = _field(tensors, name)
    if found.dtype != dtype or found.ndim != axes:
        raise ValueError(
            f"{name} is of {found.dtype} and has {found.ndim} axes, and not of {dtype} with {axes}"
        )
    return tensors.pop(name)


def _field(header: Mapping[str, Any], name: str) -> Any:
    if name not in header:
        raise ValueError(f"{name!r} is missing")
    return header[name]
