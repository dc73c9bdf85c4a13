"""`fit`: the one entry point from examples to a steering."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from psr_lens._types import (
    Layers,
    Surface,
    check_count,
    check_seed,
    check_surface,
    resolve_layers,
)
from psr_lens.deltas import working_dtype
from psr_lens.fitting.checkpoints import FitCheckpoint
from psr_lens.fitting.choices import (
    HAVE_BEST,
    REPLAYED,
    check_choices,
    choose_recipe,
    train_and_dev,
)
from psr_lens.fitting.closed import CLOSED, Maker, closed_form
from psr_lens.fitting.errors import relative_rmse
from psr_lens.fitting.live import LiveProblem, train
from psr_lens.fitting.prepared import Prepared, prepare, units_of
from psr_lens.fitting.recipe import Recipe
from psr_lens.fitting.replay import replay
from psr_lens.fitting.report import FitReport, StageReport, counting_forwards
from psr_lens.fitting.stages import Stages
from psr_lens.fitting.starts import make_trainable
from psr_lens.fitting.trainable import TrainableReFTr1, Units
from psr_lens.models import HookedModel, as_hooked_model
from psr_lens.responses import SteeringDataset
from psr_lens.steering import PSR, ConstantSteering, Steering
from psr_lens.steering.provenance import describe_data, provenance


def fit(
    model: Any,
    data: SteeringDataset,
    *,
    method: str = "psr",
    layers: Layers | Literal["best"] = "all",
    objective: str | None = None,
    solver: str = "auto",
    surface: Surface = "R",
    n_heads: int = 1,
    rank: int | None = None,
    along: Steering | None = None,
    recipe: str | Recipe = "default",
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: torch.dtype | None = None,
    max_memory: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Steering:
    """Fit a steering to what the prompt does.

    | method | what is fitted | how |
    | --- | --- | --- |
    | `dim` | one vector per layer: the mean accumulated delta (CAA) | closed form |
    | `pca` | the first principal direction of the symmetrised deltas | closed form |
    | `const` | one vector per layer, fitted | replay, live |
    | `actadd` | one pair's deltas, position by position | closed form |
    | `projection` | a direction and the projection on it that every token gets | closed form |
    | `reft_r1` | a direction that detects and steers (AxBench); see `add_negatives` | live |
    | `loreft` | an affine map inside a low-rank subspace | live |
    | `ablation` | a direction that is taken out | closed form |
    | `psr` | ReLU heads that read a token and decide how strongly to push it | replay, live |
    | `oracle` | nothing, or the directions of a limited oracle | closed form |

    `replay` goes up the layers once and fits each to what the layers below leave missing, with no
    gradient through the model. `live` trains through the frozen model. `auto` replays and then goes
    on live from there, as long as the dev split gets better; where replay cannot solve the
    objective it is live alone, from the replayed start if there is one.

    Args:
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        data: Examples; its train split is fitted on, its dev split decides when to stop and which
            layer is best, its test split is never looked at. Without a dev split, a part of the
            training groups serves as one.
        method: See the table.
        layers: One, several, `"all"`, or `"best"`: the single layer with the lowest relative RMSE
            at the last layer on the dev split.
        objective: `"mse"`, distance to the prompt-steered residual stream at the intervened layer
            and all above; `"ll"`, log-likelihood of the responses. By default `mse`, and `ll` for
            `reft_r1`.
        solver: `"auto"`, `"replay"` or `"live"`.
        surface: `R` or `QR`.
        n_heads: PSR heads per layer; 1 is the paper's.
        rank: Of `loreft` (4 if not given), or of a limited oracle.
        along: A steering whose directions the oracle is confined to.
        recipe: Of the live solver: `"default"` adapts to the model's scale and stops on the dev
            split, `"paper"` is Heyman & Vandeputte's; or a `Recipe`.
        epochs: In place of the recipe's.
        lr: In place of the recipe's.
        seed: Decides random starts, and the dev part where the data has none.
        batch_size: Examples per forward pass. A live step takes the recipe's number of examples, or
            this one if it is smaller.
        precision: Number type of the replayed regressions; float32 by default.
        max_memory: Bytes of residual streams that replay may hold; past that it uses the disk.
        checkpoint: A directory to keep finished stages and epochs in; the same call with the same
            directory goes on where an interrupted one was.
        progress: Whether to show bars.

    Returns:
        The steering, with its `fit_report`.

    Raises:
        ValueError: If an argument is unknown or out of range, options do not go together, or there
            is nothing to fit on.

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
    objective = check_choices(method, objective, solver, n_heads, rank, along, surface)
    examples, dev = train_and_dev(data, seed)
    best = isinstance(layers, str) and layers == "best"
    if best:
        if method not in HAVE_BEST:
            raise ValueError(f"layers='best' has no meaning for {method}: name layers, or 'all'")
        tried = tuple(range(hooked.n_layers))
    else:
        tried = resolve_layers(cast(Layers, layers), hooked.n_layers)
    own_recipe = choose_recipe(recipe, objective, method in REPLAYED and solver == "auto")
    check_count("batch_size", batch_size)
    own_recipe = replace(
        own_recipe,
        epochs=own_recipe.epochs if epochs is None else epochs,
        lr=own_recipe.lr if lr is None else lr,
        batch_size=min(own_recipe.batch_size, batch_size),
    )
    check_count("epochs", own_recipe.epochs, 0)
    origin = provenance(
        hooked,
        method=method,
        objective=objective,
        solver="closed form" if method in CLOSED else solver,
        surface=surface,
        seed=seed,
        data=describe_data([*examples, *dev], data.provenance),
    )
    settings = {
        **{key: value for key, value in origin.items() if key != "model"},
        "fingerprint": origin["model"]["fingerprint"],
        "layers": [*tried, best],
        "heads": [n_heads, rank],
        "recipe": asdict(own_recipe),
        "precision": str(precision),
    }
    task = _Task(
        hooked,
        examples,
        dev,
        tried,
        best,
        method,
        objective,
        solver,
        surface,
        n_heads,
        rank,
        along,
        own_recipe,
        seed,
        batch_size,
        precision,
        max_memory,
        FitCheckpoint(checkpoint, settings),
        progress,
    )
    start = time.perf_counter()
    with counting_forwards(hooked) as count:
        steering, parts = _closed(task) if method in CLOSED else _solved(task)
        errors = ()
        if dev and method != "actadd":
            errors = relative_rmse(hooked, [steering], dev, surface, task.batch_size)[0]
    steering.provenance = origin
    steering.fit_report = FitReport(
        method=method,
        objective=objective,
        dev_relative_rmse=errors,
        seconds=time.perf_counter() - start,
        forwards=count.sequences,
        examples=len(examples),
        dev_examples=len(dev),
        **parts,
    )
    return steering


