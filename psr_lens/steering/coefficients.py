"""How strongly a steering changed every layer and token: one number for every method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import LENGTH_ADDED, RESIDUAL_UNIT, TokenValues
from psr_lens.dataset import check_data
from psr_lens.deltas import iter_batches, token_regions, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.batch import Places
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit, hook_point_of, placed
from psr_lens.models.finite import check_recorded
from psr_lens.models.token_rules import NamedTokens, mask_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Coefficients:
    """How strongly a steering changed every layer and token of one response.

    Attributes:
        example: The triplet.
        tokens: The tokens as text: the aligned ones that include those it acts on, or all if it acts on
            others too.
        layers: The layers that the steering covers.
        values: Length of the update at every layer and token, in units of the residual stream, comparable
            across methods and, of what is added after the blocks, with delta norms; 0 where nothing is
            added. For one head, `alpha * c(A) * |z|`.
    """

    example: Example
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    values: Float[Tensor, "layer pos"]

    def token_values(self) -> TokenValues:
        """The values, ready to be drawn, as the same quantity as a prompt's local deltas."""
        return TokenValues(
            self.tokens,
            self.values,
            self.layers,
            LENGTH_ADDED,
            unit=RESIDUAL_UNIT,
            ending=self.example.ending,
            regions=token_regions(self.example, len(self.tokens)),
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per layer and token.

        Columns: `layer`, `pos` (place among `tokens`), `token`, `region` (see `token_regions`) and `value`,
        the length of what is added.
        """
        return self.token_values().to_dataframe()

    def _repr_html_(self) -> str:
        from psr_lens.plots import token_heatmap

        return token_heatmap(self)._repr_html_()

    def __repr__(self) -> str:
        share = float((self.values == 0).float().mean())
        return (
            f"Coefficients({len(self.layers)} layers, {len(self.tokens)} tokens, "
            f"up to {float(self.values.max()):.3g}, exactly 0 at {share:.0%})"
        )


@torch.no_grad()
def measure_updates(
    model: HookedModel,
    data: Sequence[Example],
    edits_for: Callable[[Sequence[Example]], Mapping[int, ResidualEdit]],
    layers: tuple[int, ...],
    tokens: NamedTokens,
    batch_size: int,
    progress: bool,
) -> list[Coefficients]:
    """Run `x y'` under the edits and record the length of each update, in the data's order."""
    check_data(model, data, "response" if tokens == "all" else tokens)
    found: dict[int, Coefficients] = {}
    for indices in iter_batches(data, batch_size, progress=progress, description="coefficients"):
        examples = [data[i] for i in indices]
        batch = model.pad([example.base_row for example in examples])
        mask = mask_of(tokens, batch.columns) & batch.attention_mask
        places, lengths = Places(mask), mask.sum(dim=1).tolist()
        updates = {layer: torch.zeros(sum(lengths)) for layer in layers}
        edits = edits_for(examples)
        with model.edited(
            {layer: _measured(edit, places, updates, layer) for layer, edit in edits.items()}
        ):
            model.run(batch)
        values = torch.stack([updates[layer] for layer in layers])
        check_recorded(values, model, batch, edits=edits)
        for i, example, own in zip(indices, examples, values.split(lengths, 1), strict=True):
            texts = model.encoder.str_tokens(example.base_row.tokens[-own.shape[1] :])
            found[i] = Coefficients(example, texts, layers, own)
    return [found[i] for i in range(len(data))]


def _measured(
    edit: ResidualEdit, places: Places, updates: dict[int, Tensor], layer: int
) -> ResidualEdit:
    def measured(resid: Tensor, columns: Columns) -> Tensor | None:
        pushed = edit(resid, columns)
        if pushed is not None:
            exact = working_dtype(resid.dtype)
            difference = places.of(pushed).to(exact) - places.of(resid)
            updates[layer] = difference.norm(dim=-1).cpu()
        return pushed

    return placed(measured, hook_point_of(edit))
