"""Deltas batch by batch, with what a steering would read there: the stream of the assumption tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from psr_lens._types import Surface, exactly
from psr_lens.deltas import Kind, example_batches, iter_batches, local_deltas, surface_residuals
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.shared import SharedPrefixes


@dataclass(frozen=True)
class DeltaBatch:
    """One batch.

    Attributes:
        indices: Places of its examples in the data.
        lengths: Surface tokens of each.
        places: Place of every token of the batch among all surface tokens of the data.
        deltas: By kind, `[layer, token, d_model]` in the working precision.
        reads: By kind, the residual stream that a steering would read in front of its push:
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
    """The deltas of some data, to be gone through as often as needed.

    Attributes:
        model: The model.
        data: The examples.
        surface: `R` or `QR`.
        layers: The layers that are handed out; the replay goes through all of them.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """

    model: HookedModel
    data: Sequence[Example]
    surface: Surface
    layers: tuple[int, ...]
    batch_size: int
    progress: bool

    @property
    def lengths(self) -> list[int]:
        """Surface tokens of every example."""
        return [example.surface_length(self.surface) for example in self.data]

    def batches(self, kinds: Sequence[Kind], description: str) -> Iterator[DeltaBatch]:
        """One pass over the data, three model runs per batch, two without the local deltas."""
        lengths = self.lengths
        starts = torch.tensor([0, *lengths]).cumsum(0)
        chosen = list(self.layers)
        passes = iter_batches(
            self.data, self.batch_size, progress=self.progress, description=description
        )
        begun, prompt = SharedPrefixes(self.model), SharedPrefixes(self.model)
        for indices in passes:
            base, steered = example_batches(self.model, [self.data[i] for i in indices])
            target = surface_residuals(self.model, steered, self.surface, shared=prompt)
            deltas: dict[Kind, Tensor] = {}
            reads: dict[Kind, Tensor] = {}
            if "accumulated" in kinds:
                plain = surface_residuals(self.model, base, self.surface, shared=begun)
                deltas["accumulated"] = (target - plain)[chosen]
                reads["accumulated"] = plain[chosen]
            if "local" in kinds:
                # Every layer is replaced, whichever are looked at: that is what local means.
                missing = local_deltas(self.model, base, target, self.surface, shared=begun)
                deltas["local"] = missing[chosen]
                reads["local"] = target[chosen] - deltas["local"]
            places = [torch.arange(int(starts[i]), int(starts[i + 1])) for i in indices]
            own = [lengths[i] for i in indices]
            yield DeltaBatch(list(indices), own, torch.cat(places), deltas, reads)