@dataclass(frozen=True)
class _Task:
    """The checked arguments of a fit."""

    model: HookedModel
    train: SteeringDataset
    dev: SteeringDataset
    layers: tuple[int, ...]
    best: bool
    method: str
    objective: str
    solver: str
    surface: Surface
    n_heads: int
    rank: int | None
    along: Steering | None
    recipe: Recipe
    seed: int
    batch_size: int
    precision: torch.dtype | None
    max_memory: int | None
    checkpoint: FitCheckpoint
    progress: bool

    def choose(self, make: Maker) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The layers, and with `layers="best"` what every layer alone reached."""
        if not self.best:
            return self.layers, ()
        candidates = [make((layer,)) for layer in self.layers]
        data = self.dev or self.train
        errors = relative_rmse(self.model, candidates, data, self.surface, self.batch_size)
        last = tuple(own[-1] for own in errors)
        return (min(self.layers, key=lambda layer: last[layer]),), last


_Parts = dict[str, Any]


def _closed(task: _Task) -> tuple[Steering, _Parts]:
    make, reports = closed_form(
        task.method,
        task.model,
        task.train,
        surface=task.surface,
        rank=task.rank,
        along=task.along,
        batch_size=task.batch_size,
        progress=task.progress,
    )
    chosen, candidates = task.choose(make)
    stages = tuple(reports[layer] for layer in chosen if layer in reports)
    return make(chosen), _parts("closed form", stages, candidates=candidates)


def _solved(task: _Task) -> tuple[Steering, _Parts]:
    """Replay, live, or both."""
    stages = Stages(task.method, task.n_heads, task.checkpoint)
    chosen, candidates, reports = task.layers, (), ()
    replayed: Steering | None = None
    if task.method in REPLAYED and (task.solver != "live" or task.best):
        replay(
            task.model,
            task.train,
            task.dev,
            task.layers,
            stages,
            surface=task.surface,
            carry=not task.best,
            batch_size=task.batch_size,
            precision=task.precision,
            max_memory=task.max_memory,
            progress=task.progress,
        )
        chosen, candidates = task.choose(lambda layers: stages.steering(layers, task.surface))
        replayed = stages.steering(chosen, task.surface)
        reports = tuple(stages.reports[layer] for layer in chosen)
        if task.solver == "replay":
            return replayed, _parts("replay", reports, candidates=candidates)
    start = None if task.solver == "live" else replayed
    steering, losses, dev_losses = _trained(task, chosen, start)
    name = "live" if start is None else "replay, then live"
    return steering, _parts(name, reports, losses, dev_losses, candidates)


def _trained(
    task: _Task, layers: tuple[int, ...], start: Steering | None
) -> tuple[Steering, tuple[float, ...], tuple[float, ...]]:
    model, recipe = task.model, task.recipe
    prepared, dev = (
        prepare(
            model,
            part,
            layers[0],
            task.surface,
            batch_size=task.batch_size,
            progress=task.progress and bool(part),
        )
        for part in (task.train, task.dev)
    )
    units = (
        units_of(prepared, model, layers)
        if recipe.adaptive
        else Units.plain(len(layers), model.d_model).to(model.device, working_dtype(model.dtype))
    )
    assert start is None or isinstance(start, PSR | ConstantSteering)
    trainable = make_trainable(
        task.method,
        layers,
        units,
        start=start,
        prepared=prepared,
        n_heads=task.n_heads,
        rank=task.rank or 4,
        seed=task.seed,
        adaptive=recipe.adaptive,
    )

    def problem_of(examples: Sequence[Prepared]) -> LiveProblem:
        return LiveProblem(model, examples, layers[0], task.objective, recipe, task.batch_size)

    state = train(
        problem_of(prepared),
        problem_of(dev) if dev else None,
        trainable,
        begin=task.checkpoint.live(),
        after_epoch=task.checkpoint.save_live,
        progress=task.progress,
    )
    if isinstance(trainable, TrainableReFTr1):
        trainable.begin_strengths()
        positives = [one for one in prepared if one.example.alpha > 0]
        problem_of(positives or prepared).mean_loss(trainable)
    return trainable.steering(task.surface), state.losses, state.dev_losses


def _parts(
    solver: str,
    stages: tuple[StageReport, ...],
    losses: tuple[float, ...] = (),
    dev_losses: tuple[float, ...] = (),
    candidates: tuple[float, ...] = (),
) -> _Parts:
    return {
        "solver": solver,
        "stages": stages,
        "losses": losses,
        "dev_losses": dev_losses,
        "candidates": candidates,
    }
