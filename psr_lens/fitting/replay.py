"""Stage-wise replay: all examples go up the layers together, one block at a time.

At layer `l` the base walk holds the residual streams that the already fitted layers produce, the
steered walk holds `A(x'y')[l]`. Their difference is what layer `l` must add; a stage solver turns
it into a push, the push is applied, and both walks go through the next block. So a fit costs one
base run, one prompt-steered run and the regressions, whatever the number of layers, with no
gradient through the model. Memory is bounded by one layer's residual streams of all examples.
"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from psr_lens._types import Surface
from psr_lens.deltas import working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenRow
from psr_lens.models.batch import length_sorted_batches

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
        progress: Whether to show a bar.

    Returns:
        Relative RMSE of all pushes together at every layer of the model, on the dev examples: the
        walk has come by it. Empty without dev examples, without `carry`, and where an example's
        strength is not 1.
    """
    tokens = sum(
        len(row.tokens) for e in [*train, *dev] for row in (e.base_row, e.steered_row)
    ) + sum(len(e.base_row.tokens) for e in dev)
    needed = tokens * model.d_model * model.dtype.itemsize
    with ExitStack() as stack:
        folder = None
        if max_memory is not None and needed > max_memory:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-lens-")))
        fitted_on = _Walks(model, train, surface, batch_size, folder)
        checked_on = _Walks(model, dev, surface, batch_size, folder) if dev else None
        measured = checked_on if carry and checked_on and checked_on.strength is None else None
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


def _strengths(examples: Sequence[Example], surface: Surface) -> Tensor | None:
    """Every surface token's strength; None where all are 1."""
    if all(example.alpha == 1 for example in examples):
        return None
    lengths = torch.tensor([example.surface_length(surface) for example in examples])
    return torch.tensor([float(e.alpha) for e in examples]).repeat_interleave(lengths)


@final
class _Stored:
    """A list of tensors, in memory or in files of their own."""

    def __init__(self, tensors: Iterable[Tensor], folder: Path | None):
        self._folder = folder
        self._tensors: list[Tensor | Path] = []
        for i, tensor in enumerate(tensors):
            self._tensors.append(tensor)
            self[i] = tensor

    def copy(self) -> "_Stored":
        """The same tensors, to be replaced one by one."""
        return _Stored((self[i] for i in range(len(self._tensors))), self._folder)

    def __getitem__(self, i: int) -> Tensor:
        kept = self._tensors[i]
        if isinstance(kept, Path):
            return load_file(kept)["resid"].to(self._device)
        return kept

    def __setitem__(self, i: int, tensor: Tensor) -> None:
        if self._folder is None:
            self._tensors[i] = tensor
            return
        self._device = tensor.device
        path = self._folder / f"{id(self)}-{i}.safetensors"
        save_file({"resid": tensor.contiguous().cpu()}, path)
        self._tensors[i] = path


@final
class _Walks:
    """The base run with pushes and the prompt-steered run of the same examples, going up together."""

    def __init__(
        self,
        model: HookedModel,
        examples: Sequence[Example],
        surface: Surface,
        batch_size: int,
        folder: Path | None,
    ):
        self.base, self.steered = (
            _Walk(model, rows, surface, batch_size, folder)
            for rows in ([e.base_row for e in examples], [e.steered_row for e in examples])
        )
        self.strength = _strengths(examples, surface)
        self._plain: _Walk | None = None

    def up(self, layer: int) -> None:
        """Through one block."""
        for walk in (self.base, self.steered, self._plain):
            if walk is not None:
                walk.up(layer)

    def stage(self, precision: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Residual streams, what is missing there, and strengths."""
        x, target = self.base.residuals(), self.steered.residuals()
        if precision is not None:
            x, target = x.to(precision), target.to(precision)
        return x, target - x, None if self.strength is None else self.strength.to(x)

    def add(self, pushed: Float[Tensor, "token d_model"]) -> None:
        """Push the base run, every example by its strength."""
        strength = None if self.strength is None else self.strength.to(pushed)
        self.base.add(pushed if strength is None else strength.unsqueeze(-1) * pushed)

    def keep_plain(self) -> None:
        """Go on with a base run without pushes too, which is another one from here on."""
        if self._plain is None:
            self._plain = self.base.copy()

    def relative_rmse(self) -> float:
        """What the pushes leave missing, in units of what the prompt does."""
        target = self.steered.residuals()
        plain = self.base if self._plain is None else self._plain
        missed, energy = (
            float((walk.residuals() - target).double().square().sum())
            for walk in (self.base, plain)
        )
        return (missed / max(energy, 1e-30)) ** 0.5


@final
class _Walk:
    """All examples' residual streams, going up one block at a time."""

    def __init__(
        self,
        model: HookedModel,
        rows: Sequence[TokenRow],
        surface: Surface,
        batch_size: int,
        folder: Path | None,
    ):
        self.model = model
        self.order = length_sorted_batches([len(row.tokens) for row in rows], batch_size)
        self.batches = [model.pad([rows[i] for i in indices]) for indices in self.order]
        self.masks = [batch.surface(surface) for batch in self.batches]
        self.resid = _Stored((model.embed(batch) for batch in self.batches), folder)
        self.lengths = [mask.sum(dim=1).tolist() for mask in self.masks]
        # Batches are sorted by length, and base and steered prompts sort differently: tokens are
        # always handed out in the order of the examples.
        self.flat_order = [i for indices in self.order for i in indices]
        self.rank = {example: at for at, example in enumerate(self.flat_order)}

    def copy(self) -> "_Walk":
        """The same run up to here, to go on by itself."""
        walk = copy(self)
        walk.resid = self.resid.copy()
        return walk

    def up(self, layer: int) -> None:
        """Through one block."""
        for at, batch in enumerate(self.batches):
            self.resid[at] = self.model.run_block(layer, self.resid[at], batch)

    def residuals(self) -> Float[Tensor, "token d_model"]:
        """The surface's residual streams in the working precision, in the examples' order."""
        parts: list[Tensor] = []
        for at, (mask, lengths) in enumerate(zip(self.masks, self.lengths, strict=True)):
            parts.extend(self.resid[at][mask].split(lengths))
        ordered = torch.cat([parts[self.rank[i]] for i in range(len(parts))])
        return ordered.to(working_dtype(ordered.dtype))

    def add(self, push: Float[Tensor, "token d_model"]) -> None:
        """Add to the surface, given in the examples' order."""
        lengths = [length for batch in self.lengths for length in batch]
        by_example = push.split([lengths[self.rank[i]] for i in range(len(lengths))])
        rows = iter(self.flat_order)
        for at, (mask, order) in enumerate(zip(self.masks, self.order, strict=True)):
            pushes = torch.cat([by_example[next(rows)] for _ in order])
            pushed = self.resid[at].clone()
            pushed[mask] = (pushed[mask].to(pushes) + pushes).to(pushed)
            self.resid[at] = pushed
