"""A dataclass as tensors and JSON values, and back, guided by the types of its fields.

A field may be a truth value, a number, text, one of several words (`Literal`), a tensor, JSON values under
names (a `Mapping`), another dataclass, a tuple or list of these, a union of them, or None. Tensors are
named by their path, `tokens.0.norms`; NaN and infinity, which JSON does not have, are written as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens.storage.fields import choice, flag, listed, mapping, number, only, take, text, whole

Record = TypeVar("Record")

_NOT_FINITE: Final = ("nan", "inf", "-inf")
_PRECISIONS: Final = (torch.float64, torch.float32)


def pack_record(record: Any, tensors: dict[str, Shaped[Tensor, "..."]], place: str = "") -> Any:
    """A value as JSON values; its tensors are added to those given."""
    if isinstance(record, Tensor):
        tensors[place] = record
        return None
    if isinstance(record, float) and not isfinite(record):
        return str(record)
    if is_dataclass(record):
        record = {field.name: getattr(record, field.name) for field in fields(record)}
        packed = {k: pack_record(own, tensors, _join(place, k)) for k, own in record.items()}
        return {k: own for k, own in packed.items() if not isinstance(record[k], Tensor)}
    if isinstance(record, tuple | list):
        return [pack_record(own, tensors, _join(place, i)) for i, own in enumerate(record)]
    return dict(record) if isinstance(record, Mapping) else record


def unpack_record(
    kind: type[Record],
    about: Mapping[str, Any],
    tensors: dict[str, Shaped[Tensor, "..."]],
    place: str = "",
) -> Record:
    """The dataclass that `pack_record` was given: removes its tensors from those given.

    Raises:
        ValueError: If a field or a tensor is missing, unknown, or not what its type says.
    """
    types = get_type_hints(kind)
    places = {field.name: _join(place, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    only(about, *(name for name, own in places.items() if own not in tensors))
    values = {name: _value(types[name], about, name, tensors, own) for name, own in places.items()}
    found = kind(**values)
    for name, value in values.items():
        if isinstance(value, str) and getattr(found, name) != value:
            raise ValueError(f"{name}={value!r} of a {kind.__name__} that has none")
    return found


def _value(
    kind: Any, about: Mapping[str, Any], name: str, tensors: dict[str, Tensor], place: str
) -> Any:
    """One field, checked against its type."""
    if get_origin(kind) in (Union, UnionType):
        if place not in tensors and about[name] is None and NoneType in get_args(kind):
            return None
        options = [own for own in get_args(kind) if own is not NoneType]
        fitting = [own for own in options if isinstance(about.get(name), _json_type(own))]
        kind = (fitting or options)[0]
    if hasattr(kind, "dim_str"):
        dtype = tensors[place].dtype if place in tensors else None
        known = dtype if dtype in _PRECISIONS else torch.float64
        return take(tensors, place, known, len(kind.dim_str.split()))
    if is_dataclass(kind):
        return unpack_record(kind, mapping(about, name), tensors, place)  # type: ignore[arg-type]
    if _json_type(kind) is list:
        own, kinds = listed(about, name, lambda header, key: header[key]), get_args(kind)
        if get_origin(kind) is not tuple or kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(own)
        if len(kinds) != len(own):
            raise ValueError(f"{name} has {len(own)} values, and not {len(kinds)}")
        each = enumerate(zip(kinds, own, strict=True))
        parts = (_value(k, {name: v}, name, tensors, _join(place, i)) for i, (k, v) in each)
        return tuple(parts) if get_origin(kind) is tuple else list(parts)
    if get_origin(kind) is Literal:
        return choice(about, name, get_args(kind))
    if kind is float and about[name] in _NOT_FINITE:
        return float(about[name])
    if kind is int:
        return whole(about, name, -1)
    return {bool: flag, float: number, str: text}.get(kind, mapping)(about, name)


def _json_type(kind: Any) -> type:
    """The JSON type of a value, precise enough to tell the members of a union apart."""
    if is_dataclass(kind) or get_origin(kind) is Mapping:
        return dict
    return list if get_origin(kind) in (tuple, Sequence) else str


def _join(place: str, name: Any) -> str:
    return f"{place}.{name}" if place else str(name)
