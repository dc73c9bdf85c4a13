"""One thread at a time runs a model, whether through our methods or through TransformerLens' own.

A pass of ours may switch components of a bridge or stop at a hook point, and `run_with_cache` adds
hooks to a model that all threads share: a pass of another thread in between would go wrong.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, wraps
from typing import Any, Final, final
from weakref import WeakKeyDictionary

from torch import nn

from psr_lens.models.columns import Columns
from psr_lens.models.decoder_layers import language_model, modules_down_to_layers
from psr_lens.models.passes import GivenPrompt, Passes, named, positional

_TURNS: Final = "_psr_lens_turns"
# A bridge's `generate` leaves its cache on the model between the pass and the next line of its own.
_AT_ONE_GO: Final = ("run_with_hooks", "run_with_cache", "generate", "hf_generate")


class _Now(threading.local):
    """What runs in this thread."""

    def __init__(self):
        self.columns: Columns | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


@final
class Turns:
    """Whose turn it is on one model; a copy of the model has turns of its own.

    Attributes:
        lock: Held while a pass runs.
        now: The current pass of this thread.
        passes: The direct calls of this thread.
        edits: All active edits, of any thread, in the order in which they came.
        watchers: By transformers model, how many contexts watch its passes, and what removes the hooks for
            that.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.now = _Now()
        self.passes = Passes()
        self.edits: list[Any] = []
        self.watchers: dict[int, tuple[int, ExitStack]] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


_OF_TRANSFORMERS: "WeakKeyDictionary[nn.Module, Turns]" = WeakKeyDictionary()


def keeper_of_turns(raw: nn.Module) -> nn.Module:
    """The module that identifies a model's turns.

    For transformers models, the list of decoder layers: with or without an adapter around them, they are
    edited in the same places.
    """
    if hasattr(raw, "run_with_cache"):
        return raw
    return modules_down_to_layers(language_model(raw))[-1]


def turns_of(raw: nn.Module) -> Turns:
    """The turns of a module.

    From now on, a HookedTransformer or TransformerBridge waits its turn when it is called directly. A
    transformers model is not changed; direct calls of it run beside the others.
    """
    if not hasattr(raw, "run_with_cache"):
        return _OF_TRANSFORMERS.setdefault(raw, Turns())
    turns = raw.__dict__.get(_TURNS)
    if turns is None:
        turns = raw.__dict__[_TURNS] = Turns()
        # Change its class, not its `forward`, which a copy would share with the original. And bypass the
        # bridge's own way to set attributes, which inspects what it is given.
        object.__setattr__(raw, "__class__", _in_turns(type(raw)))
    return turns


@cache
def _in_turns(plain: type[nn.Module]) -> type[nn.Module]:
    def at_one_go(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def method(self: nn.Module, *args: Any, **options: Any) -> Any:
            with self.__dict__[_TURNS].lock:
                return original(self, *args, **options)

        return method

    def told_pass(original: Callable[..., Any]) -> Callable[..., Any]:
        names = positional(original)[1:]

        @wraps(original)
        def method(self: nn.Module, *args: Any, **options: Any) -> Any:
            turns = self.__dict__[_TURNS]
            with turns.lock:
                turns.passes.open(self, named(names, args, options))
                try:
                    return original(self, *args, **options)
                finally:
                    turns.passes.close(self)

        return method

    def of_many_passes(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def method(self: nn.Module, *args: Any, **options: Any) -> Any:
            # How many tokens the prompts have is not known before the first pass.
            with self.__dict__[_TURNS].passes.generating(GivenPrompt()):
                return original(self, *args, **options)

        return method

    def __reduce_ex__(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _blank, (plain,), self.__getstate__()

    methods = {name: at_one_go(getattr(plain, name)) for name in _AT_ONE_GO if hasattr(plain, name)}
    methods["forward"] = told_pass(plain.forward)
    for name in ("generate", "hf_generate"):
        if name in methods:
            methods[name] = of_many_passes(methods[name])
    methods["__reduce_ex__"] = __reduce_ex__
    return type(plain.__name__, (plain,), {**methods, "__module__": plain.__module__})


def _blank(plain: type[nn.Module]) -> nn.Module:
    """An object without its state: where copying and unpickling begin."""
    kind = _in_turns(plain)
    return kind.__new__(kind)
