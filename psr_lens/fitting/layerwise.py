"""The layerwise solver: all examples go up the layers together, one block at a time.

At layer `l` the base run holds the residual streams that the already fitted layers produce, the
prompted run holds `A(x'y')[l]`. Their difference is what layer `l` must add; the method fits it
(`Steering.fit_layer`), its update is applied, and both runs go through the next block. So a fit costs one
base run, one prompted run and the regressions, whatever the number of layers, with no gradient through the
model; dev examples go up once more, without updates. Memory is bounded by one layer's residual streams of
all examples, unless `FitRuns` keeps the prompted run for another fit.

A steering that acts inside its blocks is fitted to the streams there. The base run then goes through each
block once more, with the update in it, and what entered the block is kept for that.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from psr_lens._bars import tqdm
from psr_lens.examples import Example
from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.fit_runs import FitRuns, residual_bytes
from psr_lens.fitting.layer_by_layer_run import BaseAndPrompted, LayerByLayerRun, PromptedRun
from psr_lens.fitting.plan import FitPlan
from psr_lens.models import HookedModel
from psr_lens.models.shared import SharedPrefixes
from psr_lens.steering import Steering
from psr_lens.steering.fit_report import StageReport
from psr_lens.steering.loading import check_tensors
from psr_lens.steering.training import LayerData, LayerFit


@final
class LayerFits:
    """The fits of all layers, saved to a checkpoint and resumed from it.

    Args:
        plan: The fit.
        checkpoint: Where finished layers are read from and saved to.
    """

    def __init__(self, plan: FitPlan, checkpoint: FitCheckpoint):
        self.plan = plan
        self.steerings: dict[int, Steering] = {}
        self.reports: dict[int, StageReport] = {}
        self._checkpoint = checkpoint
        self._finished = checkpoint.stages()

    def fit(self, data: LayerData) -> Steering:
        """Fit one layer, or take it from an interrupted fit."""
        layer, cls = data.layer, self.plan.method
        if layer in self._finished:
            report, tensors, arguments = self._finished[layer]
            try:
                check_tensors(cls, tensors, {"layer": 1, "d_model": data.x.shape[-1]})
                placed: dict[str, Any] = {name: own.to(data.x) for name, own in tensors.items()}
                steering = cls(
                    **placed,
                    layers=[layer],
                    tokens=data.tokens,
                    hook_point=self.plan.hook_point,
                    **arguments,
                )
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"the checkpoint holds other tensors than layer {layer} of this fit has: name an "
                    f"empty directory ({error})"
                ) from None
        else:
            found = cls.fit_layer(data, self.plan.options)
            steering = found.steering
            if steering.hook_point != self.plan.hook_point:
                # A method need not know where it will act.
                steering = steering.at_hook_point(self.plan.hook_point)
            report = _report(found, data)
            self._checkpoint.save_stage(report, steering)
        self.steerings[layer], self.reports[layer] = steering, report
        return steering

    def steering(self, layers: Sequence[int]) -> Steering:
        """The steering of the given layers."""
        return self.plan.method.joined([self.steerings[layer] for layer in layers])


def _report(found: LayerFit, data: LayerData) -> StageReport:
    losses = [
        None if part is None else _share_left(found.steering, data.layer, *part)
        for part in ((data.x, data.missing, data.strength), data.dev)
    ]
    assert losses[0] is not None
    return StageReport(data.layer, losses[0], losses[1], found.steps, found.heads, found.penalty)


def _share_left(
    steering: Steering, layer: int, x: Tensor, missing: Tensor, strength: Tensor | None
) -> float:
    """What is left after the update, as a share of the energy of what was missing."""
    update = steering.update(layer, x)
    update = update if strength is None else strength.unsqueeze(-1) * update
    return float((missing - update).square().sum() / missing.square().sum().clamp_min(1e-30))


@torch.no_grad()
def fit_layerwise(
    model: HookedModel,
    train: Sequence[Example],
    dev: Sequence[Example],
    layers: Sequence[int],
    fits: LayerFits,
    *,
    runs: FitRuns,
    measure: bool = False,
    progress: bool = False,
) -> tuple[float, ...]:
    """Go up the layers and fit each of them.

    With `layers="best"` in the plan every layer is fitted on the base run: many single-layer fits
    for the price of one. Else later layers see the earlier ones' updates.

    Args:
        model: The model.
        train: The examples to fit on.
        dev: The examples that a layer's fit may stop on; they carry the updates like the training examples.
        layers: The layers to fit, ascending.
        fits: Called once per layer, from the lowest up. Its plan gives the tokens, the batch size, the
            number type of the regressions (by default float32, or float64 for a float64 model), and how
            many bytes of one layer's residual streams may stay in memory, all runs together; beyond that
            they go to temporary files.
        runs: Keeps the prompted run for other fits.
        measure: Whether to take the dev examples up to the last layer, for the relative RMSE.
        progress: Whether to show a bar.

    Returns:
        With `measure`, the relative RMSE of all updates together at every layer of the model, on the dev
        examples, which the run yields anyway. Empty otherwise, without dev examples, for a best layer, and
        if a dev example's strength is not 1.
    """
    plan = fits.plan
    carry, tokens = not plan.best, plan.tokens
    n_tokens = sum(
        len(row.tokens) for e in [*train, *dev] for row in (e.base_row, e.prompted_row)
    ) + sum(len(e.base_row.tokens) for e in dev)
    # Inside a block: also what entered it, and the streams there.
    held = 1 if plan.hook_point == "resid_post" else 3
    needed = held * n_tokens * model.d_model * model.dtype.itemsize
    with ExitStack() as stack:
        folder = None
        if plan.max_memory is not None and needed > plan.max_memory:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-lens-")))
        # Prefixes of base rows and of prompted rows, shared by training and dev examples.
        shared, prompts = SharedPrefixes(model), SharedPrefixes(model)
        options = (tokens, plan.batch_size, folder)
        hook_point = plan.hook_point

        def both(part: str, examples: Sequence[Example]) -> BaseAndPrompted:
            rows = [example.prompted_row for example in examples]
            size = residual_bytes(model, examples, tokens) * (1 if held == 1 else 2)
            # All layers take far more than the one that may be limited.
            keep = plan.max_memory is None and runs.has_room(size)

            def begun() -> PromptedRun:
                return PromptedRun(
                    lambda: LayerByLayerRun(model, rows, *options, prompts, hook_point), keep
                )

            what = ("prompted run", part, tokens, plan.batch_size, hook_point)
            prompted = begun()
            if plan.max_memory is None:
                prompted = runs.once(what, model, examples, size, begun)
            return BaseAndPrompted(model, examples, *options, shared, prompted, hook_point)

        fitted_on = both("train", train)
        checked_on = both("dev", dev) if dev else None
        possible = measure and carry and checked_on and checked_on.strength is None
        measured = checked_on if possible else None
        errors: list[float] = []
        end = model.n_layers if measured else max(layers) + 1
        for layer in tqdm(range(end), desc="layerwise", unit="layer", disable=not progress):
            if layer <= max(layers):
                fitted_on.up()
            if checked_on:
                checked_on.up()
            if layer in layers:
                x, missing, strength = fitted_on.stage(plan.precision)
                seen = checked_on.stage(plan.precision) if checked_on else None
                steering = fits.fit(
                    LayerData(
                        layer=layer,
                        tokens=tokens,
                        x=x,
                        missing=missing,
                        strength=strength,
                        dev=seen,
                    )
                )
                if carry and layer < max(layers):
                    fitted_on.add(steering.update(layer, x))
                if carry and checked_on and seen:
                    if measured:
                        measured.keep_base()
                    checked_on.add(steering.update(layer, seen[0]))
            if measured:
                errors.append(measured.relative_rmse())
    return tuple(errors)
