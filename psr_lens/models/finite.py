"""Is what the model computes finite? If not, one line says where, why, and what to do.

NaN and infinity spread silently: from one weight, one word that overflows float16 or one push that is too
strong into every later token, and on into texts, data, fits and reports. The checks are where residual
streams are recorded and where tokens are picked, since every number and every text of this package passes
there. Only if one fails is the batch run again, to find the first of them.

A residual stream whose squared length is infinite counts too: the norms divide by it, so the model reads
only zeros there.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from psr_lens.models.batch import TokenBatch
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel


class NotFinite(ValueError):
    """A model computes NaN or infinity.

    Attributes:
        pushed: Whether only the interventions cause it: without them the pass is finite.
        strength: Their strength, if known.
    """

    def __init__(self, message: str, *, pushed: bool = False, strength: float | None = None):
        super().__init__(message if strength is None else f"{message} than {strength:g}")
        self._message = message
        self.pushed = pushed
        self.strength = strength

    def at(self, strength: float) -> "NotFinite":
        """The same with the strength named, if interventions are at fault and none is named yet."""
        if not self.pushed or self.strength is not None:
            return self
        return NotFinite(self._message, pushed=True, strength=strength)


@contextmanager
def at_strength(alpha: float | Tensor) -> Iterator[None]:
    """Name the strength in a `NotFinite` raised inside the context."""
    try:
        yield
    except NotFinite as error:
        strength = float(alpha.abs().max()) if isinstance(alpha, Tensor) else alpha
        raise error.at(strength) from None


def check_recorded(
    values: Tensor,
    model: "HookedModel",
    *batches: TokenBatch,
    edits: Mapping[int, ResidualEdit] | None = None,
) -> None:
    """Refuse what was recorded from passes over the batches, if it holds NaN or infinity.

    Args:
        values: What was recorded.
        model: The model.
        batches: What it was recorded from.
        edits: What the passes ran under, besides the active edits.

    Raises:
        NotFinite: If `values` is not finite everywhere.
    """
    # One pass without a temporary array, which NaN and infinity survive. Only if the total is not finite is
    # every vector checked.
    if not bool(torch.linalg.vector_norm(values).isfinite()) and not bool(_sound(values).all()):
        raise not_finite(model, *batches, edits=edits)


@torch.no_grad()
def not_finite(
    model: "HookedModel",
    *batches: TokenBatch,
    edits: Mapping[int, ResidualEdit] | None = None,
) -> NotFinite:
    """The error for passes that were not finite; runs the batches once more to find the cause."""
    kind = str(model.dtype).removeprefix("torch.")
    weight = broken_weight(model.raw)
    if weight is not None:
        # Narrowing alone may have made it infinite.
        narrow = "with dtype='bfloat16' or 'float32', or " if model.dtype == torch.float16 else ""
        return NotFinite(
            f"{model.name} computes NaN or infinity because its weight {weight} holds them: load it "
            f"{narrow}from sound files"
        )
    for batch in batches:
        with model.unedited():
            place = _first_place(model, batch)
        pushed = place is None
        if pushed:
            with model.edited(edits or {}):
                place = _first_place(model, batch)
        if place is None:
            continue
        if pushed:
            remedy = "without the steering they do not: choose a smaller strength"
        elif model.dtype == torch.float16:
            remedy = "load the model with dtype='bfloat16' or 'float32', which reach further"
        else:
            remedy = "load the model with dtype='float64', or leave this prompt out"
        return NotFinite(
            f"the activations of {model.name} are NaN or outgrow {kind} {place}; {remedy}",
            pushed=pushed,
        )
    return NotFinite(
        f"the activations of {model.name} are NaN or outgrow {kind} once they are edited; without "
        "the steering they do not: choose a smaller strength",
        pushed=True,
    )


def broken_weight(module: nn.Module) -> str | None:
    """Name of the first weight or buffer that holds NaN or infinity, None where there is none."""
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        # Buffers hold masks, where minus infinity is intended, so only NaN counts there.
        buffer = not isinstance(weight, nn.Parameter)
        bad = weight.isnan() if buffer else ~weight.isfinite()
        if weight.is_floating_point() and bool(bad.any()):
            return name
    return None


def _sound(values: Float[Tensor, "*more d_model"]) -> Bool[Tensor, "*more"]:
    """Which vectors have a finite squared length, in float32 at least, as norms take it."""
    return (
        values.to(torch.promote_types(values.dtype, torch.float32)).square().sum(dim=-1).isfinite()
    )


def _first_place(model: "HookedModel", batch: TokenBatch) -> str | None:
    """Where a pass first is not finite: the lowest layer, and the first such token there."""
    found: list[str] = []

    def look(where: str, values: Tensor) -> None:
        if found:
            return
        bad = ~_sound(values) & batch.attention_mask
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            token = model.encoder.str_token(int(batch.tokens[row, column]))
            found.append(f"{where} at the token {token!r}")

    def looking(layer: int) -> ResidualEdit:
        def edit(resid: Tensor, columns: Columns) -> None:
            look(f"after layer {layer}", resid)

        return edit

    with model.edited({layer: looking(layer) for layer in range(model.n_layers)}):
        logits = model.logits(batch)
    # A model may rule a token out with minus infinity.
    look("in the logits", logits.amax(dim=-1, keepdim=True))
    return found[0] if found else None
