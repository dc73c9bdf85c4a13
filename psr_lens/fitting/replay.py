"""Stage-wise replay: all examples go up the layers together, one block at a time.

At layer `l` the base walk holds the residual streams that the already fitted layers produce, the
steered walk holds `A(x'y')[l]`. Their difference is what layer `l` must add; a stage solver turns
it into a push, the push is applied, and both walks go through the next block. So a fit costs one
base run, one prompt-steered run and the regressions, whatever the number of layers, with no
gradient through the model; dev examples go up once more, without pushes. Memory is bounded by one
layer's residual streams of all examples.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._bars import tqdm
from psr_lens._types import Surface
from psr_lens.examples import Example
from psr_lens.fitting.walk import Walks
from psr_lens.models import HookedModel
from psr_lens.models.shared import SharedPrefixes

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
        strength: The strength of every token's example; None where all are 1.
        dev: The same three for the dev tokens, None without dev examples.
    """

    def __init__(
        self,
        x: Float[Tensor, "token d_model"],
        y: Float[Tensor, "token d_model"],
        strength: Float[Tensor, " token"] | None = None,
        dev: tuple[Tensor, Tensor, Tensor | None] | None = None,
    ):
        self.x, self.y, self.strength, self.dev = x, y, strength, dev


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
    precision: torch.dtype | None = None,
    max_memory: int | None = None,
    measure: bool = False,
    progress: bool = False,
) -> tuple[float, ...]:
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
        precision: Number type of what `solve` sees; by default float32, or float64 for a float64
            model.
        max_memory: Bytes of residual streams of one layer that may stay in memory, all walks
            together; past that they lie in temporary files. None: no limit.
        measure: Whether to go on with the dev examples to the last layer for the relative RMSE.
        progress: Whether to show a bar.

    Returns:
        With `measure`, the relative RMSE of all pushes together at every layer of the model, on the
        dev examples: the walk comes by it. Empty otherwise, without dev examples, without `carry`,
        and where an example's strength is not 1.
    """
    tokens = sum(
        len(row.tokens) for e in [*train, *dev] for row in (e.base_row, e.steered_row)
    ) + sum(len(e.base_row.tokens) for e in dev)
    needed = tokens * model.d_model * model.dtype.itemsize
    with ExitStack() as stack:
        folder = None
        if max_memory is not None and needed > max_memory:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-lens-")))
        # What base prompts begin with, and what prompted ones do, training and dev alike.
        shared = SharedPrefixes(model), SharedPrefixes(model)
        fitted_on = Walks(model, train, surface, batch_size, folder, shared)
        checked_on = Walks(model, dev, surface, batch_size, folder, shared) if dev else None
        possible = measure and carry and checked_on and checked_on.strength is None
        measured = checked_on if possible else None
        errors: list[float] = []
        end = model.n_layers if measured else max(layers) + 1
        for layer in tqdm(range(end), desc="replay", unit="layer", disable=not progress):
            if layer <= max(layers):
                fitted_on.up(layer)
            if checked_on:
                checked_on.up(layer)
            if layer in layers:
                x, missing, strength = fitted_on.stage(precision)
                seen = checked_on.stage(precision) if checked_on else None
                push = solve(layer, StageData(x, missing, strength, seen))
                if carry and layer < max(layers):
                    fitted_on.add(push(x))
                if carry and checked_on and seen:
                    if measured:
                        measured.keep_plain()
                    checked_on.add(push(seen[0]))
            if measured:
                errors.append(measured.relative_rmse())
    return tuple(errors)
