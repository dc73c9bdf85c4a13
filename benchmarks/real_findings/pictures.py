"""The pictures of `docs/real-model.md`, as SVG text: distances, trait against fluency, heatmaps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from benchmarks.real_findings.tables import BEST, CONSTANTS, PSRS, closest, of_instructions
from psr_lens.plots.theme import MUTED, line_colour

_COLUMNS, _WIDTH, _HEIGHT, _TOP = 4, 224, 176, 34
_LEFT, _RIGHT, _UNDER, _OVER = 34, 12, 30, 24
_CEILING: Final = 1.2
_INK, _PALE, _GRID = "#333333", "#666666", "#dddddd"
COLOURS: Final = {
    "PSR": line_colour(0),
    "constant, mse": line_colour(1),
    "difference in means": line_colour(2),
    BEST: line_colour(3),
    "constant, ll": line_colour(4),
}
"""As in all figures, as far as they have the method."""


def drawn(numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Every picture for which there are numbers, by name."""
    pictures: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
        "distances": ("distances", distances),
        "trade": ("behaviour", lambda found: trade(found, numbers)),
        "heatmaps": ("heatmap", heatmaps),
    }
    parts = {
        name: (of_instructions(numbers, part), draw) for name, (part, draw) in pictures.items()
    }
    return {name: draw(found) for name, (found, draw) in parts.items() if found}


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
            return _x(layer / (layers - 1))

        def y(value: float) -> float:
            return _y(min(value, _CEILING) / _CEILING)

        for value in (0.0, 0.5, 1.0):
            yield _rule(y(value), f"{value:g}")
        for layer in range(0, layers, 10):
            yield _under(x(layer), str(layer))
        yield _under(x(layers - 1), str(layers - 1))
        yield _band(
            [min(v) for v in zip(*lines, strict=True)],
            [max(v) for v in zip(*lines, strict=True)],
            x,
            y,
            MUTED,
            0.45,
        )
        for label, colour in zip(own, key.values(), strict=True):
            curve = curves[label]
            yield _band(curve["low"], curve["high"], x, y, colour, 0.25)
            yield _line([(x(k), y(v)) for k, v in enumerate(curve["values"])], colour)

    return _sheet(found, panel, key | {"paraphrases": MUTED}, "layer")


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
            return _x(trait / 100), _y((max(fluency, _LEAST) - _LEAST) / (100 - _LEAST))

        for value in (_LEAST, 60, 80, 100):
            yield _rule(point(0, value)[1], str(value))
        for value in (0, 50, 100):
            yield _under(_x(value / 100), str(value))
        for label in TRADED:
            own = part["methods"].get(label)
            if own is None:
                continue
            curve = [(row["alpha"], *point(row["trait"], row["fluency"])) for row in own["dev"]]
            yield _line([(x, y) for _, x, y in curve], COLOURS[label])
            for alpha, x, y in curve:
                ring = alpha == own["alpha"]
                yield (
                    f'<circle cx="{x}" cy="{y}" r="{4 if ring else 1.8}" '
                    f'fill="{"none" if ring else COLOURS[label]}" stroke="{COLOURS[label]}"/>'
                )
        for kind, mark in (("prompt, dev", "prompt"), ("base", "base")):
            x, y = point(means[kind]["trait"][0], means[kind]["fluency"][0])
            yield f'<path d="M{x - 4} {y}h8M{x} {y - 4}v8" stroke="{_INK}" stroke-width="1.6"/>'
            side, away = ("end", -6) if x > _WIDTH / 2 else ("start", 6)
            yield (
                f'<text x="{x + away}" y="{y + 12}" text-anchor="{side}" fill="{_INK}" '
                f'font-size="9">{mark}</text>'
            )

    key = {label: COLOURS[label] for label in TRADED}
    return _sheet(found, panel, key, "trait (up: fluency)")


_TEXT, _ROW, _CHAR, _INDENT, _ACROSS = 12, 22, 6.6, 96, 900


def heatmaps(found: Mapping[str, Any]) -> str:
    """What prompt, constant and PSR add to every token of one answer, as colour behind the token."""
    parts: list[str] = []
    y = 20.0
    for name, part in found.items():
        parts.append(
            f'<text x="4" y="{y}" fill="{_INK}" font-weight="600">{escape(name)}, layer '
            f"{part['layer']}: {escape(part['question'])}</text>"
        )
        y += 10
        for label, values in part["added"].items():
            colour = MUTED if label == "prompt" else COLOURS[label]
            most = max([*values, 1e-9])
            parts.append(f'<text x="4" y="{y + 14}" fill="{_PALE}" font-size="11">{label}</text>')
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
                    f'<text x="{x + 1:.1f}" y="{y + 13:.0f}" fill="{_INK}" xml:space="preserve" '
                    f'font-family="monospace" font-size="11">{escape(text)}</text>'
                )
                x += width
            y += _ROW + 3
        y += 22
    return _svg(_ACROSS, y, parts)


def _is_wording(name: str) -> bool:
    return name.startswith("paraphrase") and name != "paraphrase"


def _sheet(
    found: Mapping[str, Any],
    panel: Callable[[Mapping[str, Any]], Iterator[str]],
    key: Mapping[str, str],
    across: str,
) -> str:
    """One panel per instruction, under a key."""
    rows = -(-len(found) // _COLUMNS)
    parts = []
    x = float(_LEFT)
    for label, colour in key.items():
        parts.append(f'<rect x="{x}" y="10" width="16" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="18" fill="{_INK}">{escape(label)}</text>')
        x += 46 + 6.2 * len(label)
    for number, (name, part) in enumerate(found.items()):
        place = _WIDTH * (number % _COLUMNS), _TOP + _HEIGHT * (number // _COLUMNS)
        parts.append(f'<g transform="translate({place[0]} {place[1]})">')
        parts.append(f'<text x="{_LEFT}" y="14" fill="{_INK}" font-weight="600">{name}</text>')
        parts += panel(part)
        parts.append(
            f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end" fill="{_PALE}" '
            f'font-size="9">{across}</text></g>'
        )
    return _svg(_WIDTH * _COLUMNS, _TOP + _HEIGHT * rows, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        'font-family="system-ui, sans-serif" font-size="11">'
    )
    back = f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"


def _rule(y: float, text: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end" fill="{_PALE}">{text}</text>'
    )


def _under(x: float, text: str) -> str:
    y = _HEIGHT - _UNDER + 14
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{_PALE}">{text}</text>'


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'


def _band(
    low: Sequence[float],
    high: Sequence[float],
    x: Callable[[int], float],
    y: Callable[[float], float],
    colour: str,
    opacity: float,
) -> str:
    over = [f"{x(i)},{y(value)}" for i, value in enumerate(high)]
    under = [f"{x(i)},{y(value)}" for i, value in enumerate(low)][::-1]
    return (
        f'<polygon points="{" ".join([*over, *under])}" fill="{colour}" fill-opacity="{opacity}"/>'
    )


def _x(share: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * share, 1)


def _y(share: float) -> float:
    return round(_OVER + (_HEIGHT - _OVER - _UNDER) * (1 - share), 1)
