"""Measures with their intervals, of one run and of the difference between two."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from psr_lens.faithfulness.measures import MEASURES, Measure, Sums
from psr_lens.statistics import Curve, bootstrap, estimates

Kind = Literal["steering", "reference", "paraphrase"]


@final
@dataclass(frozen=True)
class Run:
    """The sums of one run over the examples.

    Attributes:
        kind: A steering, a reference line, or one of several paraphrases.
        layers: The layers that a steering covers; empty for the others.
        sums: Per example, by name.
        acts_on: Which tokens a steering acts on, if not the measured ones; else empty.
    """

    kind: Kind
    layers: tuple[int, ...]
    sums: Sums
    acts_on: str = ""

    def has(self, measure: Measure) -> bool:
        """Whether the run has every sum that the measure needs."""
        return set(measure.sums) <= self.sums.keys()


@final
@dataclass(frozen=True, kw_only=True)
class Difference(Curve):
    """How much two runs differ in a measure, from the same resamples of prompts.

    Its estimates are `first - second`.

    Attributes:
        first: Name of the first run.
        second: Name of the second.
        measure: Name of the measure.
    """

    first: str
    second: str
    measure: str

    @property
    def clear(self) -> tuple[bool, ...]:
        """Whether the interval excludes 0; False where there is none."""
        return tuple(own.clear for own in self.estimates)

    def __repr__(self) -> str:
        last = self.estimates[-1]
        verdict = "clear" if last.clear else "could be chance"
        return (
            f"{self.measure} of {self.first} minus {self.second}: {last:+.3f}"
            f"{' at the last layer' if len(self.estimates) > 1 else ''}, "
            f"{verdict if last.has_interval else 'without an interval'}"
        )


def curve_of(run: Run, measure: Measure, counts: Float[Tensor, "n_bootstrap example"]) -> Curve:
    """The measure of one run, with its interval."""
    found = bootstrap(measure.formula, tuple(run.sums[name] for name in measure.sums), counts)
    return Curve(estimates(found), run.layers)


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
    found = estimates(bootstrap(subtract, both, counts))
    return Difference(found, first=first, second=second, measure=measure.name)


def find_measure(name: str) -> Measure:
    """The measure of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in MEASURES:
        raise ValueError(f"measure={name!r}: choose one of {', '.join(MEASURES)}")
    return MEASURES[name]
