"""Stage-wise replay: all examples go up the layers together, one block at a time.

At layer `l` the base walk holds the residual streams that the already fitted layers produce, the
steered walk holds `A(x'y')[l]`. Their difference is what layer `l` must add; a stage solver turns
it into a push, the push is applied, and both walks go through the next block. So a fit costs one
base run, one prompt-steered run and the regressions, whatever the number of layers, with no
gradient through the model. Memory is bounded by one layer's residual streams of all examples.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from psr_lens._types import Surface
from psr_lens.deltas import working_dtype
from psr_lens.models import HookedModel, TokenRow
from psr_lens.models.batch import length_sorted_batches
from psr_lens.responses import Example

Push = Callable[[Tensor], Tensor]
"""What a stage adds, as a function of the residual streams `[token, d_model]`."""

StageSolver = Callable[[int, "StageData"], Push]
"""Fits one layer's push."""


@final
class StageData:
    """What one stage sees: residual streams and what is missing, for train and dev tokens.

    Attributes:
        x: Residual streams of the training tokens.
        y: `A(x'y')[l] - x`: what is missing there.
        dev: The same two for the dev tokens, None without dev examples.
    """

    def __init__(
        self,
        x: Float[Tensor, "token d_model"],
        y: Float[Tensor, "token d_model"],
        dev: tuple[Tensor, Tensor] | None,
    ):
        self.x, self.y, self.dev = x, y, dev


@torch.no_grad()
def replay(
    model: HookedModel,
    train: Sequence[Example],
    dev: Sequence[Example],
    layers: Sequence[int],
    solve: StageSolver,
    *,
    surface: Surface = "R",
    carry: bool = True,
    batch_size: int = 32,
    progress: bool = False,
) -> None:
    """Walk up the layers and let `solve` fit each of them.

    Args:
        model: The model.
        train: The examples to fit on.
        dev: The examples that a stage may stop on; they carry the pushes like the others.
        layers: The layers to fit, ascending.
        solve: Called once per layer, from the lowest up.
        surface: Where pushes act.
        carry: Whether later stages see the earlier pushes. Without, every layer is fitted on the
            plain base run: many single-layer fits for the price of one.
        batch_size: Examples per batch.
        progress: Whether to show a bar.
    """
    examples = [*train, *dev]
    base = _Walk(model, [e.base_row for e in examples], surface, batch_size)
    steered = _Walk(model, [e.steered_row for e in examples], surface, batch_size)
    n_train = sum(e.surface_length(surface) for e in train)
    for layer in tqdm(range(max(layers) + 1), desc="replay", unit="layer", disable=not progress):
        base.up(layer)
        steered.up(layer)
        if layer not in layers:
            continue
        x, target = base.residuals(), steered.residuals()
        missing = target - x
        dev_data = (x[n_train:], missing[n_train:]) if dev else None
        push = solve(layer, StageData(x[:n_train], missing[:n_train], dev_data))
        if carry and layer < max(layers):
            base.add(push(x))


@final
class _Walk:
    """All examples' residual streams, going up one block at a time."""

    def __init__(
        self, model: HookedModel, rows: Sequence[TokenRow], surface: Surface, batch_size: int
    ):
        self.model = model
        self.order = length_sorted_batches([len(row.tokens) for row in rows], batch_size)
        self.batches = [model.pad([rows[i] for i in indices]) for indices in self.order]
        self.masks = [batch.surface(surface) for batch in self.batches]
        self.resid = [model.embed(batch) for batch in self.batches]
        self.lengths = [mask.sum(dim=1).tolist() for mask in self.masks]
        # Batches are sorted by length, and base and steered prompts sort differently: tokens are
        # always handed out in the order of the examples.
        self.flat_order = [i for indices in self.order for i in indices]
        self.rank = {example: at for at, example in enumerate(self.flat_order)}

    def up(self, layer: int) -> None:
        """Through one block."""
        self.resid = [
            self.model.run_block(layer, resid, batch)
            for resid, batch in zip(self.resid, self.batches, strict=True)
        ]

    def residuals(self) -> Float[Tensor, "token d_model"]:
        """The surface's residual streams in the working precision, in the examples' order."""
        parts: list[Tensor] = []
        for resid, mask, lengths in zip(self.resid, self.masks, self.lengths, strict=True):
            parts.extend(resid[mask].split(lengths))
        ordered = torch.cat([parts[self.rank[i]] for i in range(len(parts))])
        return ordered.to(working_dtype(ordered.dtype))

    def add(self, push: Float[Tensor, "token d_model"]) -> None:
        """Add to the surface, given in the examples' order."""
        lengths = [length for batch in self.lengths for length in batch]
        by_example = push.split([lengths[self.rank[i]] for i in range(len(lengths))])
        rows = iter(self.flat_order)
        for at, (resid, mask, order) in enumerate(
            zip(self.resid, self.masks, self.order, strict=True)
        ):
            pushes = torch.cat([by_example[next(rows)] for _ in order])
            pushed = resid.clone()
            pushed[mask] = (resid[mask].to(pushes) + pushes).to(resid)
            self.resid[at] = pushed
