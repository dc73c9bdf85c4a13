"""How far from the prompt fitted steerings remain, on one set of examples."""

from collections.abc import Iterable, Sequence
from typing import final

import torch

from psr_lens._types import AlignedTokens
from psr_lens.deltas import (
    PairedRuns,
    aligned_residuals,
    example_batches,
    iter_batches,
    iter_runs,
)
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.batch import Places, right_pad
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit
from psr_lens.models.finite import check_recorded
from psr_lens.models.prefix import KeyValues
from psr_lens.steering import Steering


@torch.no_grad()
def relative_rmse(
    model: HookedModel,
    candidates: Sequence[Steering],
    data: Sequence[Example],
    tokens: AlignedTokens,
    batch_size: int,
    paired: Iterable[PairedRuns] | None = None,
) -> list[tuple[float, ...]]:
    """Relative RMSE of every candidate at every layer; base and prompted runs are shared, or given."""
    if paired is None:
        paired = iter_runs(model, data, tokens, batch_size=batch_size)
    missed = torch.zeros(len(candidates), model.n_layers, dtype=torch.float64)
    energy = torch.zeros(model.n_layers, dtype=torch.float64)

    def squares(difference: torch.Tensor) -> torch.Tensor:
        return difference.square().sum(dim=(1, 2)).cpu().double()

    for runs in paired:
        energy += squares(runs.accumulated)
        for i, candidate in enumerate(candidates):
            edits = candidate.edits(model, 1.0, runs.examples)
            acted = aligned_residuals(model, runs.batch, tokens, edits)
            missed[i] += squares(acted - runs.target)
    return [tuple(own.tolist()) for own in (missed / energy.clamp_min(1e-30)).sqrt()]


@torch.no_grad()
def last_layer_errors(
    model: HookedModel,
    candidates: Sequence[Steering],
    data: Sequence[Example],
    tokens: AlignedTokens,
    batch_size: int,
) -> tuple[float, ...]:
    """Relative RMSE of every candidate at the last layer: the last value that `relative_rmse` gives.

    For many candidates of few layers each. The base run is made once; a candidate's run begins at the first
    layer that it acts on, or before it if it acts inside its blocks, and takes only the aligned tokens
    through the blocks above, with the prefix's keys and values kept. A candidate that depends on the
    example, acts on tokens before the aligned ones, or inside the first block, is run in full.

    Args:
        model: The model.
        candidates: The steerings.
        data: The examples.
        tokens: `response` or `question+response`.
        batch_size: Examples per forward pass.
    """
    missed = torch.zeros(len(candidates), dtype=torch.float64)
    energy = 0.0
    for indices in iter_batches(data, batch_size, progress=False, description=""):
        run = _BaseRun(model, [data[i] for i in indices], candidates, tokens)
        energy += run.missed_by(run.residuals[model.n_layers - 1])
        for i, candidate in enumerate(candidates):
            missed[i] += run.missed_by(run.under(candidate))
    return tuple((missed / max(energy, 1e-30)).sqrt().tolist())


def _inside(candidate: Steering) -> bool:
    """Whether a steering acts inside its blocks and not after them."""
    return candidate.hook_point != "resid_post"


@final
class _BaseRun:
    """The base run of a batch, kept so that steered runs can begin at a later layer."""

    def __init__(
        self,
        model: HookedModel,
        examples: Sequence[Example],
        candidates: Sequence[Steering],
        tokens: AlignedTokens,
    ):
        self.model, self.examples = model, examples
        self.tokens: AlignedTokens = tokens
        self.batch, prompted = example_batches(model, examples)
        self.target = aligned_residuals(model, prompted, tokens)[-1]
        self.places = Places(self.batch.on(tokens))
        self.lengths = [example.aligned_length(tokens) for example in examples]
        self.residuals: dict[int, torch.Tensor] = {}
        starts = {min(candidate.layers) - _inside(candidate) for candidate in candidates}
        # Below the first block there is no recorder: there a run begins with the embeddings.
        layers = {model.n_layers - 1, *starts} - {-1}
        with model.edited({layer: self._recorder(layer) for layer in layers}):
            kept = model.prefill(self.batch).rows()
        check_recorded(self.residuals[model.n_layers - 1], model, self.batch)
        rows = [example.base_row for example in examples]
        cuts = [len(row.tokens) - length for row, length in zip(rows, self.lengths, strict=True)]
        self.prefix = KeyValues.of([own.first(cut) for own, cut in zip(kept, cuts, strict=True)])
        self.suffix = right_pad(rows, cuts, model.encoder.pad_token_id, model.device)

    def missed_by(self, resid: torch.Tensor) -> float:
        """Squared distance to the prompted run."""
        return float((resid.to(self.target) - self.target).square().sum())

    def under(self, candidate: Steering) -> torch.Tensor:
        """The aligned tokens' residual stream after the last layer, end to end, under a steering."""
        beyond = candidate.acts_on(self.batch.columns) & ~self.batch.on(self.tokens)
        in_first = min(candidate.layers) < _inside(candidate)
        if candidate.depends_on_examples or in_first or bool(beyond.any()):
            edits = candidate.edits(self.model, 1.0, self.examples)
            return aligned_residuals(self.model, self.batch, self.tokens, edits)[-1]
        edits = candidate.edits(self.model)
        first = min(edits) - _inside(candidate)
        parts = list(self.residuals[first].split(self.lengths))
        resid = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        edited = edits[first](resid, self.suffix.columns) if first in edits else None
        above = {layer: edit for layer, edit in edits.items() if layer > first}
        with self.model.edited(above):
            found = self.model.run_suffix(
                first + 1, resid if edited is None else edited, self.suffix, self.prefix
            )
        found = found[self.suffix.attention_mask]
        check_recorded(found, self.model, self.suffix)
        return found

    def _recorder(self, layer: int) -> ResidualEdit:
        def edit(resid: torch.Tensor, columns: Columns) -> None:
            self.residuals[layer] = self.places.of(resid)

        return edit
