"""A pandas data frame as tensors and a header: one tensor for every column.

Numbers and truth values are stored as they are, with a second tensor for a column that can have missing
values; text is stored as indices into a list of the distinct texts.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens.storage.fields import choice, listed, mapping, only, take, text

if TYPE_CHECKING:
    import pandas

_PLAIN: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    )
}
_NULLABLE: Final = {
    "Int64": torch.int64,
    "Int32": torch.int32,
    "Int16": torch.int16,
    "Int8": torch.int8,
    "boolean": torch.bool,
}
_TEXT: Final = ("object", "str", "string")
_OF_TYPE: Final = {str: _TEXT, int: ("int64",), float: ("float64",), bool: ("bool",)}


def pack_frame(
    name: str, frame: "pandas.DataFrame"
) -> tuple[dict[str, Shaped[Tensor, " row"]], dict[str, Any]]:
    """A data frame as tensors and JSON values; its index is not kept.

    Args:
        name: What the tensors' names begin with.
        frame: Columns of numbers, truth values, or text that may have missing values.

    Returns:
        The tensors, and what else `unpack_frame` needs.

    Raises:
        ValueError: If two columns share a name, a name is not text, or a column holds something else.
    """
    tensors: dict[str, Tensor] = {}
    columns: list[dict[str, Any]] = []
    for i, (label, column) in enumerate(frame.items()):
        place, dtype = f"{name}.{i}", str(column.dtype)
        if not isinstance(label, str) or any(label == own["name"] for own in columns):
            raise ValueError(f"column {label!r} of {name}: its name must be a text of its own")
        columns.append({"name": label, "dtype": dtype})
        if dtype in _PLAIN:
            tensors[place] = torch.tensor(column.to_numpy())
        elif dtype in _NULLABLE:
            plain = column.to_numpy("bool" if dtype == "boolean" else dtype.lower(), na_value=0)
            tensors[place] = torch.tensor(plain)
            tensors[f"{place}.missing"] = torch.tensor(column.isna().to_numpy())
        elif dtype in _TEXT:
            found: dict[str, int] = {}
            codes = [_code(name, label, own, found) for own in column.tolist()]
            tensors[place] = torch.tensor(codes, dtype=torch.int64)
            columns[-1]["texts"] = list(found)
        else:
            raise ValueError(f"column {label!r} of {name} is of {dtype}: store numbers or text")
    return tensors, {"columns": columns}


def unpack_frame(
    name: str,
    tensors: dict[str, Shaped[Tensor, "..."]],
    about: Mapping[str, Any],
    types: Mapping[str, type] | None = None,
) -> "pandas.DataFrame":
    """The inverse of `pack_frame`: removes its tensors from those given.

    Args:
        name: As it was packed.
        tensors: All tensors of the file.
        about: What `pack_frame` returned beside its tensors.
        types: The names that the columns must have, in order, and the type of their values if there are
            rows: `str`, `int`, `float` or `bool`, with none missing. None: any.

    Raises:
        ValueError: If a column is missing, unknown or of another type, or tensors and columns do not fit
            together.
    """
    import pandas as pd

    only(about, "columns")
    described = listed(about, "columns", mapping)
    names = [text(column, "name") for column in described]
    if len(set(names)) < len(names) or (types is not None and names != list(types)):
        wanted = "" if types is None else f", and not {list(types)}"
        raise ValueError(f"{name} has columns {names}{wanted}")
    found = {
        label: _column(f"{name}.{i}", tensors, column)
        for i, (label, column) in enumerate(zip(names, described, strict=True))
    }
    lengths = {len(series) for series in found.values()}
    if len(lengths) > 1:
        raise ValueError(f"{name} has columns of {sorted(lengths)} rows")
    for label, of in (types or {}).items() if lengths != {0} else ():
        dtype = str(found[label].dtype)
        if dtype not in _OF_TYPE[of] or (of is str and found[label].hasnans):
            raise ValueError(f"{label} of {name} is of {dtype}, and not of {of.__name__} alone")
    return pd.DataFrame(found)


def _column(place: str, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> "pandas.Series":
    import pandas as pd

    dtype = choice(about, "dtype", (*_PLAIN, *_NULLABLE, *_TEXT))
    only(about, "name", "dtype", *(["texts"] if dtype in _TEXT else []))
    values = take(tensors, place, {**_PLAIN, **_NULLABLE}.get(dtype, torch.int64), 1)
    if dtype in _TEXT:
        # Negative codes count from the end.
        words = [*listed(about, "texts", text), *_missing()]
        codes = values.tolist()
        if codes and not -len(_missing()) <= min(codes) <= max(codes) < len(words) - len(
            _missing()
        ):
            raise ValueError(f"{place} points at texts that there are not")
        return pd.Series([words[code] for code in codes], dtype=dtype)
    if dtype in _NULLABLE:
        missing = take(tensors, f"{place}.missing", torch.bool, 1)
        if len(missing) != len(values):
            raise ValueError(
                f"{place} has {len(values)} rows and {len(missing)} marks of missing ones"
            )
        return pd.Series(values.numpy(), dtype=dtype).mask(pd.Series(missing.numpy()))
    return pd.Series(values.numpy().copy())


def _missing() -> tuple[Any, ...]:
    """The values for missing text, by their codes -3, -2, -1."""
    import pandas as pd

    return (pd.NA, float("nan"), None)


def _code(name: str, label: str, value: Any, found: dict[str, int]) -> int:
    if isinstance(value, str):
        return found.setdefault(value, len(found))
    for code, missing in zip((-3, -2, -1), _missing(), strict=True):
        if value is missing or (code == -2 and isinstance(value, float) and value != value):
            return code
    raise ValueError(f"{value!r} in column {label!r} of {name}: store numbers or text")
