"""Deltas batch by batch, with what a steering would read there, for the assumption tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._types import AlignedTokens, exactly
from psr_lens.deltas import Kind, iter_runs
from psr_lens.examples import Example
from psr_lens.models import HookedModel


@dataclass(frozen=True)
class DeltaBatch:
    """One batch.

    Attributes:
        indices: Places of its examples in the data.
        lengths: Aligned tokens of each.
        places: Place of every token of the batch among all aligned tokens of the data.
        deltas: By kind, `[layer, token, d_model]` in the working precision.
        reads: By kind, the residual stream that a steering would read before its update:
            `A(xy')` for the accumulated delta, the replayed base run's `P` for the local one.
    """

    indices: list[int]
    lengths: list[int]
    places: Int[Tensor, " token"]
    deltas: Mapping[Kind, Float[Tensor, "layer token d_model"]]
    reads: Mapping[Kind, Float[Tensor, "layer token d_model"]]

    def per_example(self, values: Float[Tensor, "layer token *more"]) -> Tensor:
        """Sums over the tokens of every example, `[example, layer, *more]`, float64 on the CPU."""
        parts = exactly(values).split(self.lengths, dim=1)
        return torch.stack([part.sum(dim=1) for part in parts]).cpu()


@dataclass(frozen=True)
class DeltaStream:
    """The deltas of some data, in as many passes as needed.

    Attributes:
        model: The model.
        data: The examples.
        tokens: `response` or `question+response`.
        layers: The layers to yield; the replay goes through all of them.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """

    model: HookedModel
    data: Sequence[Example]
    tokens: AlignedTokens
    layers: tuple[int, ...]
    batch_size: int
    progress: bool

    @property
    def lengths(self) -> list[int]:
        """Aligned tokens of every example."""
        return [example.aligned_length(self.tokens) for example in self.data]

    def batches(self, kinds: Sequence[Kind], description: str) -> Iterator[DeltaBatch]:
        """One pass over the data, three model runs per batch, two without the local deltas."""
        starts = torch.tensor([0, *self.lengths]).cumsum(0)
        chosen = list(self.layers)
        for runs in iter_runs(
            self.model,
            self.data,
            self.tokens,
            base="accumulated" in kinds,
            # Every layer is replaced, whichever are yielded: that is what local means.
            local="local" in kinds,
            batch_size=self.batch_size,
            progress=self.progress,
            description=description,
        ):
            deltas: dict[Kind, Tensor] = {}
            reads: dict[Kind, Tensor] = {}
            if runs.base is not None:
                deltas["accumulated"] = runs.accumulated[chosen]
                reads["accumulated"] = runs.base[chosen]
            if runs.local is not None:
                deltas["local"] = runs.local[chosen]
                reads["local"] = runs.target[chosen] - deltas["local"]
            places = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in runs.indices]
            yield DeltaBatch(runs.indices, runs.lengths, torch.cat(places), deltas, reads)
