"""TransformerLens' HookedTransformer behind the model protocol."""

from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from psr_lens.models.batch import TokenBatch
from psr_lens.models.parts import PartPoints, Tap
from psr_lens.models.prefix import KeyValues
from psr_lens.models.protocol import HookedModel
from psr_lens.models.shared import mask_after


@final
class HookedTransformerModel(HookedModel):
    """A HookedTransformer with unprocessed weights."""

    backend: ClassVar[str] = "hooked"

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
        return self.raw.cfg.d_vocab_out

    @property
    def n_ctx(self) -> int:
        """Longest sequence that the model takes, in tokens."""
        return self.raw.cfg.n_ctx

    def hook_point(self, layer: int) -> nn.Module:
        """`blocks.{layer}.hook_resid_post`."""
        return self.raw.hook_dict[f"blocks.{layer}.hook_resid_post"]

    def part_points(self, layer: int) -> PartPoints:
        """The hook points of block `layer`."""
        block = self.raw.blocks[layer]
        return PartPoints(
            before=Tap(block.hook_resid_pre),
            after=Tap(block.hook_resid_post),
            attn=Tap(block.hook_attn_out),
            mlp=Tap(block.hook_mlp_out),
            mixed=Tap(block.attn.hook_z),
            pattern=Tap(block.attn.hook_pattern),
            post_norm=getattr(block, "ln1_post", None),
        )

    def output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """`W_O`."""
        return self.raw.blocks[layer].attn.W_O.detach()

    def final_norm(self) -> nn.Module:
        """`ln_final`."""
        return self.raw.ln_final

    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """`W_U`, transposed."""
        return self.raw.unembed.W_U.detach().T

    def _forward_from_the_end(
        self, resid: Float[Tensor, "batch pos d_model"], batch: TokenBatch
    ) -> Float[Tensor, "batch pos d_vocab"]:
        mask = batch.attention_mask.long()
        return self.raw(resid, start_at_layer=self.n_layers, attention_mask=mask)

    @property
    def can_share(self) -> bool:
        """Not with local attention, and only with known kinds of positions."""
        cfg = self.raw.cfg
        return (
            cfg.positional_embedding_type in ("rotary", "standard")
            and cfg.attention_dir == "causal"
            and not cfg.use_local_attn
            and not getattr(cfg, "use_dynamic_ntk_rope", False)
            and not getattr(cfg, "use_logn_attn", False)
        )

    def _forward(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        return self.raw(batch.tokens, **self._behind(prefix, batch))

    def _forward_without_unembedding(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> None:
        self.raw(batch.tokens, stop_at_layer=self.n_layers, **self._behind(prefix, batch))

    def _embed(
        self, batch: TokenBatch, prefix: KeyValues | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.raw(batch.tokens, stop_at_layer=0, **self._behind(prefix, batch))

    def _run_block(
        self,
        layer: int,
        resid: Float[Tensor, "batch pos d_model"],
        batch: TokenBatch,
        prefix: KeyValues | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        options = self._behind(prefix, batch)
        # A pass that begins in the middle does not get the cache's mask in front.
        options["attention_mask"] = mask_after(prefix, batch).long()
        return self.raw(resid, start_at_layer=layer, stop_at_layer=layer + 1, **options)

    def _behind(self, prefix: KeyValues | None, batch: TokenBatch) -> dict[str, Any]:
        """Options that tell the pass over a batch what comes before it."""
        options: dict[str, Any] = {"attention_mask": batch.attention_mask.long()}
        if prefix is not None:
            # A frozen cache is read but does not grow.
            options["past_kv_cache"] = self.begun_cache(prefix, len(batch.tokens))
            options["past_kv_cache"].freeze()
        return options

    def begun_cache(self, prefix: KeyValues, rows: int) -> Any:
        """A cache for `step` in which every row already has the same prefix."""
        repeated = prefix.repeated(rows)
        cache = self._empty_cache(rows)
        cache.previous_attention_mask = repeated.attention_mask.long()
        for entry, keys, values in zip(cache.entries, repeated.keys, repeated.values, strict=True):
            entry.past_keys, entry.past_values = keys, values
        return cache

    def _forward_cached(
        self,
        tokens: Int[Tensor, "batch new"],
        attention_mask: Tensor,
        cache: Any,
        last: bool = False,
    ) -> tuple[Float[Tensor, "batch logits d_vocab"], Any]:
        if cache is None:
            cache = self._empty_cache(tokens.shape[0])
        # The cache keeps the mask of its own columns and takes that of the new ones.
        mask = attention_mask[:, -tokens.shape[1] :].long()
        if not last or tokens.shape[1] == 1:
            return self.raw(tokens, attention_mask=mask, past_kv_cache=cache), cache
        resid = self.raw(
            tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=self.n_layers
        )
        end = resid[:, -1:]
        logits = self.raw(end, start_at_layer=self.n_layers, attention_mask=mask[:, -1:])
        return logits, cache

    def keep_rows(self, cache: Any, rows: Int[Tensor, " kept"]) -> None:
        """Drop all rows but these from a cache that `step` returned."""
        cache.previous_attention_mask = cache.previous_attention_mask[rows]
        for entry in cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]

    def _forward_keeping_keys(self, batch: TokenBatch) -> KeyValues:
        cache = self._empty_cache(len(batch.tokens))
        mask = batch.attention_mask.long()
        self.raw(
            batch.tokens, attention_mask=mask, past_kv_cache=cache, stop_at_layer=self.n_layers
        )
        return KeyValues(
            torch.stack([entry.past_keys for entry in cache.entries]),
            torch.stack([entry.past_values for entry in cache.entries]),
            batch.attention_mask,
        )

    def _forward_suffix(
        self,
        layer: int,
        resid: Float[Tensor, "batch new d_model"],
        suffix: TokenBatch,
        prefix: KeyValues,
        unembed: bool,
    ) -> Tensor:
        cache = self._empty_cache(len(resid))
        for entry, keys, values in zip(cache.entries, prefix.keys, prefix.values, strict=True):
            entry.past_keys, entry.past_values = keys, values
        # A frozen cache is read but does not grow.
        cache.freeze()
        return self.raw(
            resid,
            start_at_layer=layer,
            stop_at_layer=None if unembed else self.n_layers,
            past_kv_cache=cache,
            attention_mask=torch.cat([prefix.attention_mask, suffix.attention_mask], 1).long(),
        )

    def _empty_cache(self, batch: int) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.raw.cfg, self.device, batch)
