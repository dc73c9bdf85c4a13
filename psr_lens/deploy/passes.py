"""What the columns of a pass are in a transformers model, which says more than TransformerLens does.

Every forward pass comes with its attention mask and its cache, and `generate` with its prompt. So
the padding and the place of every column are known, and need not be guessed from the passes before.
"""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from psr_lens.deploy.architecture import modules_down_to_layers
from psr_lens.models.binding import BoundHook, Owner
from psr_lens.models.columns import Columns


@dataclass(frozen=True, eq=False)
class _Prompt:
    """The prompts of one `generate`: how many columns, and their attention mask where one was given."""

    columns: int
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass.

    Attributes:
        past: Columns that the cache holds already.
        mask: Attention mask, `[batch, past and new columns]`, or of the prompt only; None if unknown.
        prompt: Columns of the prompt where this belongs to a `generate`.
        worked_out: Columns by who asked and on which device: worked out once, for all layers.
    """

    past: int = 0
    mask: Tensor | None = None
    prompt: int | None = None
    worked_out: dict[Any, Columns] = field(default_factory=dict)


class _Now(threading.local):
    """What runs in this thread: `generate` is often called in one of its own."""

    def __init__(self):
        self.prompt: _Prompt | None = None
        self.one_pass: Pass | None = None
        self.opened_by: int | None = None


@final
class PassWatcher:
    """Follows the passes of one transformers model, for all the steerings that are on it.

    Attributes:
        owners: Whose the steerings are that act for one thread only.
        lock: Held while hooks are put on: torch numbers them by a counter that it does not guard.
    """

    def __init__(self):
        self.owners: list[Owner] = []
        self.lock = threading.RLock()
        self._now = _Now()
        self._users = 0
        self._hooks = ExitStack()

    @contextmanager
    def watching(self, hf_model: Any) -> Iterator[None]:
        """Watch the model; the last one who leaves takes the hooks away."""
        with self.lock:
            if self._users == 0:
                self._install(hf_model)
            self._users += 1
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                if self._users == 0:
                    self._hooks.close()

    def current(self) -> Pass:
        """The pass that runs; one that nothing is known about where a layer is called by itself."""
        return self._now.one_pass or Pass()

    def open(self, module: nn.Module, given: Mapping[str, Any]) -> None:
        """A pass begins, if it is not one that has begun already, in a module around this one."""
        now = self._now
        # A module does not call itself: that pass was interrupted, and its end was never told.
        if now.one_pass is not None and now.opened_by != id(module):
            return
        prompt, mask = now.prompt, given.get("attention_mask")
        if not (isinstance(mask, Tensor) and mask.ndim == 2):
            mask = None
        if prompt is not None and (mask is None or mask.shape[1] < prompt.columns):
            # A compiled generate hands over finished masks of queries and keys, and one that takes
            # the prompt in pieces the mask of the pieces so far.
            mask = prompt.mask
        cache = given.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        now.one_pass = Pass(past, mask, None if prompt is None else prompt.columns)
        now.opened_by = id(module)

    def close(self, module: nn.Module) -> None:
        """The pass that this module began is over."""
        if self._now.opened_by == id(module):
            self._now.one_pass = self._now.opened_by = None

    @contextmanager
    def generating(self, prompt: _Prompt) -> Iterator[None]:
        """The passes inside the context belong to one `generate`."""
        now = self._now
        outer, now.prompt = now.prompt, prompt
        try:
            yield
        finally:
            now.prompt = outer
            now.one_pass = now.opened_by = None

    def _install(self, hf_model: Any) -> None:
        with ExitStack() as hooks:
            # The outermost one that is called opens the pass: the model, or its decoder called alone.
            for module in modules_down_to_layers(hf_model)[:-1]:
                opens = _OpensPass(self, _positional(module.forward))
                closes = _ClosesPass(self)
                for handle in (
                    module.register_forward_pre_hook(opens, with_kwargs=True),
                    module.register_forward_hook(closes, always_call=True),
                ):
                    hooks.callback(handle.remove)
            # A classifier has none; some libraries and users give an instance one of its own.
            if hasattr(hf_model, "generate"):
                own = hf_model.__dict__.get("generate")
                watched = _WatchedGenerate(self, hf_model.generate)
                hf_model.__dict__["generate"] = watched
                hooks.callback(_put_back_generate, hf_model, watched, own)
            self._hooks = hooks.pop_all()


@final
class _OpensPass(BoundHook):
    def __init__(self, watcher: PassWatcher, names: Sequence[str]):
        self._watcher, self._names = watcher, names

    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._watcher.open(module, {**dict(zip(self._names, args, strict=False)), **kwargs})


@final
class _ClosesPass(BoundHook):
    def __init__(self, watcher: PassWatcher):
        self._watcher = watcher

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self._watcher.close(module)


@final
class _WatchedGenerate:
    """`generate` of a model that is watched; a copy of the model has the copy's own in its place."""

    def __init__(self, watcher: PassWatcher, original: Callable[..., Any]):
        update_wrapper(self, original)
        self._watcher, self._original = watcher, original
        # One that takes whatever it gets hands the prompt on in the first place, as transformers does.
        self._names = _positional(original) or ("inputs",)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        prompt = _prompt_of({**dict(zip(self._names, args, strict=False)), **kwargs})
        with self._watcher.generating(prompt):
            return self._original(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._original,)


