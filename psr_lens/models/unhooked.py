"""Parts of a TransformerBridge that run as Hugging Face's own modules, where no hook looks.

Every component of the bridge has hook points, and works for them: norms compute what they hand to
`hook_normalized`, the attention its scores and its pattern one by one. A component whose points
have no hook may as well be the module that it stands for: the same numbers, and for the attention
one fused call that keeps no `[head, pos, pos]` array.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn

_LINEAR, _MLP = "LinearBridge", "GatedMLPBridge"
_NORMS = ("NormalizationBridge", "RMSNormalizationBridge")
_ATTENTION = "PositionEmbeddingsAttentionBridge"
_PROJECTIONS = ("q", "k", "v", "o")

Hooks = tuple[Mapping[int, Any], ...]
"""Everything that is registered on a component's own hook points, filled and emptied by torch."""


@final
class UnhookedParts:
    """Switches the components of a bridge that have no hook to what they stand for, and back.

    Args:
        bridge: A TransformerBridge.
    """

    def __init__(self, bridge: Any):
        model = bridge.original_model
        self._config: Any = model.config
        self._weight = next(model.parameters())
        self._simple = [(part, hooks_of(part)) for part in model.modules() if _is_simple(part)]
        attentions: list[Any] = [getattr(block, "attn", None) for block in bridge.blocks]
        fusable = getattr(model, "_supports_sdpa", False) and all(
            _is_fusable(attention, self._config) for attention in attentions
        )
        self._attentions: list[tuple[Any, Hooks]] = (
            [(attention, hooks_of(attention)) for attention in attentions] if fusable else []
        )

    @contextmanager
    def as_themselves(self) -> Iterator[None]:
        """Components without hooks are Hugging Face's modules inside the context."""
        switched = [part for part, hooks in self._simple if not any(hooks)]
        outer = self._config._attn_implementation
        if self._may_fuse():
            switched += [attention for attention, _ in self._attentions]
            self._config._attn_implementation = "sdpa"
        for part in switched:
            part.__dict__["forward"] = part.original_component.forward
        try:
            yield
        finally:
            self._config._attn_implementation = outer
            for part in switched:
                part.__dict__.pop("forward", None)

    def _may_fuse(self) -> bool:
        """All attentions or none: how the mask is made depends on it.

        Not in float64, where the bridge takes the pattern to float32: a pass with a hook and one
        without would differ by as much.
        """
        return (
            bool(self._attentions)
            and self._weight.dtype != torch.float64
            and not any(any(hooks) for _, hooks in self._attentions)
        )


def hooks_of(part: nn.Module) -> Hooks:
    """What is registered on the hook points that belong to a component itself."""
    points = [point for point in part.children() if type(point).__name__ == "HookPoint"]
    return tuple(
        hooks
        for point in points
        for hooks in (
            point._forward_hooks,
            point._forward_pre_hooks,
            point._backward_hooks,
            point._backward_pre_hooks,
        )
    )


def _is_simple(part: Any) -> bool:
    """Whether a component does nothing but call its module between hooks."""
    kind = type(part).__name__
    if kind in _NORMS:
        # Otherwise it has its own arithmetic.
        return bool(part.use_native_layernorm_autograd)
    return kind in (_LINEAR, _MLP) and not getattr(part, "_use_processed_weights", False)


def _is_fusable(attention: Any, config: Any) -> bool:
    """Whether Hugging Face's module says the same as the bridge, its projections' hooks included."""
    if type(attention).__name__ != _ATTENTION:
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
