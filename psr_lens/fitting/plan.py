"""The plan of a fit: its arguments, with all the checks that need no model and no data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Final, Literal

import torch

from psr_lens._types import AlignedTokens, Layers, check_aligned, check_count, check_seed
from psr_lens.fitting.recipe import DEFAULT, PAPER, REFINE, Recipe
from psr_lens.models.editing import HookPoint
from psr_lens.steering import Steering
from psr_lens.steering.base import check_hook_point
from psr_lens.steering.registry import fitted_methods, method_class

CLOSED: Final = "closed form"
LAYERWISE: Final = "layerwise"
GRADIENT: Final = "gradient"
BOTH: Final = "layerwise, then gradient"
_OTHER: Final = {LAYERWISE: GRADIENT, GRADIENT: LAYERWISE}


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """The arguments of `fit`, except model and data. Made by `plan_fit`.

    Attributes:
        method: The class of the method.
        options: Its own options.
        objective: `mse` or `ll`; empty for a closed form.
    """

    method: type[Steering]
    options: Any
    layers: Layers | Literal["best"]
    objective: str
    solver: str
    tokens: AlignedTokens
    hook_point: HookPoint
    recipe: str | Recipe
    epochs: int | None
    lr: float | None
    seed: int
    batch_size: int
    precision: torch.dtype | None
    max_memory: int | None

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.method

    @property
    def best(self) -> bool:
        """Whether one layer is to be chosen among all."""
        return isinstance(self.layers, str) and self.layers == "best"

    def runs(self, solver: str) -> bool:
        """Whether a solver takes part: `closed form`, `layerwise` or `gradient`."""
        # The best layer is found by the layerwise solver, whichever solver then trains it.
        wanted = self.solver != _OTHER.get(solver) or (self.best and solver == LAYERWISE)
        return solver in self.method.solvers() and wanted

    @property
    def steps_are_given(self) -> bool:
        """Whether step size, epochs or recipe were asked for, and are to be taken as they are."""
        return self.recipe != "default" or (self.lr, self.epochs) != (None, None)

    def recipe_for(
        self, n_layers: int, *, refining: bool = False, examples: int | None = None
    ) -> Recipe:
        """The gradient solver's recipe.

        Args:
            n_layers: How many layers are fitted together.
            refining: Whether it continues from a layerwise fit.
            examples: How many there are to train on; None: as many as it was made for.
        """
        recipe = self.recipe
        if recipe == "paper":
            recipe = PAPER[self.objective or "mse"]
        elif not isinstance(recipe, Recipe):
            recipe = REFINE if refining else replace(DEFAULT, **self.method.recipe(n_layers))
        recipe = replace(
            recipe,
            epochs=recipe.epochs if self.epochs is None else self.epochs,
            lr=recipe.lr if self.lr is None else self.lr,
            batch_size=min(recipe.batch_size, self.batch_size),
        )
        if examples is not None and self.recipe == "default" and self.epochs is None:
            return recipe.for_few(examples)
        return recipe

    def described(self, n_layers: int) -> dict[str, Any]:
        """All that the numbers depend on, as JSON values."""
        recipes = (self.recipe_for(n_layers, refining=again) for again in (False, True))
        return {
            "method": self.name,
            "options": {key: repr(getattr(self.options, key)) for key in options_of(self.method)},
            "objective": self.objective,
            "solver": self.solver,
            "tokens": self.tokens,
            "hook_point": self.hook_point,
            "seed": self.seed,
            "best": self.best,
            "recipe": [asdict(recipe) for recipe in recipes],
            "precision": str(self.precision),
        }


def plan_fit(
    *,
    method: str | type[Steering] = "psr",
    layers: Layers | Literal["best"] = "all",
    objective: str | None = None,
    solver: str = "auto",
    tokens: AlignedTokens = "response",
    hook_point: HookPoint = "resid_post",
    recipe: str | Recipe = "default",
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: torch.dtype | None = None,
    max_memory: int | None = None,
    checkpoint: Any = None,
    progress: bool = False,
    **options: Any,
) -> FitPlan:
    """Check which arguments of a fit go together; they are those of `fit`.

    Called by `fit`, and by whatever samples or fits something else first: `fit_best`, `compare`, the
    command line. `checkpoint` and `progress` go with everything.

    Raises:
        TypeError: If there is no such option.
        ValueError: If they do not go together, or one is wrong by itself.
    """
    cls = method_class(method)
    check_aligned(tokens)
    if check_hook_point(hook_point) != "resid_post" and CLOSED in cls.solvers():
        trained = [name for name, own in fitted_methods().items() if CLOSED not in own.solvers()]
        raise ValueError(
            f"hook_point={hook_point!r} with method={cls.method!r}: a closed form is taken from the residual "
            f"streams after the blocks; choose {' or '.join(trained)}, or make the steering yourself"
        )
    check_seed(seed)
    check_count("batch_size", batch_size)
    if solver not in ("auto", LAYERWISE, "refine", GRADIENT):
        raise ValueError(f"solver={solver!r}: choose 'auto', 'layerwise', 'refine' or 'gradient'")
    if objective not in (None, "mse", "ll"):
        raise ValueError(f"objective={objective!r}: choose 'mse' or 'll'")
    if not isinstance(recipe, Recipe) and recipe not in ("default", "paper"):
        raise ValueError(f"recipe={recipe!r}: choose 'default', 'paper', or pass a Recipe")
    if epochs is not None:
        check_count("epochs", epochs, 0)
    if lr is not None and not (isinstance(lr, Real) and 0 < lr < float("inf")):
        raise ValueError(f"lr={lr!r}: it must be a number above 0")
    plan = FitPlan(
        method=cls,
        options=_own_options(cls, options),
        layers=layers,
        objective=_objective(cls, objective, solver),
        solver=solver,
        tokens=tokens,
        hook_point=hook_point,
        recipe=recipe,
        epochs=epochs,
        lr=lr,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        max_memory=max_memory,
    )
    cls.check_options(plan.options, solver=solver, tokens=tokens)
    _check_probe_bias(plan)
    of_gradient = {"recipe": None if recipe == "default" else recipe, "epochs": epochs, "lr": lr}
    of_layerwise = {"precision": precision, "max_memory": max_memory}
    for name, given in ((GRADIENT, of_gradient), (LAYERWISE, of_layerwise)):
        for key, value in given.items():
            if value is not None and (name not in cls.solvers() or solver == _OTHER[name]):
                raise ValueError(
                    f"{key}={value!r} with method={plan.name!r}, solver={solver!r}: only the {name} "
                    "solver takes it, and it does not run here; leave it out"
                )
    if plan.best and not can_choose_layer(cls):
        raise ValueError(f"layers='best' has no meaning for {plan.name}: name layers, or 'all'")
    return plan


def _check_probe_bias(plan: FitPlan) -> None:
    """Refuse a recipe without biases where something would put them in.

    Raises:
        ValueError: If the layerwise solver takes part, or inputs are standardised.
    """
    recipe = plan.recipe
    if not isinstance(recipe, Recipe) or recipe.probe_bias or not plan.method.probe_biases:
        return
    told = f"a recipe with probe_bias=False and method={plan.name!r}"
    if recipe.adaptive:
        raise ValueError(
            f"{told}: with adaptive=True, subtracting the mean input is a bias; choose adaptive=False"
        )
    # For a best layer, layerwise fits choose the layer and nothing else.
    if plan.runs(LAYERWISE) and plan.solver != GRADIENT:
        raise ValueError(
            f"{told}, solver={plan.solver!r}: the layerwise solver fits biases; choose "
            "solver='gradient'"
        )


def can_choose_layer(cls: type[Steering]) -> bool:
    """Whether a method's layers can be tried one by one from a single pass over the data."""
    return cls.has_best_layer and bool({CLOSED, LAYERWISE} & set(cls.solvers()))


