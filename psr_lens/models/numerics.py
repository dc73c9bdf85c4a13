"""Is this the residual stream that we mean? Checks on load, and the fingerprint of a model.

TransformerLens can fold LayerNorm into the weights that read the residual stream and centre those
that write to it. The logits stay as they are, the residuals do not, so a steering fitted on one
numerics is wrong on the other. Processed weights are refused, and every artifact carries a
fingerprint of the residual stream that it was fitted on.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from psr_lens.models.batch import TokenRow
from psr_lens.models.columns import Columns

if TYPE_CHECKING:
    from psr_lens.models.base import HookedModel

_PROBE_LENGTH = 8
_COORDINATES = 8
_REMEDY = (
    "load it with psr_lens.load_model(...), HookedTransformer.from_pretrained_no_processing(...), "
    "or a TransformerBridge without enable_compatibility_mode()"
)


@dataclass(frozen=True)
class Fingerprint:
    """What tells one model's residual stream from another's.

    Attributes:
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        d_vocab: Number of logits per position.
        norms: Norm of the residual stream after every block at the last token of a fixed probe.
        coordinates: A few of its coordinates, divided by its norm, and last its cosine to the
            all-ones vector, which is what centring takes away; `[layer][coordinate]`.
    """

    n_layers: int
    d_model: int
    d_vocab: int
    norms: tuple[float, ...]
    coordinates: tuple[tuple[float, ...], ...]

    def difference(self, other: "Fingerprint") -> str:
        """In what the two differ by more than rounding in bfloat16, empty if in nothing."""
        for field in ("n_layers", "d_model", "d_vocab"):
            mine, its = getattr(self, field), getattr(other, field)
            if mine != its:
                return f"{field} is {its}, not {mine}"
        ours, theirs = torch.tensor(self.norms), torch.tensor(other.norms)
        if bool(((ours - theirs).abs() > 0.05 * ours.abs()).any()):
            return "the residual stream has other norms (other weights, or processed ones)"
        gap = (torch.tensor(self.coordinates) - torch.tensor(other.coordinates)).abs().max()
        # Coordinates of a unit vector: chance level is about 1 / sqrt(d_model).
        if float(gap) > 0.25 / self.d_model**0.5:
            return "the residual stream has other directions (other weights, or processed ones)"
        return ""


@torch.no_grad()
def fingerprint(model: "HookedModel") -> Fingerprint:
    """The residual stream at the last of a few fixed token ids, summed up.

    The same on both backends up to rounding; different for other weights and for processed ones.
    """
    ids = probe_ids(model.d_vocab)
    seen = record_residuals(model, [TokenRow(ids, 0, len(ids) - 1)])
    return sum_up(seen[:, 0, -1], model.d_vocab)


def probe_ids(d_vocab: int) -> tuple[int, ...]:
    """The token ids that a fingerprint is taken on."""
    return tuple((7 + 31 * i) % d_vocab for i in range(_PROBE_LENGTH))


def sum_up(last: Float[Tensor, "layer d_model"], d_vocab: int) -> Fingerprint:
    """The fingerprint of the residual stream after every block at the last probe token."""
    last = last.double().cpu()
    n_layers, d_model = last.shape
    norms = last.norm(dim=-1)
    units = last / norms.clamp_min(1e-30).unsqueeze(-1)
    step = max(1, d_model // _COORDINATES)
    means = units.sum(dim=-1, keepdim=True) / d_model**0.5
    coordinates = torch.cat([units[:, ::step], means], dim=-1)
    return Fingerprint(
        n_layers,
        d_model,
        d_vocab,
        tuple(norms.tolist()),
        tuple(tuple(row) for row in coordinates.tolist()),
    )


_FINGERPRINTS: "WeakKeyDictionary[nn.Module, Fingerprint]" = WeakKeyDictionary()


def model_fingerprint(model: "HookedModel") -> Fingerprint:
    """`fingerprint`, taken once per model: inside a steering's context it would see its pushes."""
    if model.raw not in _FINGERPRINTS:
        _FINGERPRINTS[model.raw] = fingerprint(model)
    return _FINGERPRINTS[model.raw]


def record_residuals(
    model: "HookedModel", rows: list[TokenRow]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The residual stream after every block for a batch of rows, `[layer, batch, pos, d_model]`."""
    seen: dict[int, Tensor] = {}

    def recorder(layer: int):
        def edit(resid: Tensor, columns: Columns) -> None:
            seen[layer] = resid

        return edit

    with model.edited({layer: recorder(layer) for layer in range(model.n_layers)}):
        model.run(model.pad(rows))
    return torch.stack([seen[layer] for layer in range(model.n_layers)])


@torch.no_grad()
def check_interventions_bite(model: "HookedModel") -> None:
    """An addition after any block changes the logits, and its removal restores them exactly.

    One batch tries all layers at once: row `l` is pushed after block `l`, the last row never.

    Raises:
        RuntimeError: If a push is not felt, or leaves a trace.
    """
    row = TokenRow(tuple((3 + 17 * i) % model.d_vocab for i in range(4)), 0, 3)
    batch = model.pad([row] * (model.n_layers + 1))

    def pusher(layer: int):
        def edit(resid: Tensor, columns: Columns) -> Tensor:
            # Uneven over coordinates: LayerNorm would take an even push out again.
            push = torch.linspace(-1, 1, resid.shape[-1], device=resid.device, dtype=resid.dtype)
            pushed = resid.clone()
            pushed[layer, -1] += resid[layer, -1].norm() * push
            return pushed

        return edit

    before = model.logits(batch)
    with model.edited({layer: pusher(layer) for layer in range(model.n_layers)}):
        during = model.logits(batch)
    after = model.logits(batch)
    deaf = [i for i in range(model.n_layers) if torch.equal(during[i, -1], before[i, -1])]
    if deaf:
        raise RuntimeError(
            f"{model.name}: adding to the residual stream after layers {deaf} leaves the logits as "
            "they are, so interventions would do nothing; try the other backend"
        )
    if not torch.equal(before, after):
        raise RuntimeError(f"{model.name}: logits after the removal of hooks differ from before")


def refuse_processed_weights(raw: nn.Module) -> None:
    """Refuse a HookedTransformer or TransformerBridge whose residual stream was changed.

    Raises:
        ValueError: If LayerNorm is folded, writing weights are centred, or the bridge is in
            compatibility mode; the message names the remedy.
    """
    cfg: Any = raw.cfg
    found = ""
    if str(getattr(cfg, "normalization_type", "")).endswith("Pre"):
        found = "folded LayerNorm weights"
    elif getattr(raw, "compatibility_mode", False):
        found = "compatibility mode on"
    elif getattr(raw, "_weights_processed", False):
        found = "processed weights"
    elif _writes_are_centred(raw):
        found = "centred writing weights"
    if found:
        raise ValueError(
            f"the model has {found}, and psr_lens takes the residual stream as the model was "
            f"trained with it: {_REMEDY}"
        )


def _writes_are_centred(raw: nn.Module) -> bool:
    """Whether attention writes with zero mean over d_model, as centring leaves it."""
    # A bridge has no such parameter; what processes its weights sets a flag.
    parameters = dict(raw.blocks[0].named_parameters())  # type: ignore[union-attr, index]
    written = parameters.get("attn.W_O")
    if written is None:
        return False
    typical = written.float().abs().mean()
    return bool(written.float().mean(dim=-1).abs().max() < 1e-2 * typical)
