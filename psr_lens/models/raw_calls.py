"""What the columns are where TransformerLens is called directly and nothing else tells it."""

from typing import final

import torch

from psr_lens.models.columns import Columns


@final
class RawCalls:
    """Follows direct calls of one model.

    Args:
        prompt_length: Columns of the prompt in whole sequences; None: each pass ends a prompt.
        question_start: First question column; None if nobody said.
    """

    def __init__(self, prompt_length: int | None = None, question_start: int | None = None):
        self.prompt_length = prompt_length
        self.question_start = question_start
        self._generating = False
        self._prompt_of_generate: int | None = None
        self._total = 0
        self._current: Columns | None = None

    def nested(self, prompt_length: int | None, question_start: int | None) -> "RawCalls":
        """The same for a context inside, which may say more."""
        return RawCalls(
            self.prompt_length if prompt_length is None else prompt_length,
            self.question_start if question_start is None else question_start,
        )

    def begin_generate(self) -> None:
        """From here on the passes belong to one `generate`."""
        self._generating, self._prompt_of_generate, self._total = True, None, 0

    def end_generate(self) -> None:
        """It is over."""
        self._generating = False

    def begin_pass(self) -> None:
        """A forward pass enters the first block."""
        self._current = None

    def columns(self, batch: int, pos: int, device: torch.device) -> Columns:
        """What the columns of the current pass are, as far as can be told."""
        # A pass that starts above the first block does not announce itself.
        if self._current is None or self._current.position.shape != (batch, pos):
            self._current = self._work_out(batch, pos, device)
        return self._current

    def _work_out(self, batch: int, pos: int, device: torch.device) -> Columns:
        first, response_start = 0, pos - 1
        if self._generating and self._prompt_of_generate is None:
            self._prompt_of_generate, self._total = pos, pos
        elif self._generating and self._prompt_of_generate is not None:
            # Without a cache, every pass holds all columns so far and one more.
            first = self._total if pos <= self._total else 0
            self._total = first + pos
            response_start = self._prompt_of_generate - 1
        elif self.prompt_length is not None and pos > 1:
            response_start = min(self.prompt_length - 1, pos - 1)

        def start(position: int) -> torch.Tensor:
            return torch.full((batch, 1), position, device=device)

        return Columns(
            torch.arange(first, first + pos, device=device).expand(batch, pos),
            start(response_start),
            None if self.question_start is None else start(self.question_start),
            padding_known=False,
        )
