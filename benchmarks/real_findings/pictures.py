"""The pictures of `docs/real-model.md`, as SVG text: distances, trait against fluency, heatmaps."""

from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, Final

from benchmarks.panels import INK, PALE, WIDTH, across, band, line, rule, sheet, svg, under, up
from benchmarks.real_findings.numbers import of_instructions
from benchmarks.real_findings.tables import BEST, CONSTANTS, PSRS, closest
from psr_lens.plots.theme import MUTED, line_colour

_CEILING: Final = 1.2
COLOURS: Final = {
    "PSR": line_colour(0),
    "constant, mse": line_colour(1),
    "difference in means": line_colour(2),
    "constant, ll": line_colour(4),
    BEST: line_colour(5),
}
"""As in all figures, as far as they have the method."""


def drawn(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Every picture for which there are numbers, by name."""
    pictures: dict[str, tuple[Mapping[str, Any], Callable[[Mapping[str, Any]], str]]] = {
        "distances": (of_instructions(numbers, "distances"), distances),
        "trade": (of_instructions(numbers, "behaviour"), lambda found: trade(found, numbers)),
        "heatmaps": (of_instructions(numbers, "heatmap"), heatmaps),
    }
    return {name: draw(found) for name, (found, draw) in pictures.items() if found}


def distances(found: Mapping[str, Any]) -> str:
    """Relative RMSE by layer: the closest constant, PSRs, and the band of paraphrases."""
    key = {
        "closest constant": COLOURS["constant, mse"],
        "closest PSR with one head": COLOURS["PSR"],
        BEST: COLOURS[BEST],
    }

    def panel(part: Mapping[str, Any]) -> Iterator[str]:
        curves = part["relative_rmse"]
        lines = [v["values"] for k, v in curves.items() if _is_wording(k)]
        own = (closest(part, CONSTANTS), closest(part, PSRS[:2]), BEST)
        layers = len(curves["PSR"]["values"])

        def x(layer: int) -> float:
            return across(layer / (layers - 1))

        def y(value: float) -> float:
            return up(min(value, _CEILING) / _CEILING)

        for value in (0.0, 0.5, 1.0):
            yield rule(y(value), f"{value:g}")
        for layer in range(0, layers, 10):
            yield under(x(layer), str(layer))
        yield under(x(layers - 1), str(layers - 1))
        yield band(
            [min(v) for v in zip(*lines, strict=True)],
            [max(v) for v in zip(*lines, strict=True)],
            x,
            y,
            MUTED,
            0.45,
        )
        for label, colour in zip(own, key.values(), strict=True):
            curve = curves[label]
            yield band(curve["low"], curve["high"], x, y, colour, 0.25)
            yield line([(x(k), y(v)) for k, v in enumerate(curve["values"])], colour)

    return sheet(found, panel, key | {"paraphrases": MUTED}, "layer")


_LEAST: Final = 40
"""The lowest fluency that is drawn apart."""
TRADED: Final = ("difference in means", "constant, mse", "constant, ll", "PSR", BEST)


def trade(found: Mapping[str, Any], numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Trait against fluency over the strengths on dev questions; rings mark the strength chosen."""

    def panel(part: Mapping[str, Any]) -> Iterator[str]:
        name = next(own for own, other in found.items() if other is part)
        means = numbers[name]["prompt"]["means"]

        def point(trait: float, fluency: float) -> tuple[float, float]:
            # What is less fluent lies on the lower edge.
            return across(trait / 100), up((max(fluency, _LEAST) - _LEAST) / (100 - _LEAST))

        for value in (_LEAST, 60, 80, 100):
            yield rule(point(0, value)[1], str(value))
        for value in (0, 50, 100):
            yield under(across(value / 100), str(value))
        for label in TRADED:
            own = part["methods"].get(label)
            if own is None:
                continue
            curve = [(row["alpha"], *point(row["trait"], row["fluency"])) for row in own["dev"]]
            yield line([(x, y) for _, x, y in curve], COLOURS[label])
            for alpha, x, y in curve:
                ring = alpha == own["alpha"]
                yield (
                    f'<circle cx="{x}" cy="{y}" r="{4 if ring else 1.8}" '
                    f'fill="{"none" if ring else COLOURS[label]}" stroke="{COLOURS[label]}"/>'
                )
        for kind, mark in (("prompt, dev", "prompt"), ("base", "base")):
            x, y = point(means[kind]["trait"][0], means[kind]["fluency"][0])
            yield f'<path d="M{x - 4} {y}h8M{x} {y - 4}v8" stroke="{INK}" stroke-width="1.6"/>'
            side, away = ("end", -6) if x > WIDTH / 2 else ("start", 6)
            # On two sides, as the two may lie close together.
            below = y + (12 if mark == "prompt" else -5)
            yield (
                f'<text x="{x + away}" y="{below}" text-anchor="{side}" fill="{INK}" '
                f'font-size="9">{mark}</text>'
            )

    key = {label: COLOURS[label] for label in TRADED}
    return sheet(found, panel, key, "trait (up: fluency)")


_TEXT, _ROW, _CHAR, _INDENT, _ACROSS = 12, 22, 6.6, 96, 900


def heatmaps(found: Mapping[str, Any]) -> str:
    """What prompt, constant and PSR add to every token of one answer, as colour behind the token."""
    parts: list[str] = []
    y = 20.0
    for name, part in found.items():
        parts.append(
            f'<text x="4" y="{y}" fill="{INK}" font-weight="600">{escape(name)}, layer '
            f"{part['layer']}: {escape(part['question'])}</text>"
        )
        y += 10
        for label, values in part["added"].items():
            colour = MUTED if label == "prompt" else COLOURS[label]
            most = max([*values, 1e-9])
            parts.append(f'<text x="4" y="{y + 14}" fill="{PALE}" font-size="11">{label}</text>')
            x = float(_INDENT)
            for token, value in zip(part["tokens"], values, strict=True):
                text = token.replace("\n", "⏎")
                width = max(len(text), 1) * _CHAR + 3
                if x + width > _ACROSS:
                    x, y = float(_INDENT), y + _ROW
                share = min(value / most, 1.0)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.0f}" width="{width - 1:.1f}" height="{_ROW - 4}" '
                    f'fill="{colour}" fill-opacity="{0.6 * share:.2f}"/>'
                    f'<text x="{x + 1:.1f}" y="{y + 13:.0f}" fill="{INK}" xml:space="preserve" '
                    f'font-family="monospace" font-size="11">{escape(text)}</text>'
                )
                x += width
            y += _ROW + 3
        y += 22
    return svg(_ACROSS, y, parts)


def _is_wording(name: str) -> bool:
    return name.startswith("paraphrase") and name != "paraphrase"
