"""What every block writes into the residual stream: attention, its heads, the MLP.

Block `l` adds `attn + mlp` to the residual stream that enters it, and attention is a sum over its
heads. One block at a time is shown to a callback, so all layers are never held at once.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from psr_lens.models.batch import TokenBatch, TokenRow
from psr_lens.models.decoder_layers import entering
from psr_lens.models.finite import check_recorded
from psr_lens.models.norms import NormMap, norm_map
from psr_lens.models.training_mode import evaluating

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel


@dataclass(frozen=True, eq=False)
class Tap:
    """Where a part of a block is read.

    Attributes:
        module: The module that it passes through.
        entering: Read what the module is called with, not what it returns.
        item: Which of its outputs, if there are several.
    """

    module: nn.Module
    entering: bool = False
    item: int = 0

    def listen(self, hear: Callable[[Any], None]) -> Any:
        """Call `hear` with the value in every pass; the returned handle removes the hook."""
        if self.entering:

            def before(module: nn.Module, args: Any, kwargs: Any) -> None:
                hear(entering(args, kwargs))

            return self.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            several = output if isinstance(output, tuple) else (output,)
            hear(several[self.item] if self.item < len(several) else None)

        return self.module.register_forward_hook(after)


@dataclass(frozen=True, eq=False)
class PartPoints:
    """Where the parts of one block are read.

    Attributes:
        before: The residual stream that enters the block.
        after: The residual stream after it.
        attn: What attention adds, after the norm that follows it, if any.
        mlp: What the MLP adds, likewise.
        mixed: The heads' mixed values, before the output matrix.
        pattern: The attention weights.
        post_norm: The norm after attention, None if there is none.
    """

    before: Tap
    after: Tap
    attn: Tap
    mlp: Tap
    mixed: Tap
    pattern: Tap
    post_norm: nn.Module | None


@dataclass(frozen=True, eq=False)
class BlockParts:
    """One block of one pass: `after = before + attn + mlp` on real tokens.

    Attributes:
        layer: The block.
        before: The residual stream that enters it.
        after: The residual stream after it.
        attn: What attention adds.
        mlp: What the MLP adds.
        heads: The heads' mixed values, times the scale of the norm after attention if there is one.
            `heads[..., h, :] @ head_matrix(model, layer)[h]` is what head `h` adds; summed over the heads
            this is `attn` up to the biases.
        pattern: Attention weights, or None if the backend does not show them.
    """

    layer: int
    before: Float[Tensor, "batch pos d_model"]
    after: Float[Tensor, "batch pos d_model"]
    attn: Float[Tensor, "batch pos d_model"]
    mlp: Float[Tensor, "batch pos d_model"]
    heads: Float[Tensor, "batch pos head d_head"]
    pattern: Float[Tensor, "batch head query key"] | None


@torch.no_grad()
def head_matrix(model: "HookedModel", layer: int) -> Float[Tensor, "head d_head d_model"]:
    """The output matrix of every query head, including the gain of a norm after attention."""
    matrix = model.output_matrix(layer)
    norm = model.part_points(layer).post_norm
    return matrix if norm is None else norm_map(norm, matrix).linear(_wide(matrix))


@torch.no_grad()
def run_with_parts(
    model: "HookedModel",
    batch: TokenBatch,
    visit: Callable[[BlockParts], None],
) -> None:
    """One pass over a batch; `visit` sees the parts of every block as soon as it has run.

    Where a norm follows attention (Gemma 2 and 3), its scale at every token is frozen: with
    `norm(u) = s(u) * gain * u`, head `h` adds `s(u) * gain * u_h`, where `u` is the sum of the `u_h`.
    The heads add up to attention as exactly as the norm is computed.

    Args:
        model: The model.
        batch: What to run.
        visit: Called once per layer, from the lowest up; what it does not keep is freed.

    Raises:
        ValueError: If what attention and MLP add is not what the block adds: an architecture that writes in
            another way, or an active edit of the residual stream.
        NotFinite: If a residual stream holds NaN or infinity.
    """
    handles: list[Any] = []
    seen: dict[str, Tensor] = {}
    lengths: list[Tensor] = []

    def record(name: str) -> Callable[[Any], None]:
        def hear(found: Any) -> None:
            if isinstance(found, Tensor):
                seen[name] = found.to(model.device)

        return hear

    def record_norm(module: nn.Module, args: Any, out: Tensor) -> None:
        seen["entering norm"], seen["leaving norm"] = args[0], out

    def finish(layer: int, norm: NormMap | None) -> Callable[[Any], None]:
        def hear(out: Tensor) -> None:
            record("after")(out)
            parts = _block_parts(layer, seen, model.output_matrix(layer), norm)
            seen.clear()
            lengths.append(torch.linalg.vector_norm(_wide(parts.after[batch.attention_mask])))
            _check_sum(model, parts, batch)
            visit(parts)

        return hear

    # The hooks are on points that every thread's passes go through.
    with model.in_turn(), model.showing_patterns():
        try:
            for layer in range(model.n_layers):
                points = model.part_points(layer)
                norm = points.post_norm
                # Tried out before anything listens to it.
                tried = None if norm is None else norm_map(norm, model.output_matrix(layer))
                handles += [
                    getattr(points, name).listen(record(name))
                    for name in ("before", "attn", "mlp", "mixed", "pattern")
                ]
                if norm is not None:
                    handles.append(norm.register_forward_hook(record_norm))
                handles.append(points.after.listen(finish(layer, tried)))
            model.run(batch)
        finally:
            for handle in handles:
                handle.remove()
    check_recorded(torch.stack(lengths), model, batch)


_HAVE_MID: "WeakSet[nn.Module]" = WeakSet()
"""Models that have passed `check_has_mid`."""


@torch.no_grad()
def check_has_mid(model: "HookedModel") -> None:
    """Refuse a model whose residual stream cannot be edited between attention and MLP.

    Tried out once for every model, on two tokens.

    Raises:
        ValueError: If what enters a block, attention and MLP do not add up to what leaves it, as where a
            block scales what it adds; or if gradient checkpointing is on, which runs a block's attention
            once more without what comes before it.
    """
    told = f"hook_point='resid_mid' on {model.name}"
    if any(getattr(module, "gradient_checkpointing", False) for module in model.raw.modules()):
        raise ValueError(
            f"{told}: gradient checkpointing is on, and runs attention again outside of its block; switch it "
            "off, or choose 'resid_post'"
        )
    if model.raw in _HAVE_MID:
        return
    here = get_ident()
    names = ("before", "attn", "mlp", "after")
    with ExitStack() as hooks:
        hooks.enter_context(model.in_turn())
        hooks.enter_context(model.unedited())
        hooks.enter_context(evaluating(model.raw))
        seen: list[dict[str, Tensor]] = []
        for layer in range(model.n_layers):
            found: dict[str, Tensor] = {}
            try:
                points = model.part_points(layer)
            except AttributeError as error:
                raise ValueError(
                    f"{told}: block {layer} is not made of attention and MLP as psr_lens knows them "
                    f"({error}); choose 'resid_post'"
                ) from None

            def hear(value: Any, name: str, found: dict[str, Tensor]) -> None:
                if get_ident() == here and isinstance(value, Tensor):
                    found[name] = value.to(model.device)

            for name in names:
                heard = partial(hear, name=name, found=found)
                hooks.callback(getattr(points, name).listen(heard).remove)
            seen.append(found)
        batch = model.pad([TokenRow((0, 0), 0, 0)])
        model.run(batch)
    for layer, found in enumerate(seen):
        there = [found[name] for name in names if name in found]
        if len(there) < len(names) or not _adds_up(there, batch.attention_mask):
            raise ValueError(
                f"{told}: what enters block {layer}, its attention and its MLP do not add up to what leaves "
                "it, so it is not known where to steer; choose 'resid_post'"
            )
    _HAVE_MID.add(model.raw)


def _block_parts(
    layer: int,
    seen: Mapping[str, Tensor],
    matrix: Float[Tensor, "head d_head d_model"],
    norm: NormMap | None,
) -> BlockParts:
    mixed = seen["mixed"].reshape(*seen["mixed"].shape[:2], *matrix.shape[:2])
    if norm is not None:
        entering, leaving = _wide(seen["entering norm"]), _wide(seen["leaving norm"])
        mixed = _wide(mixed) * _scale(entering, leaving, norm)
    whole = {name: seen[name] for name in ("before", "after", "attn", "mlp")}
    return BlockParts(layer, **whole, heads=mixed, pattern=seen.get("pattern"))


def _scale(
    entering: Float[Tensor, "batch pos d_model"],
    leaving: Float[Tensor, "batch pos d_model"],
    norm: NormMap,
) -> Float[Tensor, "batch pos 1 1"]:
    """The factor between the norm's output and its undivided form, at every token."""
    undivided = norm.linear(entering)
    energy = undivided.square().sum(dim=-1).clamp_min(torch.finfo(undivided.dtype).tiny)
    factor = ((leaving - norm.bias) * undivided).sum(dim=-1) / energy
    return factor[..., None, None]


def _wide(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """In float32 at least: a half-precision factor would be off by a part in 256."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_sum(model: "HookedModel", parts: BlockParts, batch: TokenBatch) -> None:
    around = (parts.before, parts.attn, parts.mlp, parts.after)
    if not _adds_up(around, batch.attention_mask):
        raise ValueError(
            f"attention and MLP do not add up to what block {parts.layer} of {model.name} writes: "
            "leave the context of a steering, or this architecture cannot be split into components"
        )


def _adds_up(around: Sequence[Tensor], real: Tensor) -> bool:
    """Whether the first three, `before + attn + mlp`, are the fourth on real tokens, up to rounding."""
    # The residual stream is rounded to the model's type after every sum.
    rounding = max(1e-3, 4 * torch.finfo(around[-1].dtype).eps)
    before, attn, mlp, after = (own[real].float() for own in around)
    gap = (after - before - attn - mlp).norm(dim=-1)
    size = torch.maximum(before.norm(dim=-1), after.norm(dim=-1))
    return not bool((gap > rounding * size).any())
