"""`fit`: the one entry point from examples to a steering."""

import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import torch

from psr_lens._types import AlignedTokens, Layers, resolve_layers
from psr_lens.dataset import SteeringDataset, check_data, split_groups
from psr_lens.deltas import PairedRuns, iter_runs
from psr_lens.fitting.errors import relative_rmse
from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.fit_runs import FitRuns, residual_bytes
from psr_lens.fitting.forwards import counting_forwards
from psr_lens.fitting.plan import CLOSED, plan_fit
from psr_lens.fitting.recipe import Recipe
from psr_lens.fitting.solve import Solver
from psr_lens.models import HookedModel, unsteered_model
from psr_lens.models.editing import HookPoint
from psr_lens.models.parts import check_has_mid
from psr_lens.prompt_effect import measure_prompt_effect
from psr_lens.steering import Steering
from psr_lens.steering.fit_report import FitReport
from psr_lens.steering.provenance import describe_data, provenance


def fit(
    model: Any,
    data: SteeringDataset,
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
    checkpoint: str | Path | None = None,
    runs: FitRuns | None = None,
    progress: bool = False,
    **options: Any,
) -> Steering:
    """Fit a steering to what the prompt does.

    | method | what is fitted | how |
    | --- | --- | --- |
    | `dim` | one vector per layer: the mean accumulated delta (CAA) | closed form |
    | `pca` | the first principal direction of the symmetrised deltas | closed form |
    | `const` | one vector per layer, fitted | layerwise, gradient |
    | `actadd` | one pair's deltas, position by position | closed form |
    | `projection` | a direction and the projection on it that every token gets | closed form |
    | `reft_r1` | a direction that detects and steers (AxBench); see `add_negatives` | gradient |
    | `loreft` | an affine map inside a low-rank subspace | gradient |
    | `ablation` | a direction that is taken out | closed form |
    | `psr` | ReLU heads that read a token and decide how strongly to push it | layerwise, gradient |
    | `oracle` | nothing, or the directions of a limited oracle | closed form |

    `layerwise` goes up the layers once and fits each to what is still missing after the layers below, with
    no gradient through the model. `gradient` trains through the frozen model. `refine` does the first and
    continues with the second, as long as the dev objective improves. `auto` does that, also trains from the
    method's own start, and keeps whichever has the best objective on the dev split: it is never worse there
    than either solver alone, and takes the time of both. For a method that cannot be fitted layer by layer,
    it is `gradient` alone.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        data: Examples; the train split is fitted on, the dev split decides when to stop and which layer is
            best, the test split is never looked at. Without a dev split, part of the training groups serves
            as one.
        method: See the table; or your own class, see `Steering` and `register`.
        layers: One, several, `"all"`, or `"best"`: the single layer with the lowest relative RMSE
            at the last layer on the dev split.
        objective: `"mse"`, distance to the prompted residual stream at the intervened layer
            and all above; `"ll"`, log-likelihood of the responses. By default `mse`, and `ll` for
            `reft_r1`.
        solver: `"auto"`, `"layerwise"`, `"refine"` or `"gradient"`.
        tokens: `response` or `question+response`.
        hook_point: Where in its blocks the steering acts: on the residual stream after them, `resid_post`,
            or between their attention and their MLP, `resid_mid`; closed forms only after them. Distances
            are those after the blocks either way. In blocks whose attention and MLP run side by side
            (GPT-NeoX) the MLP does not read what is added.
        recipe: For the gradient solver: `"default"` adapts to the model's scale and stops on the dev split,
            `"paper"` is Heyman & Vandeputte's; or a `Recipe`, such as `Recipe.paper("persona")`.
        epochs: In place of the recipe's, which goes over few examples more often.
        lr: In place of the recipe's. Without it, and without `epochs` or a `recipe`, training that begins at
            the method's own start is tried with smaller ones too, up to three, if the dev objective was at
            its best within the first eighth of the epochs: as long as they end better, or are too large
            themselves.
        seed: Decides random starts, and the dev split if the data has none.
        batch_size: Examples per forward pass. A gradient step takes the recipe's number of examples, or
            this one if it is smaller.
        precision: Number type of the layerwise solver's regressions; by default float32, or float64 for a
            float64 model.
        max_memory: Bytes of residual streams that the layerwise solver may hold; beyond that it uses the
            disk.
        checkpoint: A directory for finished stages and epochs; the same call with the same directory
            resumes an interrupted fit.
        runs: What earlier fits to the same examples have run already, and later ones will find: the same
            `FitRuns` for all of them.
        progress: Whether to show bars.
        options: Options of the method: `n_heads` of `psr` (1; `"auto"`), `rank` of `loreft` (4) and of a
            limited `oracle`, and `along`, a steering whose directions an `oracle` is confined to. Each is
            described in the class's `Options`.

    Returns:
        The steering, with its `fit_report`. If the prompts hardly change what the model says, or no
        training step was an improvement, the report's `warning` says so, and so does a Python warning.

    Raises:
        TypeError: If there is no such option.
        ValueError: If an argument is unknown or out of range, options do not go together, or there
            is nothing to fit on.

    Example:
        >>> import psr_lens as pl
        >>> model = pl.load_model("demo")
        >>> pairs = pl.make_pairs(["tell me about the fox ."], "be optimistic .")
        >>> data = pl.sample_responses(model, pairs, max_new_tokens=40, progress=False)
        >>> pl.fit(model, data, method="dim", layers=2)
        DifferenceInMeans(dim, layer 2 of demo, response tokens)
    """
    hooked = unsteered_model(model, "fit(...)")
    if not isinstance(data, SteeringDataset):
        raise ValueError(
            f"data of type {type(data).__name__} has no splits: pass what sample_responses returns"
        )
    plan = plan_fit(
        method=method,
        layers=layers,
        objective=objective,
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
        **options,
    )
    examples, dev = train_and_dev(data, seed)
    for part in (examples, dev):
        check_data(hooked, part, tokens)
    if hook_point == "resid_mid":
        check_has_mid(hooked)
    if not plan.method.of_one_example:
        # Sorted, so that batches, steps and sums do not depend on the order of the examples. A method that
        # takes a single example takes the first one given.
        examples, dev = examples.sorted(), dev.sorted()
    plan.method.check_options(plan.options, solver=solver, tokens=tokens, has_dev=len(dev) > 0)
    if plan.best:
        tried = tuple(range(hooked.n_layers))
    else:
        tried = resolve_layers(cast(Layers, layers), hooked.n_layers)
    closed = plan.runs(CLOSED)
    origin = provenance(
        hooked,
        method=plan.name,
        objective=plan.objective,
        solver=CLOSED if closed else solver,
        tokens=tokens,
        hook_point=hook_point,
        seed=seed,
        data=describe_data([*examples, *dev], data.provenance),
    )
    settings = {
        **{key: value for key, value in origin.items() if key != "model"},
        **plan.described(1 if plan.best else len(tried)),
        "fingerprint": origin["model"]["fingerprint"],
        "layers": tried,
    }
    known = runs or FitRuns(0)
    work = Solver(
        plan=plan,
        model=hooked,
        train=examples,
        dev=dev,
        layers=tried,
        checkpoint=FitCheckpoint(checkpoint, settings),
        runs=known,
        progress=progress,
    )
    effect = known.once(
        ("prompt effect", batch_size),
        hooked,
        data.train,
        0,
        lambda: measure_prompt_effect(hooked, data.train, batch_size=batch_size),
    )
    warned = [effect.warning]
    if warned[0]:
        warnings.warn(warned[0], stacklevel=2)
    start = time.perf_counter()
    with counting_forwards(hooked) as count:
        found = work.solve()
        steering = found.steering
        errors = found.dev_relative_rmse
        if not errors and dev and not plan.method.of_one_example:
            paired = _paired(known, hooked, dev, tokens, batch_size)
            errors = relative_rmse(hooked, [steering], dev, tokens, batch_size, paired)[0]
    if found.warning:
        warnings.warn(found.warning, stacklevel=2)
        warned.append(found.warning)
    steering.provenance = origin
    steering.fit_report = FitReport(
        method=plan.name,
        objective=plan.objective,
        dev_relative_rmse=errors,
        seconds=time.perf_counter() - start,
        forwards=count.sequences,
        examples=len(examples),
        dev_examples=len(dev),
        solver=found.solver,
        stages=found.stages,
        losses=found.losses,
        dev_losses=found.dev_losses,
        candidates=found.candidates,
        tried=found.tried,
        warning="\n".join(filter(None, warned)),
    )
    return steering


def _paired(
    runs: FitRuns,
    model: HookedModel,
    data: SteeringDataset,
    tokens: AlignedTokens,
    batch_size: int,
) -> Iterable[PairedRuns]:
    """Base and prompted runs: kept where there is room, else made one batch at a time."""
    made = iter_runs(model, data, tokens, batch_size=batch_size)
    what = ("base and prompted runs", tokens, batch_size)
    size = 2 * residual_bytes(model, data, tokens)
    return runs.once(what, model, data, size, lambda: list(made) if runs.has_room(size) else made)


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
