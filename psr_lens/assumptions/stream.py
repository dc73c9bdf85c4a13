"""Deltas batch by batch, with what a steering would read there, for the assumption tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._types import AlignedTokens, exactly
from psr_lens.deltas import Kind, iter_runs, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel

MOST_KEPT: Final = 2**31
"""Bytes that the batches of a stream may take to be kept for its next pass."""


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
        keep: Whether later passes take the batches of an earlier one, if they fit into `MOST_KEPT`.
    """

    model: HookedModel
    data: Sequence[Example]
    tokens: AlignedTokens
    layers: tuple[int, ...]
    batch_size: int
    progress: bool
    keep: bool = False
    _kept: list[DeltaBatch] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def lengths(self) -> list[int]:
        """Aligned tokens of every example."""
        return [example.aligned_length(self.tokens) for example in self.data]

    def batches(self, kinds: Sequence[Kind], description: str) -> Iterator[DeltaBatch]:
        """One pass over the data: a prompted run of every batch, and one more for each kind.

        None of them if a pass before had these kinds and kept its batches.
        """
        if self._kept and self._kept[0].deltas.keys() >= set(kinds):
            yield from self._kept
            return
        keep = self.keep and self._size(kinds) <= MOST_KEPT
        kept = []
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
            batch = DeltaBatch(runs.indices, runs.lengths, torch.cat(places), deltas, reads)
            if keep:
                kept.append(batch)
            yield batch
        # Not before the pass has ended: a part of the batches is no pass.
        self._kept[:] = kept

    def _size(self, kinds: Sequence[Kind]) -> int:
        """Bytes that a pass's deltas and reads take."""
        vectors = 2 * len(kinds) * len(self.layers) * sum(self.lengths)
        return vectors * self.model.d_model * working_dtype(self.model.dtype).itemsize
