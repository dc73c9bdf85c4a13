"""What every column of a pass is: where its row starts, its question, its response.

An edit of the residual stream is told this beside the residual stream itself, so that it finds the
surface in a whole batch, in one cached step and in a direct call of TransformerLens alike.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from psr_lens._types import Surface

UNKNOWN: Final = -1
"""A prompt token of a direct call of TransformerLens, where nothing says what it belongs to."""
CONTEXT: Final = 0
"""Padding, and prompt tokens before the question."""
QUESTION: Final = 1
"""Question tokens: on surface `QR`, not on `R`."""
RESPONSE: Final = 2
"""The last prompt token and every response token: on both surfaces."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Positions of the columns of a pass, and where the regions of every row begin.

    Attributes:
        position: Place in the row's token sequence, 0 for its first token, negative on the left
            padding, and past `length` on padding on the right.
        response_start: Position of the last prompt token, where surface `R` begins.
        question_start: Position of the first question token; None where nobody said.
        all_response: Every column is known to be a response token: a step of `generate`.
        padding_known: Whether `position` knows about padding; not so in direct calls.
        rows: Which of the rows that a generation began with these are; None while all are there.
    """

    position: Int[Tensor, "batch pos"]
    response_start: Int[Tensor, "batch 1"]
    question_start: Int[Tensor, "batch 1"] | None
    all_response: bool = False
    padding_known: bool = True
    rows: Int[Tensor, " batch"] | None = None

    @cached_property
    def region(self) -> Int[Tensor, "batch pos"]:
        """`CONTEXT`, `QUESTION`, `RESPONSE` or `UNKNOWN` for every column."""
        response = self.position >= self.response_start
        if self.question_start is None:
            return torch.where(response, RESPONSE, UNKNOWN)
        question = self.position >= self.question_start
        return torch.where(response, RESPONSE, torch.where(question, QUESTION, CONTEXT))

    def start(self, surface: Surface) -> Int[Tensor, "batch 1"]:
        """Position of the first surface token of every row.

        Raises:
            ValueError: If the surface is `QR` and nothing says where the question starts.
        """
        if surface == "R":
            return self.response_start
        if self.question_start is None:
            raise ValueError(
                "surface='QR' but this call does not say where the question starts: use the "
                "HookedModel's own methods, or pass question_start= to applied(...)"
            )
        return self.question_start

    def surface(self, surface: Surface) -> Bool[Tensor, "batch pos"]:
        """Which columns lie on the surface.

        Raises:
            ValueError: If the surface is `QR` and nothing says where the question starts.
        """
        return self.position >= self.start(surface)

    def next(self) -> "Columns":
        """The column after the last one: a response token."""
        return Columns(
            self.position[:, -1:] + 1,
            self.response_start,
            self.question_start,
            all_response=True,
            padding_known=self.padding_known,
            rows=self.rows,
        )

    def grown(self) -> "Columns":
        """These columns and the next one."""
        return Columns(
            torch.cat([self.position, self.position[:, -1:] + 1], dim=1),
            self.response_start,
            self.question_start,
            padding_known=self.padding_known,
            rows=self.rows,
        )

    def kept(self, rows: Int[Tensor, " kept"]) -> "Columns":
        """Some of the rows."""
        start = self.question_start
        return Columns(
            self.position[rows],
            self.response_start[rows],
            None if start is None else start[rows],
            all_response=self.all_response,
            padding_known=self.padding_known,
            rows=rows if self.rows is None else self.rows[rows],
        )

    def __getitem__(self, columns: slice) -> "Columns":
        """Some of the columns."""
        return Columns(
            self.position[:, columns],
            self.response_start,
            self.question_start,
            padding_known=self.padding_known,
            rows=self.rows,
        )
