"""TransformerLens' HookedTransformer behind the model protocol."""

from typing import Any, ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor, nn

from psr_lens.models.base import HookedModel
from psr_lens.models.batch import TokenBatch


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

    def _forward(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_vocab"]:
        return self.raw(batch.tokens, attention_mask=batch.attention_mask.long())

    def _forward_without_unembedding(self, batch: TokenBatch) -> None:
        mask = batch.attention_mask.long()
        self.raw(batch.tokens, attention_mask=mask, stop_at_layer=self.n_layers)

    def _embed(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
        mask = batch.attention_mask.long()
        return self.raw(batch.tokens, attention_mask=mask, stop_at_layer=0)

    def _run_block(
        self, layer: int, resid: Float[Tensor, "batch pos d_model"], batch: TokenBatch
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.raw(
            resid,
            start_at_layer=layer,
            stop_at_layer=layer + 1,
            attention_mask=batch.attention_mask.long(),
        )

    def _forward_cached(
        self, tokens: Int[Tensor, "batch new"], attention_mask: Tensor, cache: Any
    ) -> tuple[Float[Tensor, "batch new d_vocab"], Any]:
        if cache is None:
            from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

            cache = TransformerLensKeyValueCache.init_cache(
                self.raw.cfg, self.device, tokens.shape[0]
            )
        # The cache keeps the mask of its own columns and takes that of the new ones.
        mask = attention_mask[:, -tokens.shape[1] :].long()
        return self.raw(tokens, attention_mask=mask, past_kv_cache=cache), cache
