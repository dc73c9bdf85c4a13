"""Directional ablation: what lies along a direction is taken out."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_finite
from psr_lens.steering.projection import unit_rows
from psr_lens.steering.push import PushSteering


@final
class DirectionalAblation(PushSteering):
    r"""$A \leftarrow A - \alpha (A \cdot r)\, r$: at `alpha = 1` nothing is left along $r$.

    Arditi et al. (arXiv 2406.11717, section 2.4) take one direction, a difference in means, out of
    the residual stream at every layer. Applied to a prompted run it undoes what the prompt writes
    along `r`.

    Args:
        directions: The direction of every layer (one direction, repeated, in the source); rescaled
            to norm 1.
        layers: The layers, ascending.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one direction per layer, or a number is not finite.
    """

    method: ClassVar[str] = "ablation"

    def __init__(
        self,
        directions: Float[Tensor, "layer d_model"],
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if len(directions) != len(self.layers):
            raise ValueError(
                f"{len(directions)} directions for {len(self.layers)} layers: pass one per layer"
            )
        self.directions = unit_rows(check_finite("directions", directions))
        self._direction_of_layer = dict(zip(self.layers, self.directions, strict=True))

    def push(
        self, layer: int, resid: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """`-(A . r) r`."""
        direction = self._direction_of_layer[layer].to(resid)
        return -(resid @ direction).unsqueeze(-1) * direction

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's direction."""
        return self._direction_of_layer[layer].unsqueeze(0)

    def tensors(self) -> dict[str, Tensor]:
        """The directions."""
        return {"directions": self.directions}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "DirectionalAblation":
        """The inverse of `tensors`."""
        return cls(tensors["directions"], layers, **options)
