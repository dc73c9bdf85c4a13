"""Parts of a TransformerBridge that run as Hugging Face's own modules while no hook looks at them.

Every component of the bridge has hook points, and does extra work for them: norms compute what they hand to
`hook_normalized`, attention computes its scores and its pattern step by step. A component whose points have
no hook may as well be the module that it stands for: the same bits, and for attention one fused call that
keeps no `[head, pos, pos]` array and is the same up to rounding. If attention is fused, a block goes
straight from one of its two hook points to the other.

Hooks are looked up as a pass begins: one added to a later layer in the middle of a pass is seen from the
next pass on.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, final

from torch import nn

from psr_lens.models.binding import BoundHook

_BLOCK = "BlockBridge"
_LINEAR, _MLP = "LinearBridge", "GatedMLPBridge"
_NORMS = ("NormalizationBridge", "RMSNormalizationBridge")
_ATTENTION = "PositionEmbeddingsAttentionBridge"
_PROJECTIONS = ("q", "k", "v", "o")
# With one of these the bridge takes another path through attention.
_OTHER_WAYS = ("use_attn_result", "use_split_qkv_input", "use_attn_in")

Hooks = tuple[Mapping[int, Any], ...]
"""Everything that is registered on some modules, filled and emptied by torch."""


@final
class UnhookedParts:
    """Switches the components of a bridge that have no hook to what they stand for, and back.

    Args:
        bridge: A TransformerBridge.
    """

    def __init__(self, bridge: Any):
        model = bridge.original_model
        self._config: Any = model.config
        self._bridge_config: Any = bridge.cfg
        self._weight = next(model.parameters())
        self._simple: list[tuple[Any, Hooks]] = [
            (part, _hooks(_own_points(part))) for part in model.modules() if _is_simple(part)
        ]
        self._blocks: list[tuple[Any, Callable[..., Any]]] = [
            (block, _ShortWay(block)) for block in bridge.blocks if type(block).__name__ == _BLOCK
        ]
        self._all_blocks: list[Any] = list(bridge.blocks)
        inside = [set(map(id, block.modules())) for block in self._all_blocks]
        self._simple_in = [[own for own in self._simple if id(own[0]) in ids] for ids in inside]
        attentions: list[Any] = [getattr(block, "attn", None) for block in bridge.blocks]
        self._attentions: list[Any] = []
        self._attention_hooks: Hooks = ()
        if getattr(model, "_supports_sdpa", False) and all(
            _is_fusable(attention, self._config) for attention in attentions
        ):
            self._attentions = attentions
            self._attention_hooks = _hooks(
                module for own in attentions for module in [own, *_inner_points(own)]
            )
        self._depth = 0
        self._outermost = self._config._attn_implementation

    def as_themselves(self, block: int | None = None) -> AbstractContextManager[None]:
        """Run components without hooks as Hugging Face's modules inside the context.

        For one thread at a time, which the model ensures.

        Args:
            block: The one block that will run, if the others only hand on what they get: checking all
                thirty of a model thirty times takes as long as running some of them.
        """
        fused = self._may_fuse()
        simple, blocks, attentions = self._simple, self._blocks, self._attentions
        if block is not None:
            simple, attentions = self._simple_in[block], attentions[block : block + 1]
            blocks = [own for own in blocks if own[0] is self._all_blocks[block]]
        dtype = self._weight.dtype
        wanted: list[tuple[Any, Callable[..., Any] | None]] = [
            # If it has another number type than the model, the bridge casts its result back.
            (part, own if not any(hooks) and (weight is None or weight.dtype == dtype) else None)
            for part, hooks in simple
            for own in (part._modules["_original_component"],)
            for weight in (own._parameters.get("weight"),)
        ]
        wanted += [(own, own.original_component if fused else None) for own in attentions]
        wanted += [
            (block, way if fused and _goes_through(block) else None)
            for block, way in blocks
            if block.__dict__.get("forward") in (None, way)
        ]
        return self._switched(wanted, fused)

    def as_the_bridge(self) -> AbstractContextManager[None]:
        """Run all components as the bridge's own inside the context, even in the middle of a pass."""
        parts = [*(part for part, _ in self._simple), *self._attentions]
        # A block whose `forward` is not ours keeps it.
        parts += [block for block, way in self._blocks if block.__dict__.get("forward") is way]
        return self._switched([(part, None) for part in parts], fused=False)

    @contextmanager
    def _switched(
        self, wanted: Sequence[tuple[Any, Callable[..., Any] | None]], fused: bool
    ) -> Iterator[None]:
        outer = self._config._attn_implementation
        if self._depth == 0:
            self._outermost = outer
        # A pass inside a pass may find other hooks than the one around it.
        before = [(part, part.__dict__.get("forward")) for part, _ in wanted]
        self._depth += 1
        try:
            self._config._attn_implementation = "sdpa" if fused else self._outermost
            _set_forwards(wanted)
            yield
        finally:
            self._depth -= 1
            self._config._attn_implementation = outer
            _set_forwards(before)

    def _may_fuse(self) -> bool:
        """All attentions or none: how the mask is made depends on it."""
        return (
            bool(self._attentions)
            and not any(map(_looks_inside, self._attention_hooks))
            and not any(getattr(self._bridge_config, way, False) for way in _OTHER_WAYS)
            and all(map(_projections_are_shared, self._attentions))
        )


