"""The oracle: every example's own deltas, the upper bound of any steering."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_finite
from psr_lens.models.columns import Columns
from psr_lens.steering.base import Push, Steering
from psr_lens.steering.context import Context


@final
class OracleSteering(Steering):
    r"""$A[l, i] \leftarrow A[l, i] + \alpha P_l (A(x'y')[l, i] - A[l, i])$ on its own response (ours).

    $P_l$ is the identity (the full oracle) or the projection on the span of some directions. At
    `alpha = 1` the full oracle adds exactly the local delta at every layer, so it reproduces the
    prompt-steered residual stream and logits on the surface. With the directions of a steering
    (`along`), it shows what that steering would reach with perfect coefficients; with the leading
    principal directions of the local deltas, what any k directions per layer can reach. Each layer
    makes up for what the earlier ones left, as a fitted steering's does.

    It needs the steered prompt and the response, so it measures and cannot generate: it runs the
    prompt, one pass for every batch of examples.

    Args:
        layers: The layers; with all of them the steered run is reproduced at every layer.
        basis: Orthonormal directions per layer, zero rows where a layer has fewer; None: full.
        surface: Where it acts.
        provenance: Where it comes from.
        fit_report: How the fit went.

    Raises:
        ValueError: If there is not one basis per layer, or a number is not finite.
    """

    method: ClassVar[str] = "oracle"
    depends_on_examples: ClassVar[bool] = True

    def __init__(
        self,
        layers: Sequence[int],
        *,
        basis: Float[Tensor, "layer rank d_model"] | None = None,
        surface: Surface = "R",
        provenance: Mapping[str, Any] | None = None,
        fit_report: Any = None,
    ):
        super().__init__(layers, surface=surface, provenance=provenance, fit_report=fit_report)
        if basis is not None and len(basis) != len(self.layers):
            raise ValueError(
                f"{len(basis)} bases for {len(self.layers)} layers: pass one per layer"
            )
        self.basis = None if basis is None else check_finite("basis", basis)

    @classmethod
    def along(cls, steering: Steering) -> "OracleSteering":
        """The oracle confined to a steering's own directions: perfect coefficients for them.

        Args:
            steering: Any that names the `span` of its pushes, as nearly all do.

        Raises:
            ValueError: If the steering has no directions.
        """
        found = [steering.span(layer) for layer in steering.layers]
        rows = [own.detach() for own in found if own is not None]
        if len(rows) < len(found) or not rows:
            raise ValueError(f"{steering!r} names no directions: pass one that does, a PSR say")
        rank = max(len(own) for own in rows)
        # Layers may differ in their number of directions: zero rows fill up.
        padded = [torch.nn.functional.pad(own, (0, 0, 0, rank - len(own))) for own in rows]
        return cls(
            steering.layers,
            basis=torch.stack([orthonormal_rows(own) for own in padded]),
            surface=steering.surface,
            provenance={**steering.provenance, "method": "oracle-along"},
        )

    def pushes(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> Mapping[int, Push]:
        """Pushes for one batch of examples, in that order.

        Raises:
            ValueError: If no examples are given.
        """
        if context is None:
            raise ValueError(
                "the oracle replays the deltas of given examples: pass examples=, it cannot generate"
            )
        target = context.prompt_steered(self.surface)

        def pusher(row: int, layer: int) -> Push:
            basis = None if self.basis is None else self.basis[row].to(device, dtype)

            def push(resid: Tensor, columns: Columns) -> Tensor:
                mask = columns.surface(self.surface)
                missing = target[layer].to(dtype) - resid[mask]
                if basis is not None:
                    missing = missing @ basis.T @ basis
                pushed = torch.zeros_like(resid)
                pushed[mask] = missing
                return pushed

            return push

        return {layer: pusher(row, layer) for row, layer in enumerate(self.layers)}

    @property
    def only_on(self) -> Surface:
        """Its surface."""
        return self.surface

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The layer's basis, if it has one."""
        return None if self.basis is None else self.basis[self.layers.index(layer)]

    def tensors(self) -> dict[str, Tensor]:
        """The basis, if it has one: the deltas belong to the examples."""
        return {} if self.basis is None else {"basis": self.basis}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "OracleSteering":
        """The inverse of `tensors`."""
        return cls(layers, basis=tensors.get("basis"), **options)


def orthonormal_rows(rows: Float[Tensor, "rank d_model"]) -> Float[Tensor, "rank d_model"]:
    """An orthonormal basis of the span of the rows, filled up with zeros to their number."""
    _, singular, directions = torch.linalg.svd(rows, full_matrices=False)
    kept = singular > 1e-6 * singular.max().clamp_min(1e-30)
    basis = torch.zeros_like(rows)
    basis[: len(directions)] = torch.where(kept.unsqueeze(-1), directions, 0.0)
    return basis
