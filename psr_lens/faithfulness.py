"""Is the steering doing what the prompt does? Distances to the prompt-steered residual stream.

For a steering, run `x y'` under it, giving `S[l, i]` on the surface. Its relative RMSE at layer `l`:

`sqrt( sum |S - A(x'y')|^2 / sum |A(xy') - A(x'y')|^2 )`, summed over examples and surface tokens:

1 is no steering, 0 the prompt itself, above 1 is further from prompting than doing nothing.
Intervals are bootstrap percentiles over examples (tokens of one response are not independent).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface, check_count, check_seed, check_surface
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.models import HookedModel, as_hooked_model
from psr_lens.responses import Example, check_examples
from psr_lens.steering import OracleSteering, Steering
from psr_lens.steering.provenance import describe_data, provenance

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

NO_STEERING = "no steering"
EQUIVALENT_PROMPT = "equivalent prompt"
ORACLE = "oracle"


@dataclass(frozen=True)
class Curve:
    """A measure over the layers, with its interval.

    Attributes:
        values: One number per layer.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        layers: The layers that the steering covers; empty for a reference line.
    """

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class FaithfulnessReport:
    """Relative RMSE per layer of several steerings, and the lines to read them against.

    Attributes:
        relative_rmse: One curve per steering.
        reference: The lines `no steering` (1 by definition), `equivalent prompt` (the instruction
            in other words, where the examples have one) and `oracle` (0 up to rounding).
        alpha: The strength at which the steerings acted.
        surface: Where they were measured.
        examples: Number of examples.
        provenance: Model, data and seed.
    """

    relative_rmse: Mapping[str, Curve]
    reference: Mapping[str, Curve]
    alpha: float
    surface: Surface
    examples: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Tidy long form: one row per steering and layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "steering": name,
                    "reference": name in self.reference,
                    "layer": layer,
                    "relative_rmse": value,
                    "low": low,
                    "high": high,
                }
                for name, curve in {**self.relative_rmse, **self.reference}.items()
                for layer, (value, low, high) in enumerate(
                    zip(curve.values, curve.low, curve.high, strict=True)
                )
            ]
        )

    def plot(self) -> "plotly.graph_objects.Figure":
        """The curves over the layers."""
        from psr_lens.plots import faithfulness_curves

        return faithfulness_curves(self)

    def summary(self) -> str:
        """What the numbers say, one line per steering."""
        count = "1 example" if self.examples == 1 else f"{self.examples} examples"
        lines = [f"Relative RMSE at the last layer, {count}, 95 % intervals:"]
        equivalent = self.reference.get(EQUIVALENT_PROMPT)
        for name, curve in self.relative_rmse.items():
            value = curve.values[-1]
            line = f"{name}: {value:.2f} ({curve.low[-1]:.2f} to {curve.high[-1]:.2f}), "
            if value >= 1:
                line += "no closer to prompting than doing nothing"
            elif equivalent is not None and value <= equivalent.values[-1]:
                line += "as close to the prompt as a paraphrase of it"
            else:
                line += f"{1 - value:.0%} of the distance to prompting is gone"
            lines.append(line)
        if equivalent is not None:
            lines.append(f"a paraphrase of the prompt: {equivalent.values[-1]:.2f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The plot where plotly can draw, a table elsewhere, words on a terminal."""
        import json

        table = self.to_dataframe().pivot(index="steering", columns="layer", values="relative_rmse")
        return {
            "application/vnd.plotly.v1+json": json.loads(self.plot().to_json() or "{}"),
            "text/html": table.to_html(float_format="{:.3f}".format),
            "text/plain": self.summary(),
        }


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
    draws = _bootstrap_indices(len(data), n_bootstrap, seed)
    ones = (1.0,) * hooked.n_layers
    curves = {
        name: _relative_rmse(missed[name], energy, draws, getattr(runs.get(name), "layers", ()))
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


def _bootstrap_indices(n_examples: int, n_bootstrap: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_examples, (n_bootstrap, n_examples), generator=generator)


def _relative_rmse(
    missed: Float[Tensor, "example layer"],
    energy: Float[Tensor, "example layer"],
    draws: Tensor,
    layers: tuple[int, ...],
) -> Curve:
    def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
        return (numerator / denominator.clamp_min(1e-30)).sqrt()

    value = ratio(missed.sum(dim=0), energy.sum(dim=0))
    resampled = ratio(missed[draws].sum(dim=1), energy[draws].sum(dim=1))
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(resampled, ends, dim=0) if len(draws) else (value, value)
    return Curve(tuple(value.tolist()), tuple(low.tolist()), tuple(high.tolist()), layers)


@dataclass(frozen=True)
class Selectivity:
    """How unevenly the prompt acts on the tokens, per layer.

    Attributes:
        p10: 10th percentile of the accumulated delta norm over surface tokens.
        p50: Median.
        p90: 90th percentile.
        mean_energy_share: `n |mean D|^2 / sum |D|^2`: what a constant vector can express.
    """

    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]
    mean_energy_share: tuple[float, ...]


@torch.no_grad()
def measure_selectivity(
    model: Any,
    data: Sequence[Example],
    *,
    surface: Surface = "R",
    batch_size: int = 32,
    progress: bool = False,
) -> Selectivity:
    """Percentiles of the accumulated delta's norm, and the energy of its mean.

    Streams over the data; only the norms of all tokens are kept.

    Args:
        model: The model.
        data: The examples.
        surface: Where to measure.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no example.
    """
    hooked = as_hooked_model(model)
    if len(data) == 0:
        raise ValueError("there is no example to measure on: pass at least one")
    norms: list[Tensor] = []
    total = torch.zeros(hooked.n_layers, hooked.d_model, dtype=torch.float64)
    for indices in iter_batches(data, batch_size, progress=progress, description="selectivity"):
        base, steered = example_batches(hooked, [data[i] for i in indices])
        deltas = surface_residuals(hooked, steered, surface) - surface_residuals(
            hooked, base, surface
        )
        norms.append(deltas.norm(dim=-1).double().cpu())
        total += deltas.double().sum(dim=1).cpu()
    lengths = torch.cat(norms, dim=1)
    p10, p50, p90 = torch.quantile(lengths, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 1)
    share = total.square().sum(-1) / lengths.shape[1] / lengths.square().sum(1).clamp_min(1e-30)
    return Selectivity(*(tuple(x.tolist()) for x in (p10, p50, p90, share)))
