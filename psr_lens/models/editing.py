"""Editing the residual stream of a model, by hooks that last as long as their context."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from psr_lens._types import AlignedTokens
from psr_lens.models.binding import BoundHook, Owner, is_suspended, suspended
from psr_lens.models.columns import Columns
from psr_lens.models.decoder_layers import residual_of, with_residual
from psr_lens.models.turns import Turns, keeper_of_turns, turns_of
from psr_lens.models.watching import Telling, watched

_CAPTURING = "transformers.utils.output_capturing"

ResidualEdit = Callable[[Tensor, Columns], Tensor | None]
"""`edit(resid [batch, pos, d_model], columns)` returns the new residual stream, or None to leave it;
`columns` says what every column of the pass is."""


class EditableModel(ABC):
    """A model whose residual stream can be read and edited after every block.

    Threads may share it: one at a time runs a pass, through these methods or those of `raw`, under the
    edits that it added itself. Hooks added to `raw` by hand act for everybody.

    Attributes:
        raw: The HookedTransformer, the TransformerBridge or the transformers model.
    """

    refuses_other_threads: ClassVar[bool] = False
    """Whether a direct call from a thread without edits is refused while another thread's are active."""

    def __init__(self, raw: nn.Module):
        # Untyped: the three have no common type with what is used here.
        self.raw: Any = raw
        self._keeper = keeper_of_turns(raw)

    @property
    def _turns(self) -> Turns:
        # Looked up: a copy of this object has a copied model with turns of its own.
        return turns_of(self._keeper)

    @abstractmethod
    def hook_point(self, layer: int) -> nn.Module:
        """The module that returns the residual stream after block `layer`, alone or first in a tuple."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where passes begin, and where edits are given the residual stream."""

    @property
    def _wrapped(self) -> nn.Module | None:
        """The transformers model that runs in a pass, where there is one."""
        return None

    @contextmanager
    def edited(
        self,
        edits: Mapping[int, ResidualEdit],
        *,
        prompt_length: int | None = None,
        question_start: int | Sequence[int] | None = None,
        steering: str = "",
        only_on: AlignedTokens | None = None,
        all_threads: bool = False,
    ) -> Iterator[None]:
        """Apply residual edits to every forward pass inside the context; none remains after it.

        They act for the thread that entered, and for asyncio tasks and `asyncio.to_thread` calls started
        inside, never on another thread's passes. Contexts may be left in any order.

        This object's own methods know what every column is. If `raw` is called directly, the last real
        column of a pass counts as the last prompt token, later tokens of `raw.generate` as response; for a
        whole sequence given to `raw`, pass `prompt_length`.

        Args:
            edits: For every layer, what to do with the residual stream after its block.
            prompt_length: Columns of the prompt, for whole sequences given to `raw`.
            question_start: Index of the first question token in its row, one for all rows or one per row,
                for a `question+response` edit under direct calls of `raw`.
            steering: What `steerings_on` calls it, if it is a steering.
            only_on: The aligned tokens outside of which the edits neither change nor look at anything, so
                what comes before may be run without them, in another pass. None: they are shown all
                columns.
            all_threads: Whether they act on the passes of every thread.
        """
        own = _Edits(prompt_length, question_start, steering, only_on, all_threads)
        with ExitStack() as hooks:
            hooks.callback(own.owner.release)
            hooks.enter_context(watched(self._turns, self._wrapped))
            # Under the lock, because torch numbers hooks by an unguarded counter.
            with self._turns.lock:
                self._turns.edits.append(own)
                hooks.callback(self._forget, own)
                for layer, edit in edits.items():
                    hook = _EditHook(self, own, edit)
                    point = self.hook_point(layer)
                    hooks.callback(point.register_forward_hook(hook).remove)
                    _capturing_last(point)
            yield

    def _forget(self, own: "_Edits") -> None:
        if own in self._turns.edits:
            self._turns.edits.remove(own)

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Suspend the active edits; edits made inside the context act."""
        with suspended(*self._acting()):
            yield

    def steerings_on(self) -> list[str]:
        """The steerings that now act on a pass of this thread, in words."""
        return [own.steering for own in self._acting() if own.steering]

    def shown_from(self) -> AlignedTokens | None:
        """The aligned tokens that a pass must show to everything that listens; None if nothing does.

        Raises:
            LookupError: If something may look at every column: edits that do not say where they act,
                or hooks that are not ours.
        """
        told = [own.only_on for own in self._acting()]
        if None in told or any(map(_is_foreign, _all_hooks(self.raw))):
            raise LookupError("something may look at every column")
        if not told:
            return None
        return "question+response" if "question+response" in told else "response"

    def columns_of(self, resid: Tensor) -> Columns:
        """The columns of the pass that a residual stream belongs to."""
        now = self._turns.now
        if now.columns is not None:
            return now.columns
        prompt_length = question_start = None
        for own in self._acting():
            # The latest edit that says anything decides.
            prompt_length = prompt_length if own.prompt_length is None else own.prompt_length
            question_start = question_start if own.question_start is None else own.question_start
        return self._turns.passes.columns(
            resid.shape[0],
            resid.shape[1],
            resid.device,
            prompt_length=prompt_length,
            question_start=question_start,
        )

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Keep other threads from running a pass on the model inside the context."""
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

    def _check_thread(self, own: "_Edits") -> None:
        """Refuse a direct call that may or may not have been meant to be edited.

        Raises:
            RuntimeError: If the edits are another thread's, and this one has none.
        """
        if (
            not self.refuses_other_threads
            or self._turns.now.columns is not None
            or not own.of_another_thread()
            or any(one.owner.is_here() for one in list(self._turns.edits))
        ):
            return
        raise RuntimeError(
            f"{own.steering or 'an edit'} was put on this model by another thread: to steer the passes "
            "of every thread, pass applied(..., all_threads=True); to steer this one otherwise, enter "
            "applied(...) in it, with alpha=0.0 for a plain pass"
        )


