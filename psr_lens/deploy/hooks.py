"""`to_hf`: a steering on a plain transformers model, as forward hooks on its decoder layers."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

import torch
from torch import Tensor, nn

from psr_lens.deltas import working_dtype
from psr_lens.deploy.architecture import check_belongs, decoder_layers, hf_fingerprint, residual_of
from psr_lens.deploy.passes import PassWatcher, columns_of, watcher_of
from psr_lens.models.columns import Columns
from psr_lens.models.editing import ResidualEdit
from psr_lens.steering.base import Steering
from psr_lens.steering.handles import SteeringHandle


def attach(
    steering: Steering,
    hf_model: Any,
    alpha: float = 1.0,
    prompt_length: int | None = None,
    question_start: int | Sequence[int] | None = None,
) -> SteeringHandle:
    """`Steering.to_hf`."""
    require_finite(alpha)
    if steering.surface == "QR" and question_start is None:
        raise ValueError(
            "surface='QR' but nothing says where the question starts: pass "
            "to_hf(..., question_start=...), the place of the first question token in its row"
        )
    layers = decoder_layers(hf_model)
    # Before the first hook, whatever the steering: a later one would see this one's pushes.
    hf_fingerprint(hf_model)
    check_belongs(steering, hf_model)
    watcher = watcher_of(hf_model)
    pushed = _Pushed(steering, alpha, watcher, prompt_length, question_start)
    with ExitStack() as hooks:
        hooks.enter_context(watcher.watching(hf_model))
        for layer in steering.layers:
            handle = layers[layer].register_forward_hook(pushed.hook(layer))
            hooks.callback(handle.remove)
        return SteeringHandle(hf_model, f"{steering!r}, alpha={alpha:g}", hooks.pop_all())


def require_finite(alpha: float) -> None:
    """Refuse a strength that is no number.

    Raises:
        ValueError: If it is infinite or NaN.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha={alpha}: it must be a finite number")


@final
class _Pushed:
    """The hooks of one steering on one model."""

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
        self._edits: dict[tuple[torch.device, torch.dtype], Mapping[int, ResidualEdit]] = {}
        # A steering that cannot act without examples says so now.
        self._edits_on(torch.device("cpu"), torch.float32)

    def hook(self, layer: int):
        """The forward hook of a layer."""

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            resid = residual_of(output)
            edit = self._edits_on(resid.device, working_dtype(resid.dtype))[layer]
            edited = edit(resid, self._columns(resid))
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        return hook

    def _edits_on(self, device: torch.device, dtype: torch.dtype) -> Mapping[int, ResidualEdit]:
        # By what arrives, since layers may lie on several devices and move between calls.
        if (device, dtype) not in self._edits:
            self._edits[device, dtype] = {
                layer: self._steering.edit(push, self._alpha)
                for layer, push in self._steering.pushes(device, dtype).items()
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
