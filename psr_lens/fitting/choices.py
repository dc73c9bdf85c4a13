"""Do the arguments of a fit go together? All that can be said without a model and without data."""

from collections.abc import Mapping
from numbers import Real
from typing import Any, Final, Literal

from psr_lens._types import Layers, Surface, check_count, check_seed, check_surface
from psr_lens.examples import SteeringDataset, split_groups
from psr_lens.fitting.closed import CLOSED
from psr_lens.fitting.recipe import DEFAULT, PAPER, REFINE, Recipe, constant_recipe
from psr_lens.steering import Steering

REPLAYED: Final = ("const", "psr")

# Whose layers can be tried one by one from a single pass over the data.
HAVE_BEST: Final = ("dim", "pca", "const", "actadd", "projection", "psr")

METHODS: Final = (
    *("dim", "pca", "const", "actadd", "projection"),
    *("reft_r1", "loreft", "ablation", "psr", "oracle"),
)


def check_fit_options(
    *,
    method: str = "psr",
    layers: Layers | Literal["best"] = "all",
    objective: str | None = None,
    solver: str = "auto",
    surface: Surface = "R",
    n_heads: int | Literal["auto"] = 1,
    rank: int | None = None,
    along: Steering | None = None,
    recipe: str | Recipe = "default",
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    precision: Any = None,
    max_memory: int | None = None,
    checkpoint: Any = None,
    progress: bool = False,
) -> str:
    """The one place that says which options of a fit go together; they are those of `fit`.

    `fit` asks it, and so does what samples or fits something else before: `fit_best`, `compare`, the
    command line.

    Returns:
        The objective, empty for a closed form.

    Raises:
        ValueError: If they do not go together, or one is wrong by itself.
    """
    check_surface(surface)
    check_seed(seed)
    objective = check_choices(method, objective, solver, n_heads, rank, along, surface)
    check_for_solver(
        method,
        solver,
        live={
            "recipe": None if recipe == "default" else recipe,
            "epochs": epochs,
            "lr": lr,
        },
        replay={"precision": precision, "max_memory": max_memory},
    )
    if isinstance(layers, str) and layers == "best" and method not in HAVE_BEST:
        raise ValueError(f"layers='best' has no meaning for {method}: name layers, or 'all'")
    check_count("batch_size", batch_size)
    if epochs is not None:
        check_count("epochs", epochs, 0)
    if lr is not None and not (isinstance(lr, Real) and 0 < lr < float("inf")):
        raise ValueError(f"lr={lr!r}: it must be a number above 0")
    choose_recipe(recipe, method, objective, from_replay=False)
    return objective


def check_choices(
    method: str,
    objective: str | None,
    solver: str,
    n_heads: int | Literal["auto"],
    rank: int | None,
    along: Steering | None,
    surface: Surface,
) -> str:
    """Do the options go together? Returns the objective.

    Raises:
        ValueError: If they do not.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    if solver not in ("auto", "replay", "refine", "live"):
        raise ValueError(f"solver={solver!r}: choose 'auto', 'replay', 'refine' or 'live'")
    if objective not in (None, "mse", "ll"):
        raise ValueError(f"objective={objective!r}: choose 'mse' or 'll'")
    if isinstance(n_heads, str):
        if n_heads != "auto":
            raise ValueError(f"n_heads={n_heads!r}: pass a whole number of at least 1, or 'auto'")
    else:
        check_count("n_heads", n_heads)
    if n_heads != 1 and method != "psr":
        raise ValueError(f"n_heads={n_heads!r} with method={method!r}: only psr has heads")
    if n_heads == "auto" and solver == "live":
        raise ValueError(
            "n_heads='auto' with solver='live': replay chooses the number; pass a number, or choose "
            "'replay' or 'auto'"
        )
    if rank is not None:
        check_count("rank", rank)
        if method not in ("loreft", "oracle"):
            raise ValueError(f"rank={rank} with method={method!r}: only loreft and oracle have one")
    if along is not None and method != "oracle":
        raise ValueError(f"along= with method={method!r}: only the oracle follows a steering")
    if along is not None and rank is not None:
        raise ValueError(
            f"rank={rank} and along=: the oracle takes its directions from one of them"
        )
    if along is not None and along.surface != surface:
        raise ValueError(
            f"surface={surface!r} but the steering given as along= has {along.surface!r}"
        )
    if method in CLOSED:
        if objective is not None or solver != "auto":
            raise ValueError(
                f"{method} has a closed form: leave objective and solver out, they are "
                f"{objective!r} and {solver!r}"
            )
        return ""
    objective = objective or ("ll" if method == "reft_r1" else "mse")
    if solver == "replay" and (objective == "ll" or method not in REPLAYED):
        raise ValueError(
            f"solver='replay' with method={method!r}, objective={objective!r}: replay solves mse for "
            "psr and const; choose 'live' or 'auto'"
        )
    if solver == "refine" and method not in REPLAYED:
        raise ValueError(
            f"solver='refine' with method={method!r}: it goes on from what replay fits, for psr and "
            "const; choose 'live' or 'auto'"
        )
    return objective


def check_for_solver(
    method: str,
    solver: str,
    *,
    live: Mapping[str, object],
    replay: Mapping[str, object],
) -> None:
    """Refuse options of a solver that is not going to run.

    Args:
        method: The method.
        solver: The solver.
        live: Options of the live solver, None where they are not given.
        replay: Options of replay, likewise.

    Raises:
        ValueError: If one is given for nothing.
    """
    runs_live = method not in CLOSED and solver != "replay"
    runs_replay = method in REPLAYED and solver != "live"
    for runs, name, options in ((runs_live, "live", live), (runs_replay, "replay", replay)):
        for key, value in options.items():
            if value is not None and not runs:
                raise ValueError(
                    f"{key}={value!r} with method={method!r}, solver={solver!r}: only the {name} "
                    "solver takes it, and it does not run here; leave it out"
                )


def choose_recipe(
    recipe: str | Recipe, method: str, objective: str, from_replay: bool, n_layers: int = 1
) -> Recipe:
    """The recipe of a name.

    Args:
        recipe: The name, or a recipe.
        method: What is fitted.
        objective: Which objective.
        from_replay: Whether it goes on from what replay has fitted.
        n_layers: Number of layers that are fitted together.

    Raises:
        ValueError: If there is none of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe == "paper":
        return PAPER[objective or "mse"]
    if recipe == "default":
        if from_replay:
            return REFINE
        return constant_recipe(n_layers) if method == "const" else DEFAULT
    raise ValueError(f"recipe={recipe!r}: choose 'default', 'paper', or pass a Recipe")


def train_and_dev(data: SteeringDataset, seed: int) -> tuple[SteeringDataset, SteeringDataset]:
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
