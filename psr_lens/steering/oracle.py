"""The oracle: every example's own local deltas, the upper bound of any steering."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from psr_lens._types import Surface
from psr_lens.deltas import add_at, example_batches, local_deltas, surface_residuals
from psr_lens.models import HookedModel
from psr_lens.models.base import ResidualEdit
from psr_lens.responses import Example
from psr_lens.steering.base import Steering


@final
class OracleSteering(Steering):
    r"""$A[l, i] \leftarrow A[l, i] + \alpha D_{loc}[l, i]$ on the example's own response (ours).

    At `alpha = 1` it reproduces the prompt-steered residual stream and logits on the surface. It
    needs the steered prompt and the response, so it measures and cannot generate: it looks the
    deltas up by running the prompt, two passes for every batch of examples.

    Args:
        layers: The layers; with all of them the steered run is reproduced at every layer.
        surface: Where it acts.
        provenance: Where it comes from.
    """

    method: ClassVar[str] = "oracle"

    def __init__(
        self,
        layers: Sequence[int],
        *,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)

    def edits(
        self, model: HookedModel, alpha: float = 1.0, examples: Sequence[Example] | None = None
    ) -> Mapping[int, ResidualEdit]:
        """Edits for one batch of examples, in that order.

        Raises:
            ValueError: If no examples are given.
        """
        if examples is None:
            raise ValueError(
                "the oracle replays the deltas of given examples: pass examples=, it cannot generate"
            )
        base, steered = example_batches(model, examples)
        target = surface_residuals(model, steered, self.surface)
        deltas = local_deltas(model, base, target, self.surface, self.layers)
        pushes = {layer: alpha * deltas[row] for row, layer in enumerate(self.layers)}
        return add_at(base.surface(self.surface), pushes)

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: the deltas belong to the examples."""
        return {}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "OracleSteering":
        """The inverse of `tensors`."""
        return cls(layers, **options)
