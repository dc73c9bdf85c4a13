"""What replay solves at every layer: PSR heads, or the vector that is missing on average."""

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.fitting.checkpoints import FitCheckpoint
from psr_lens.fitting.replay import Push, StageData
from psr_lens.fitting.report import StageReport
from psr_lens.statistics import fit_heads
from psr_lens.steering import PSR, ConstantSteering


@final
class Stages:
    """Fits the stages of one method, and makes the steering of them.

    Args:
        method: `psr` or `const`.
        n_heads: PSR heads per layer; `"auto"`: every layer's own number, chosen on the dev tokens.
        checkpoint: Finished stages are taken from there and put there.
    """

    def __init__(self, method: str, n_heads: int | Literal["auto"], checkpoint: FitCheckpoint):
        self.method = method
        self.n_heads: int | Literal["auto"] = n_heads
        self.tensors: dict[int, tuple[Tensor, ...]] = {}
        self.reports: dict[int, StageReport] = {}
        self._checkpoint = checkpoint
        self._finished = checkpoint.stages()

    def __call__(self, layer: int, stage: StageData) -> Push:
        """Fit one layer, or take what an interrupted fit had made of it."""
        if layer in self._finished:
            report, tensors = self._finished[layer]
            found, width = [tuple(own.shape) for own in tensors], stage.x.shape[-1]
            n = found[0][0] if found and found[0] else 0
            if found != ([(n, width), (n,), (n, width)] if self.method == "psr" else [(width,)]):
                raise ValueError(
                    f"the checkpoint holds other tensors than layer {layer} of this fit has: name an "
                    "empty directory"
                )
            tensors = tuple(tensor.to(stage.x) for tensor in tensors)
        elif self.method == "psr":
            heads = fit_heads(
                stage.x, stage.y, n_heads=self.n_heads, strength=stage.strength, dev=stage.dev
            )
            tensors = (heads.w, heads.b, heads.z)
            report = StageReport(
                layer,
                heads.train_loss,
                heads.dev_loss,
                heads.steps,
                heads=heads.used,
                penalty=heads.penalty,
            )
        else:
            tensors, report = _missing_mean(layer, stage)
        self.tensors[layer], self.reports[layer] = tensors, report
        if layer not in self._finished:
            self._checkpoint.save_stage(report, tensors)
        one = self.steering((layer,), "R")
        return lambda resid: one.push(layer, resid)

    def steering(self, layers: Sequence[int], surface: Surface) -> PSR | ConstantSteering:
        """The steering of the given layers."""
        tensors = [self.tensors[i] for i in layers]
        if self.method == "psr":
            # Layers that chose fewer heads get heads of zeros.
            most = max(len(own[1]) for own in tensors)
            tensors = [tuple(_padded(part, most) for part in own) for own in tensors]
        stacked = [torch.stack(parts) for parts in zip(*tensors, strict=True)]
        if self.method == "psr":
            w, b, z = stacked
            return PSR(w, b, z, layers, surface=surface)
        return ConstantSteering(stacked[0], layers, surface=surface)


def _padded(part: Tensor, n_heads: int) -> Tensor:
    return torch.cat([part, part.new_zeros(n_heads - len(part), *part.shape[1:])])


def _missing_mean(layer: int, stage: StageData) -> tuple[tuple[Tensor, ...], StageReport]:
    """The least-squares vector: the mean of what is missing, weighted by the strengths."""
    if stage.strength is None:
        vector = stage.y.mean(dim=0)
    else:
        vector = (stage.strength @ stage.y) / stage.strength.square().sum().clamp_min(1e-30)
    dev_loss = None
    if stage.dev is not None:
        dev_loss = _energy_left(stage.dev[1], vector, stage.dev[2])
    report = StageReport(layer, _energy_left(stage.y, vector, stage.strength), dev_loss, 0)
    return (vector,), report


def _energy_left(y: Tensor, vector: Tensor, strength: Tensor | None) -> float:
    pushed = vector if strength is None else strength.unsqueeze(-1) * vector
    return float((y - pushed).square().sum() / y.square().sum().clamp_min(1e-30))
