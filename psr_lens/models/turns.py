"""One thread at a time runs a model, whether through our methods or through TransformerLens' own.

A pass of ours may switch components of a bridge or stop at a hook point, and `run_with_cache` adds
hooks to a model that all threads share: a pass of another thread in the middle of it would be wrong.
"""

import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Final, final

from torch import nn

from psr_lens.models.columns import Columns
from psr_lens.models.raw_calls import RawCalls

_TURNS: Final = "_psr_lens_turns"
_WHOLE_PASSES: Final = ("forward", "run_with_hooks", "run_with_cache", "hf_generate")


class _Now(threading.local):
    """What runs in this thread."""

    def __init__(self):
        self.columns: Columns | None = None
        self.raw_calls = RawCalls()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


@final
class Turns:
    """Whose turn it is on one model; a copy of the model has turns of its own.

    Attributes:
        lock: Held while a pass runs.
        now: What the pass of this thread is about.
        edits: All edits that are on, of any thread, in the order in which they came.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.now = _Now()
        self.edits: list[Any] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


def turns_of(raw: nn.Module) -> Turns:
    """The turns of a HookedTransformer or TransformerBridge, which from now on waits for them."""
    turns = raw.__dict__.get(_TURNS)
    if turns is None:
        turns = raw.__dict__[_TURNS] = Turns()
        # Its class and not a `forward` of its own, which a copy would share with the original. Not
        # by the bridge's own way to set attributes, which looks at what it is given.
        object.__setattr__(raw, "__class__", _in_turns(type(raw)))
    return turns


@cache
def _in_turns(plain: type[nn.Module]) -> type[nn.Module]:
    def whole_pass(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def method(self: nn.Module, *args: Any, **options: Any) -> Any:
            with self.__dict__[_TURNS].lock:
                return original(self, *args, **options)

        return method

    def of_many_passes(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def method(self: nn.Module, *args: Any, **options: Any) -> Any:
            with self.__dict__[_TURNS].now.raw_calls.one_generate():
                return original(self, *args, **options)

        return method

    def __reduce_ex__(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _blank, (plain,), self.__getstate__()

    methods = {
        name: whole_pass(getattr(plain, name)) for name in _WHOLE_PASSES if hasattr(plain, name)
    }
    methods["generate"] = of_many_passes(plain.generate)  # type: ignore[attr-defined]
    methods["__reduce_ex__"] = __reduce_ex__
    return type(plain.__name__, (plain,), {**methods, "__module__": plain.__module__})


def _blank(plain: type[nn.Module]) -> nn.Module:
    """An object without its state: where copying and unpickling begin."""
    kind = _in_turns(plain)
    return kind.__new__(kind)
