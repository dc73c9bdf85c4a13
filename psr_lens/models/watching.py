"""Hooks by which a transformers model reports its passes, in place while something edits it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import update_wrapper
from typing import Any, final

from torch import nn

from psr_lens.models.binding import BoundHook
from psr_lens.models.decoder_layers import modules_down_to_layers
from psr_lens.models.passes import Passes, given_prompt, named, positional
from psr_lens.models.turns import Turns


@contextmanager
def watched(turns: Turns, hf_model: Any) -> Iterator[None]:
    """Record every direct call inside the context in the model's own record of passes.

    The last context to be left removes the hooks.

    Args:
        turns: The model's turns.
        hf_model: The transformers model that runs; None if there is none.
    """
    if hf_model is None:
        yield
        return
    # Under the lock, because torch numbers hooks by an unguarded counter.
    with turns.lock:
        count, hooks = turns.watchers.get(id(hf_model), (0, None))
        hooks = _installed(turns.passes, hf_model) if hooks is None else hooks
        turns.watchers[id(hf_model)] = (count + 1, hooks)
    try:
        yield
    finally:
        with turns.lock:
            count, hooks = turns.watchers.pop(id(hf_model))
            if count == 1:
                hooks.close()
            else:
                turns.watchers[id(hf_model)] = (count - 1, hooks)


def _installed(passes: Passes, hf_model: Any) -> ExitStack:
    with ExitStack() as hooks:
        # The outermost one that is called opens the pass: the model, or its decoder called alone.
        for module in modules_down_to_layers(hf_model)[:-1]:
            opens = _OpensPass(passes, positional(type(module).forward)[1:])
            for handle in (
                module.register_forward_pre_hook(opens, with_kwargs=True),
                module.register_forward_hook(_ClosesPass(passes), always_call=True),
            ):
                hooks.callback(handle.remove)
        # A classifier has none; some libraries and users give an instance one of its own.
        if hasattr(hf_model, "generate"):
            own = hf_model.__dict__.get("generate")
            told = _ToldGenerate(passes, hf_model.generate)
            hf_model.__dict__["generate"] = told
            hooks.callback(_put_back_generate, hf_model, told, own)
        return hooks.pop_all()


class Telling(BoundHook):
    """A hook that reports passes, and looks at nothing that runs in them."""


@final
class _OpensPass(Telling):
    def __init__(self, passes: Passes, names: Sequence[str]):
        self._passes, self._names = passes, names

    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._passes.open(module, named(self._names, args, kwargs))

    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]


@final
class _ClosesPass(Telling):
    def __init__(self, passes: Passes):
        self._passes = passes

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._passes.close(module)

    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]


@final
class _ToldGenerate:
    """`generate` of a watched model; a copy of the model has its own instead."""

    def __init__(self, passes: Passes, original: Callable[..., Any]):
        update_wrapper(self, original)
        self._passes, self._original = passes, original
        # One that takes any arguments takes the prompt first, as transformers does.
        self._names = positional(original) or ("inputs",)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._passes.generating(given_prompt(named(self._names, args, kwargs))):
            return self._original(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._original,)


def _itself(original: Callable[..., Any]) -> Callable[..., Any]:
    return original


def _put_back_generate(hf_model: Any, told: Any, own: Callable[..., Any] | None) -> None:
    if hf_model.__dict__.get("generate") is not told:
        # Somebody has given the model another one meanwhile, which stays.
        return
    del hf_model.__dict__["generate"]
    if own is not None:
        hf_model.__dict__["generate"] = own
