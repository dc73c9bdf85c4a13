"""Editing the residual stream of a model, by hooks that are gone with their context."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import Tensor, nn

from psr_lens._types import Surface
from psr_lens.models.binding import BoundHook, Owner, is_suspended, suspended
from psr_lens.models.columns import Columns
from psr_lens.models.turns import Turns, turns_of

ResidualEdit = Callable[[Tensor, Columns], Tensor | None]
"""`edit(resid [batch, pos, d_model], columns)` returns the new residual stream, or None to leave it;
`columns` says what every column of the pass is."""


class EditableModel(ABC):
    """A model whose residual stream can be read and edited after every block.

    Threads may share it: one at a time runs a pass, through these methods or those of `raw`, under
    the edits that it put on itself. Hooks that are added to `raw` by hand are everybody's.

    Attributes:
        raw: The HookedTransformer or TransformerBridge.
    """

    def __init__(self, raw: nn.Module):
        # Untyped: the two classes of TransformerLens share no type that says what is used here.
        self.raw: Any = raw
        self._turns: Turns = turns_of(raw)

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
        steering: str = "",
        only_on: Surface | None = None,
    ) -> Iterator[None]:
        """Apply residual edits to every forward pass inside the context; none is left after it.

        They act for the thread that entered, and for the asyncio tasks and `asyncio.to_thread` calls
        that are started inside, on no pass of another thread. Contexts may be left in any order.

        Through this object's own methods it is known what every column is. Where `raw` is
        called directly, the last column of a pass counts as the last prompt token, later tokens of
        `raw.generate` as response; for a whole sequence given to `raw`, pass `prompt_length`.

        Args:
            edits: For every layer, what to do with the residual stream after its block.
            prompt_length: Columns of the prompt, for whole sequences given to `raw`.
            question_start: First question column, for a `QR` edit under direct calls of `raw`.
            steering: What `steerings_on` says of it, where it is a steering.
            only_on: The surface outside of which the edits neither change nor look at anything, so
                that what lies in front of it may be run without them, and not in the same pass. None:
                they are shown all columns.
        """
        own = _Edits(prompt_length, question_start, steering, only_on)
        handles = []
        try:
            # In turn, for torch numbers hooks by a counter that it does not guard.
            with self._turns.lock:
                self._turns.edits.append(own)
                # The block is entered once per pass, whatever calls it.
                first = self.raw.blocks[0]
                handles.append(first.register_forward_pre_hook(_BeginPass(self._turns)))
                for layer, edit in edits.items():
                    hook = _EditHook(self, own, edit)
                    handles.append(self.hook_point(layer).register_forward_hook(hook))
            yield
        finally:
            own.owner.release()
            for handle in handles:
                handle.remove()
            if own in self._turns.edits:
                self._turns.edits.remove(own)

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Suspend the edits that are on; edits made inside the context act."""
        with suspended(*self._acting()):
            yield

    def steerings_on(self) -> list[str]:
        """The steerings that act on a pass of this thread just now, in words."""
        return [own.steering for own in self._acting() if own.steering]

    def shown_from(self) -> Surface | None:
        """The surface from which on everything that listens to a pass has to be shown it.

        Raises:
            LookupError: If something may look at every column: edits that do not say where they act,
                or hooks that are not ours.
        """
        surfaces = [own.only_on for own in self._acting()]
        if None in surfaces or any(map(_is_foreign, _all_hooks(self.raw))):
            raise LookupError("something may look at every column")
        return "QR" if "QR" in surfaces else "R" if surfaces else None

    def columns_of(self, resid: Tensor) -> Columns:
        """What the columns of the pass are that a residual stream belongs to."""
        now = self._turns.now
        if now.columns is not None:
            return now.columns
        prompt_length = question_start = None
        for own in self._acting():
            # The one that came last says it, if it says anything.
            prompt_length = prompt_length if own.prompt_length is None else own.prompt_length
            question_start = question_start if own.question_start is None else own.question_start
        return now.raw_calls.columns(
            resid.shape[0],
            resid.shape[1],
            resid.device,
            prompt_length=prompt_length,
            question_start=question_start,
        )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """No other thread runs a pass on the model inside the context."""
        with self._turns.lock:
            yield

    @contextmanager
    def _running(self, columns: Columns) -> Iterator[None]:
        with self._turns.lock:
            now = self._turns.now
            outer, now.columns = now.columns, columns
            try:
                yield
            finally:
                now.columns = outer

    def _acting(self) -> list["_Edits"]:
        return [own for own in list(self._turns.edits) if own.act_here()]


@final
class _Edits:
    """What one `edited` put on, for whom, and what it said about direct calls."""

    def __init__(
        self,
        prompt_length: int | None,
        question_start: int | None,
        steering: str,
        only_on: Surface | None,
    ):
        self.prompt_length, self.question_start = prompt_length, question_start
        self.steering, self.only_on = steering, only_on
        self.owner = Owner()

    def act_here(self) -> bool:
        """Whether they act on a pass that runs here."""
        return self.owner.is_here() and not is_suspended(self)


@final
class _EditHook(BoundHook):
    """A residual edit as a hook."""

    def __init__(self, model: EditableModel, own: _Edits, edit: ResidualEdit):
        self._model, self._own, self._edit = model, own, edit

    def __call__(self, module: nn.Module, args: Any, resid: Tensor) -> Tensor | None:
        if not self._own.act_here():
            return None
        return self._edit(resid, self._model.columns_of(resid))


@final
class _BeginPass(BoundHook):
    """Tells a thread's own record of direct calls that a pass begins."""

    def __init__(self, turns: Turns):
        self._turns = turns

    def __call__(self, module: nn.Module, args: Any) -> None:
        self._turns.now.raw_calls.begin_pass()


def _all_hooks(raw: nn.Module) -> Iterator[object]:
    """Every hook on a model that runs in its passes, those on all modules of the process included."""
    everywhere = nn.modules.module
    yield from everywhere._global_forward_hooks.values()
    yield from everywhere._global_forward_pre_hooks.values()
    # A bridge does not have the model that it wraps among its modules, but all that is in that.
    wrapped = raw.__dict__.get("original_model")
    for module in (*raw.modules(), *([wrapped] if isinstance(wrapped, nn.Module) else [])):
        yield from module._forward_hooks.values()
        yield from module._forward_pre_hooks.values()


def _is_foreign(hook: Any) -> bool:
    """Whether nobody can say what it looks at: neither ours nor how the bridge is built."""
    if isinstance(hook, _EditHook | _BeginPass):
        return False
    # transformers puts its own on for good, the first time that it is asked for hidden states.
    known = ("transformer_lens.model_bridge.", "transformers.utils.output_capturing")
    return not str(getattr(hook, "__module__", "")).startswith(known)
