"""TransformerLens' TransformerBridge (3.9 and 4.x) behind the model protocol."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from psr_lens.models.base import HookedModel
from psr_lens.models.batch import TokenBatch
from psr_lens.models.parts import PartPoints
from psr_lens.models.prefix import KeyValues
from psr_lens.models.shared import mask_after
from psr_lens.models.unhooked import UnhookedParts

_KNOWN_ATTENTIONS = {
    "PositionEmbeddingsAttentionBridge",
    "JointQKVAttentionBridge",
    "JointQKVPositionEmbeddingsAttentionBridge",
}
"""Attention over all keys so far, with rotary or learnt positions, which the bridge derives."""


class _Captured(Exception):
    """Ends a forward pass once the wanted residual stream is in hand."""


@final
class BridgeModel(HookedModel):
    """A TransformerBridge outside of compatibility mode: the raw Hugging Face numerics."""

    backend: ClassVar[str] = "bridge"

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.raw.cfg.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.raw.cfg.d_model

    @property
    def d_vocab(self) -> int:
        """Number of logits per position."""
        return self.raw.original_model.get_output_embeddings().weight.shape[0]

    @property
    def n_ctx(self) -> int:
        """Longest sequence that the model takes, in tokens."""
        return self.raw.cfg.n_ctx

    def hook_point(self, layer: int) -> nn.Module:
        """`blocks.{layer}.hook_out`."""
        return self.raw.blocks[layer].hook_out

    def part_points(self, layer: int) -> PartPoints:
        """The hook points of block `layer`."""
        block = self.raw.blocks[layer]
        after_attn, after_mlp = (getattr(block, name, None) for name in ("ln1_post", "ln2_post"))
        return PartPoints(
            before=block.hook_in,
            after=block.hook_out,
            attn=(block.attn if after_attn is None else after_attn).hook_out,
            mlp=(block.mlp if after_mlp is None else after_mlp).hook_out,
            mixed=block.attn.o.hook_in,
            pattern=block.attn.hook_pattern,
            post_norm=after_attn,
        )

    def output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection's weight, cut into heads."""
        projection = self.raw.blocks[layer].attn.o.original_component
        weight = projection.weight.detach()
        # GPT-2's Conv1D keeps its weight the other way round.
        matrix = weight.T if isinstance(projection, nn.Linear) else weight
        return matrix.reshape(self.raw.cfg.n_heads, -1, self.d_model)

    def final_norm(self) -> nn.Module:
        """`ln_final`."""
        return self.raw.ln_final

    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """The output embeddings."""
        return self.raw.original_model.get_output_embeddings().weight.detach()

    @cached_property
    def _unhooked(self) -> UnhookedParts:
        return UnhookedParts(self.raw)

    def _as_itself(self) -> AbstractContextManager[None]:
        return self._unhooked.as_the_bridge()

    def _forward_from_the_end(
        self, resid: Float[Tensor, "batch pos d_model"], batch: TokenBatch
    ) -> Float[Tensor, "batch pos d_vocab"]:
        with self._entering(self.n_layers, resid):
            return self._forward(batch)

    @property
    def can_share(self) -> bool:
        """Where attention, positions and cache are of kinds that are known to allow it."""
        return self._shareable

    @cached_property
    def _shareable(self) -> bool:
        config = self.raw.original_model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is None:
            windows = getattr(config, "sliding_window", None) is not None
        else:
            windows = set(kinds) != {"full_attention"}
        attentions = {type(getattr(block, "attn", None)).__name__ for block in self.raw.blocks}
        parameters = inspect.signature(type(self.raw.original_model).forward).parameters
        return (
            not windows
            and attentions <= _KNOWN_ATTENTIONS
            and "position_ids" in parameters
            and not getattr(config, "alibi", False)
        )

    def _forward(
        self, batch: TokenBatch, prefix: KeyValues | None = None, block: int | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        if prefix is not None:
            cache = self.begun_cache(prefix, len(batch.tokens))
            mask = mask_after(prefix, batch)
            return self._forward_cached(batch.tokens, mask, cache, block=block)[0]
        with self._finite_padding(batch.attention_mask), self._unhooked.as_themselves(block):
            return self.raw(batch.tokens, attention_mask=batch.attention_mask.long())

    def _forward_without_unembedding(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> None:
        self._capture(self.hook_point(-1), batch, prefix)

    def _embed(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return self._capture(self.raw.blocks[0].hook_in, batch, prefix)

    def _run_block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        batch: TokenBatch,
        prefix: KeyValues | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        with self._entering(layer, resid):
            return self._capture(self.hook_point(layer), batch, prefix, block=layer)

    def _forward_keeping_keys(self, batch: TokenBatch) -> KeyValues:
        cache = self._whole_cache()
        self._stop_at(
            self.hook_point(-1),
            lambda: self._forward_cached(batch.tokens, batch.attention_mask, cache),
        )
        return KeyValues(
            torch.stack([own.keys for own in cache.layers]).transpose(2, 3),
            torch.stack([own.values for own in cache.layers]).transpose(2, 3),
            batch.attention_mask,
        )

    def keep_rows(self, cache: Any, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these from a cache that `step` returned."""
        cache.batch_select_indices(rows)

    def _forward_suffix(
        self,
        layer: int,
        resid: Float[Tensor, "batch new d_model"],
        suffix: TokenBatch,
        prefix: KeyValues,
        unembed: bool,
    ) -> Tensor:
        cache = self._whole_cache()
        for i, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            cache.update(keys.transpose(1, 2), values.transpose(1, 2), i)
        mask = torch.cat([prefix.attention_mask, suffix.attention_mask], dim=1)
        if not unembed and layer == self.n_layers:
            return resid

        def forward() -> Tensor:
            return self._forward_cached(suffix.tokens, mask, cache)[0]

        with self._entering(layer, resid):
            return forward() if unembed else self._stop_at(self.hook_point(-1), forward)

    def begun_cache(self, prefix: KeyValues, rows: int) -> Any:
        """A cache for `step` in which every row has one row's prefix already."""
        cache = self._whole_cache()
        for layer, (keys, values) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            cache.update(keys.transpose(1, 2), values.transpose(1, 2), layer)
            own = cache.layers[layer]
            # Views: what is added to them makes them arrays of their own.
            own.keys, own.values = (
                part.expand(rows, -1, -1, -1) for part in (own.keys, own.values)
            )
        return cache

    def _whole_cache(self) -> Any:
        # Made without a configuration it keeps every column, in sliding-window layers too.
        from transformers import DynamicCache

        return DynamicCache()

    @contextmanager
    def _entering(self, layer: int, resid: Tensor) -> Iterator[None]:
        """Let `resid` enter block `layer`; the blocks below only hand on what they get.

        The bridge cannot start at a layer. Going through idle blocks leaves everything that the
        model prepares for its blocks, masks and rotary angles, to the model itself.
        """

        def idle(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return hidden_states

        def enter(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return resid

        below = list(self.raw.blocks)[:layer]
        for block in below:
            block.__dict__["forward"] = enter if block is below[-1] else idle
        entering = None
        if layer == 0:
            entering = self.raw.blocks[0].hook_in.register_forward_hook(lambda *_: resid)
        try:
            yield
        finally:
            for block in below:
                del block.__dict__["forward"]
            if entering is not None:
                entering.remove()

    def _capture(
        self,
        point: nn.Module,
        batch: TokenBatch,
        prefix: KeyValues | None,
        block: int | None = None,
    ) -> Tensor:
        return self._stop_at(point, lambda: self._forward(batch, prefix, block))

    def _stop_at(self, point: nn.Module, forward: Callable[[], object]) -> Tensor:
        """What comes to a hook point, edits included; the pass ends there."""
        captured: list[Tensor] = []

        def stop(module: nn.Module, args: Any, resid: Tensor) -> None:
            captured.append(resid)
            raise _Captured

        handle = point.register_forward_hook(stop)
        try:
            forward()
        except _Captured:
            pass
        finally:
            handle.remove()
        return captured[0]

    def _forward_cached(
        self,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Tensor,
        cache: Any,
        last: bool = False,
        block: int | None = None,
    ) -> tuple[Float[Tensor, "batch logits d_vocab"], Any]:
        if cache is None:
            cache = self._whole_cache()
        own = attention_mask[:, -tokens.shape[1] :]
        with self._finite_padding(own), self._unhooked.as_themselves(block):
            return self.raw(
                tokens,
                attention_mask=attention_mask.long(),
                past_key_values=cache,
                use_cache=True,
                return_type="logits_and_cache",
                **(self._only_the_last if last and tokens.shape[1] > 1 else {}),
            )

    @cached_property
    def _only_the_last(self) -> dict[str, int]:
        """How the wrapped model is told to make no logits but the last column's, if it takes that."""
        parameters = inspect.signature(type(self.raw.original_model).forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    @contextmanager
    def _finite_padding(self, mask: Bool[Tensor, "batch pos"]) -> Iterator[None]:
        """Keep padding columns from turning into NaN in float64.

        The bridge takes attention scores to float32, where float64's lowest number, the mask's
        fill, is minus infinity: a column that may attend to nothing becomes NaN, and its values
        spread from the next block on. Narrower types have a finite fill and need no help.
        """
        if self.dtype != torch.float64 or bool(mask.all()):
            yield
            return

        def clean(module: nn.Module, args: Any, resid: Tensor) -> Tensor:
            return torch.where(mask.unsqueeze(-1), resid, 0.0)

        points = [self.hook_point(layer) for layer in range(self.n_layers)]
        # In front of all others, so that no edit ever sees a NaN.
        handles = [point.register_forward_hook(clean, prepend=True) for point in points]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
