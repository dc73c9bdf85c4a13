"""Residual streams of many examples that go up the layers together."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.deltas import working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenRow
from psr_lens.models.batch import Places, length_sorted_batches
from psr_lens.models.columns import Columns
from psr_lens.models.editing import HookPoint, MidEdit, ResidualEdit
from psr_lens.models.finite import check_recorded
from psr_lens.models.shared import SharedPrefixes


@final
class BaseAndPrompted:
    """The base run with updates and the prompted run of the same examples, going up together."""

    def __init__(
        self,
        model: HookedModel,
        examples: Sequence[Example],
        tokens: AlignedTokens,
        batch_size: int,
        folder: Path | None,
        shared: SharedPrefixes,
        prompted: "PromptedRun",
        hook_point: HookPoint = "resid_post",
    ):
        rows = [example.base_row for example in examples]
        self.base = LayerByLayerRun(model, rows, tokens, batch_size, folder, shared, hook_point)
        self.prompted = prompted
        self.strength = _strengths(examples, tokens)
        self._untouched: LayerByLayerRun | None = None

    def up(self) -> None:
        """Through one block."""
        for run in (self.base, self._untouched):
            if run is not None:
                run.up()
        self.prompted.up_to(self._layer)

    @property
    def _layer(self) -> int:
        return self.base.height - 1

    def stage(self, precision: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Residual streams at the hook point, what is missing there, and strengths."""
        x, target = self.base.at_hook_point(), self.prompted.at_hook_point(self._layer)
        if precision is not None:
            x, target = x.to(precision), target.to(precision)
        return x, target - x, None if self.strength is None else self.strength.to(x)

    def add(self, pushed: Float[Tensor, "token d_model"]) -> None:
        """Add to the base run, times every example's strength."""
        strength = None if self.strength is None else self.strength.to(pushed)
        self.base.add(pushed if strength is None else strength.unsqueeze(-1) * pushed)

    def keep_base(self) -> None:
        """From here on, also keep a base run without updates."""
        if self._untouched is None:
            self._untouched = self.base.copy()

    def relative_rmse(self) -> float:
        """What is still missing after the updates, relative to what the prompt does."""
        target = self.prompted.residuals(self._layer)
        base = self.base if self._untouched is None else self._untouched
        missed, energy = (
            float((run.residuals() - target).square().sum()) for run in (self.base, base)
        )
        return (missed / max(energy, 1e-30)) ** 0.5


@final
class PromptedRun:
    """The prompted run, which no fit changes.

    Args:
        begin: Begins the run.
        keep: Whether the residual streams of every layer are kept, for the next fit to the same examples.
    """

    def __init__(self, begin: "Callable[[], LayerByLayerRun]", keep: bool):
        self._begin, self._keep = begin, keep
        self._run: LayerByLayerRun | None = None
        # After every layer, and at the hook point: often the same tensors.
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def up_to(self, layer: int) -> None:
        """Through the blocks up to this one, unless what follows it is known."""
        if layer in self._kept:
            return
        # A run that is interrupted in the middle of a block is not gone on with.
        run, self._run = self._run, None
        if run is None or run.height > layer + 1:
            run = self._begin()
        while run.height <= layer:
            run.up()
        self._run = run

    def residuals(self, layer: int) -> Float[Tensor, "token d_model"]:
        """The aligned tokens' residual streams after a layer: see `LayerByLayerRun.residuals`."""
        return self._streams(layer)[0]

    def at_hook_point(self, layer: int) -> Float[Tensor, "token d_model"]:
        """The same at the hook point: see `LayerByLayerRun.at_hook_point`."""
        return self._streams(layer)[1]

    def _streams(self, layer: int) -> tuple[Tensor, Tensor]:
        if layer in self._kept:
            return self._kept[layer]
        self.up_to(layer)
        assert self._run is not None
        after = self._run.residuals()
        found = (
            after,
            after if self._run.hook_point == "resid_post" else self._run.at_hook_point(),
        )
        if self._keep:
            self._kept[layer] = found
            if self._run.finished:
                self._run = None
        return found


