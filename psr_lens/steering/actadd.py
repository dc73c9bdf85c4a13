"""Activation addition: the difference of one contrastive pair, added position by position."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import AlignedTokens, Layers, resolve_layers
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.models import unsteered_model
from psr_lens.models.batch import TokenRow
from psr_lens.models.columns import Columns
from psr_lens.models.numerics import record_residuals
from psr_lens.models.token_rules import aligned_reach
from psr_lens.steering.base import Common, Resid, Role, Steering
from psr_lens.steering.provenance import provenance as provenance_of
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class ActAdd(Steering):
    r"""$A[l, a + j] \leftarrow A[l, a + j] + \alpha\, (h^+_l[j] - h^-_l[j])$ for $j$ up to the pair's length.

    Turner et al. (arXiv 2308.10248, algorithm 1): the two texts of a pair are run by themselves, and the
    differences are added to the first positions of the prompt (`tokens="all"`, see `from_texts`).
    `fit(..., method="actadd")` takes one example instead and adds its accumulated delta from the first
    aligned token on: on that very example, at one layer, this is exactly what the prompt did. Later
    positions get nothing.

    Args:
        rows: The differences, in units of the residual stream.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them. Row 0 goes to
            the first of the tokens, which must be given by name.

    Raises:
        ValueError: If there is not one set of rows per layer, a number is not finite, or the tokens are
            given by a rule.
    """

    method: ClassVar[str] = "actadd"
    label: ClassVar[str] = "activation addition"
    roles: ClassVar[Mapping[str, Role]] = {"rows": "writes"}
    index: ClassVar[str] = "row"
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": "best"},)
    of_one_example: ClassVar[bool] = True
    rows: Float[Tensor, "layer shift d_model"]

    def __init__(
        self,
        rows: Float[Tensor, "layer shift d_model"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        if not isinstance(self.tokens, str):
            raise ValueError(
                f"tokens={self.tokens!r}: the rows of ActAdd are added one after the other from the "
                "first token on: choose 'response', 'question+response' or 'all'"
            )
        self.hold(rows=rows)

    @classmethod
    def from_texts(
        cls, model: Any, positive: str, negative: str, layers: Layers, *, pad: str = " "
    ) -> "ActAdd":
        """As in the source: two texts, run as they are, with the beginning-of-sequence token.

        Args:
            model: The model.
            positive: The text to move towards ("Love").
            negative: The text to move away from ("Hate").
            layers: One or more layers, after whose blocks the difference is taken and added.
            pad: Text that pads the shorter one to the longer one's number of tokens.

        Raises:
            ValueError: If `pad` has no token.
        """
        from psr_lens.models import RawText

        hooked = unsteered_model(model, "ActAdd.from_texts(...)")
        ids = [hooked.encoder.encode(RawText(text)).ids for text in (positive, negative)]
        filler = hooked.encoder.encode_response("", pad)
        length = max(len(own) for own in ids)
        if not filler:
            raise ValueError(f"pad={pad!r} has no token in this model's vocabulary: pass another")
        padded = [(own + tuple(filler) * length)[:length] for own in ids]
        with torch.no_grad():
            seen = record_residuals(hooked, [TokenRow(own, 0, len(own) - 1) for own in padded])
        chosen = resolve_layers(layers, hooked.n_layers)
        rows = (seen[:, 0] - seen[:, 1])[list(chosen)].float()
        origin = provenance_of(hooked, method="actadd", texts=[positive, negative])
        return cls(rows, chosen, tokens="all", provenance=origin)

    @classmethod
    @torch.no_grad()
    def closed_form(cls, data: TrainingData, options: Any) -> "tuple[ActAdd, Sequence[float]]":
        """The accumulated delta of the first example."""
        model, tokens = data.model, data.tokens
        base, prompted = example_batches(model, [data.examples[0]])
        rows = aligned_residuals(model, prompted, tokens) - aligned_residuals(model, base, tokens)
        return cls(rows.cpu(), range(len(rows)), tokens=tokens), ()

    def acts_on(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """The columns that have a row."""
        place = self._place(columns)
        return (place >= 0) & (place < self.rows.shape[1])

    @property
    def only_on(self) -> AlignedTokens | None:
        """Its tokens; None if it acts on all."""
        return aligned_reach(self.tokens)

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """Each column's row.

        Raises:
            ValueError: If `columns` is not given.
        """
        if columns is None:
            raise ValueError(
                "ActAdd depends on a token's position: pass columns=, as a pass of the model does"
            )
        rows = self.rows[self.row(layer)].to(resid)
        own = rows[self._place(columns).clamp(0, len(rows) - 1)]
        return torch.where(self.acts_on(columns).unsqueeze(-1), own, 0.0)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The rows of all positions."""
        return self.rows[self.row(layer)]

    def _place(self, columns: Columns) -> Tensor:
        aligned = aligned_reach(self.tokens)
        if aligned is not None:
            return columns.position - columns.start(aligned)
        if not columns.padding_known and len(columns.position) > 1:
            raise ValueError(
                "this call does not say which columns are padding, and the rows are added from each "
                "sequence's first token on: use the HookedModel's own methods, or one row at a time"
            )
        return columns.position
