"""Is this the residual stream that we mean? Checks on load, and the fingerprint of a model.

TransformerLens can fold LayerNorm into the weights that read the residual stream and centre those
that write to it. The logits stay the same but the residuals do not, so a steering fitted on one is wrong on
the other. Processed weights are refused, and every artifact carries a fingerprint of the residual stream
that it was fitted on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from psr_lens.models.batch import TokenRow
from psr_lens.models.columns import Columns
from psr_lens.models.finite import check_recorded
from psr_lens.models.training_mode import evaluating

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel

PROBE_LENGTH = 8
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
        dtype: Number type of the weights.
        norms: Norm of the residual stream after every block at the last token of a fixed probe, and finally
            that of the logits there.
        coordinates: A few coordinates of the same, divided by the norm, and finally the cosine to the
            all-ones vector, which is what centring removes.
    """

    n_layers: int
    d_model: int
    d_vocab: int
    dtype: str
    norms: tuple[float, ...]
    coordinates: tuple[tuple[float, ...], ...]

    def difference(self, other: "Fingerprint") -> str:
        """How the two differ by more than the rounding of their number types, empty if they do not."""
        for field in ("n_layers", "d_model", "d_vocab"):
            mine, its = getattr(self, field), getattr(other, field)
            if mine != its:
                return f"{field} is {its}, not {mine}"
        exact = {self.dtype, other.dtype} <= {"float32", "float64"}
        rounding = 0.002 if exact else 0.05
        ours, theirs = torch.tensor(self.norms), torch.tensor(other.norms)
        # Comparisons with NaN are false, so it would pass as no difference.
        if not bool(theirs.isfinite().all()):
            return "the residual stream holds NaN or infinity (broken weights)"
        if len(ours) != len(theirs) or bool(((ours - theirs).abs() > rounding * ours.abs()).any()):
            return "the residual stream has other norms (other weights, or processed ones)"
        if [*map(len, self.coordinates)] != [*map(len, other.coordinates)]:
            return "the fingerprint has other coordinates"
        pairs = zip(self.coordinates, other.coordinates, strict=True)
        gap = max(abs(a - b) for mine, its in pairs for a, b in zip(mine, its, strict=True))
        # Coordinates of a unit vector: chance level is about 1 / sqrt(d_model).
        if gap > 5 * rounding / self.d_model**0.5:
            return "the residual stream has other directions (other weights, or processed ones)"
        return ""


@torch.no_grad()
def fingerprint(model: "HookedModel") -> Fingerprint:
    """A summary of the residual stream at the last of a few fixed token ids.

    The same on all backends up to rounding; different for other weights and for processed ones.

    Raises:
        NotFinite: If the model computes NaN or infinity.
    """
    row = TokenRow(probe_ids(model.d_vocab), 0, PROBE_LENGTH - 1)
    batch = model.pad([row])
    # Neither an active steering nor dropout is a part of the model.
    with model.unedited(), evaluating(model.raw):
        recorded, logits = _recorded(model, lambda: model.logits(batch)[0, -1])
        check_recorded(recorded, model, batch)
        check_recorded(logits.amax(), model, batch)
    return sum_up(recorded[:, 0, -1], logits, model.dtype)


def probe_ids(d_vocab: int) -> tuple[int, ...]:
    """The fixed token ids that a fingerprint is taken on."""
    return tuple((7 + 31 * i) % d_vocab for i in range(PROBE_LENGTH))


