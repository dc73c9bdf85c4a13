"""Measures with their intervals: one run's, and the difference of two."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from psr_lens.faithfulness.bootstrap import bootstrap, in_brackets
from psr_lens.faithfulness.measures import MEASURES, Measure, Sums

Kind = Literal["steering", "reference", "paraphrase"]


@final
@dataclass(frozen=True)
class Run:
    """The sums of one run over the examples.

    Attributes:
        kind: A steering, a reference line, or one of several paraphrases.
        layers: The layers that a steering covers; empty for the others.
        sums: Per example, by name.
    """

    kind: Kind
    layers: tuple[int, ...]
    sums: Sums

    def has(self, measure: Measure) -> bool:
        """Whether all that the measure is made of was measured."""
        return set(measure.sums) <= self.sums.keys()


@final
@dataclass(frozen=True)
class Curve:
    """A measure over the layers, with its interval.

    Attributes:
        values: One number per layer; one in all for a measure of the output. NaN where undefined.
        low: Lower end of the 95 % bootstrap interval; NaN where there is none, as from fewer than
            five examples.
        high: Upper end.
        layers: The layers that the steering covers; empty for a reference line.
    """

    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    layers: tuple[int, ...] = ()


@final
@dataclass(frozen=True)
class Difference:
    """How much two runs differ by a measure, from the same resamples of examples.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        measure: Name of the measure.
        values: `first - second`, one number per layer, one in all for a measure of the output.
        low: Lower end of the 95 % bootstrap interval; NaN where there is none, as from fewer than
            five examples.
        high: Upper end.
    """

    first: str
    second: str
    measure: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def clear(self) -> tuple[bool, ...]:
        """Whether the interval leaves out 0; never without one."""
        return tuple(low > 0 or high < 0 for low, high in zip(self.low, self.high, strict=True))

    def __repr__(self) -> str:
        verdict = "clear" if self.clear[-1] else "could be chance"
        if math.isnan(self.low[-1]):
            verdict = "without an interval"
        return (
            f"{self.measure} of {self.first} minus {self.second}: {self.values[-1]:+.3f}"
            f"{in_brackets(self.low[-1], self.high[-1], '+.3f')}"
            f"{' at the last layer' if len(self.values) > 1 else ''}, {verdict}"
        )


def curve_of(run: Run, measure: Measure, counts: Float[Tensor, "n_bootstrap example"]) -> Curve:
    """The measure of one run, with its interval."""
    found = bootstrap(measure.formula, tuple(run.sums[name] for name in measure.sums), counts)
    return Curve(*_ends(found), run.layers)


def difference_of(
    names: tuple[str, str],
    runs: Mapping[str, Run],
    measure: Measure,
    counts: Float[Tensor, "n_bootstrap example"],
) -> Difference:
    """The paired difference of two runs."""
    n_sums = len(measure.sums)

    def subtract(*sums: Tensor) -> Tensor:
        return measure.formula(*sums[:n_sums]) - measure.formula(*sums[n_sums:])

    both = tuple(runs[name].sums[key] for name in names for key in measure.sums)
    first, second = names
    return Difference(first, second, measure.name, *_ends(bootstrap(subtract, both, counts)))


def find_measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in MEASURES:
        raise ValueError(f"measure={name!r}: choose one of {', '.join(MEASURES)}")
    return MEASURES[name]


def _ends(
    found: Float[Tensor, "3 *layer"],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    value, low, high = (tuple(own.reshape(-1).tolist()) for own in found)
    return value, low, high
