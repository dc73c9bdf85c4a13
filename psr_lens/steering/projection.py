"""Projection match: every token gets the same projection on a direction."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.models.columns import Columns
from psr_lens.steering.base import Common, Resid, Role, Steering
from psr_lens.steering.registry import register
from psr_lens.steering.training import TrainingData


@final
@register
class ProjectionMatch(Steering):
    r"""$A \leftarrow A + \alpha (m_l - A \cdot u_l)\, u_l$: the projection on $u_l$ becomes $m_l$.

    Stolfo et al. (arXiv 2410.12877, section 3): `u` is the unit mean delta at the last prompt token,
    `m` the mean projection of the prompted residual stream there.

    Args:
        directions: Unit directions `u`; rescaled to norm 1.
        targets: Projections `m` that every aligned token gets at `alpha = 1`.
        layers: The layers, ascending.
        common: `tokens`, `hook_point`, `provenance` and `fit_report`, as `Steering` has them.

    Raises:
        ValueError: If there is not one direction and target per layer, or a number is not finite.
    """

    method: ClassVar[str] = "projection"
    label: ClassVar[str] = "projection match"
    roles: ClassVar[Mapping[str, Role]] = {"directions": "writes"}
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": "best"}, {"layers": "all"})
    directions: Float[Tensor, "layer d_model"]
    targets: Float[Tensor, " layer"]

    def __init__(
        self,
        directions: Float[Tensor, "layer d_model"],
        targets: Float[Tensor, " layer"],
        layers: Sequence[int],
        **common: Unpack[Common],
    ):
        super().__init__(layers, **common)
        self.hold(directions=unit_rows(directions), targets=targets)

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """`(m - A . u) u`."""
        row = self.row(layer)
        direction = self.directions[row].to(resid)
        missing = self.targets[row].to(resid) - resid @ direction
        return missing.unsqueeze(-1) * direction

    @classmethod
    def closed_form(
        cls, data: TrainingData, options: Any
    ) -> "tuple[ProjectionMatch, Sequence[float]]":
        """Directions and targets at the last prompt token."""
        moments = data.moments()
        units = torch.nn.functional.normalize(moments.at_prompt.mean, dim=1)
        targets = (units * moments.prompted.mean).sum(dim=1)
        made = cls(
            units.to(data.dtype), targets.to(data.dtype), range(len(units)), tokens=data.tokens
        )
        return made, ()

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's direction."""
        return self.directions[self.row(layer)].unsqueeze(0)


def unit_rows(rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """Rows rescaled to norm 1; zero rows, and rows that have norm 1 already, keep their exact bits."""
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / norm.where((norm > 0) & ((norm - 1).abs() > 1e-6), 1.0)
