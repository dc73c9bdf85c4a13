"""Prefixes that are run once: one that all rows of a batch share, or each row's own for many runs.

A system instruction comes before every question. What a causal model computes there depends on nothing that
follows, so one row's keys and values serve all rows, however they go on: a pass over a single row finds
them, and the rows begin after it, each with its own gap of padding. Where the same rows are run again and
again under edits of the aligned tokens, nothing before these tokens is run more than once.

None of this is done if something may look at the columns that are left out: an edit that does not say where
it acts, or a hook added to the model by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Bool
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.models.batch import TokenBatch, TokenRow
from psr_lens.models.prefix import KeyValues

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel

WORTH_SHARING = 128
"""Columns that must be saved to make up for one more pass, which reads all weights again: enough for
arithmetic, not reading, to take most of the time, on processors and on accelerators."""
MOST_KEPT = 2**31
"""Bytes that keys and values of every row's own prefix may take."""
_AS_GOOD = 0.75
"""A kept prefix will do if it is at least this share of the batch's own."""


@dataclass(frozen=True, eq=False)
class Rest:
    """What remains to be run of a batch.

    Attributes:
        batch: The columns after the shared prefix, padded on the left; all of them if there is none.
        prefix: One row's keys and values for the shared prefix, or every row's for its own; None if there
            is none.
    """

    batch: TokenBatch
    prefix: KeyValues | None = None

    @property
    def attention_mask(self) -> Bool[Tensor, "batch pos"]:
        """True on real tokens, over the shared columns and the rest."""
        return mask_after(self.prefix, self.batch)


def mask_after(prefix: KeyValues | None, batch: TokenBatch) -> Bool[Tensor, "batch prefix_and_pos"]:
    """The mask of a prefix and of what follows it."""
    if prefix is None:
        return batch.attention_mask
    own = prefix.attention_mask.expand(len(batch.tokens), -1)
    return torch.cat([own, batch.attention_mask], dim=1)


@final
class SharedPrefixes:
    """Runs the prefix that a batch's rows share, and keeps the last one for batches that begin alike.

    For one task over many batches, during which the weights stay the same.

    Args:
        model: The model.
    """

    def __init__(self, model: "HookedModel"):
        self._model = model
        self._tokens: tuple[int, ...] = ()
        self._kept: KeyValues | None = None

    @torch.no_grad()
    def rest(self, batch: TokenBatch, tokens: AlignedTokens = "response") -> Rest:
        """What remains to be run of a left-padded batch, and the keys and values of its shared prefix.

        Args:
            batch: The batch.
            tokens: The aligned tokens that hold all columns the caller needs.
        """
        try:
            shown = self._model.shown_from() if self._model.can_share else "nothing"
        except LookupError:
            return Rest(batch)
        if shown == "nothing":
            return Rest(batch)
        starts = [batch.columns.start("response")]
        if "question+response" in (tokens, shown):
            if batch.columns.question_start is None:
                return Rest(batch)
            starts.append(batch.columns.question_start)
        limit = int(torch.cat(starts).min())
        if limit * len(batch.tokens) < WORTH_SHARING:
            return Rest(batch)
        first, alike = _beginning(batch, limit)
        at_hand = _alike(first[:alike], self._tokens)
        rows = len(batch.tokens)
        if at_hand >= _AS_GOOD * alike and at_hand * rows >= WORTH_SHARING:
            assert self._kept is not None
            return Rest(_behind(batch, at_hand), self._kept.cut(at_hand))
        if alike * (rows - 1) < WORTH_SHARING:
            return Rest(batch)
        self._tokens = first[:alike]
        # No edit acts before the tokens that it promised to stay on.
        with self._model.unedited():
            self._kept = self._model.prefill(
                self._model.pad([TokenRow(self._tokens, alike, alike)])
            )
        return Rest(_behind(batch, alike), self._kept)


@torch.no_grad()
def aligned_rest(
    model: "HookedModel", rows: Sequence[TokenRow], batch: TokenBatch, tokens: AlignedTokens
) -> Rest:
    """The aligned tokens alone, behind what comes before them in every row, run once without edits.

    For several runs under edits that neither change nor look at anything else. All tokens, where that
    cannot be done, is not worth it, or would take too much memory.

    Args:
        model: The model.
        rows: The sequences.
        batch: The same, left-padded.
        tokens: `response` or `question+response`.
    """
    shareable = model.can_share and nothing_before(model, tokens)
    starts = batch.columns.start(tokens).flatten().tolist()
    # Keys and values of all heads; where queries share them, there are fewer.
    size = 2 * sum(starts) * model.n_layers * model.d_model * model.dtype.itemsize
    if not shareable or min(starts) == 0 or sum(starts) < WORTH_SHARING or size > MOST_KEPT:
        return Rest(batch)
    kept = [
        TokenRow(row.tokens[:start], start, min(row.question_start, start))
        for row, start in zip(rows, starts, strict=True)
    ]
    with model.unedited():
        prefix = model.prefill(model.pad(kept))
    longest = max(len(row.tokens) - start for row, start in zip(rows, starts, strict=True))
    columns = batch.columns[slice(batch.tokens.shape[1] - longest, None)]
    # Where shorter rows still have tokens of the prefix there is a gap.
    return Rest(TokenBatch(batch.tokens[:, -longest:], columns.on(tokens), columns), prefix)


def nothing_before(model: "HookedModel", tokens: AlignedTokens) -> bool:
    """Whether nothing changes or looks at what comes before these aligned tokens."""
    try:
        return model.shown_from() in (None, "response", tokens)
    except LookupError:
        return False


def _beginning(batch: TokenBatch, limit: int) -> tuple[tuple[int, ...], int]:
    """The first row's first `limit` tokens, and how many of them all rows share."""
    gaps = (~batch.attention_mask).sum(dim=1, keepdim=True)
    places = torch.arange(limit, device=gaps.device) + gaps
    aligned = batch.tokens.gather(1, places)
    alike = (aligned == aligned[:1]).all(dim=0).long().cumprod(dim=0).sum()
    return tuple(aligned[0].tolist()), int(alike)


def _alike(tokens: tuple[int, ...], others: tuple[int, ...]) -> int:
    """The length of the common prefix of two sequences."""
    for i, (own, other) in enumerate(zip(tokens, others, strict=False)):
        if own != other:
            return i
    return min(len(tokens), len(others))


def _behind(batch: TokenBatch, length: int) -> TokenBatch:
    """The batch without the first `length` tokens of every row.

    The columns cut off are those of the longest row; where a shorter row still has tokens of the prefix,
    they become a gap.
    """
    columns = batch.columns[slice(length, None)]
    return TokenBatch(batch.tokens[:, length:], columns.position >= length, columns)