def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments that may be given without their names."""
    found = inspect.signature(function).parameters.values()
    return tuple(own.name for own in found if own.kind is own.POSITIONAL_OR_KEYWORD)


def _itself(original: Callable[..., Any]) -> Callable[..., Any]:
    return original


_WATCHERS: "WeakKeyDictionary[nn.Module, PassWatcher]" = WeakKeyDictionary()


def watcher_of(hf_model: nn.Module) -> PassWatcher:
    """The one watcher of a model."""
    return _WATCHERS.setdefault(hf_model, PassWatcher())


def columns_of(
    one_pass: Pass,
    batch: int,
    pos: int,
    device: torch.device,
    *,
    prompt_length: int | None = None,
    question_start: int | Sequence[int] | None = None,
) -> Columns:
    """What the columns of a pass are.

    Outside `generate`, and without a `prompt_length`, the pass counts as the end of a prompt.

    Args:
        one_pass: What is known about the pass.
        batch: Rows.
        pos: New columns.
        device: Where the residual stream is.
        prompt_length: Columns of the prompt, for whole sequences outside `generate`.
        question_start: Place of the first question token in its row.

    Raises:
        ValueError: If the batch cannot be divided among the given question starts.
    """
    end = one_pass.past + pos
    if one_pass.prompt is not None:
        prompt_end = one_pass.prompt
    else:
        prompt_end = end if prompt_length is None else min(prompt_length, end)
    first = torch.zeros(batch, 1, dtype=torch.long, device=device)
    last = torch.full((batch, 1), prompt_end - 1, device=device)
    mask = one_pass.mask
    padding_known = mask is not None and mask.shape[1] >= prompt_end
    if mask is not None and padding_known:
        real = _per_row(mask[:, :prompt_end].to(device) != 0, batch).int()
        first = real.argmax(dim=1, keepdim=True)
        last = prompt_end - 1 - real.flip(1).argmax(dim=1, keepdim=True)
    question = None
    if question_start is not None:
        starts = torch.as_tensor(question_start, device=device).reshape(-1, 1)
        question = _per_row(starts, batch)
    return Columns(
        torch.arange(one_pass.past, end, device=device) - first,
        last - first,
        question,
        all_response=one_pass.past >= prompt_end,
        padding_known=padding_known,
    )


def _per_row(rows: Tensor, batch: int) -> Tensor:
    """One for every row of the batch; beam search and several samples repeat each row in place."""
    if batch % len(rows):
        raise ValueError(
            f"{len(rows)} rows were described but the batch has {batch}: describe every row, or all "
            "of them by one number"
        )
    return rows.repeat_interleave(batch // len(rows), dim=0)


def _put_back_generate(hf_model: Any, watched: Any, own: Callable[..., Any] | None) -> None:
    if hf_model.__dict__.get("generate") is not watched:
        # Somebody gave the model another one meanwhile, which is theirs.
        return
    del hf_model.__dict__["generate"]
    if own is not None:
        hf_model.__dict__["generate"] = own


def _prompt_of(given: Mapping[str, Any]) -> _Prompt:
    # Embeddings stand for the prompt where both are given.
    for name in ("inputs_embeds", "input_ids", "inputs"):
        if given.get(name) is not None:
            mask = given.get("attention_mask")
            return _Prompt(given[name].shape[1], mask)
    # Generation from nothing begins with one token.
    return _Prompt(1, None)
