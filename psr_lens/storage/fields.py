"""Fields of a header, checked as they are read: one that is missing or wrong is a ValueError."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as shown
from typing import Any, Final

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens._types import check_whole

_LONGEST: Final = 300
_MOST: Final = 2**63 - 1


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn whatever is wrong with what a file says into one line that names the file.

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
    """Refuse an object that has not these fields and no others.

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
        ValueError: If it is missing, no whole number, below `least` or above 2^63 - 1.
    """
    return _within(name, _field(header, name), least)


def wholes(header: Mapping[str, Any], name: str, least: int = 0) -> tuple[int, ...]:
    """A field that is a list of whole numbers.

    Raises:
        ValueError: If it is missing or no such list, or a number is below `least` or above 2^63 - 1.
    """
    return tuple(_within(name, own, least) for own in listed(header, name))


def number(header: Mapping[str, Any], name: str) -> float:
    """A field that is a finite number.

    Raises:
        ValueError: If it is missing or no finite number.
    """
    return _finite(name, _field(header, name))


def numbers(header: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """A field that is a list of finite numbers.

    Raises:
        ValueError: If it is missing or no such list.
    """
    return tuple(_finite(name, own) for own in listed(header, name))


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
        ValueError: If it is missing or no text.
    """
    found = _field(header, name)
    if not isinstance(found, str):
        raise ValueError(f"{name}={shown(found)}: it must be text")
    return found


def texts(header: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that is a list of texts.

    Raises:
        ValueError: If it is missing or no such list.
    """
    found = listed(header, name)
    if not all(isinstance(own, str) for own in found):
        raise ValueError(f"{name}={shown(found)}: it must be a list of texts")
    return tuple(found)


def choice(header: Mapping[str, Any], name: str, choices: Sequence[str]) -> Any:
    """A field that is one of several words.

    Raises:
        ValueError: If it is missing or another.
    """
    found = _field(header, name)
    if not isinstance(found, str) or found not in choices:
        raise ValueError(f"{name}={shown(found)}: it is one of {', '.join(choices)}")
    return found


def mapping(header: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object.

    Raises:
        ValueError: If it is missing or none.
    """
    found = _field(header, name)
    if not isinstance(found, dict):
        raise ValueError(f"{name}={shown(found)}: it must be an object")
    return found


def mappings(header: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A field that is a list of objects.

    Raises:
        ValueError: If it is missing or no such list.
    """
    found = listed(header, name)
    if not all(isinstance(own, dict) for own in found):
        raise ValueError(f"{name}={shown(found)}: it must be a list of objects")
    return found


def listed(header: Mapping[str, Any], name: str) -> list[Any]:
    """A field that is a list, of whatever.

    Raises:
        ValueError: If it is missing or none.
    """
    found = _field(header, name)
    if not isinstance(found, list):
        raise ValueError(f"{name}={shown(found)}: it must be a list")
    return found


def take(
    tensors: dict[str, Shaped[Tensor, "..."]], name: str, dtype: torch.dtype, axes: int
) -> Shaped[Tensor, "..."]:
    """Take a tensor out of those that were read; `only(tensors)` then refuses what is left.

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


def _within(name: str, value: Any, least: int) -> int:
    found = check_whole(name, value)
    if found < least:
        raise ValueError(f"{name}={found}: it must be at least {least}")
    if found > _MOST:
        raise ValueError(f"{name}={shown(found)}: it must be at most {_MOST}")
    return found


def _finite(name: str, value: Any) -> float:
    # An int of any length is JSON, and is not always to be had as a float.
    if type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    raise ValueError(f"{name}={shown(value)}: it must be a finite number")