def options_of(cls: type[Steering]) -> dict[str, Any]:
    """The options that a method has of its own, with their defaults."""
    return {own.name: own.default for own in fields(cls.Options)}


def _own_options(cls: type[Steering], options: Mapping[str, Any]) -> Any:
    """A method's own options.

    Raises:
        TypeError: If no method has such an option.
        ValueError: If this method has no such option, or a value is wrong.
    """
    known = options_of(cls)
    for key, value in options.items():
        if key in known:
            continue
        takers = [name for name, own in fitted_methods().items() if key in options_of(own)]
        if not takers:
            raise TypeError(f"fit has no option {key!r}, and no method has it")
        raise ValueError(
            f"{key}={value!r} with method={cls.method!r}: only {' and '.join(takers)} "
            f"{'takes' if len(takers) == 1 else 'take'} it; leave it out"
        )
    return cls.Options(**options)


def _objective(cls: type[Steering], objective: str | None, solver: str) -> str:
    """The objective, empty for a closed form.

    Raises:
        ValueError: If that solver does not fit the method, or not to that objective.
    """
    name, solvers = cls.method, cls.solvers()
    if CLOSED in solvers:
        if objective is not None or solver != "auto":
            raise ValueError(
                f"{name} has a closed form: leave objective and solver out, they are {objective!r} and "
                f"{solver!r}"
            )
        return ""
    found = objective or cls.default_objective
    replayed = [own for own, other in fitted_methods().items() if LAYERWISE in other.solvers()]
    if found == "ll" and GRADIENT not in solvers:
        raise ValueError(
            f"objective='ll' with method={name!r}: it is fitted layer by layer, to mse"
        )
    if solver == LAYERWISE and (found == "ll" or LAYERWISE not in solvers):
        raise ValueError(
            f"solver='layerwise' with method={name!r}, objective={found!r}: the layerwise solver fits "
            f"mse only, for {' and '.join(replayed)}; choose 'gradient' or 'auto'"
        )
    if solver in ("refine", GRADIENT) and GRADIENT not in solvers:
        raise ValueError(
            f"solver={solver!r} with method={name!r}: it is only fitted layer by layer; choose 'layerwise' "
            "or 'auto'"
        )
    if solver == "refine" and LAYERWISE not in solvers:
        raise ValueError(
            f"solver='refine' with method={name!r}: it continues from a layerwise fit, for "
            f"{' and '.join(replayed)}; choose 'gradient' or 'auto'"
        )
    return found
