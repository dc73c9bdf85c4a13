"""The solvers: closed forms, replay, live, and all that `auto` tries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from psr_lens._types import Surface
from psr_lens.deltas import working_dtype
from psr_lens.examples import SteeringDataset
from psr_lens.fitting.checkpoints import FitCheckpoint
from psr_lens.fitting.choices import REPLAYED
from psr_lens.fitting.closed import Maker, closed_form
from psr_lens.fitting.errors import last_layer_errors
from psr_lens.fitting.live import LiveProblem, LiveState, train
from psr_lens.fitting.prepared import Prepared, prepare, units_of
from psr_lens.fitting.recipe import Recipe
from psr_lens.fitting.replay import replay
from psr_lens.fitting.report import StageReport
from psr_lens.fitting.stages import Stages
from psr_lens.fitting.starts import make_trainable
from psr_lens.fitting.trainable import Trainable, TrainableReFTr1, Units
from psr_lens.models import HookedModel
from psr_lens.steering import PSR, ConstantSteering, Steering

LIVE = "live"
REPLAY = "replay"
BOTH = "replay, then live"


@dataclass(frozen=True)
class Task:
    """The checked arguments of a fit: those of `fit`, and what follows from them.

    Attributes:
        train: Examples to fit on.
        dev: Examples to choose on.
        layers: The layers to fit; with `best` those to choose from.
        n_heads: PSR heads per layer; `"auto"` until replay has chosen.
        recipe: Of a live run from its own start.
        refining: Of a live run from what replay has fitted.
    """

    model: HookedModel
    train: SteeringDataset
    dev: SteeringDataset
    layers: tuple[int, ...]
    best: bool
    method: str
    objective: str
    solver: str
    surface: Surface
    n_heads: int | Literal["auto"]
    rank: int | None
    along: Steering | None
    recipe: Recipe
    refining: Recipe
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
        last = last_layer_errors(self.model, candidates, data, self.surface, self.batch_size)
        return (min(self.layers, key=lambda layer: last[layer]),), last


@dataclass(frozen=True)
class Solved:
    """What a solver found, and the part of the fit's report that it knows."""

    steering: Steering
    solver: str
    stages: tuple[StageReport, ...] = ()
    dev_relative_rmse: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    dev_losses: tuple[float, ...] = ()
    candidates: tuple[float, ...] = ()
    tried: tuple[tuple[str, float], ...] = ()
    warning: str = ""


def solve_closed(task: Task) -> Solved:
    """By a closed form."""
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
    return Solved(make(chosen), "closed form", stages, candidates=candidates)


def solve(task: Task) -> Solved:
    """By replay, live, or whichever `auto` finds best on the dev split."""
    layers, candidates, reports = task.layers, (), ()
    replayed: Steering | None = None
    if task.method in REPLAYED and (task.solver != "live" or task.best):
        stages = Stages(task.method, task.n_heads, task.checkpoint)
        errors = replay(
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
            measure=task.solver == "replay",
            progress=task.progress,
        )
        layers, candidates = task.choose(lambda chosen: stages.steering(chosen, task.surface))
        replayed = stages.steering(layers, task.surface)
        reports = tuple(stages.reports[layer] for layer in layers)
        if task.n_heads == "auto":
            task = replace(task, n_heads=replayed.w.shape[1] if isinstance(replayed, PSR) else 1)
        if task.solver == "replay":
            return Solved(replayed, REPLAY, reports, errors, candidates=candidates)
    problems = LiveProblems(task, layers)
    if replayed is None or task.solver == "live":
        name, (steering, state) = LIVE, problems.train(LIVE, None)
        tried: dict[str, float] = {}
    else:
        name, (steering, state) = BOTH, problems.train("refining", replayed)
        tried = {}
        if problems.dev:
            tried = {REPLAY: state.dev_losses[0], BOTH: min(state.dev_losses)}
            if tried[REPLAY] == tried[BOTH]:
                # No step from there was for the better: what is kept is what replay fitted.
                name = REPLAY
        if problems.dev and task.solver == "auto":
            alone, alone_state = problems.train(LIVE, None)
            tried[LIVE] = min(alone_state.dev_losses)
            if tried[LIVE] < tried[BOTH]:
                name, steering, state = LIVE, alone, alone_state
    return Solved(
        steering,
        name,
        () if name == LIVE else reports,
        losses=state.losses,
        dev_losses=state.dev_losses,
        candidates=candidates,
        tried=tuple(tried.items()),
        warning=_futile(task, state) if name == LIVE else "",
    )


def _futile(task: Task, state: LiveState) -> str:
    """What to say where training only led away from its start, which is then what is kept."""
    if not state.futile:
        return ""
    start, later = state.dev_losses[0], min(state.dev_losses[1:])
    return (
        f"training {task.method!r} never made the dev objective better than it was before the first "
        f"step ({start:.4g}; at best {later:.4g} after, with lr={task.recipe.lr:g}), so the steering is "
        "the untrained start: pass a smaller lr, or more examples"
    )


class LiveProblems:
    """The live solver's problem on given layers, prepared once for every start.

    Attributes:
        task: The fit.
        layers: The layers.
        train_examples: The training examples, ready.
        dev: The dev examples, ready.
    """

    def __init__(self, task: Task, layers: tuple[int, ...]):
        self.task, self.layers = task, layers
        self.train_examples, self.dev = (
            prepare(
                task.model,
                part,
                layers[0],
                task.surface,
                batch_size=task.batch_size,
                progress=task.progress and bool(part),
            )
            for part in (task.train, task.dev)
        )

    def train(self, name: str, start: Steering | None) -> tuple[Steering, LiveState]:
        """The best steering on the dev examples that training comes by, and how it went.

        Args:
            name: Of the run's file in the checkpoint directory.
            start: What replay has fitted; None for the method's own start.
        """
        task, recipe = self.task, self.task.recipe if start is None else self.task.refining
        trainable = self._trainable(recipe, start)

        def problem_of(examples: Sequence[Prepared]) -> LiveProblem:
            return LiveProblem(
                task.model, examples, self.layers[0], task.objective, recipe, task.batch_size
            )

        def keep(state: LiveState) -> None:
            task.checkpoint.save_live(name, state)

        state = train(
            problem_of(self.train_examples),
            problem_of(self.dev) if self.dev else None,
            trainable,
            begin=task.checkpoint.live(name),
            after_epoch=keep,
            progress=task.progress,
        )
        if isinstance(trainable, TrainableReFTr1):
            trainable.begin_strengths()
            positives = [one for one in self.train_examples if one.example.alpha > 0]
            problem_of(positives or self.train_examples).mean_loss(trainable)
        return trainable.steering(task.surface), state

    def _trainable(self, recipe: Recipe, start: Steering | None) -> Trainable:
        task, model = self.task, self.task.model
        units = (
            units_of(self.train_examples, model, self.layers)
            if recipe.adaptive
            else Units.plain(len(self.layers), model.d_model).to(
                model.device, working_dtype(model.dtype)
            )
        )
        assert task.n_heads != "auto", "replay has chosen"
        assert start is None or isinstance(start, PSR | ConstantSteering)
        return make_trainable(
            task.method,
            self.layers,
            units,
            start=start,
            prepared=self.train_examples,
            n_heads=task.n_heads,
            rank=task.rank or 4,
            seed=task.seed,
            adaptive=recipe.adaptive,
        )
