"""A record of computed values: how it is written down, and how two of them are compared.

A quantity has a name and is either exact (tokens, chosen layers, counts) or rows of numbers with a
tolerance. A number is off by its difference from the recorded one, in units of the largest number of
its row, so small numbers beside large ones need no digits that they never had.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

Rows = list[list[float | None]]
SEPARATOR: Final = " / "


@dataclass(frozen=True)
class Tolerance:
    """By how much the numbers of a quantity may be off.

    Attributes:
        relative: In units of the largest number of the row.
        least_scale: What counts as the largest number where all are smaller.
    """

    relative: float
    least_scale: float = 0.0


TOLERANCES: Final[Mapping[str, Tolerance]] = {
    # Lengths, sums, logits: float32 and another order of summing.
    "rounding": Tolerance(1e-5),
    # Numbers without a unit (relative RMSE, shares, R^2): where the truth is 0, only rounding is left.
    "share": Tolerance(1e-5, least_scale=1.0),
    # Results of an optimiser: every step passes on the rounding of the one before.
    "trained": Tolerance(1e-3),
    "trained share": Tolerance(1e-3, least_scale=1.0),
    # In float32 the search for PSR heads may end at another, equally good place: only how good.
    "unstable share": Tolerance(3e-2, least_scale=1.0),
}
EXACT: Final = "exact"


@dataclass
class Record:
    """Quantities by name.

    Attributes:
        exact: Those that must be equal.
        numbers: Rows of numbers, by the name of their tolerance, then by their own.
        prefix: Stands in front of every name that is added.
    """

    exact: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, dict[str, Rows]] = field(
        default_factory=lambda: {tolerance: {} for tolerance in TOLERANCES}
    )
    prefix: str = ""

    def within(self, name: str) -> "Record":
        """The same record, with one more name in front of everything added."""
        return Record(self.exact, self.numbers, f"{self.prefix}{name}{SEPARATOR}")

    def add_exact(self, name: str, value: Any) -> None:
        """A quantity that must be equal: any JSON value except a mapping."""
        self._refuse_twice(name)
        self.exact[self.prefix + name] = json.loads(json.dumps(value))

    def add(self, name: str, values: Any, tolerance: str = "rounding") -> None:
        """Rows of numbers, or one row, or one number."""
        self._refuse_twice(name)
        rows = torch.as_tensor(values, dtype=torch.float64).detach()
        rows = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        found = [_rounded(row, TOLERANCES[tolerance]) for row in rows.tolist()]
        self.numbers[tolerance][self.prefix + name] = found

    def add_tensor(self, name: str, tensor: Tensor, tolerance: str = "rounding") -> None:
        """A tensor, by the fingerprint of every one of its rows along the first axis."""
        self.add(name, fingerprints(tensor), tolerance)

    def count(self) -> int:
        """How many values there are: numbers, and exact quantities."""
        tables = self.numbers.values()
        return len(self.exact) + sum(
            len(row) for t in tables for rows in t.values() for row in rows
        )

    def only(self, start: str) -> "Record":
        """The quantities whose names begin with `start`."""

        def kept(table: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in table.items() if name.startswith(start)}

        return Record(kept(self.exact), {name: kept(own) for name, own in self.numbers.items()})

    def _refuse_twice(self, name: str) -> None:
        full = self.prefix + name
        if full in self.exact or any(full in table for table in self.numbers.values()):
            raise ValueError(f"{full!r} is recorded twice: give it another name")


def fingerprints(tensor: Tensor) -> Tensor:
    """Norm of every row along the first axis, and its projection on a fixed random direction.

    The direction has entries of variance 1 and depends only on the row's size. A sign, a permutation
    or a transposition leaves the norm unchanged but shows in the projection.
    """
    rows = tensor.detach().cpu().double()
    rows = rows.flatten(1) if rows.ndim > 1 else rows[None]
    generator = torch.Generator().manual_seed(rows.shape[1])
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64)
    return torch.stack([rows.norm(dim=1), rows @ direction], dim=1)


def _rounded(row: list[float], tolerance: Tolerance) -> list[float | None]:
    """A row rounded to a tenth of the tolerance or less: further digits are not compared."""
    finite = [number if math.isfinite(number) else None for number in row]
    step = tolerance.relative * _scale(finite, tolerance) / 10
    decimals = -math.floor(math.log10(step))
    return [None if number is None else round(number, decimals) for number in finite]


def _scale(row: list[float | None], tolerance: Tolerance) -> float:
    """The unit of a row's numbers: the largest of them."""
    largest = max((abs(number) for number in row if number is not None), default=0.0)
    return max(largest, tolerance.least_scale) or 1.0


