"""Distances to the prompt-steered residual stream.

For a steering, run `x y'` under it, giving `S[l, i]` on the surface. Its relative RMSE at layer `l`:

`sqrt( sum |S - A(x'y')|^2 / sum |A(xy') - A(x'y')|^2 )`, summed over examples and surface tokens:

1 is no steering, 0 the prompt itself, above 1 is further from prompting than doing nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_count, check_seed, check_surface
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.faithfulness.bootstrap import bootstrap, resamples
from psr_lens.faithfulness.report import (
    EQUIVALENT_PROMPT,
    NO_STEERING,
    ORACLE,
    Curve,
    FaithfulnessReport,
)
from psr_lens.models import HookedModel, as_hooked_model
from psr_lens.responses import Example, check_examples
from psr_lens.steering import OracleSteering, Steering
from psr_lens.steering.provenance import describe_data, provenance


@torch.no_grad()
def measure_faithfulness(
    model: Any,
    steerings: Mapping[str, Steering] | Sequence[Steering] | Steering,
    data: Sequence[Example],
    *,
    alpha: float = 1.0,
    surface: Surface = "R",
    batch_size: int = 32,
    n_bootstrap: int = 1000,
    seed: int = 0,
    allow_seen: bool = False,
    progress: bool = False,
) -> FaithfulnessReport:
    """Relative RMSE per layer of every steering against the prompt, on the same examples.

    The base run and the prompt-steered run are shared by all steerings; each steering costs one run
    more. Streams over the data; sums in float64.

    Args:
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        steerings: Steerings by name, or one, or a list, which is named by method and layers (`a-psr` for
            all layers, `s-dim` for one).
        data: Examples that no steering was fitted on: `data.test`.
        alpha: Strength.
        surface: Where to measure.
        batch_size: Examples per forward pass.
        n_bootstrap: Resamples for the intervals.
        seed: Seed of the resampling.
        allow_seen: Measure on examples that a steering was fitted on all the same.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no example, a steering was fitted on one of them, or belongs to
            another model.
    """
    hooked = as_hooked_model(model)
    if len(check_examples(data)) == 0:
        raise ValueError("there is no example to measure on: pass the test split of a data set")
    check_surface(surface)
    check_seed(seed)
    check_count("n_bootstrap", n_bootstrap, 0)
    if isinstance(steerings, Steering):
        steerings = [steerings]
    named = dict(steerings) if isinstance(steerings, Mapping) else name_steerings(steerings, hooked)
    for name, steering in named.items():
        if name in (NO_STEERING, EQUIVALENT_PROMPT):
            raise ValueError(f"a steering is called {name!r}, which is a reference line: rename it")
        steering.check(hooked)
        if not allow_seen:
            _refuse_seen(name, steering, data)
    runs: dict[str, Steering] = {
        **named,
        ORACLE: OracleSteering(range(hooked.n_layers), surface=surface),
    }
    has_equivalent = all(example.equivalent_ids is not None for example in data)
    names = [*runs, *([EQUIVALENT_PROMPT] if has_equivalent else [])]
    missed = {name: torch.zeros(len(data), hooked.n_layers, dtype=torch.float64) for name in names}
    energy = torch.zeros(len(data), hooked.n_layers, dtype=torch.float64)
    for indices in iter_batches(data, batch_size, progress=progress, description="faithfulness"):
        examples = [data[i] for i in indices]
        base, steered = example_batches(hooked, examples)
        lengths = [example.surface_length(surface) for example in examples]
        target = surface_residuals(hooked, steered, surface)
        plain = surface_residuals(hooked, base, surface)
        energy[indices] = _squares_per_example(plain - target, lengths)
        for name, steering in runs.items():
            strength = 1.0 if name == ORACLE and name not in named else alpha
            acted = surface_residuals(
                hooked, base, surface, steering.edits(hooked, strength, examples)
            )
            missed[name][indices] = _squares_per_example(acted - target, lengths)
        if has_equivalent:
            batch = hooked.pad([example.equivalent_row for example in examples])
            paraphrased = surface_residuals(hooked, batch, surface)
            missed[EQUIVALENT_PROMPT][indices] = _squares_per_example(paraphrased - target, lengths)
    if not bool((energy.sum(dim=0) > 0).all()):
        raise ValueError(
            "the steered prompts change nothing: base and steered prompt of every example are equal"
        )
    counts = resamples(len(data), n_bootstrap, seed)
    ones = (1.0,) * hooked.n_layers
    curves = {
        name: _curve(missed[name], energy, counts, getattr(runs.get(name), "layers", ()))
        for name in names
    }
    reference = {NO_STEERING: Curve(ones, ones, ones)}
    reference |= {name: curves[name] for name in names if name not in named}
    return FaithfulnessReport(
        {name: curves[name] for name in named},
        reference,
        alpha,
        surface,
        len(data),
        provenance(
            hooked,
            data=describe_data(data, getattr(data, "provenance", {})),
            seed=seed,
            n_bootstrap=n_bootstrap,
        ),
    )


def name_steerings(steerings: Sequence[Steering], model: HookedModel) -> dict[str, Steering]:
    """Names: `a-psr` (all layers), `s-dim` (one layer), `psr-3-layers`; numbered if repeated."""
    named: dict[str, Steering] = {}
    for steering in steerings:
        method = steering.provenance.get("method", steering.method)
        count = len(steering.layers)
        name = f"{method}-{count}-layers"
        if count == model.n_layers:
            name = f"a-{method}"
        elif count == 1:
            name = f"s-{method}"
        unique, number = name, 2
        while unique in named:
            unique, number = f"{name} ({number})", number + 1
        named[unique] = steering
    return named


def _refuse_seen(name: str, steering: Steering, data: Sequence[Example]) -> None:
    seen = set(steering.provenance.get("data", {}).get("example_keys", ()))
    shared = sum(example.key in seen for example in data)
    if shared:
        raise ValueError(
            f"{name} was fitted on {shared} of these {len(data)} examples: measure on data.test, "
            "or pass allow_seen=True"
        )


def _squares_per_example(
    difference: Float[Tensor, "layer token d_model"], lengths: Sequence[int]
) -> Float[Tensor, "example layer"]:
    squares = difference.double().square().sum(dim=-1)
    return torch.stack([part.sum(dim=1) for part in squares.split(list(lengths), dim=1)]).cpu()


def _curve(
    missed: Float[Tensor, "example layer"],
    energy: Float[Tensor, "example layer"],
    counts: Tensor,
    layers: tuple[int, ...],
) -> Curve:
    def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
        return (numerator / denominator.clamp_min(1e-30)).sqrt()

    value, low, high = bootstrap(ratio, (missed, energy), counts)
    return Curve(tuple(value.tolist()), tuple(low.tolist()), tuple(high.tolist()), layers)
