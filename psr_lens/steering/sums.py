"""Several steerings at once: sums and multiples."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, ClassVar, cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from psr_lens._types import AlignedTokens, check_alpha
from psr_lens.deltas import working_dtype
from psr_lens.models import HookedModel
from psr_lens.models.columns import Columns
from psr_lens.models.editing import HookPoint
from psr_lens.models.token_rules import NAMED, NamedTokens, Tokens, aligned_reach, reach_of
from psr_lens.steering.base import Resid, Steering, Strength
from psr_lens.steering.constant import ConstantSteering, adds_vectors_alone
from psr_lens.steering.context import Context


def add_up(parts: Sequence[tuple[float, Steering]]) -> Steering:
    """Add up weighted steerings: constants with the same model and tokens give a constant.

    Anything else gives a `SumSteering`.
    """
    parts = _with_weights(parts)
    constants = [
        (weight, own)
        for weight, own in parts
        if isinstance(own, ConstantSteering) and adds_vectors_alone(own)
    ]
    alike = {
        (_fingerprint(own), own.tokens, own.hook_point, own.vectors.shape[-1])
        for _, own in constants
    }
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
        tokens=constants[0][1].tokens,
        hook_point=constants[0][1].hook_point,
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


def _together(tokens: Sequence[Tokens]) -> Tokens:
    """The tokens of several parts: the common ones if all agree, else the name that includes them all."""
    if len(set(tokens)) == 1:
        return tokens[0]
    together: NamedTokens = "response"
    for own in map(reach_of, tokens):
        together = own if NAMED.index(own) > NAMED.index(together) else together
    return together


def _place(parts: Sequence[tuple[float, Steering]]) -> HookPoint:
    """Where all parts act.

    Raises:
        ValueError: If they act at different points of a block.
    """
    first: HookPoint = parts[0][1].hook_point if parts else "resid_post"
    for _, part in parts:
        if part.hook_point != first:
            raise ValueError(
                f"a part acts at {first!r} and {part!r} at {part.hook_point!r}: a sum acts at one point of a "
                "block; enter applied(...) of both instead"
            )
    return first


def _fingerprint(part: Steering) -> str:
    """The fingerprint of the model that a steering belongs to; empty if it names none."""
    return repr(part.provenance.get("model", {}).get("fingerprint", ""))


@final
class SumSteering(Steering):
    r"""$A \leftarrow A + \alpha \sum_p a_p\, \mathrm{update}_p(A)$: several steerings at once (ours).

    Made by `a + b`, `0.5 * a`, `-a`, unless all are constants with the same model and tokens, whose sum is
    a constant. Every part reads the same residual stream. Parts are not copied: `to` and `requires_grad_`
    on the sum act on them.

    Args:
        parts: Weights and steerings.
        provenance: Where it comes from; combined from the parts' if not given.

    Raises:
        ValueError: If a weight is not finite, or parts act at different points of a block.
    """

    method: ClassVar[str] = "sum"
    label: ClassVar[str] = "sum"

    def __init__(
        self,
        parts: Sequence[tuple[float, Steering]],
        *,
        provenance: Mapping[str, Any] | None = None,
    ):
        layers = sorted({layer for _, part in parts for layer in part.layers})
        tokens = _together([part.tokens for _, part in parts])
        super().__init__(
            layers,
            tokens=tokens,
            hook_point=_place(parts),
            provenance=_origin(parts) if provenance is None else provenance,
        )
        weighted = _with_weights(parts)
        self.weights = tuple(weight for weight, _ in weighted)
        self.steerings = nn.ModuleList(part for _, part in weighted)

    @property
    def parts(self) -> tuple[tuple[float, Steering], ...]:
        """Weights and steerings."""
        return tuple(zip(self.weights, cast(Iterable[Steering], self.steerings), strict=True))

    def acting(
        self, device: torch.device, dtype: torch.dtype, context: Context | None = None
    ) -> "SumSteering":
        """The same sum of parts that are ready to act."""
        ready = [(weight, part.acting(device, dtype, context)) for weight, part in self.parts]
        return SumSteering(ready, provenance=self.provenance)

    def with_strength(
        self, alpha: Strength
    ) -> "tuple[Steering, Mapping[int, float | Float[Tensor, ' batch']]]":
        """A strength for every part is a sum with other weights."""
        if isinstance(alpha, Mapping) or not isinstance(alpha, Sequence):
            return super().with_strength(alpha)
        if len(alpha) != len(self.weights):
            raise ValueError(
                f"alpha={list(alpha)!r} has {len(alpha)} strengths but {self!r} has "
                f"{len(self.weights)} parts: give each one"
            )
        parts = [
            (weight * check_alpha(own), part)
            for own, (weight, part) in zip(alpha, self.parts, strict=True)
        ]
        return SumSteering(parts, provenance=self.provenance).with_strength(1.0)

    def update(self, layer: int, resid: Resid, columns: Columns | None = None) -> Resid:
        """The weighted sum of what the parts with that layer add, each on its own tokens."""
        total = torch.zeros_like(resid)
        for weight, part in self.parts:
            if layer in part.layers:
                own = weight * part.update(layer, resid, columns)
                if columns is not None:
                    own = torch.where(part.acts_on(columns).unsqueeze(-1), own, 0.0)
                total = total + own
        return total

    def at(self, layers: Sequence[int]) -> "SumSteering":
        """The same sum at those of the given layers that it covers."""
        kept = [(w, own) for w, own in self.parts if set(own.layers) & set(layers)]
        if not kept:
            raise ValueError(f"layers={list(layers)} but {self!r} covers {list(self.layers)}")
        return SumSteering([(w, own.at(layers)) for w, own in kept], provenance=self.provenance)

    def on(self, tokens: Tokens) -> "SumSteering":
        """The same sum, with every part on these tokens."""
        return SumSteering(
            [(w, own.on(tokens)) for w, own in self.parts], provenance=self.provenance
        )

    def at_hook_point(self, hook_point: HookPoint) -> "SumSteering":
        """The same sum, with every part at this point of its blocks."""
        return SumSteering(
            [(w, own.at_hook_point(hook_point)) for w, own in self.parts],
            provenance=self.provenance,
        )

    def weighted_parts(self) -> Sequence[tuple[float, Steering]]:
        """Its own parts, so that sums of sums stay flat."""
        return self.parts

    def acts_on(self, columns: Columns) -> Bool[Tensor, "batch pos"]:
        """Where any part acts."""
        masks = [part.acts_on(columns) for _, part in self.parts]
        return torch.stack(masks).any(dim=0)

    @property
    def only_on(self) -> AlignedTokens | None:
        """The tokens of all parts together; None if a part's are not known."""
        known = all(part.only_on is not None for _, part in self.parts)
        return aligned_reach(self.tokens) if known else None

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

    def arguments(self) -> dict[str, Any]:
        """Weights and headers of the parts."""
        return {"parts": [{"weight": weight, **part.header()} for weight, part in self.parts]}

    def __repr__(self) -> str:
        return " + ".join(f"{weight:g} * {part!r}" for weight, part in self.parts)


def _origin(parts: Sequence[tuple[float, Steering]]) -> dict[str, Any]:
    """The first part's model, and every example that any part has seen."""
    provenances = [part.provenance for _, part in parts]
    keys = {k for p in provenances for k in p.get("data", {}).get("example_keys", ())}
    model = next(({"model": p["model"]} for p in provenances if "model" in p), {})
    return {**model, "method": "sum", "data": {"example_keys": sorted(keys)}}
