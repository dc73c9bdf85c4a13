"""Trait and coherence over the strength, one panel for each instruction, as SVG text."""

from collections.abc import Iterator, Mapping
from math import log2
from typing import Any, Final

from benchmarks.panels import across, line, rule, sheet, under, up
from psr_lens.plots.theme import line_colour

_FROM: Final = 0.5
_TO: Final = 32.0


def drawn(traits: Mapping[str, Any], labels: Mapping[str, int]) -> str:
    """The curves on dev questions: the trait as a line, coherence dashed.

    Args:
        traits: Every instruction's `methods`, as `benchmarks.strength` keeps them.
        labels: What is drawn, and the number of its colour.
    """

    def panel(found: Mapping[str, Any]) -> Iterator[str]:
        for value in (0, 50, 100):
            yield rule(up(value / 100), str(value))
        for alpha in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
            yield under(_x(alpha), f"{alpha:g}")
        for label, colour in labels.items():
            curve = [own for own in found["methods"][label]["dev"] if _FROM <= own[0] <= _TO]
            for which, dashes in ((2, "3 3"), (1, "")):
                points = [(_x(own[0]), up(own[which] / 100)) for own in curve]
                yield line(points, line_colour(colour), dashes)

    key = {label: line_colour(colour) for label, colour in labels.items()}
    return sheet(traits, panel, key, "strength (line: trait, dashes: coherence)", columns=4)


def _x(alpha: float) -> float:
    return across(log2(alpha / _FROM) / log2(_TO / _FROM))
