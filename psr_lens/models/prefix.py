"""Keys and values of prefixes that do not change, so only what follows them is run again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowKeyValues:
    """Keys and values of one row's prefix, without padding.

    Attributes:
        keys: As the backend's cache keeps them (before or after rotation).
        values: Likewise.
    """

    keys: Float[Tensor, "layer pos head d_head"]
    values: Float[Tensor, "layer pos head d_head"]

    def first(self, count: int) -> "RowKeyValues":
        """Those of the first tokens."""
        return RowKeyValues(self.keys[:, :count].clone(), self.values[:, :count].clone())


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys and values of a batch of prefixes, padded on the left.

    Attributes:
        keys: As the backend's cache keeps them.
        values: Likewise.
        attention_mask: True on real columns.
    """

    keys: Float[Tensor, "layer batch pos head d_head"]
    values: Float[Tensor, "layer batch pos head d_head"]
    attention_mask: Bool[Tensor, "batch pos"]

    def repeated(self, count: int) -> "KeyValues":
        """One row's keys and values for many rows, without copying."""
        return KeyValues(
            self.keys.expand(-1, count, -1, -1, -1),
            self.values.expand(-1, count, -1, -1, -1),
            self.attention_mask.expand(count, -1),
        )

    def cut(self, length: int) -> "KeyValues":
        """Those of the first columns only, which later ones do not affect."""
        return KeyValues(
            self.keys[:, :, :length], self.values[:, :, :length], self.attention_mask[:, :length]
        )

    def rows(self) -> list[RowKeyValues]:
        """Each row by itself, without its padding."""
        lengths = self.attention_mask.sum(dim=1).tolist()
        width = self.attention_mask.shape[1]
        return [
            RowKeyValues(
                self.keys[:, i, width - length :].clone(),
                self.values[:, i, width - length :].clone(),
            )
            for i, length in enumerate(lengths)
        ]

    @classmethod
    def of(cls, rows: Sequence[RowKeyValues]) -> "KeyValues":
        """Rows as one batch."""
        lengths = [row.keys.shape[1] for row in rows]
        width = max(lengths)
        layers, _, heads, d_head = rows[0].keys.shape
        shape = (layers, len(rows), width, heads, d_head)
        keys, values = rows[0].keys.new_zeros(shape), rows[0].values.new_zeros(shape)
        mask = torch.zeros(len(rows), width, dtype=torch.bool, device=keys.device)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            keys[:, i, width - length :] = row.keys
            values[:, i, width - length :] = row.values
            mask[i, width - length :] = True
        return cls(keys, values, mask)