# --- comparing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two records.

    Attributes:
        differences: One line for every quantity that is not as it was.
        agreeing: How many values are as they were.
        closest_call: The largest share of its tolerance by which one of these is off.
        where: The name of that quantity.
    """

    differences: tuple[str, ...]
    agreeing: int
    closest_call: float
    where: str


def compare_records(old: Record, new: Record) -> Comparison:
    """Every quantity of two records against each other, by name."""
    lines: list[str] = []
    agreeing, closest, where = 0, 0.0, ""
    for name, before, now in _side_by_side(old.exact, new.exact, lines):
        if before == now:
            agreeing += 1
        else:
            lines.append(f"{name}: {_short(before)} -> {_short(now)}")
    for label, tolerance in TOLERANCES.items():
        tables = old.numbers.get(label, {}), new.numbers.get(label, {})
        for name, before, now in _side_by_side(*tables, lines):
            sizes, own_sizes = [len(row) for row in before], [len(row) for row in now]
            if sizes != own_sizes:
                lines.append(f"{name}: rows of {sizes} numbers -> rows of {own_sizes}")
                continue
            found = sorted(_offsets(before, now, tolerance), reverse=True)
            wrong = [own for own in found if own[0] > tolerance.relative]
            if wrong:
                off, (row, column) = wrong[0]
                others = f", and {len(wrong) - 1} more of {len(found)}" if len(wrong) > 1 else ""
                lines.append(
                    f"{name} [{row}, {column}]: {before[row][column]} -> {now[row][column]}, off by "
                    f"{off:.1e} of its scale ({label}: {tolerance.relative:.0e} allowed){others}"
                )
            else:
                agreeing += len(found)
                if found and found[0][0] / tolerance.relative > closest:
                    closest, where = found[0][0] / tolerance.relative, name
    return Comparison(tuple(lines), agreeing, closest, where)


def _side_by_side(
    old: Mapping[str, Any], new: Mapping[str, Any], lines: list[str]
) -> Iterator[tuple[str, Any, Any]]:
    """The quantities that both have; one that either lacks becomes a line."""
    for name in {**old, **new}:
        if name not in new:
            lines.append(f"{name}: recorded, and not computed now")
        elif name not in old:
            lines.append(f"{name}: computed now, and not recorded")
        else:
            yield name, old[name], new[name]


def _offsets(
    before: Rows, now: Rows, tolerance: Tolerance
) -> Iterator[tuple[float, tuple[int, int]]]:
    """By how much every number is off, with its place; infinity where only one side has a number."""
    for i, (row, own_row) in enumerate(zip(before, now, strict=True)):
        scale = _scale(row, tolerance)
        for j, (number, own) in enumerate(zip(row, own_row, strict=True)):
            if number is None or own is None:
                yield (0.0 if number is own else math.inf), (i, j)
            else:
                yield abs(own - number) / scale, (i, j)


def _short(value: Any, length: int = 160) -> str:
    text = json.dumps(value)
    return text if len(text) <= length else f"{text[:length]}..."


# --- the file -----------------------------------------------------------------------------------

FILE: Final = Path(__file__).parents[2] / "tests" / "data" / "recorded_outputs.json"


def write_record(record: Record, path: Path, made_with: Mapping[str, str]) -> None:
    """Write a record as JSON, nested by its names.

    One line per quantity, so that a changed quantity is a changed line.
    """
    tables = {label: _nested(table) for label, table in record.numbers.items()}
    whole = {"made with": made_with, EXACT: _nested(record.exact), **tables}
    path.write_text(_lines(whole) + "\n", encoding="utf-8")


def read_record(path: Path) -> tuple[Record, dict[str, str]]:
    """A record, and the versions that it was made with."""
    tables = json.loads(path.read_text(encoding="utf-8"))
    made_with, exact = tables.pop("made with"), dict(_flat(tables.pop(EXACT)))
    return Record(exact, {label: dict(_flat(table)) for label, table in tables.items()}), made_with


def _nested(table: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in table.items():
        *path, last = name.split(SEPARATOR)
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}{SEPARATOR}")
        else:
            yield prefix + name, value


def _lines(value: Any) -> str:
    if not isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    inside = [f"{json.dumps(name)}:{_lines(own)}" for name, own in value.items()]
    return "{\n" + ",\n".join(inside) + "\n}"
