"""Which solvers a fit runs, and which of their results it keeps."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Final, final

from psr_lens.dataset import SteeringDataset
from psr_lens.deltas import working_dtype
from psr_lens.fitting.errors import last_layer_errors
from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.fit_runs import FitRuns, prefix_bytes, residual_bytes
from psr_lens.fitting.gradient import Objective, Trained, TrainingState, train
from psr_lens.fitting.layerwise import LayerFits, fit_layerwise
from psr_lens.fitting.plan import BOTH, CLOSED, GRADIENT, LAYERWISE, FitPlan, options_of
from psr_lens.fitting.prepared import Prepared, contrast, prepare, scale_of
from psr_lens.fitting.recipe import Recipe
from psr_lens.models import HookedModel
from psr_lens.steering import Steering
from psr_lens.steering.fit_report import StageReport
from psr_lens.steering.training import Scale, Start, TrainingData, Watcher

SMALLER: Final = 0.3
"""Factor from one step size to the next that is tried, where the dev examples say that it was too large."""
SMALLER_STEPS: Final = 3
"""How often, at most."""


@dataclass(frozen=True)
class Solved:
    """What was found, and the part of the fit's report that the solvers know."""

    steering: Steering
    solver: str
    stages: tuple[StageReport, ...] = ()
    dev_relative_rmse: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    dev_losses: tuple[float, ...] = ()
    candidates: tuple[float, ...] = ()
    tried: tuple[tuple[str, float], ...] = ()
    warning: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Solver:
    """A plan with a model and data to carry it out on.

    Attributes:
        plan: The plan.
        model: The model.
        train: Examples to fit on.
        dev: Examples to choose on.
        layers: The layers to fit; for a best layer those to choose from.
        checkpoint: Where finished parts are kept.
        runs: What other fits to the same examples need too.
        progress: Whether to show bars.
    """

    plan: FitPlan
    model: HookedModel
    train: SteeringDataset
    dev: SteeringDataset
    layers: tuple[int, ...]
    checkpoint: FitCheckpoint
    runs: FitRuns
    progress: bool

    def solve(self) -> Solved:
        """Fit by the plan's solver, or by whichever `auto` finds best on the dev split."""
        plan = self.plan
        if plan.runs(CLOSED):
            return self._closed_form()
        if not plan.runs(LAYERWISE):
            return self._trained(self.layers)
        fits, errors = self._layer_by_layer()
        layers, candidates = self._choose(fits.steering(self.layers))
        replayed = fits.steering(layers)
        stages = tuple(fits.reports[layer] for layer in layers)
        if not self._trains:
            return Solved(replayed, LAYERWISE, stages, errors, candidates=candidates)
        settled = replace(self, plan=replace(plan, options=replayed.settled(plan.options)))
        start = None if plan.solver == GRADIENT else replayed
        found = settled._trained(layers, start)
        kept = () if found.solver == GRADIENT else stages
        return replace(found, stages=kept, candidates=candidates)

    @property
    def _trains(self) -> bool:
        return self.plan.runs(GRADIENT)

    def _layer_by_layer(self) -> tuple[LayerFits, tuple[float, ...]]:
        """The fits of all layers, from an earlier fit where it had the same, and their errors if measured."""
        plan = self.plan
        # Training ends elsewhere, but a fit that ends here may take it over.
        measure = not self._trains or self.runs.max_memory > 0

        def made() -> tuple[LayerFits, tuple[float, ...]]:
            fits = LayerFits(plan, self.checkpoint)
            errors = fit_layerwise(
                self.model,
                self.train,
                self.dev,
                self.layers,
                fits,
                runs=self.runs,
                measure=measure,
                progress=self.progress,
            )
            return fits, errors

        options = tuple(getattr(plan.options, name) for name in options_of(plan.method))
        # The files of a checkpoint are to hold this fit's stages.
        if self.checkpoint.keeps or not _is_hashable(options):
            return made()
        where = (self.layers, plan.best, plan.tokens, plan.hook_point)
        how = (plan.method, *options, plan.batch_size, plan.precision, len(self.train))
        # A vector to read with and one to write with: next to nothing beside the runs, whatever the heads.
        size = 2 * len(self.layers) * self.model.d_model * max(4, self.model.dtype.itemsize)
        return self.runs.once(
            ("fitted layers", *where, *how), self.model, [*self.train, *self.dev], size, made
        )

    def _closed_form(self) -> Solved:
        plan = self.plan
        data = self.runs.once(
            ("training data", plan.tokens, plan.batch_size),
            self.model,
            self.train,
            0,
            lambda: TrainingData(
                model=self.model,
                examples=self.train,
                tokens=plan.tokens,
                batch_size=plan.batch_size,
                progress=self.progress,
            ),
        )
        everywhere, left = plan.method.closed_form(data, plan.options)
        layers, candidates = self._choose(everywhere)
        # Its sums were brought to the CPU; a fit is where the model is, whatever the method.
        steering = everywhere.at(layers).to(self.model.device)
        shares = dict(zip(everywhere.layers, left, strict=True)) if len(left) else {}
        stages = tuple(
            StageReport(layer, shares[layer], None, 0) for layer in layers if layer in shares
        )
        return Solved(steering, CLOSED, stages, candidates=candidates)

    def _choose(self, steering: Steering) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The layers, and for a best layer the error that each one alone reached."""
        if not self.plan.best:
            return self.layers, ()
        candidates = [steering.at((layer,)) for layer in self.layers]
        last = last_layer_errors(
            self.model,
            candidates,
            self.dev or self.train,
            self.plan.tokens,
            self.plan.batch_size,
        )
        return (min(self.layers, key=lambda layer: last[layer]),), last

    def _trained(self, layers: tuple[int, ...], start: Steering | None = None) -> Solved:
        """Train through the model from a layerwise fit, from the method's own start, or from both."""
        problem = Training(self, layers)
        if start is None:
            return self._report(*problem.train_alone())
        steering, state = problem.train("refining", start)
        if not problem.dev:
            return self._report(steering, state, name=BOTH)
        tried = {LAYERWISE: state.dev_losses[0], BOTH: min(state.dev_losses)}
        # No step improved on it: the layerwise fit is kept.
        name = LAYERWISE if tried[LAYERWISE] == tried[BOTH] else BOTH
        if self.plan.solver == "auto":
            alone, own_state, by_step = problem.train_alone()
            tried |= {GRADIENT: min(own_state.dev_losses), **by_step}
            if tried[GRADIENT] < tried[BOTH]:
                name, steering, state = GRADIENT, alone, own_state
        return self._report(steering, state, tried, name)

    def _report(
        self,
        steering: Steering,
        state: TrainingState,
        tried: Mapping[str, float] | None = None,
        name: str = GRADIENT,
    ) -> Solved:
        return Solved(
            steering,
            name,
            losses=state.losses,
            dev_losses=state.dev_losses,
            tried=tuple((tried or {}).items()),
            warning=self._futile(len(steering.layers), state, tried or {})
            if name == GRADIENT
            else "",
        )

    def _futile(self, n_layers: int, state: TrainingState, tried: Mapping[str, float]) -> str:
        """The warning that training never improved on its start, which is then kept; else empty."""
        if not state.futile:
            return ""
        plan, start, later = self.plan, state.dev_losses[0], min(state.dev_losses[1:])
        smaller = ", nor with smaller ones" if any("lr=" in own for own in tried) else ""
        return (
            f"training {plan.name!r} never made the dev objective better than it was before the first step "
            f"({start:.4g}; at best {later:.4g} after, with lr={plan.recipe_for(n_layers).lr:g}"
            f"{smaller}), so the steering is the untrained start: pass a smaller lr, or more examples"
        )


