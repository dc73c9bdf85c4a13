"""The pictures of `docs/findings.md`: distance to the prompt over the layers, a panel per instruction.

Plain SVG, written as text: it scales, it diffs, and nothing has to be installed to draw it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.findings_tables import best_constant, psr_of
from psr_lens.plots.theme import MUTED, line_colour

_WIDTH, _HEIGHT, _COLUMNS, _TOP = 184, 150, 5, 34
_LEFT, _RIGHT, _UNDER, _OVER = 30, 10, 22, 22
_CEILING = 1.2
STEERINGS = ("best constant", "PSR", "PSR, 4 heads")


def picture(traits: Mapping[str, Mapping[str, Any]]) -> str:
    """Relative RMSE by layer of three steerings, with 95 % intervals, and the band of paraphrases."""
    rows = -(-len(traits) // _COLUMNS)
    width, height = _WIDTH * _COLUMNS, _TOP + _HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_key(),
    ]
    for number, (name, trait) in enumerate(traits.items()):
        x, y = _WIDTH * (number % _COLUMNS), _TOP + _HEIGHT * (number // _COLUMNS)
        curves = dict(trait["faithfulness"]["curves"]["relative_rmse"])
        curves["best constant"] = curves[best_constant(trait)]
        curves["PSR"] = curves[psr_of(trait)]
        parts += [f'<g transform="translate({x} {y})">', *_panel(name, curves), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _key() -> list[str]:
    colours = [*map(line_colour, range(len(STEERINGS))), MUTED]
    parts = []
    for i, (text, colour) in enumerate(zip((*STEERINGS, "paraphrases"), colours, strict=True)):
        x = _LEFT + 120 * i
        parts.append(f'<rect x="{x}" y="10" width="16" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="18" fill="#333333">{text}</text>')
    return parts


def _panel(name: str, curves: Mapping[str, Any]) -> list[str]:
    layers = len(curves["PSR"]["values"])
    wordings = [
        own["values"]
        for key, own in curves.items()
        if key.startswith("paraphrase") and key != "paraphrase"
    ]
    low, high = ([pick(own) for own in zip(*wordings, strict=True)] for pick in (min, max))
    parts = [f'<text x="{_LEFT}" y="14" fill="#333333" font-weight="600">{name}</text>']
    for value in (0.0, 0.5, 1.0):
        y = _y(value)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#dddddd"/>'
            f'<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end" fill="#666666">{value:g}</text>'
        )
    for layer in range(layers):
        x = _x(layer, layers)
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - 6}" text-anchor="middle" fill="#666666">{layer}</text>'
        )
    parts.append(_band(low, high, MUTED, 0.45))
    for i, steering in enumerate(STEERINGS):
        own, colour = curves[steering], line_colour(i)
        parts.append(_band(own["low"], own["high"], colour, 0.25))
        points = " ".join(
            f"{_x(layer, layers)},{_y(value)}" for layer, value in enumerate(own["values"])
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    return parts


def _band(low: Sequence[float], high: Sequence[float], colour: str, opacity: float) -> str:
    layers = len(low)
    over = [f"{_x(i, layers)},{_y(value)}" for i, value in enumerate(high)]
    under = [f"{_x(i, layers)},{_y(value)}" for i, value in enumerate(low)][::-1]
    points = " ".join([*over, *under])
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="{opacity}"/>'


def _x(layer: int, layers: int) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * layer / max(layers - 1, 1), 1)


def _y(value: float) -> float:
    share = min(value, _CEILING) / _CEILING
    return round(_OVER + (_HEIGHT - _OVER - _UNDER) * (1 - share), 1)