def sum_up(
    resid: Float[Tensor, "layer d_model"], logits: Float[Tensor, " d_vocab"], dtype: torch.dtype
) -> Fingerprint:
    """A fingerprint from a model's values at the last probe token.

    Args:
        resid: The residual stream after every block.
        logits: The logits.
        dtype: Number type of the weights.
    """
    # On the CPU first: not every accelerator has float64.
    rows = [*resid.cpu().double(), logits.cpu().double()]
    norms = [float(row.norm()) for row in rows]
    units = [row / max(norm, 1e-30) for row, norm in zip(rows, norms, strict=True)]
    return Fingerprint(
        len(resid),
        resid.shape[1],
        len(logits),
        str(dtype).removeprefix("torch."),
        tuple(norms),
        tuple(
            (
                *unit[:: max(1, len(unit) // _COORDINATES)].tolist(),
                float(unit.sum()) / len(unit) ** 0.5,
            )
            for unit in units
        ),
    )


Weights = tuple[Any, ...]
"""What `weights_now` returned: equal as long as the weights are."""
_FINGERPRINTS: "WeakKeyDictionary[nn.Module, tuple[Weights, Fingerprint]]" = WeakKeyDictionary()
_LOOKED_AT = 16


def model_fingerprint(model: "HookedModel") -> Fingerprint:
    """`fingerprint`, taken anew only if the weights were replaced or written to.

    It is also taken on every call if weights are kept elsewhere, such as on disk, and cannot be looked at.
    What steers the model is not part of it: neither edits nor, inside `keeping_fingerprint`, what is folded
    in.
    """
    known = _known_fingerprint(model)
    if known is None:
        known = fingerprint(model)
        _remember(model, known)
    return known


@contextmanager
def keeping_fingerprint(model: "HookedModel") -> Iterator[None]:
    """Keep the fingerprint as it is, whatever is written to the weights inside the context."""
    known = model_fingerprint(model)
    try:
        yield
    finally:
        _remember(model, known)


def _known_fingerprint(model: "HookedModel") -> Fingerprint | None:
    weights, known = _FINGERPRINTS.get(model.raw, (None, None))
    return known if weights is not None and weights == weights_now(model.raw) else None


def _remember(model: "HookedModel", found: Fingerprint) -> None:
    weights = weights_now(model.raw)
    if weights is not None:
        _FINGERPRINTS[model.raw] = (weights, found)


@torch.no_grad()
def weights_now(model: nn.Module) -> Weights | None:
    """Something that changes with a model's weights, for much less than a pass; None if unknown.

    Which tensors they are, where they are in memory, how often torch saw them written to, and the bits of
    up to 16 numbers of each, since torch does not count what is written through `weight.data`, such as a
    merged LoRA. Also which PEFT adapters act, and how strongly. It misses writes of that kind that leave
    those 16 numbers as they were, in one row of a matrix for instance, and changes to anything but the
    parameters. It is None for weights kept elsewhere, such as on disk.
    """
    names: list[Any] = []
    samples: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for own in model.parameters():
        if own.is_meta:
            return None
        names.append((id(own), None if own.is_inference() else own._version))
        # Tensors of other types, such as quantised ones, may have no storage that can be looked at.
        if type(own) not in (nn.Parameter, Tensor) or own.numel() == 0:
            continue
        names.append(own.data_ptr())
        count = min(own.numel(), _LOOKED_AT)
        if own.is_contiguous() or _fills_its_storage(own):
            # One less than would fit, so they are not all in one column of a matrix.
            step = max(1, own.numel() // count - 1)
            some = own.as_strided((count,), (step,))
            samples.setdefault((own.device, own.dtype), []).append(some)
    names += [_adapters(module) for module in model.modules() if hasattr(module, "active_adapters")]
    bits = [torch.cat(some).cpu().view(torch.uint8).numpy().tobytes() for some in samples.values()]
    return (*names, *bits)


def _adapters(module: Any) -> tuple[Any, ...]:
    """Which adapters of a PEFT layer act, and how strongly."""
    own = vars(module)
    return (
        repr(own.get("_active_adapter")),
        own.get("_disable_adapters"),
        repr(own.get("merged_adapters")),
        repr(own.get("scaling")),
    )


def _fills_its_storage(own: Tensor) -> bool:
    """Whether its storage has room for all of its numbers from the first on; not so if expanded."""
    last = own.storage_offset() + own.numel()
    return own.untyped_storage().nbytes() >= last * own.element_size()


def record_residuals(
    model: "HookedModel", rows: list[TokenRow]
) -> Float[Tensor, "layer batch pos d_model"]:
    """The residual stream after every block for a batch of rows, `[layer, batch, pos, d_model]`."""
    batch = model.pad(rows)
    found, _ = _recorded(model, lambda: model.run(batch))
    check_recorded(found[:, batch.attention_mask], model, batch)
    return found


def _recorded(
    model: "HookedModel", run: Callable[[], Any]
) -> tuple[Float[Tensor, "layer batch pos d_model"], Any]:
    """The residual stream after every block in a pass, and what the pass returned."""
    seen: dict[int, Tensor] = {}

    def recorder(layer: int):
        def edit(resid: Tensor, columns: Columns) -> None:
            seen[layer] = resid

        return edit

    with model.edited({layer: recorder(layer) for layer in range(model.n_layers)}):
        given = run()
    return torch.stack([seen[layer] for layer in range(model.n_layers)]), given


@torch.no_grad()
def check_interventions_bite(model: "HookedModel") -> None:
    """Check that adding after any block changes the logits, and that removal restores them exactly.

    One batch tests all layers at once: row `l` is pushed after block `l`, the last row never. Each row is
    one token, since every token has a whole vocabulary of logits.

    Raises:
        RuntimeError: If a push has no effect, or leaves a trace.
    """
    row = TokenRow((3 % model.d_vocab,), 0, 0)
    batch = model.pad([row] * (model.n_layers + 1))

    def pusher(layer: int):
        def edit(resid: Tensor, columns: Columns) -> Tensor:
            # Uneven over coordinates: LayerNorm would remove an even push.
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
            f"{model.name}: adding to the residual stream after layers {deaf} does not change the "
            "logits, so interventions would do nothing; try the other backend"
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
    """Whether attention writes with zero mean over d_model, as after centring."""
    # A bridge has no such parameter; processing its weights sets a flag.
    parameters = dict(raw.blocks[0].named_parameters())  # type: ignore[union-attr, index]
    written = parameters.get("attn.W_O")
    if written is None:
        return False
    typical = written.float().abs().mean()
    return bool(written.float().mean(dim=-1).abs().max() < 1e-2 * typical)
