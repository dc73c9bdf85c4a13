"""Methods with a closed form: a steering for any layers, from one pass over the data."""

from collections.abc import Callable, Sequence
from typing import Final

import torch

from psr_lens._types import Surface
from psr_lens.delta_moments import DeltaMoments, delta_moments, leading_directions
from psr_lens.deltas import example_batches, surface_residuals, working_dtype
from psr_lens.examples import Example
from psr_lens.fitting.report import StageReport
from psr_lens.models import HookedModel
from psr_lens.statistics import principal_directions
from psr_lens.steering import (
    ActAdd,
    ConstantSteering,
    DirectionalAblation,
    OracleSteering,
    ProjectionMatch,
    Steering,
)

CLOSED: Final = ("dim", "pca", "projection", "ablation", "actadd", "oracle")

Maker = Callable[[Sequence[int]], Steering]
"""Makes the steering for given layers."""


def closed_form(
    method: str,
    model: HookedModel,
    data: Sequence[Example],
    *,
    surface: Surface,
    rank: int | None,
    along: Steering | None,
    batch_size: int,
    progress: bool,
) -> tuple[Maker, dict[int, StageReport]]:
    """What a closed-form method makes of the training examples.

    Args:
        method: One of `CLOSED`.
        model: The model.
        data: The training examples.
        surface: `R` or `QR`.
        rank: Directions per layer of a limited oracle; None for the full one.
        along: A steering whose directions the oracle is confined to.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.

    Returns:
        A function from layers to the steering, and a report per layer (for vectors, the share of
        the deltas' energy that they leave).
    """
    if method == "actadd":
        return _actadd(model, data[0], surface), {}
    if method == "oracle":
        return _oracle(model, data, surface, rank, along, batch_size, progress), {}
    moments = delta_moments(
        model, data, surface, second=method == "pca", batch_size=batch_size, progress=progress
    )
    dtype = working_dtype(model.dtype)
    if method == "ablation":
        return _ablation(moments, surface, dtype), {}
    if method == "projection":
        return _projection(moments, surface, dtype), {}
    mean, energy = moments.deltas.mean, moments.deltas.energy.cpu() / moments.deltas.count
    vectors = mean
    if moments.deltas.products is not None:
        # As long as the mean's projection on it, and pointing where the mean points.
        direction = principal_directions(moments.deltas.products, 1)[1].squeeze(1).cpu()
        vectors = (mean * direction).sum(dim=1, keepdim=True) * direction
    # mean |D - v|^2 = mean |D|^2 - 2 v . mean D + |v|^2
    left = energy - (2 * vectors * mean - vectors.square()).sum(dim=1)
    shares = (left / energy.clamp_min(1e-30)).tolist()
    reports = {layer: StageReport(layer, share, None, 0) for layer, share in enumerate(shares)}

    def constant(layers: Sequence[int]) -> Steering:
        return ConstantSteering(vectors[list(layers)].to(dtype), layers, surface=surface)

    return constant, reports


def _projection(moments: DeltaMoments, surface: Surface, dtype: torch.dtype) -> Maker:
    units = torch.nn.functional.normalize(moments.at_prompt.mean, dim=1)
    targets = (units * moments.prompted.mean).sum(dim=1)

    def make(layers: Sequence[int]) -> Steering:
        chosen = list(layers)
        return ProjectionMatch(
            units[chosen].to(dtype), targets[chosen].to(dtype), layers, surface=surface
        )

    return make


def _ablation(moments: DeltaMoments, surface: Surface, dtype: torch.dtype) -> Maker:
    # One direction for all layers, as in the source; there validation picks its layer, here the
    # layer whose mean delta holds the largest share of the energy gives it.
    mean, energy = moments.deltas.mean, moments.deltas.energy.cpu() / moments.deltas.count
    shares = mean.square().sum(dim=1) / energy.clamp_min(1e-30)
    direction = mean[int(shares.argmax())].to(dtype)

    def make(layers: Sequence[int]) -> Steering:
        return DirectionalAblation(direction.repeat(len(layers), 1), layers, surface=surface)

    return make


@torch.no_grad()
def _actadd(model: HookedModel, example: Example, surface: Surface) -> Maker:
    base, steered = example_batches(model, [example])
    delta = surface_residuals(model, steered, surface) - surface_residuals(model, base, surface)

    def make(layers: Sequence[int]) -> Steering:
        return ActAdd(delta[list(layers)].cpu(), layers, surface=surface)

    return make


@torch.no_grad()
def _oracle(
    model: HookedModel,
    data: Sequence[Example],
    surface: Surface,
    rank: int | None,
    along: Steering | None,
    batch_size: int,
    progress: bool,
) -> Maker:
    if along is not None:
        confined = OracleSteering.along(along)
        return lambda layers: _on_layers(confined, layers)
    if rank is None:
        return lambda layers: OracleSteering(layers, surface=surface)
    leading = leading_directions(
        model, data, surface, rank, batch_size=batch_size, progress=progress
    )
    return lambda layers: OracleSteering(layers, basis=leading[list(layers)], surface=surface)


def _on_layers(oracle: OracleSteering, layers: Sequence[int]) -> OracleSteering:
    """The part of a confined oracle that acts on some of its layers."""
    kept = [row for row, layer in enumerate(oracle.layers) if layer in layers]
    if not kept or oracle.basis is None:
        raise ValueError(
            f"layers={list(layers)} but the steering given as along= covers {list(oracle.layers)}"
        )
    chosen = [oracle.layers[row] for row in kept]
    return OracleSteering(chosen, basis=oracle.basis[kept], surface=oracle.surface)