@final
class _Edits:
    """What one `edited` added, for whom, and what it said about direct calls."""

    def __init__(
        self,
        prompt_length: int | None,
        question_start: int | Sequence[int] | None,
        steering: str,
        only_on: AlignedTokens | None,
        all_threads: bool,
    ):
        self.prompt_length, self.question_start = prompt_length, question_start
        self.steering, self.only_on = steering, only_on
        self.owner = Owner()
        self._all_threads = all_threads

    def act_here(self) -> bool:
        """Whether they act on a pass that runs here."""
        return (self._everywhere() or self.owner.is_here()) and not is_suspended(self)

    def of_another_thread(self) -> bool:
        """Whether they act, but only in other threads."""
        return self.owner.holds() and not self._everywhere() and not self.owner.is_here()

    def _everywhere(self) -> bool:
        return self._all_threads and self.owner.holds()


@final
class _EditHook(BoundHook):
    """A residual edit as a hook."""

    def __init__(self, model: EditableModel, own: _Edits, edit: ResidualEdit):
        self._model, self._own, self._edit = model, own, edit

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._own.act_here():
            self._model._check_thread(self._own)
            return None
        if is_suspended(module):
            return None
        there = residual_of(output)
        # Layers on several devices are edited on one.
        resid = there.to(self._model.device)
        edited = self._edit(resid, self._model.columns_of(resid))
        return None if edited is None else with_residual(output, edited.to(there.device))

    # Not traced: whether it acts is decided anew on every run of compiled code.
    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]


def _capturing_last(module: nn.Module) -> None:
    """Make the permanent hooks that record hidden states for transformers run after the edits."""
    hooks = module._forward_hooks
    for number, hook in list(hooks.items()):
        if str(getattr(hook, "__module__", "")).startswith(_CAPTURING):
            hooks.move_to_end(number)  # type: ignore[attr-defined]


def _all_hooks(raw: nn.Module) -> Iterator[object]:
    """Every hook that runs in a model's passes, the process's global module hooks included."""
    everywhere = nn.modules.module
    yield from everywhere._global_forward_hooks.values()
    yield from everywhere._global_forward_pre_hooks.values()
    # A bridge's modules do not include the model that it wraps, but everything in that model.
    wrapped = raw.__dict__.get("original_model")
    for module in (*raw.modules(), *([wrapped] if isinstance(wrapped, nn.Module) else [])):
        yield from module._forward_hooks.values()
        yield from module._forward_pre_hooks.values()


def _is_foreign(hook: Any) -> bool:
    """Whether it is unknown what it looks at: it is neither ours nor part of the bridge."""
    if isinstance(hook, _EditHook | Telling):
        return False
    # transformers adds its own for good, the first time that it is asked for hidden states.
    known = ("transformer_lens.model_bridge.", _CAPTURING)
    return not str(getattr(hook, "__module__", "")).startswith(known)