@final
class LayerByLayerRun:
    """All examples' residual streams, going up one block at a time.

    Attributes:
        height: How many blocks they are through.
    """

    def __init__(
        self,
        model: HookedModel,
        rows: Sequence[TokenRow],
        tokens: AlignedTokens,
        batch_size: int,
        folder: Path | None,
        shared: SharedPrefixes,
        hook_point: HookPoint = "resid_post",
    ):
        self.model = model
        self.hook_point: HookPoint = hook_point
        self.height = 0
        self.order = length_sorted_batches([len(row.tokens) for row in rows], batch_size)
        self.batches = [model.pad([rows[i] for i in indices]) for indices in self.order]
        # The longest first, as the batches are, so that the prefix of the first serves all.
        self.rests = [shared.rest(batch, tokens) for batch in self.batches]
        masks = [rest.batch.on(tokens) for rest in self.rests]
        self.places = [Places(mask) for mask in masks]
        embedded = (model.embed(rest.batch, rest.prefix) for rest in self.rests)
        self.resid = _Stored(embedded, folder)
        if hook_point == "resid_mid":
            # What entered the last block, and its aligned tokens' streams in the middle of it.
            self._entered, self._mid = self.resid.copy(), self.resid.copy()
        self.lengths = [mask.sum(dim=1).tolist() for mask in masks]
        # Batches are sorted by length, and base and steering prompts sort differently: tokens are
        # always handed out in the order of the examples.
        self.flat_order = [i for indices in self.order for i in indices]
        self.rank = {example: at for at, example in enumerate(self.flat_order)}

    def copy(self) -> "LayerByLayerRun":
        """A copy of the run up to here, which continues separately."""
        run = copy(self)
        run.resid = self.resid.copy()
        if self.hook_point == "resid_mid":
            run._entered, run._mid = self._entered.copy(), self._mid.copy()
        return run

    @property
    def finished(self) -> bool:
        """Whether they are through all blocks."""
        return self.height == self.model.n_layers

    def up(self) -> None:
        """Through one block."""
        for at, places in enumerate(self.places):
            resid = self.resid[at]
            if self.hook_point == "resid_post":
                self.resid[at] = self._through(self.height, at, resid)
                continue
            seen: list[Tensor] = []
            self.resid[at] = self._through(self.height, at, resid, _recording(places, seen))
            self._entered[at], self._mid[at] = resid, seen[0]
        self.height += 1

    def _through(
        self, layer: int, at: int, resid: Tensor, edit: ResidualEdit | None = None
    ) -> Tensor:
        """A batch through one block, with an edit in the middle of it."""
        rest = self.rests[at]
        edited = nullcontext() if edit is None else self.model.edited({layer: MidEdit(edit)})
        with edited:
            return self.model.run_block(layer, resid, rest.batch, rest.prefix)

    def residuals(self) -> Float[Tensor, "token d_model"]:
        """The aligned tokens' residual streams in the working precision, in the examples' order.

        Raises:
            NotFinite: If one of them holds NaN or infinity.
        """
        return self._ordered([own.of(self.resid[at]) for at, own in enumerate(self.places)])

    def at_hook_point(self) -> Float[Tensor, "token d_model"]:
        """The same at the hook point of the last block."""
        if self.hook_point == "resid_post":
            return self.residuals()
        return self._ordered([self._mid[at] for at in range(len(self.places))])

    def _ordered(self, by_batch: Sequence[Tensor]) -> Float[Tensor, "token d_model"]:
        parts: list[Tensor] = []
        for own, lengths in zip(by_batch, self.lengths, strict=True):
            parts.extend(own.split(lengths))
        ordered = torch.cat([parts[self.rank[i]] for i in range(len(parts))])
        check_recorded(ordered, self.model, *self.batches)
        return ordered.to(working_dtype(ordered.dtype))

    def add(self, update: Float[Tensor, "token d_model"]) -> None:
        """Add to the aligned tokens at the hook point, given in the examples' order."""
        lengths = [length for batch in self.lengths for length in batch]
        by_example = update.split([lengths[self.rank[i]] for i in range(len(lengths))])
        rows = iter(self.flat_order)
        for at, (places, order) in enumerate(zip(self.places, self.order, strict=True)):
            updates = torch.cat([by_example[next(rows)] for _ in order])
            if self.hook_point == "resid_post":
                self.resid[at] = _with(places, self.resid[at], updates)
            else:
                # Through the block once more: its MLP is to read what was added.
                edit = _adding(places, updates)
                self.resid[at] = self._through(self.height - 1, at, self._entered[at], edit)


def _recording(places: Places, seen: list[Tensor]) -> ResidualEdit:
    def edit(resid: Tensor, columns: Columns) -> None:
        seen.append(places.of(resid))

    return edit


def _adding(places: Places, updates: Float[Tensor, "token d_model"]) -> ResidualEdit:
    def edit(resid: Tensor, columns: Columns) -> Tensor:
        return _with(places, resid, updates)

    return edit


def _with(places: Places, resid: Tensor, updates: Float[Tensor, "token d_model"]) -> Tensor:
    """The residual streams with something added at the aligned tokens."""
    return places.replaced(resid, places.of(resid).to(updates) + updates)


@final
class _Stored:
    """A list of tensors, in memory or each in its own file."""

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


def _strengths(examples: Sequence[Example], tokens: AlignedTokens) -> Tensor | None:
    """Every aligned token's strength; None where all are 1."""
    if all(example.alpha == 1 for example in examples):
        return None
    lengths = torch.tensor([example.aligned_length(tokens) for example in examples])
    return torch.tensor([float(e.alpha) for e in examples]).repeat_interleave(lengths)
