"""What is kept of a measurement: a few sums per example, and the tokens of the first examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor

from psr_lens.faithfulness.measures import example_sums, profile_sums, token_cosines
from psr_lens.faithfulness.recording import Products, SharedRuns, predicted_lengths
from psr_lens.faithfulness.worst_tokens import WorstTokens, no_tokens

if TYPE_CHECKING:
    import pandas

_OUTPUTS = ("kl", "agreed")


@final
class RunningSums:
    """Sums per example of every run, filled batch by batch in any order.

    Args:
        n_examples: Number of examples.
        token_examples: How many of the first examples keep their tokens.
        worst: Keeps the tokens where a run is farthest from the prompt.
    """

    def __init__(self, n_examples: int, token_examples: int, worst: WorstTokens):
        self._n_examples, self._token_examples, self._worst = n_examples, token_examples, worst
        self.sums: dict[str, dict[str, Tensor]] = {}
        self._tokens: dict[tuple[str, int], _ExampleTokens] = {}

    def enter(
        self,
        name: str,
        indices: Sequence[int],
        shared: SharedRuns,
        products: Products,
        *,
        keep_tokens: bool,
    ) -> None:
        """Record a run's numbers on a batch.

        Args:
            name: Name of the run.
            indices: Places of the batch's examples in the data.
            shared: The batch.
            products: Numbers of its tokens.
            keep_tokens: Whether to keep the tokens of the first examples, and the worst ones.
        """
        found = batch_sums(shared, products)
        own = self.sums.setdefault(name, {})
        for key, values in found.items():
            if key not in own:
                own[key] = torch.zeros(self._n_examples, *values.shape[1:], dtype=torch.float64)
            own[key][list(indices)] = values
        if keep_tokens:
            self._keep_tokens(name, indices, shared, products)
            self._worst.enter(name, indices, shared.lengths, products)

    def _keep_tokens(
        self, name: str, indices: Sequence[int], shared: SharedRuns, products: Products
    ) -> None:
        lengths, predicted = shared.lengths, predicted_lengths(shared.examples)
        parts = {
            key: values.split(predicted if key in _OUTPUTS else lengths, dim=-1)
            for key, values in (products | {"cosine": token_cosines(products)}).items()
        }
        for row, i in enumerate(indices):
            if i < self._token_examples:
                ids = shared.examples[row].base_row.tokens[-lengths[row] :]
                self._tokens[name, i] = _ExampleTokens(
                    shared.model.encoder.str_tokens(ids),
                    1 + len(shared.examples[row].response_ids),
                    {key: values[row].clone() for key, values in parts.items()},
                )

    def tokens(self) -> "pandas.DataFrame":
        """One row per steering, example, layer and aligned token; see `FaithfulnessReport.tokens`."""
        import pandas as pd

        order = {name: place for place, name in enumerate(self.sums)}
        kept = sorted(self._tokens.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        frames = [own.frame(name, i) for (name, i), own in kept]
        return pd.concat(frames, ignore_index=True) if frames else no_tokens(TOKEN_COLUMNS)


TOKEN_COLUMNS: Final[Mapping[str, type]] = {
    "steering": str,
    "example": int,
    "layer": int,
    "pos": int,
    "token": str,
    **dict.fromkeys(("delta", "effect", "error", "cosine", "kl"), float),
}
"""Columns of `FaithfulnessReport.tokens`, and what they hold."""


@dataclass(frozen=True)
class _ExampleTokens:
    tokens: tuple[str, ...]
    response_length: int
    products: Mapping[str, Tensor]

    def frame(self, name: str, example: int) -> "pandas.DataFrame":
        import pandas as pd

        n_layers, n_tokens = self.products["energy"].shape
        kl = torch.full((n_layers, n_tokens), torch.nan, dtype=torch.float64)
        if "kl" in self.products:
            # The distributions come after the last layer, from the last prompt token on.
            start = n_tokens - self.response_length
            kl[-1, start : start + len(self.products["kl"])] = self.products["kl"]
        columns: dict[str, Any] = {
            "steering": name,
            "example": example,
            "layer": torch.arange(n_layers).repeat_interleave(n_tokens).numpy(),
            "pos": torch.arange(n_tokens).repeat(n_layers).numpy(),
            "token": list(self.tokens) * n_layers,
            "delta": self.products["energy"].sqrt().flatten().numpy(),
            "effect": self.products["pushed"].sqrt().flatten().numpy(),
            "error": self.products["missed"].sqrt().flatten().numpy(),
            "cosine": self.products["cosine"].flatten().numpy(),
            "kl": kl.flatten().numpy(),
        }
        return pd.DataFrame(columns)


def batch_sums(shared: SharedRuns, products: Products) -> dict[str, Tensor]:
    """Every sum of every example of a batch: what all measures are made of."""
    outputs = [key for key in _OUTPUTS if key in products]
    per_layer = {key: own for key, own in products.items() if key not in (*_OUTPUTS, "size")}
    resolution = torch.finfo(shared.model.dtype).eps
    sums = example_sums(per_layer, shared.lengths)
    sums |= profile_sums(products, shared.lengths, resolution)
    if outputs:
        counts = predicted_lengths(shared.examples)
        sums |= example_sums({key: products[key] for key in outputs}, counts)
        sums |= example_sums({"kl_base": shared.base_products["kl"]}, counts)
        sums["predicted"] = torch.tensor(counts, dtype=torch.float64)
    return sums
