"""The region of every column where TransformerLens is called directly and nothing else tells it."""

from typing import final

import torch
from torch import Tensor

from psr_lens.models.batch import CONTEXT, QUESTION, RESPONSE, UNKNOWN


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
        self.generating = False
        self.generate_start: int | None = None

    def nested(self, prompt_length: int | None, question_start: int | None) -> "RawCalls":
        """The same for a context inside, which may say more."""
        return RawCalls(
            self.prompt_length if prompt_length is None else prompt_length,
            self.question_start if question_start is None else question_start,
        )

    def begin_generate(self) -> None:
        """From here on the passes belong to one `generate`."""
        self.generating, self.generate_start = True, None

    def end_generate(self) -> None:
        """It is over."""
        self.generating, self.generate_start = False, None

    def region(self, batch: int, pos: int, device: torch.device) -> Tensor:
        """Region of the columns of a pass, `[batch, pos]`."""
        start = pos - 1
        if self.generating:
            if self.generate_start is None:
                self.generate_start = pos - 1
            # A cached step has fewer columns than the prompt: all of them are response.
            start = min(self.generate_start, pos - 1)
        elif self.prompt_length is not None and pos > 1:
            start = min(self.prompt_length - 1, pos - 1)
        columns = torch.arange(pos, device=device)
        unsaid = UNKNOWN if self.question_start is None else CONTEXT
        region = torch.full((pos,), unsaid, dtype=torch.long, device=device)
        if self.question_start is not None:
            region[columns >= self.question_start] = QUESTION
        region[columns >= start] = RESPONSE
        return region.expand(batch, pos)
