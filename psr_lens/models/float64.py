"""A model in float64 computes in float64 throughout.

transformers computes norms, softmax and rotary angles in float32, whatever the weights are: right for
narrower types, but a float64 model loses half of its digits there. Inside `all_float64`, whatever asks for
float32 gets float64.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, final, no_type_check

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ANGLES: Final = "inv_freq"


def all_float64(dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context that makes a model compute in float64 throughout, if its weights are in float64."""
    return _Widened() if dtype == torch.float64 else nullcontext()


def widen_constants(model: nn.Module) -> None:
    """Recompute a float64 model's constants, which transformers computes in float32.

    These are rotary frequencies, and the factor of Gemma's embeddings.
    """
    for module in model.modules():
        own: Any = module
        if hasattr(own, "scalar_embed_scale"):
            own.embed_scale = own.weight.new_tensor(own.scalar_embed_scale)
        names = [name for name, _ in own.named_buffers(recurse=False) if name.endswith(_ANGLES)]
        if not names or not hasattr(own, "config"):
            continue
        with _Widened():
            fresh = type(own)(own.config)
        for name in names:
            setattr(own, name, getattr(fresh, name).to(getattr(own, name).device))


@final
class _Widened(TorchFunctionMode):
    # For every single operation on a tensor: checking the types of these calls would cost more than they do.
    @no_type_check
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        if kwargs:
            kwargs = {
                name: torch.float64 if own is torch.float32 else own for name, own in kwargs.items()
            }
        wide = [torch.float64 if own is torch.float32 else own for own in args]
        return func(*wide, **(kwargs or {}))
