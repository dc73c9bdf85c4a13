"""Compiled models, which ignore hooks that are added later."""

from collections.abc import Iterator
from typing import Any

from torch import nn


def refuse_compiled(model: Any) -> None:
    """Refuse a model that torch has compiled, or has been told to compile, in whole or in part.

    Compiled code does not notice hooks that are added later: the model would silently run without its
    steering. This does not see a `torch.compile(model)` kept beside a model, if the model is steered and
    its compiled twin is called.

    Args:
        model: A model; anything else is left for others to refuse.

    Raises:
        ValueError: If it, or a module inside it, is compiled.
    """
    if not isinstance(model, nn.Module):
        return
    # Looked at before every pass, so with no function call for each module.
    for name, module in _modules(model):
        own = module.__dict__
        if (
            # In order: module.compile(), generate of transformers, torch.compile(module), and
            # module.forward = torch.compile(module.forward).
            own.get("_compiled_call_impl") is not None
            or own.get("_compiled_call") is not None
            or type(module).__name__ == "OptimizedModule"
            or hasattr(own.get("forward"), "_torchdynamo_orig_callable")
        ):
            where = f" ({name})" if name else ""
            raise ValueError(
                f"this {_name(model)} is compiled{where}, and what torch has compiled runs without "
                "the hooks that steer it: load the model anew and do not compile it (for "
                "generate with a static cache, pass disable_compile=True)"
            )


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from model.named_modules()
    # A bridge's modules do not include the model that it wraps, but everything in that model.
    wrapped = model.__dict__.get("original_model")
    if isinstance(wrapped, nn.Module):
        yield type(wrapped).__name__, wrapped
        yield from wrapped.named_children()


def _name(model: Any) -> str:
    """The type of a model, not of the wrapper that `torch.compile` put around it."""
    return type(getattr(model, "_orig_mod", model)).__name__
