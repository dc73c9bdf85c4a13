"""The logit lens on steerings and deltas: which tokens does a direction speak for?

nostalgebraist, "interpreting GPT: the logit lens" (2020), sends residual streams through the final
norm and the unembedding. Here directions are read, in two ways (ours):

- A direction `d` without a residual stream (what a steering writes or reads): the final norm is
  linearised, `U (gain * centred(d))`, centred where the norm centres, with no division by a scale.
  The scale of any residual stream would divide all values alike, so the ranks do not depend on it.
- A token's delta `D` at its residual stream `A`: the exact difference `unembed(norm(A + D)) -
  unembed(norm(A))`, soft cap included. At the last layer this is the difference of the logits of
  the prompted and the base run.

A number added to all values alike changes no probability: read differences between tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Layers, check_count
from psr_lens.deltas import PromptDeltas, aligned_residuals, working_dtype
from psr_lens.lens.reading import DirectionReading, LensReading, TokenLogit
from psr_lens.models import HookedModel, as_hooked_model, unsteered_model
from psr_lens.models.norms import linear_logits
from psr_lens.steering import Steering, SumSteering
from psr_lens.steering.provenance import provenance

_ROWS = 64


@dataclass(frozen=True, eq=False)
class _Direction:
    name: str
    layer: int
    index: int
    role: str
    vector: Float[Tensor, " d_model"]


def logit_lens(
    model: Any,
    directions: Mapping[str, Float[Tensor, " d_model"]] | Float[Tensor, "*rows d_model"],
    *,
    top: int = 10,
) -> LensReading:
    """The tokens that directions of the residual stream promote and demote most.

    `U (gain * centred(d))`: the final norm linearised, without its division (see the module). Compare
    values within one direction; between directions, compare them in units of their spread over the
    vocabulary.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        directions: Directions by name; or one, or rows, which are named by number.
        top: How many tokens on each side.

    Raises:
        ValueError: If there is no direction, one is not finite or of another width than the
            model's, or `top` is not positive.

    Example:
        >>> import psr_lens as pl
        >>> model = pl.load_model("demo")
        >>> small, large = (model.encoder.encode(pl.RawText(t)).ids[-1] for t in ("bat", "BAT"))
        >>> shout = model.unembedding()[large] - model.unembedding()[small]
        >>> (reading,) = pl.logit_lens(model, shout, top=3).readings
        >>> reading.promoted[0].token, reading.demoted[0].token
        ('BAT', 'bat')
    """
    hooked = as_hooked_model(model)
    if not isinstance(directions, Mapping):
        rows = directions.reshape(-1, directions.shape[-1])
        directions = {str(number): row for number, row in enumerate(rows)}
    listed = [_Direction(name, -1, -1, "", vector) for name, vector in directions.items()]
    return _read(hooked, listed, top, provenance(hooked))


def read_steering(model: Any, steering: Steering, *, top: int = 10) -> LensReading:
    """What the directions of a steering say, at every layer that it covers.

    The vectors that its class names in `roles`: for a PSR, `z` (writes) and `w` (reads) of every head; for
    LoReFT, the rows of `R` (writes) and of `W - R` (reads). For a sum, those of all parts, with what they
    write times their weights. Directions are read as by `logit_lens`.

    For a vector that reads, the lens shows which tokens' directions raise the coefficient. A direction
    written far below the last layer also acts through the layers in between, which the lens leaves out.

    Args:
        model: The model that the steering belongs to.
        steering: The steering.
        top: How many tokens on each side.

    Raises:
        ValueError: If the steering has no directions (the full oracle), or belongs to another model.
    """
    hooked = as_hooked_model(model)
    steering.check(hooked)
    directions = list(_directions_of(steering))
    if not directions:
        raise ValueError(
            f"{steering!r} has no directions to read: pass a steering with vectors of its own"
        )
    origin = provenance(hooked, steering=dict(steering.provenance))
    return _read(hooked, directions, top, origin)


@torch.no_grad()
def read_delta(
    model: Any, deltas: PromptDeltas, layer: Layers, position: int, *, top: int = 10
) -> LensReading:
    """What the prompt has done to the next token's logits up to a layer, at one aligned token.

    `unembed(norm(A + D_acc)) - unembed(norm(A))` with `A = A(xy')[layer, position]`, through the
    model's own norm, unembedding and soft cap. At the last layer it is the difference of the logits
    of the two runs.

    Args:
        model: The model that the deltas were collected on.
        deltas: One example's deltas.
        layer: The layer, several, or `"all"`.
        position: Index among the aligned tokens; negative ones count from the end. The logits are
            those of the token that comes after it.
        top: How many tokens on each side.

    Raises:
        ValueError: If layer or position are out of range, or the deltas are another model's.
    """
    hooked = unsteered_model(model, "read_delta(...)")
    one = deltas.at(layer, position)
    if one.layers[-1] >= hooked.n_layers or one.accumulated.shape[-1] != hooked.d_model:
        raise ValueError(
            f"deltas of layer {one.layers[-1]} and d_model={one.accumulated.shape[-1]}, but "
            f"{hooked.name} has {hooked.n_layers} layers and {hooked.d_model}: collect them on this model"
        )
    (position,), layers = one.positions, one.layers
    batch = hooked.pad([deltas.example.base_row])
    resid = aligned_residuals(hooked, batch, deltas.measured_on)[list(layers), position]
    delta = one.accumulated[:, 0].to(resid)
    logits = hooked.unembed(resid + delta) - hooked.unembed(resid)
    where = f"position {position} {one.tokens[0]!r}"
    directions = [
        _Direction(f"layer {own}, {where}", own, -1, "delta", vector)
        for own, vector in zip(layers, delta, strict=True)
    ]
    readings = _readings(hooked, directions, logits.to(working_dtype(logits.dtype)), top)
    return LensReading(tuple(readings), True, provenance(hooked, tokens=deltas.measured_on))


def _directions_of(steering: Steering, weight: float = 1.0, lead: str = "") -> Iterator[_Direction]:
    if isinstance(steering, SumSteering):
        for number, (own, part) in enumerate(steering.parts):
            name = f"{lead}{own:g} * {part.method} ({number}), "
            yield from _directions_of(part, weight * own, name)
        return
    tensors = steering.state_dict()
    for key, role in steering.roles.items():
        if key not in tensors:
            continue
        for layer, rows in zip(steering.layers, tensors[key], strict=True):
            listed = rows.reshape(-1, rows.shape[-1])
            for index, vector in enumerate(listed):
                which = f", {steering.index} {index}" if len(listed) > 1 else ""
                # What is read stays as it is: the weight scales what is written.
                scaled = vector if role == "reads" else weight * vector
                yield _Direction(f"{lead}layer {layer}{which}, {role}", layer, index, role, scaled)


@torch.no_grad()
def _read(
    model: HookedModel, directions: Sequence[_Direction], top: int, origin: Mapping[str, Any]
) -> LensReading:
    if not directions:
        raise ValueError("directions is empty: pass at least one")
    for own in directions:
        if own.vector.shape != (model.d_model,):
            raise ValueError(
                f"direction {own.name!r} has shape {tuple(own.vector.shape)} but d_model="
                f"{model.d_model}: pass vectors of the residual stream"
            )
        if not bool(own.vector.isfinite().all()):
            raise ValueError(f"direction {own.name!r} is not finite: pass numbers")
    readings: list[DirectionReading] = []
    for start in range(0, len(directions), _ROWS):
        some = directions[start : start + _ROWS]
        vectors = torch.stack([own.vector.to(working_dtype(own.vector.dtype)) for own in some])
        readings += _readings(model, some, linear_logits(model, vectors), top)
    return LensReading(tuple(readings), False, origin)


def _readings(
    model: HookedModel,
    directions: Sequence[_Direction],
    logits: Float[Tensor, "row d_vocab"],
    top: int,
) -> Iterator[DirectionReading]:
    count = min(check_count("top", top), logits.shape[-1])
    for own, values in zip(directions, logits.cpu().double(), strict=True):
        promoted, demoted = (
            _tokens(model, values, values.topk(count, largest=largest).indices)
            for largest in (True, False)
        )
        silent = float(values.abs().max()) == 0
        yield DirectionReading(
            own.name,
            own.layer,
            own.index,
            own.role,
            float(own.vector.cpu().double().norm()),
            float(values.mean()),
            float(values.std(correction=0)),
            () if silent else promoted,
            () if silent else demoted,
        )


def _tokens(
    model: HookedModel, values: Float[Tensor, " d_vocab"], ids: Tensor
) -> tuple[TokenLogit, ...]:
    # One by one: the tokens of a list do not follow each other.
    return tuple(TokenLogit(int(i), model.encoder.str_token(int(i)), float(values[i])) for i in ids)
