"""What the columns are where TransformerLens is called directly and nothing else tells it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch

from psr_lens.models.columns import Columns


@final
class RawCalls:
    """Follows the direct calls of one model in one thread."""

    def __init__(self):
        self._generating = False
        self._prompt_of_generate: int | None = None
        self._total = 0
        self._current: tuple[Any, Columns] | None = None

    @contextmanager
    def one_generate(self) -> Iterator[None]:
        """The passes inside the context belong to one `generate`."""
        outer = self._generating, self._prompt_of_generate, self._total
        self._generating, self._prompt_of_generate, self._total = True, None, 0
        self._current = None
        try:
            yield
        finally:
            self._generating, self._prompt_of_generate, self._total = outer
            self._current = None

    def begin_pass(self) -> None:
        """A forward pass enters the first block."""
        self._current = None

    def columns(
        self,
        batch: int,
        pos: int,
        device: torch.device,
        *,
        prompt_length: int | None = None,
        question_start: int | None = None,
    ) -> Columns:
        """What the columns of the current pass are, as far as can be told.

        Args:
            batch: Rows.
            pos: New columns.
            device: Where the residual stream is.
            prompt_length: Columns of the prompt in whole sequences; None: each pass ends a prompt.
            question_start: First question column; None if nobody said.
        """
        # A pass that starts above the first block does not announce itself.
        told = batch, pos, prompt_length, question_start
        if self._current is None or self._current[0] != told:
            found = self._work_out(batch, pos, device, prompt_length, question_start)
            self._current = told, found
        return self._current[1]

    def _work_out(
        self,
        batch: int,
        pos: int,
        device: torch.device,
        prompt_length: int | None,
        question_start: int | None,
    ) -> Columns:
        first, response_start = 0, pos - 1
        if self._generating and self._prompt_of_generate is None:
            self._prompt_of_generate, self._total = pos, pos
        elif self._generating and self._prompt_of_generate is not None:
            # Without a cache, every pass holds all columns so far and one more.
            first = self._total if pos <= self._total else 0
            self._total = first + pos
            response_start = self._prompt_of_generate - 1
        elif prompt_length is not None and pos > 1:
            response_start = min(prompt_length - 1, pos - 1)

        def start(position: int) -> torch.Tensor:
            return torch.full((batch, 1), position, device=device)

        return Columns(
            torch.arange(first, first + pos, device=device).expand(batch, pos),
            start(response_start),
            None if question_start is None else start(question_start),
            padding_known=False,
        )
