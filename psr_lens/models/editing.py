"""Editing the residual stream of a model, by hooks that last as long as their context."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from psr_lens._types import AlignedTokens
from psr_lens.models.binding import BoundHook, Owner, is_suspended, suspended
from psr_lens.models.columns import Columns
from psr_lens.models.decoder_layers import entering, residual_of, with_residual
from psr_lens.models.turns import Turns, keeper_of_turns, turns_of
from psr_lens.models.watching import Telling, watched

if TYPE_CHECKING:
    from psr_lens.models.parts import PartPoints, Tap

_CAPTURING = "transformers.utils.output_capturing"

ResidualEdit = Callable[[Tensor, Columns], Tensor | None]
"""`edit(resid [batch, pos, d_model], columns)` returns the new residual stream, or None to leave it;
`columns` says what every column of the pass is."""

HookPoint = Literal["resid_post", "resid_mid"]
"""Where in a block the residual stream is edited: after it, or between its attention and its MLP."""


@final
@dataclass(frozen=True)
class MidEdit:
    """A residual edit between a block's attention and its MLP, TransformerLens' `hook_resid_mid`.

    It is shown the residual stream that enters the block with what attention adds, and what it changes the
    MLP reads. Where attention and MLP run side by side (GPT-NeoX, GPT-J), the MLP does not read it, and
    TransformerLens has no such hook.

    Attributes:
        edit: The edit.
    """

    edit: ResidualEdit

    def __call__(self, resid: Tensor, columns: Columns) -> Tensor | None:
        """`edit`."""
        return self.edit(resid, columns)


def hook_point_of(edit: ResidualEdit) -> HookPoint:
    """Where an edit acts."""
    return "resid_mid" if isinstance(edit, MidEdit) else "resid_post"


def placed(edit: ResidualEdit, hook_point: HookPoint) -> ResidualEdit:
    """The edit, to act at a hook point."""
    return MidEdit(edit) if hook_point == "resid_mid" else edit


class EditableModel(ABC):
    """A model whose residual stream can be read and edited after every block, or inside it.

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

    @abstractmethod
    def part_points(self, layer: int) -> "PartPoints":
        """The modules of block `layer` that its parts pass through."""

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
            edits: For every layer, what to do with the residual stream after its block, or, given a
                `MidEdit`, inside it.
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
                    for handle in self._attached(layer, own, edit):
                        hooks.callback(handle.remove)
            yield

    def _attached(self, layer: int, own: "_Edits", edit: ResidualEdit) -> Iterator[Any]:
        """Put an edit's hooks on a block."""
        if isinstance(edit, MidEdit):
            points = self.part_points(layer)
            before = _Before(own, points.before)
            yield before.handle
            hook = _EditHook(self, own, edit, before)
            yield points.attn.module.register_forward_hook(hook)
            return
        point = self.hook_point(layer)
        yield point.register_forward_hook(_EditHook(self, own, edit))
        _capturing_last(point)

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
class _Before(BoundHook):
    """A hook that keeps the residual stream that enters a block until its attention has run.

    One for each thread: direct calls of a transformers model run beside each other.
    """

    def __init__(self, own: _Edits, tap: "Tap"):
        self._own, self._entering = own, tap.entering
        self._kept: dict[int, Tensor] = {}
        module = tap.module
        self.handle = (
            module.register_forward_pre_hook(self, with_kwargs=True)
            if tap.entering
            else module.register_forward_hook(self)
        )

    def __call__(self, module: nn.Module, args: Any, last: Any) -> None:
        if self._own.act_here() and not is_suspended(module):
            # Before a module its keywords come last, after it what it returned.
            resid = entering(args, last) if self._entering else residual_of(last)
            self._kept[get_ident()] = resid

    # Not traced, like the edit.
    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]

    def taken(self) -> Tensor | None:
        """The residual stream, which is then forgotten; None outside of a block."""
        return self._kept.pop(get_ident(), None)


@final
class _EditHook(BoundHook):
    """A residual edit as a hook.

    Args:
        model: The model.
        own: What it belongs to.
        edit: The edit.
        before: If the hook is on what attention adds: what enters the block.
    """

    def __init__(
        self,
        model: EditableModel,
        own: _Edits,
        edit: ResidualEdit,
        before: _Before | None = None,
    ):
        self._model, self._own, self._edit, self._before = model, own, edit, before

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._own.act_here():
            self._model._check_thread(self._own)
            return None
        if is_suspended(module):
            return None
        added = there = residual_of(output)
        if self._before is not None:
            before = self._before.taken()
            if before is None:
                # A norm after attention, called by itself.
                return None
            there = before.to(added.device) + added
        # Layers on several devices are edited on one.
        resid = there.to(self._model.device)
        edited = self._edit(resid, self._model.columns_of(resid))
        if edited is None:
            return None
        edited = edited.to(there.device)
        # The block itself adds what entered it. Where nothing was edited, attention keeps its exact bits.
        return with_residual(output, edited if self._before is None else added + (edited - there))

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
    if isinstance(hook, _EditHook | _Before | Telling):
        return False
    # transformers adds its own for good, the first time that it is asked for hidden states.
    known = ("transformer_lens.model_bridge.", _CAPTURING)
    return not str(getattr(hook, "__module__", "")).startswith(known)
