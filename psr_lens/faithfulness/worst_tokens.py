"""Where a steering fails most: the tokens that it leaves farthest from the prompted run."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.examples import Example
from psr_lens.faithfulness.recording import Products
from psr_lens.models import HookedModel

if TYPE_CHECKING:
    import pandas

WORST_COLUMNS: Final[Mapping[str, type]] = {
    "steering": str,
    "example": int,
    "layer": int,
    "pos": int,
    "token": str,
    "context": str,
    **dict.fromkeys(("delta", "error", "relative_error"), float),
}
"""Columns of `FaithfulnessReport.worst`, and what they hold."""
_CONTEXT: Final = 4


@final
class WorstTokens:
    """The tokens of every steering and layer with the largest error, found batch by batch.

    Args:
        count: How many to keep of each steering and layer.
    """

    def __init__(self, count: int):
        self._count = count
        self._kept: dict[str, Float[Tensor, "quantity layer kept"]] = {}

    def enter(
        self, name: str, indices: Sequence[int], lengths: Sequence[int], products: Products
    ) -> None:
        """Record those tokens of a batch that are among the steering's worst so far."""
        missed = products["missed"]
        example = torch.tensor(indices).repeat_interleave(torch.tensor(lengths))
        pos = torch.cat([torch.arange(length) for length in lengths])
        places = [own.to(missed).expand_as(missed) for own in (example, pos)]
        own = torch.stack([missed, products["energy"], *places])
        if name in self._kept:
            own = torch.cat([self._kept[name], own], dim=-1)
        worst = own[0].topk(min(self._count, own.shape[-1])).indices
        self._kept[name] = own.gather(-1, worst.expand(len(own), -1, -1))

    def table(
        self,
        model: HookedModel,
        data: Sequence[Example],
        tokens: AlignedTokens,
        energy: Float[Tensor, " layer"],
    ) -> "pandas.DataFrame":
        """One row per steering, layer and kept token; see `FaithfulnessReport.worst_tokens`.

        Args:
            model: The model, whose encoder spells the tokens.
            data: The examples.
            tokens: Which tokens were measured.
            energy: `sum |D|^2` of every layer, over all tokens.
        """
        import pandas as pd

        n_tokens = sum(example.aligned_length(tokens) for example in data)
        scales = (energy / n_tokens).sqrt().tolist()
        texts = cache(lambda i: model.encoder.str_tokens(data[i].base_row.tokens))
        rows = []
        for name, kept in self._kept.items():
            for layer, own in enumerate(kept.unbind(dim=1)):
                for missed, moved, *place in own.T.tolist():
                    i, pos = map(int, place)
                    at = len(texts(i)) - data[i].aligned_length(tokens) + pos
                    shown = (texts(i)[at], _around(texts(i), at))
                    lengths = (moved**0.5, missed**0.5, missed**0.5 / scales[layer])
                    rows.append((name, i, layer, pos, *shown, *lengths))
        return pd.DataFrame(rows, columns=list(WORST_COLUMNS))


def no_tokens(columns: Mapping[str, type]) -> "pandas.DataFrame":
    """An empty table of tokens."""
    import pandas as pd

    return pd.DataFrame(columns=list(columns))


def _around(texts: Sequence[str], at: int) -> str:
    """A token in brackets, between the ones before and after it."""
    before, after = texts[max(0, at - _CONTEXT) : at], texts[at + 1 : at + 1 + _CONTEXT]
    # Tokens that are whole words do not carry the spaces between them.
    between = "" if any(text[:1].isspace() for text in texts) else " "
    return between.join([*before, f"[{texts[at]}]", *after])
