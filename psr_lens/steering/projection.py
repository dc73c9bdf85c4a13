"""Projection match: every token gets the same projection on a direction."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_finite
from psr_lens.steering.push import PushSteering


@final
class ProjectionMatch(PushSteering):
    r"""$A \leftarrow A + \alpha (m_l - A \cdot u_l)\, u_l$: the projection on $u_l$ becomes $m_l$.

    Stolfo et al. (arXiv 2410.12877, section 3): `u` is the unit mean delta at the last prompt token,
    `m` the mean projection of the prompt-steered residual stream there.

    Args:
        directions: Unit directions `u`; rescaled to norm 1.
        targets: Projections `m` that every surface token gets at `alpha = 1`.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one direction and target per layer, or a number is not finite.
    """

    method: ClassVar[str] = "projection"

    def __init__(
        self,
        directions: Float[Tensor, "layer d_model"],
        targets: Float[Tensor, " layer"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if not len(directions) == len(targets) == len(self.layers):
            raise ValueError(
                f"{len(directions)} directions and {len(targets)} targets for {len(self.layers)} "
                "layers: pass one per layer"
            )
        self.directions = unit_rows(check_finite("directions", directions))
        self.targets = check_finite("targets", targets)
        self._row_of_layer = {layer: row for row, layer in enumerate(self.layers)}

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """`(m - A . u) u`."""
        row = self._row_of_layer[layer]
        direction = self.directions[row].to(resid)
        missing = self.targets[row].to(resid) - resid @ direction
        return missing.unsqueeze(-1) * direction

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's direction."""
        return self.directions[self._row_of_layer[layer]].unsqueeze(0)

    def tensors(self) -> dict[str, Tensor]:
        """Directions and targets."""
        return {"directions": self.directions, "targets": self.targets}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "ProjectionMatch":
        """The inverse of `tensors`."""
        return cls(tensors["directions"], tensors["targets"], layers, **options)


def unit_rows(rows: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """Rows of norm 1, zero rows as they are; rows that are so already keep their exact bits."""
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / norm.where((norm > 0) & ((norm - 1).abs() > 1e-6), 1.0)
