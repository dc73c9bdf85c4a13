"""What every column of a pass is: where its row, its question and its response start.

An edit receives this along with the residual stream, so it finds the tokens in a whole batch, in one cached
step and in a direct call of TransformerLens alike.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from psr_lens._types import AlignedTokens

UNKNOWN: Final = -1
"""A prompt token of a direct call of TransformerLens, which does not say what it belongs to."""
CONTEXT: Final = 0
"""Padding, and prompt tokens before the question."""
QUESTION: Final = 1
"""Question tokens: among `question+response`, not among `response`."""
RESPONSE: Final = 2
"""The last prompt token and every response token: among both."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Positions of the columns of a pass, and where the regions of every row begin.

    Attributes:
        position: Place in the row's token sequence, 0 for its first token, negative on left padding, and
            past the row's end on right padding.
        response_start: Position of the last prompt token, where the tokens `response` begin.
        question_start: Position of the first question token; None if not given.
        all_response: Every column is known to be a response token: a step of `generate`.
        padding_known: Whether `position` accounts for padding; not in direct calls without a mask.
        rows: Which of a generation's original rows these are; None while all are there.
        ids: Token id of every column; None if the pass does not show them.
    """

    position: Int[Tensor, "batch pos"]
    response_start: Int[Tensor, "batch 1"]
    question_start: Int[Tensor, "batch 1"] | None
    all_response: bool = False
    padding_known: bool = True
    rows: Int[Tensor, " batch"] | None = None
    ids: Int[Tensor, "batch pos"] | None = None

    @cached_property
    def region(self) -> Int[Tensor, "batch pos"]:
        """`CONTEXT`, `QUESTION`, `RESPONSE` or `UNKNOWN` for every column."""
        response = self.position >= self.response_start
        if self.question_start is None:
            return torch.where(response, RESPONSE, UNKNOWN)
        question = self.position >= self.question_start
        return torch.where(response, RESPONSE, torch.where(question, QUESTION, CONTEXT))

    def start(self, tokens: AlignedTokens) -> Int[Tensor, "batch 1"]:
        """Position of the first aligned token of every row.

        Raises:
            ValueError: If it is `question+response` and nothing says where the question starts.
        """
        if tokens == "response":
            return self.response_start
        if self.question_start is None:
            raise ValueError(
                "tokens='question+response' but this call does not say where the question starts: use the "
                "HookedModel's own methods, or pass question_start= to applied(...)"
            )
        return self.question_start

    def on(self, tokens: AlignedTokens) -> Bool[Tensor, "batch pos"]:
        """Which columns are among the aligned tokens.

        Raises:
            ValueError: If it is `question+response` and nothing says where the question starts.
        """
        return self.position >= self.start(tokens)

    def next(self, ids: Int[Tensor, "batch 1"]) -> "Columns":
        """The column after the last one: a response token, with these ids."""
        return replace(self, position=self.position[:, -1:] + 1, all_response=True, ids=ids)

    def grown(self, ids: Int[Tensor, "batch 1"]) -> "Columns":
        """These columns and the next one."""
        position = torch.cat([self.position, self.position[:, -1:] + 1], dim=1)
        known = None if self.ids is None else torch.cat([self.ids, ids], dim=1)
        return replace(self, position=position, all_response=False, ids=known)

    def kept(self, rows: Int[Tensor, " kept"]) -> "Columns":
        """Some of the rows."""
        start = self.question_start
        return replace(
            self,
            position=self.position[rows],
            response_start=self.response_start[rows],
            question_start=None if start is None else start[rows],
            rows=rows if self.rows is None else self.rows[rows],
            ids=None if self.ids is None else self.ids[rows],
        )

    def __getitem__(self, columns: slice) -> "Columns":
        """Some of the columns."""
        ids = None if self.ids is None else self.ids[:, columns]
        return replace(self, position=self.position[:, columns], all_response=False, ids=ids)
