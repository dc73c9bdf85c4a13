"""Editing the residual stream of a model, by hooks that are gone with their context."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Any, final

from torch import Tensor, nn

from psr_lens.models.columns import Columns
from psr_lens.models.raw_calls import RawCalls

ResidualEdit = Callable[[Tensor, Columns], Tensor | None]
"""`edit(resid [batch, pos, d_model], columns)` returns the new residual stream, or None to leave it;
`columns` says what every column of the pass is."""


class EditableModel(ABC):
    """A model whose residual stream can be read and edited after every block.

    Attributes:
        raw: The HookedTransformer or TransformerBridge.
    """

    def __init__(self, raw: nn.Module):
        # Untyped: the two classes of TransformerLens share no type that says what is used here.
        self.raw: Any = raw
        self._columns: Columns | None = None
        self._raw_calls = RawCalls()
        self._edits_active = 0
        self._level = 0
        self._one_at_a_time = _PassLock()

    @abstractmethod
    def hook_point(self, layer: int) -> nn.Module:
        """The module that the residual stream after block `layer` passes through."""

    @contextmanager
    def edited(
        self,
        edits: Mapping[int, ResidualEdit],
        *,
        prompt_length: int | None = None,
        question_start: int | None = None,
    ) -> Iterator[None]:
        """Apply residual edits to every forward pass inside the context; none is left after it.

        Through this object's own methods it is known what every column is. Where `raw` is
        called directly, the last column of a pass counts as the last prompt token, later tokens of
        `raw.generate` as response; for a whole sequence given to `raw`, pass `prompt_length`.

        Args:
            edits: For every layer, what to do with the residual stream after its block.
            prompt_length: Columns of the prompt, for whole sequences given to `raw`.
            question_start: First question column, for a `QR` edit under direct calls of `raw`.
        """
        handles = []
        outer = self._raw_calls
        self._raw_calls = outer.nested(prompt_length, question_start)
        own_generate = self._edits_active == 0
        self._edits_active += 1
        try:
            if own_generate:
                self._watch_raw_generate()
            # The block is entered once per pass, whatever calls it.
            handles.append(self.raw.blocks[0].register_forward_pre_hook(self._begin_pass))
            for layer, edit in edits.items():
                handles.append(self.hook_point(layer).register_forward_hook(self._as_hook(edit)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._edits_active -= 1
            if own_generate:
                self.raw.__dict__.pop("generate", None)
            self._raw_calls = outer

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Suspend the edits that are on; edits made inside the context act."""
        self._level += 1
        try:
            yield
        finally:
            self._level -= 1

    def _as_hook(self, edit: ResidualEdit):
        level = self._level

        def hook(module: nn.Module, args: Any, resid: Tensor) -> Tensor | None:
            if self._level != level:
                return None
            columns = self._columns
            if columns is None:
                columns = self._raw_calls.columns(resid.shape[0], resid.shape[1], resid.device)
            return edit(resid, columns)

        return hook

    def _begin_pass(self, module: nn.Module, args: Any) -> None:
        self._raw_calls.begin_pass()

    def _watch_raw_generate(self) -> None:
        """Let uncached `raw.generate` know where its prompt ended, for as long as edits are on."""
        original = self.raw.generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            self._raw_calls.begin_generate()
            try:
                return original(*args, **kwargs)
            finally:
                self._raw_calls.end_generate()

        self.raw.__dict__["generate"] = generate

    @contextmanager
    def _running(self, columns: Columns) -> Iterator[None]:
        with self._one_at_a_time:
            outer, self._columns = self._columns, columns
            try:
                yield
            finally:
                self._columns = outer


@final
class _PassLock:
    """Lets one thread at a time run passes, and these run passes of their own; a copy has its own."""

    def __init__(self):
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()