def _looks_inside(hooks: Mapping[int, Any]) -> bool:
    """Whether any of these hooks is not ours: ours take what attention returns, fused or not."""
    return any(not isinstance(hook, BoundHook) for hook in hooks.values())


def _set_forwards(wanted: Iterable[tuple[nn.Module, Callable[..., Any] | None]]) -> None:
    """Give each object another `forward`; None restores that of its class."""
    for part, forward in wanted:
        if forward is None:
            part.__dict__.pop("forward", None)
        else:
            part.__dict__["forward"] = forward


@final
class _ShortWay:
    """What a block of the bridge does in a whole pass: its module between its two hook points.

    The block itself also looks up, on every call, what its module takes and where to stop. This is an
    object, not a function, so a copied model gets its own.
    """

    def __init__(self, block: Any):
        self._module, self._enter, self._leave = (
            block.original_component,
            block.hook_in,
            block.hook_out,
        )
        self._attention: Any = getattr(block, "attn", None)

    def __call__(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            out = self._module(self._enter(hidden_states), *args, **kwargs)
        finally:
            if self._attention is not None:
                # Kept by the bridge for another path through attention, and released here.
                self._attention.__dict__["_captured_pre_ln_residual"] = None
        if isinstance(out, tuple):
            return self._leave(out[0]), *out[1:]
        return self._leave(out)


def _goes_through(block: Any) -> bool:
    """Whether no pass is to begin or stop at a block."""
    own = block.__dict__
    return (
        own.get("_stop_at_layer_idx") is None
        and own.get("_start_at_layer_idx") is None
        and _takes_all(type(block._modules["_original_component"]))
    )


@cache
def _takes_all(module: type[nn.Module]) -> bool:
    """Whether a module's `forward` takes keywords that it does not name."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(own.kind == inspect.Parameter.VAR_KEYWORD for own in parameters)


def _own_points(part: nn.Module) -> list[nn.Module]:
    """The hook points that belong to a component itself."""
    return [point for point in part.children() if type(point).__name__ == "HookPoint"]


def _inner_points(attention: nn.Module) -> list[nn.Module]:
    """All hook points of an attention but those of its projections, which fire either way."""
    own = list(_own_points(attention))
    for name, child in attention.named_children():
        if name not in (*_PROJECTIONS, "_original_component", "original_component"):
            own += [point for point in child.modules() if type(point).__name__ == "HookPoint"]
    return own


def _hooks(modules: Any) -> Hooks:
    """What is registered on these modules."""
    return tuple(
        hooks
        for module in modules
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
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
    """Whether Hugging Face's module does the same as the bridge, its projections' hooks included."""
    if type(attention).__name__ != _ATTENTION:
        return False
    own = attention.original_component
    return (
        getattr(own, "config", None) is config
        and getattr(own, "attn_logit_softcapping", None) is None
        and getattr(own, "sinks", None) is None
        and _projections_are_shared(attention)
    )


def _projections_are_shared(attention: Any) -> bool:
    """Whether Hugging Face's module calls the bridge's projections: one may have been replaced."""
    theirs, ours = attention.original_component._modules, attention._modules
    return all(name in ours and theirs.get(f"{name}_proj") is ours[name] for name in _PROJECTIONS)
