"""Token sequences as a left-padded batch, with a record of what every column is.

Responses are aligned from the right, in the base run and in the prompted run alike, so
batches are padded on the left: the last columns of every row are its response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from psr_lens._types import AlignedTokens, check_count
from psr_lens.models.columns import Columns


@dataclass(frozen=True)
class TokenRow:
    """One token sequence, prompt and response, and where its regions begin.

    Attributes:
        tokens: Token ids of prompt and response.
        question_start: Index of the first question token.
        response_start: Index of the last prompt token, the first of the `response` tokens.
    """

    tokens: tuple[int, ...]
    question_start: int
    response_start: int


@dataclass(frozen=True)
class TokenBatch:
    """A left-padded batch: what a forward pass takes.

    Attributes:
        tokens: Token ids, `[batch, pos]`, padded on the left.
        attention_mask: True on real tokens, `[batch, pos]`.
        columns: What every column is.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    columns: Columns

    def on(self, tokens: AlignedTokens) -> Bool[Tensor, "batch pos"]:
        """Mask of the columns among the aligned tokens."""
        return self.columns.on(tokens)

    def kept(self, rows: Int[Tensor, " kept"]) -> "TokenBatch":
        """Some of the rows."""
        return TokenBatch(self.tokens[rows], self.attention_mask[rows], self.columns.kept(rows))


@final
class Places:
    """Some columns of a batch, looked up once.

    A boolean mask is searched on every use, and on an accelerator each search waits for everything before
    it.

    Args:
        mask: True on the columns.
    """

    def __init__(self, mask: Bool[Tensor, "batch pos"]):
        self._flat = mask.flatten().nonzero().squeeze(1)

    def of(self, values: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "token d_model"]:
        """The values there, row by row, end to end."""
        return values.flatten(0, 1).index_select(0, self._flat)

    def replaced(
        self, values: Float[Tensor, "batch pos d_model"], new: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The same values with `new` there."""
        return values.flatten(0, 1).index_copy(0, self._flat, new.to(values)).view_as(values)


def left_pad(
    rows: Sequence[TokenRow], pad_token_id: int, device: torch.device | str = "cpu"
) -> TokenBatch:
    """Put rows of different lengths into one left-padded batch.

    Args:
        rows: The sequences, at least one.
        pad_token_id: The id that fills the empty columns; they are masked out.
        device: Where the tensors live.

    Raises:
        ValueError: If there is no row, or a row has no token.
    """
    if not rows or any(not row.tokens for row in rows):
        raise ValueError("a batch needs at least one row and every row at least one token")
    width = max(len(row.tokens) for row in rows)
    tokens = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, row in enumerate(rows):
        offset = width - len(row.tokens)
        tokens[i, offset:] = torch.tensor(row.tokens)
        mask[i, offset:] = True
    offsets = torch.tensor([[width - len(row.tokens)] for row in rows])
    return _batch(rows, tokens, mask, torch.arange(width) - offsets, device)


def right_pad(
    rows: Sequence[TokenRow],
    cuts: Sequence[int],
    pad_token_id: int,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """What follows the prefixes of rows: `tokens[cut:]` of each, padded on the right.

    After a left-padded batch of the prefixes, this continues every row without a gap. Padding columns are
    past the row's end: mask them out with `attention_mask`.

    Args:
        rows: The whole sequences.
        cuts: Length of every row's prefix.
        pad_token_id: The id that fills the empty columns.
        device: Where the tensors live.
    """
    suffixes = [row.tokens[cut:] for row, cut in zip(rows, cuts, strict=True)]
    width = max(len(suffix) for suffix in suffixes)
    tokens = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, suffix in enumerate(suffixes):
        tokens[i, : len(suffix)] = torch.tensor(suffix)
        mask[i, : len(suffix)] = True
    position = torch.arange(width) + torch.tensor([[cut] for cut in cuts])
    return _batch(rows, tokens, mask, position, device)


def _batch(
    rows: Sequence[TokenRow],
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    position: Int[Tensor, "batch pos"],
    device: torch.device | str,
) -> TokenBatch:
    ids = tokens.to(device)
    columns = Columns(
        position.to(device),
        torch.tensor([[row.response_start] for row in rows], device=device),
        torch.tensor([[row.question_start] for row in rows], device=device),
        ids=ids,
    )
    return TokenBatch(ids, mask.to(device), columns)


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar lengths, longest first, so there is little padding.

    With the longest first, a batch too large for memory fails at the start and not at the end.

    Raises:
        ValueError: If `batch_size` is not positive.
    """
    check_count("batch_size", batch_size)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
