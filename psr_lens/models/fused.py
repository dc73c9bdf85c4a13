"""Fused attention inside a TransformerBridge, for passes in which nobody looks into the attention.

The bridge computes scores and pattern one by one, because they have hook points. Without a hook
there the same attention may run as Hugging Face would run it by itself, in one fused call that
keeps no `[head, pos, pos]` array: at long prompts the bridge is then as fast as the plain model.
Not in float64, where the bridge takes the pattern to float32 and the two would differ by as much.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn

_REIMPLEMENTED = "PositionEmbeddingsAttentionBridge"
_PROJECTIONS = ("q", "k", "v", "o")


@final
class FusedAttention:
    """Switches the attention of a bridge's blocks to the fused one, and back.

    Args:
        bridge: A TransformerBridge.
    """

    def __init__(self, bridge: Any):
        model = bridge.original_model
        self._config: Any = model.config
        self._weight = next(model.parameters())
        attentions = [getattr(block, "attn", None) for block in bridge.blocks]
        fusable = getattr(model, "_supports_sdpa", False) and all(
            _fusable(attention, self._config) for attention in attentions
        )
        self._attentions: list[Any] = attentions if fusable else []
        self._points = [
            point
            for attention in self._attentions
            for point in attention.children()
            if type(point).__name__ == "HookPoint"
        ]

    @contextmanager
    def where_unseen(self) -> Iterator[None]:
        """Fused inside the context, unless a hook is on a score, a pattern or the like."""
        exact = self._weight.dtype == torch.float64
        if exact or not self._attentions or any(_hooked(point) for point in self._points):
            yield
            return
        outer = self._config._attn_implementation
        self._config._attn_implementation = "sdpa"
        for attention in self._attentions:
            attention.__dict__["forward"] = attention.original_component.forward
        try:
            yield
        finally:
            self._config._attn_implementation = outer
            for attention in self._attentions:
                attention.__dict__.pop("forward", None)


def _fusable(attention: Any, config: Any) -> bool:
    """Whether Hugging Face's module says the same as the bridge, its projections' hooks included."""
    if type(attention).__name__ != _REIMPLEMENTED:
        return False
    own = attention.original_component
    return (
        getattr(own, "config", None) is config
        and getattr(own, "attn_logit_softcapping", None) is None
        and getattr(own, "sinks", None) is None
        and all(
            getattr(own, f"{name}_proj", None) is getattr(attention, name, own)
            for name in _PROJECTIONS
        )
    )


def _hooked(point: nn.Module) -> bool:
    return bool(
        point._forward_hooks
        or point._forward_pre_hooks
        or point._backward_hooks
        or point._backward_pre_hooks
    )
