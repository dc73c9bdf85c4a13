"""TransformerLens' TransformerBridge (3.9 and 4.x) behind the model protocol."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, ClassVar, final

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from psr_lens.models.float64 import all_float64
from psr_lens.models.parts import PartPoints, Tap
from psr_lens.models.through_transformers import ThroughTransformers
from psr_lens.models.unhooked import UnhookedParts

_KNOWN_ATTENTIONS = {
    "PositionEmbeddingsAttentionBridge",
    "JointQKVAttentionBridge",
    "JointQKVPositionEmbeddingsAttentionBridge",
}
"""Attention over all keys so far, with rotary or learnt positions, which the bridge derives."""


@final
class BridgeModel(ThroughTransformers):
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
            before=Tap(block.hook_in),
            after=Tap(block.hook_out),
            # The module and not its hook point: attention may stay fused under an edit.
            attn=Tap(block.attn if after_attn is None else after_attn),
            mlp=Tap((block.mlp if after_mlp is None else after_mlp).hook_out),
            mixed=Tap(block.attn.o.hook_in),
            pattern=Tap(block.attn.hook_pattern),
            post_norm=after_attn,
        )

    def output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection's weight, cut into heads."""
        projection = self.raw.blocks[layer].attn.o.original_component
        weight = projection.weight.detach()
        # GPT-2's Conv1D stores its weight transposed.
        matrix = weight.T if isinstance(projection, nn.Linear) else weight
        return matrix.reshape(self.raw.cfg.n_heads, -1, self.d_model)

    def final_norm(self) -> nn.Module:
        """`ln_final`."""
        return self.raw.ln_final

    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """The output embeddings."""
        return self.raw.original_model.get_output_embeddings().weight.detach()

    @property
    def _wrapped(self) -> nn.Module:
        return self.raw.original_model

    @cached_property
    def _unhooked(self) -> UnhookedParts:
        return UnhookedParts(self.raw)

    def _as_itself(self) -> AbstractContextManager[None]:
        return self._unhooked.as_the_bridge()

    @property
    def _blocks(self) -> Sequence[nn.Module]:
        return list(self.raw.blocks)

    def _on_entering(self, replace: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        def hook(module: nn.Module, args: Any, resid: Tensor) -> Tensor | None:
            return replace(resid)

        # Before all that only look.
        return self.raw.blocks[0].hook_in.register_forward_hook(hook, prepend=True)

    def _handed_on(self, layer: int, resid: Tensor) -> Tensor:
        return resid

    @property
    def _attends_as_known(self) -> bool:
        attentions = {type(getattr(block, "attn", None)).__name__ for block in self.raw.blocks}
        return attentions <= _KNOWN_ATTENTIONS

    def _pass(
        self,
        tokens: Int[Tensor, "batch new"],
        mask: Bool[Tensor, "batch pos"],
        cache: Any = None,
        *,
        last: bool = False,
        block: int | None = None,
    ) -> Float[Tensor, "batch logits d_vocab"]:
        options: dict[str, Any] = {"attention_mask": mask.long()}
        if cache is not None:
            options |= {
                "past_key_values": cache,
                "use_cache": True,
                "return_type": "logits_and_cache",
            }
        if last:
            options |= self._only_the_last
        with all_float64(self.dtype), self._unhooked.as_themselves(block):
            found = self.raw(tokens, **options)
        return found if cache is None else found[0]
