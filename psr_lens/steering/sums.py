"""Steerings at once: sums and multiples."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.deltas import working_dtype
from psr_lens.models import HookedModel
from psr_lens.models.columns import Columns
from psr_lens.steering.base import Push, Steering
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.context import Context


def add_up(parts: Sequence[tuple[float, Steering]]) -> Steering:
    """Weighted steerings as one: constants of one model and surface are a constant again.

    All else is a `SumSteering`.
    """
    parts = _with_weights(parts)
    constants = [(weight, own) for weight, own in parts if isinstance(own, ConstantSteering)]
    alike = {(_fingerprint(own), own.surface, own.vectors.shape[-1]) for _, own in constants}
    if (
        len(constants) < len(parts)
        or len(alike) != 1
        or not all(own.layers for _, own in constants)
    ):
        return SumSteering(parts)
    first = constants[0][1].vectors
    layers = sorted({layer for _, own in constants for layer in own.layers})
    total = torch.zeros(len(layers), first.shape[-1], dtype=torch.float64)
    for weight, own in constants:
        rows = [layers.index(layer) for layer in own.layers]
        total[rows] += weight * own.vectors.detach().cpu().to(total)
    exact = [working_dtype(own.vectors.dtype) for _, own in constants]
    origin = {
        **_origin(parts),
        "parts": [{"weight": weight, **own.header()} for weight, own in constants],
    }
    return ConstantSteering(
        total.to(first.device, torch.float64 if torch.float64 in exact else torch.float32),
        layers,
        surface=constants[0][1].surface,
        provenance=origin,
    )


def _with_weights(parts: Sequence[tuple[float, Steering]]) -> tuple[tuple[float, Steering], ...]:
    """The parts, with weights that are finite numbers.

    Raises:
        ValueError: If one is not.
    """
    found = tuple((float(weight), part) for weight, part in parts)
    for weight, part in found:
        if not isfinite(weight):
            raise ValueError(f"weight {weight} of {part!r}: it must be a finite number")
    return found


def _fingerprint(part: Steering) -> str:
    """Of the model that a steering belongs to, empty where it does not say."""
    return repr(part.provenance.get("model", {}).get("fingerprint", ""))


@final
class SumSteering(Steering):
    r"""$A \leftarrow A + \alpha \sum_p a_p\, \mathrm{push}_p(A)$: several steerings at once (ours).

    Made by `a + b`, `0.5 * a`, `-a`, where these are not constants of one model and surface, whose
    sum is a constant. Every part reads the same residual stream.

    Args:
        parts: Weights and steerings.
        provenance: Where it comes from; put together from the parts' if not given.

    Raises:
        ValueError: If a weight is not finite.
    """

    method: ClassVar[str] = "sum"

    def __init__(
        self,
        parts: Sequence[tuple[float, Steering]],
        *,
        provenance: Mapping[str, Any] | None = None,
    ):
        layers = sorted({layer for _, part in parts for layer in part.layers})
        surface: Surface = "QR" if any(part.surface == "QR" for _, part in parts) else "R"
        super().__init__(
            layers, surface=surface, provenance=_origin(parts) if provenance is None else provenance
        )
        self.parts = _with_weights(parts)

    def pushes(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> Mapping[int, Push]:
        """The weighted sums of the parts' pushes, each on its own surface."""
        summands: dict[int, list[tuple[float, Steering, Push]]] = {i: [] for i in self.layers}
        for weight, part in self.parts:
            for layer, push in part.pushes(device, dtype, context).items():
                summands[layer].append((weight, part, push))

        def pusher(layer: int) -> Push:
            def push(resid: Tensor, columns: Columns) -> Tensor:
                total = torch.zeros_like(resid)
                for weight, part, own in summands[layer]:
                    on = part.acts_on(columns).unsqueeze(-1)
                    total = total + torch.where(on, weight * own(resid, columns), 0.0)
                return total

            return push

        return {layer: pusher(layer) for layer in self.layers}

    def weighted_parts(self) -> Sequence[tuple[float, Steering]]:
        """Its own parts, so that sums of sums stay flat."""
        return self.parts

    def acts_on(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Where any part acts."""
        masks = [part.acts_on(columns) for _, part in self.parts]
        return torch.stack(masks).any(dim=0)

    @property
    def only_on(self) -> Surface | None:
        """Where all parts say where they act, the surface of all of them."""
        known = all(part.only_on is not None for _, part in self.parts)
        return self.surface if known else None

    def covers(self, layer: int, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Where a part with that layer acts."""
        return torch.stack([part.covers(layer, columns) for _, part in self.parts]).any(dim=0)

    def span(self, layer: int) -> Float[Tensor, "rank d_model"] | None:
        """The rows of all parts with that layer."""
        found = [part.span(layer) for _, part in self.parts if layer in part.layers]
        rows = [own for own in found if own is not None]
        return torch.cat(rows) if rows and len(rows) == len(found) else None

    def check(self, model: HookedModel) -> None:
        """Every part has to belong to the model."""
        for _, part in self.parts:
            part.check(model)

    def tensors(self) -> dict[str, Tensor]:
        """The parts' tensors, with the number of the part in front of the name."""
        return {
            f"{i}.{name}": tensor
            for i, (_, part) in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }

    def options(self) -> dict[str, Any]:
        """Weights and headers of the parts."""
        return {"parts": [{"weight": weight, **part.header()} for weight, part in self.parts]}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], layers: Sequence[int], **options: Any
    ) -> "SumSteering":
        """From parts that are steerings already, `parts=[(weight, steering)]`."""
        return cls(options["parts"], provenance=options.get("provenance"))

    def __repr__(self) -> str:
        return " + ".join(f"{weight:g} * {part!r}" for weight, part in self.parts)


def _origin(parts: Sequence[tuple[float, Steering]]) -> dict[str, Any]:
    """The first part's model, and every example that any part has seen."""
    provenances = [part.provenance for _, part in parts]
    keys = {k for p in provenances for k in p.get("data", {}).get("example_keys", ())}
    model = next(({"model": p["model"]} for p in provenances if "model" in p), {})
    return {**model, "method": "sum", "data": {"example_keys": sorted(keys)}}
