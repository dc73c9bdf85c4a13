"""`fit`: the one entry point from examples to a steering."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from psr_lens._types import Layers, Surface, check_seed, check_surface, resolve_layers
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.fitting.heads import fit_heads
from psr_lens.fitting.replay import Push, StageData, replay
from psr_lens.models import HookedModel, as_hooked_model
from psr_lens.responses import Example, SteeringDataset, split_groups
from psr_lens.steering import PSR, ConstantSteering, OracleSteering, Steering
from psr_lens.steering.provenance import describe_data, provenance

METHODS: Final = ("dim", "const", "psr", "oracle")


@dataclass(frozen=True)
class StageReport:
    """How the fit of one layer went.

    Attributes:
        layer: The layer.
        train_loss: Share of what was missing that is still missing, on the training tokens.
        dev_loss: The same on the dev tokens; None without dev examples.
        steps: Optimiser steps taken, 0 for a closed form.
    """

    layer: int
    train_loss: float
    dev_loss: float | None
    steps: int


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes:
        method: The method.
        stages: One report per layer.
        seconds: Wall-clock time.
        examples: Training examples.
        dev_examples: Dev examples.
        dev_relative_rmse: Relative RMSE at the last layer on the dev examples, of every layer that
            `layers="best"` tried; empty otherwise.
    """

    method: str
    stages: tuple[StageReport, ...]
    seconds: float
    examples: int
    dev_examples: int
    dev_relative_rmse: tuple[float, ...] = ()


