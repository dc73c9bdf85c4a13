"""Directional ablation: what lies along a direction is taken out."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.models.columns import Columns
from psr_lens.steering.base import Common, Resid, Role, Steering
from psr_lens.steering.projection import unit_rows
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class DirectionalAblation(Steering):
    r"""$A \leftarrow A - \alpha (A \cdot r)\, r$: at `alpha = 1` nothing is left along $r$.

    Arditi et al. (arXiv 2406.11717, section 2.4) take one direction, a difference in means, out of
    the residual stream at every layer. Applied to a prompted run it undoes what the prompt writes
    along `r`.

    Args:
        directions: The direction of every layer (one direction, repeated, in the source); rescaled
            to norm 1.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one direction per layer, or a number is not finite.
    """

    method: ClassVar[str] = "ablation"
    label: ClassVar[str] = "directional ablation"
    roles: ClassVar[Mapping[str, Role]] = {"directions": "removes"}
    has_best_layer: ClassVar[bool] = False
    directions: Float[Tensor, "layer d_model"]

    def __init__(
        self,
        directions: Float[Tensor, "layer d_model"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        self.hold(directions=unit_rows(directions))

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`-(A . r) r`."""
        direction = self.directions[self.row(layer)].to(resid)
        return -(resid @ direction).unsqueeze(-1) * direction

    @classmethod
    def closed_form(
        cls, data: TrainingData, options: Any
    ) -> "tuple[DirectionalAblation, Sequence[float]]":
        """One direction for all layers: the mean delta that holds the largest share of the energy.

        In the source, validation picks the layer that the direction is taken from.
        """
        deltas = data.moments().deltas
        shares = torch.tensor(deltas.share_left(deltas.mean))
        direction = deltas.mean[int(shares.argmin())].to(data.dtype)
        rows = direction.repeat(len(shares), 1)
        return cls(rows, range(len(shares)), tokens=data.tokens), ()

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's direction."""
        return self.directions[self.row(layer)].unsqueeze(0)
