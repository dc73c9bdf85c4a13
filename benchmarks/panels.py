"""Small curves side by side, one panel for each instruction, as SVG text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

WIDTH, _HEIGHT, _TOP = 224, 176, 34
_LEFT, _RIGHT, _UNDER, _OVER = 34, 12, 30, 24
INK, PALE, _GRID = "#333333", "#666666", "#dddddd"


def sheet(
    found: Mapping[str, Any],
    panel: Callable[[Mapping[str, Any]], Iterator[str]],
    key: Mapping[str, str],
    below: str,
    columns: int = 4,
) -> str:
    """One panel per instruction, under a key.

    Args:
        found: The numbers of each, by name.
        panel: Draws them.
        key: Colours, by what they stand for.
        below: What is measured from left to right.
        columns: Panels in a row.
    """
    rows = -(-len(found) // columns)
    parts = []
    x = float(_LEFT)
    for label, colour in key.items():
        parts.append(f'<rect x="{x}" y="10" width="16" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{x + 22}" y="18" fill="{INK}">{escape(label)}</text>')
        x += 46 + 6.2 * len(label)
    for number, (name, part) in enumerate(found.items()):
        place = WIDTH * (number % columns), _TOP + _HEIGHT * (number // columns)
        parts.append(f'<g transform="translate({place[0]} {place[1]})">')
        parts.append(f'<text x="{_LEFT}" y="14" fill="{INK}" font-weight="600">{name}</text>')
        parts += panel(part)
        parts.append(
            f'<text x="{WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end" fill="{PALE}" '
            f'font-size="9">{below}</text></g>'
        )
    return svg(WIDTH * columns, _TOP + _HEIGHT * rows, parts)


def svg(width: float, height: float, parts: Sequence[str]) -> str:
    """A picture of these parts, on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        'font-family="system-ui, sans-serif" font-size="11">'
    )
    back = f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"


def rule(y: float, text: str) -> str:
    """A horizontal line across a panel, with its value at the left."""
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT - 5}" y="{y + 4}" text-anchor="end" fill="{PALE}">{text}</text>'
    )


def under(x: float, text: str) -> str:
    """A value below a panel."""
    y = _HEIGHT - _UNDER + 14
    return f'<text x="{x}" y="{y}" text-anchor="middle" fill="{PALE}">{text}</text>'


def line(points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
    """A curve through points, dashed as `stroke-dasharray` says."""
    path = " ".join(f"{x},{y}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashed}/>'


def band(
    low: Sequence[float],
    high: Sequence[float],
    x: Callable[[int], float],
    y: Callable[[float], float],
    colour: str,
    opacity: float,
) -> str:
    """What lies between two curves."""
    there = [f"{x(i)},{y(value)}" for i, value in enumerate(high)]
    back = [f"{x(i)},{y(value)}" for i, value in enumerate(low)][::-1]
    return (
        f'<polygon points="{" ".join([*there, *back])}" fill="{colour}" fill-opacity="{opacity}"/>'
    )


def across(share: float) -> float:
    """From the left end, 0, to the right one, 1, of a panel."""
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * share, 1)


def up(share: float) -> float:
    """From the lower end, 0, to the upper one, 1, of a panel."""
    return round(_OVER + (_HEIGHT - _OVER - _UNDER) * (1 - share), 1)