def _is_hashable(options: tuple[object, ...]) -> bool:
    """Whether they can be told apart in a dictionary: a method of one's own may take lists."""
    try:
        hash(options)
    except TypeError:
        return False
    return True


class Training:
    """The gradient solver's work on given layers, prepared once for every start.

    Attributes:
        solver: The fit.
        layers: The layers.
        train_examples: The training examples, ready.
        dev: The dev examples, ready.
    """

    def __init__(self, solver: Solver, layers: tuple[int, ...]):
        self.solver, self.layers = solver, layers
        self.train_examples, self.dev = (
            self._prepared(*part) for part in (("train", solver.train), ("dev", solver.dev))
        )

    def _prepared(self, name: str, part: SteeringDataset) -> list[Prepared]:
        solver, first = self.solver, self.layers[0]
        plan, model = solver.plan, solver.model
        return solver.runs.once(
            ("prepared", name, first, plan.tokens, plan.batch_size, plan.hook_point),
            model,
            part,
            residual_bytes(model, part, plan.tokens) + prefix_bytes(model, part, plan.tokens),
            lambda: prepare(
                model,
                part,
                first,
                plan.tokens,
                hook_point=plan.hook_point,
                batch_size=plan.batch_size,
                progress=solver.progress and bool(part),
            ),
        )

    def train_alone(self) -> tuple[Steering, TrainingState, dict[str, float]]:
        """Train from the method's own start, with smaller steps where the first ones were too large.

        They were if the dev objective was at its best within the first eighth of the epochs. Then 0.3 of the
        step is tried, and of that again, as long as that ends better or is still too large, up to three
        times; whichever ends best is kept. A step size, a number of epochs or a recipe that was asked for is
        taken as it is.

        Returns:
            The steering, how its training went, and the dev objectives that several step sizes reached.
        """
        plan = self.solver.plan
        steering, state = self.train(GRADIENT, None)
        recipe = plan.recipe_for(len(self.layers), examples=len(self.train_examples))
        if not self.dev or plan.steps_are_given or not state.overshot(recipe.epochs):
            return steering, state, {}
        lr = recipe.lr
        reached = {f"{GRADIENT}, lr={lr:g}": min(state.dev_losses)}
        for again in range(1, SMALLER_STEPS + 1):
            smaller = SMALLER**again
            found, latest = self.train(f"{GRADIENT}-{again}", None, smaller)
            reached[f"{GRADIENT}, lr={smaller * lr:g}"] = min(latest.dev_losses)
            if min(latest.dev_losses) < min(state.dev_losses):
                steering, state = found, latest
            elif not latest.overshot(recipe.epochs):
                break
        return steering, state, reached

    def train(
        self, name: str, start: Steering | None, smaller: float = 1.0
    ) -> tuple[Steering, TrainingState]:
        """The steering that training found best on the dev examples, and how training went.

        Args:
            name: Name of the run's file in the checkpoint directory.
            start: The layerwise fit; None for the method's own start.
            smaller: A factor on the recipe's step size.
        """
        plan, checkpoint = self.solver.plan, self.solver.checkpoint
        recipe = plan.recipe_for(
            len(self.layers), refining=start is not None, examples=len(self.train_examples)
        )
        recipe = replace(recipe, lr=smaller * recipe.lr)
        trained = self._begin(start, recipe)

        def objective(examples: Sequence[Prepared]) -> Objective:
            return Objective(
                self.solver.model, examples, self.layers[0], plan.objective, recipe, plan.batch_size
            )

        def keep(state: TrainingState) -> None:
            checkpoint.save_training(name, state)

        state = train(
            objective(self.train_examples),
            objective(self.dev) if self.dev else None,
            trained,
            begin=checkpoint.training(name),
            after_epoch=keep,
            progress=self.solver.progress,
        )
        positives = [one for one in self.train_examples if one.example.alpha > 0]

        def watch(watcher: Watcher) -> None:
            objective(positives or self.train_examples).mean_loss(trained, watcher)

        steering = trained.finished(watch)
        if steering.hook_point != plan.hook_point:
            # A method need not know where it will act.
            steering = steering.at_hook_point(plan.hook_point)
        return steering, state

    def _begin(self, start: Steering | None, recipe: Recipe) -> Trained:
        plan, model = self.solver.plan, self.solver.model
        rescales = recipe.adaptive and plan.method.rescaled is not Steering.rescaled
        scale: Scale | None = None
        if rescales:
            scale = scale_of(self.train_examples, model, self.layers)
        if start is not None:
            begun = start if scale is None else start.rescaled(scale)
        else:
            given = Start(
                layers=self.layers,
                d_model=model.d_model,
                tokens=plan.tokens,
                seed=plan.seed,
                standardised=rescales,
                contrast=lambda: contrast(self.train_examples, self.layers),
            )
            begun = plan.method.start(given, plan.options)
        # A copy: it may be the layerwise fit, or belong to the user.
        begun = deepcopy(begun).to(model.device, working_dtype(model.dtype))
        width = model.d_model if recipe.adaptive else None
        return Trained(begun, scale, width, () if recipe.probe_bias else plan.method.probe_biases)