def fit(
    model: Any,
    data: SteeringDataset,
    *,
    method: str = "psr",
    layers: Layers | Literal["best"] = "all",
    surface: Surface = "R",
    n_heads: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Steering:
    """Fit a steering to what the prompt does, by stage-wise replay.

    | method | what is fitted |
    | --- | --- |
    | `dim` | one vector per layer: the mean accumulated delta of the training surface |
    | `const` | one vector per layer: the mean of what the earlier layers' vectors leave missing |
    | `psr` | ReLU heads per layer, on what the earlier layers' heads leave missing |
    | `oracle` | nothing: it replays each example's own local deltas |

    At a single layer, `dim` and `const` are the same vector.

    Args:
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        data: Examples; its train split is fitted on, its dev split decides when to stop and which
            layer is best, its test split is never looked at. Without a dev split, a part of the
            training groups serves as one.
        method: See the table.
        layers: One, several, `"all"`, or `"best"`: the single layer with the lowest relative RMSE
            at the last layer on the dev split.
        surface: `R` or `QR`.
        n_heads: PSR heads per layer; 1 is the paper's.
        seed: Decides the dev part where the data has none.
        batch_size: Examples per batch.
        progress: Whether to show a bar.

    Returns:
        The steering, with its `fit_report`.

    Raises:
        ValueError: If an argument is unknown or out of range, or there is nothing to fit on.

    Example:
        >>> import psr_lens as pl
        >>> model = pl.load_model("demo")
        >>> pair = pl.instruct("tell me about the fox .", "be optimistic .")
        >>> data = pl.sample_responses(model, [pair], max_new_tokens=40, progress=False)
        >>> pl.fit(model, data, method="dim", layers=2)
        ConstantSteering(constant, layer 2 of demo, surface R)
    """
    hooked = as_hooked_model(model)
    if not isinstance(data, SteeringDataset):
        raise ValueError(
            f"data of type {type(data).__name__} has no splits: pass what sample_responses returns"
        )
    check_surface(surface)
    check_seed(seed)
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    train, dev = _train_and_dev(data, seed)
    start = time.perf_counter()
    chosen = (
        tuple(range(hooked.n_layers))
        if layers == "best"
        else resolve_layers(layers, hooked.n_layers)
    )
    origin = provenance(
        hooked,
        method=method,
        surface=surface,
        seed=seed,
        data=describe_data([*train, *dev], data.provenance),
    )
    if method == "oracle":
        if layers == "best":
            raise ValueError("layers='best' has no meaning for the oracle: name layers, or 'all'")
        return OracleSteering(chosen, surface=surface, provenance=origin)
    solver = _Solver(method, n_heads)
    replay(
        hooked,
        train,
        dev,
        chosen,
        solver,
        surface=surface,
        carry=method != "dim" and layers != "best",
        batch_size=batch_size,
        progress=progress,
    )
    errors: tuple[float, ...] = ()
    if layers == "best":
        candidates = [solver.steering((layer,), surface) for layer in chosen]
        errors = _last_layer_errors(hooked, candidates, dev or train, surface, batch_size)
        chosen = (min(chosen, key=lambda layer: errors[layer]),)
    steering = solver.steering(chosen, surface)
    steering.provenance = origin
    steering.fit_report = FitReport(
        method,
        tuple(solver.reports[layer] for layer in chosen),
        time.perf_counter() - start,
        len(train),
        len(dev),
        errors,
    )
    return steering


class _Solver:
    """Fits the stages of one method, and makes the steering of them."""

    def __init__(self, method: str, n_heads: int):
        self.method = method
        self.n_heads = n_heads
        self.tensors: dict[int, tuple[Tensor, ...]] = {}
        self.reports: dict[int, StageReport] = {}

    def __call__(self, layer: int, stage: StageData) -> Push:
        if self.method == "psr":
            heads = fit_heads(stage.x, stage.y, n_heads=self.n_heads, dev=stage.dev)
            self.tensors[layer] = (heads.w, heads.b, heads.z)
            self.reports[layer] = StageReport(layer, heads.train_loss, heads.dev_loss, heads.steps)
        else:
            vector = stage.y.mean(dim=0)
            self.tensors[layer] = (vector,)
            dev_loss = None if stage.dev is None else _energy_left(stage.dev[1], vector)
            self.reports[layer] = StageReport(layer, _energy_left(stage.y, vector), dev_loss, 0)
        one = self.steering((layer,), "R")
        return lambda resid: one.push(layer, resid)

    def steering(self, layers: Sequence[int], surface: Surface) -> PSR | ConstantSteering:
        stacked = [
            torch.stack(parts) for parts in zip(*(self.tensors[i] for i in layers), strict=True)
        ]
        if self.method == "psr":
            w, b, z = stacked
            return PSR(w, b, z, layers, surface=surface)
        return ConstantSteering(stacked[0], layers, surface=surface)


def _energy_left(y: Tensor, vector: Tensor) -> float:
    return float((y - vector).square().sum() / y.square().sum().clamp_min(1e-30))


def _train_and_dev(data: SteeringDataset, seed: int) -> tuple[SteeringDataset, SteeringDataset]:
    """The data's own train and dev splits; without dev, a fifth of the training groups."""
    train, dev = data.train, data.dev
    if len(train) == 0:
        raise ValueError(
            f"there is nothing to fit on: {data!r} has no training example; pass the whole data "
            "set, or one whose split gives train a share"
        )
    if len(dev) == 0:
        groups = sorted({example.pair.group for example in train})
        if len(groups) > 1:
            part = split_groups(groups, (0.8, 0.2, 0.0), seed)
            dev = train.filter(lambda example: part[example.pair.group] == "dev")
            train = train.filter(lambda example: part[example.pair.group] == "train")
    return train, dev


@torch.no_grad()
def _last_layer_errors(
    model: HookedModel,
    candidates: Sequence[Steering],
    data: Sequence[Example],
    surface: Surface,
    batch_size: int,
) -> tuple[float, ...]:
    """Relative RMSE of every candidate at the last layer; the prompt's runs are shared."""
    missed = [0.0] * len(candidates)
    energy = 0.0
    for indices in iter_batches(data, batch_size, progress=False, description=""):
        examples = [data[i] for i in indices]
        base, steered = example_batches(model, examples)
        target = surface_residuals(model, steered, surface)[-1]
        plain = surface_residuals(model, base, surface)[-1]
        energy += float((plain - target).double().square().sum())
        for i, candidate in enumerate(candidates):
            edits = candidate.edits(model, 1.0, examples)
            acted = surface_residuals(model, base, surface, edits)[-1]
            missed[i] += float((acted - target).double().square().sum())
    return tuple((left / max(energy, 1e-30)) ** 0.5 for left in missed)
