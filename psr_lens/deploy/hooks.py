"""`to_hf`: a steering on a plain transformers model, as forward hooks on its decoder layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from psr_lens.deltas import working_dtype
from psr_lens.deploy.architecture import check_belongs, decoder_layers, residual_of
from psr_lens.deploy.passes import PassWatcher, columns_of, watcher_of
from psr_lens.models.binding import BoundHook, Owner, is_suspended
from psr_lens.models.columns import Columns
from psr_lens.models.compiled import refuse_compiled
from psr_lens.models.editing import ResidualEdit
from psr_lens.steering.base import Steering
from psr_lens.steering.handles import SteeringHandle


def attach(
    steering: Steering,
    hf_model: Any,
    alpha: float = 1.0,
    prompt_length: int | None = None,
    question_start: int | Sequence[int] | None = None,
    all_threads: bool = False,
) -> SteeringHandle:
    """`Steering.to_hf`."""
    require_finite(alpha)
    if steering.surface == "QR" and question_start is None:
        raise ValueError(
            "surface='QR' but nothing says where the question starts: pass "
            "to_hf(..., question_start=...), the place of the first question token in its row"
        )
    refuse_compiled(hf_model)
    layers = decoder_layers(hf_model)
    check_belongs(steering, hf_model)
    watcher = watcher_of(hf_model)
    pushed = _Pushed(steering, alpha, watcher, prompt_length, question_start)
    with ExitStack() as hooks:
        hooks.enter_context(watcher.watching(hf_model))
        pushed.owner = None if all_threads else hooks.enter_context(_owning(watcher))
        with watcher.lock:
            for layer in steering.layers:
                handle = layers[layer].register_forward_hook(_PushHook(pushed, layer))
                hooks.callback(handle.remove)
        return SteeringHandle(hf_model, f"{steering!r}, alpha={alpha:g}", hooks.pop_all())


def require_finite(alpha: float) -> None:
    """Refuse a strength that is no number.

    Raises:
        ValueError: If it is infinite or NaN.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha}: it must be a finite number")


@contextmanager
def _owning(watcher: PassWatcher) -> Iterator[Owner]:
    """What is put on inside the context is this thread's."""
    owner = Owner()
    watcher.owners.append(owner)
    try:
        yield owner
    finally:
        owner.release()
        watcher.owners.remove(owner)


@final
class _PushHook(BoundHook):
    """A steering at one layer, as a hook."""

    def __init__(self, pushed: "_Pushed", layer: int):
        self._pushed, self._layer = pushed, layer

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if is_suspended(module) or not self._pushed.acts_here():
            return None
        resid = residual_of(output)
        edited = self._pushed.edited(self._layer, resid)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited


@final
class _Pushed:
    """One steering on one model, and whose it is: the whole process' without an owner."""

    def __init__(
        self,
        steering: Steering,
        alpha: float,
        watcher: PassWatcher,
        prompt_length: int | None,
        question_start: int | Sequence[int] | None,
    ):
        self._steering, self._alpha, self._watcher = steering, alpha, watcher
        self._prompt_length, self._question_start = prompt_length, question_start
        self.owner: Owner | None = None
        self._edits: dict[tuple[torch.device, torch.dtype], Mapping[int, ResidualEdit]] = {}
        # A steering that cannot act without examples says so now.
        self._edits_on(torch.device("cpu"), torch.float32)

    def acts_here(self) -> bool:
        """Whether it acts on the pass that runs.

        Raises:
            RuntimeError: If it is another thread's, and this one has none: as likely as a plain pass
                is a `generate` that was meant to be steered and runs in a thread of its own.
        """
        if self.owner is None or self.owner.is_here():
            return True
        if any(owner.is_here() for owner in list(self._watcher.owners)):
            return False
        raise RuntimeError(
            f"{self._steering!r} was put on this model by another thread: to steer the passes of "
            "every thread, pass to_hf(..., all_threads=True); to steer this one otherwise, call "
            "to_hf in it, with alpha=0.0 for a plain pass"
        )

    def edited(self, layer: int, resid: Tensor) -> Tensor:
        """The residual stream after a layer, steered."""
        edit = self._edits_on(resid.device, working_dtype(resid.dtype))[layer]
        steered = edit(resid, self._columns(resid))
        return resid if steered is None else steered

    def _edits_on(self, device: torch.device, dtype: torch.dtype) -> Mapping[int, ResidualEdit]:
        # By what arrives, since layers may lie on several devices and move between calls.
        if (device, dtype) not in self._edits:
            ready = self._steering.acting(device, dtype)
            self._edits[device, dtype] = {
                layer: ready.edit(layer, self._alpha) for layer in ready.layers
            }
        return self._edits[device, dtype]

    def _columns(self, resid: Tensor) -> Columns:
        one_pass = self._watcher.current()
        key = (id(self), resid.device)
        if key not in one_pass.worked_out:
            one_pass.worked_out[key] = columns_of(
                one_pass,
                resid.shape[0],
                resid.shape[1],
                resid.device,
                prompt_length=self._prompt_length,
                question_start=self._question_start,
            )
        return one_pass.worked_out[key]
