"""Names written at the ends of lines, so that nobody has to match colours with a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psr_lens.plots.text import plotly_text
from psr_lens.plots.theme import INK, template

if TYPE_CHECKING:
    import plotly.graph_objects

_GAP = 17
_CHARACTER = 6.6


@dataclass(frozen=True)
class LineEnd:
    """Where a line ends on the right, and how it is named there.

    Attributes:
        name: Plain text.
        height: In units of the axis.
        colour: Of the mark before the name, `#rrggbb`.
        mark: A sample of the line.
    """

    name: str
    height: float
    colour: str
    mark: str = "●"


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart to at least `gap`, each group of neighbours around its own middle.

    The order is kept, and heights that already lie far enough apart do not move. (Isotonic
    regression of the heights minus rank times gap, by pooling adjacent violators.)

    >>> spread([0.0, 10.0, 10.0], 2.0)
    [0.0, 9.0, 11.0]
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    pools: list[list[int]] = []

    def bottom(pool: list[int]) -> float:
        middle = sum(heights[index] for index in pool) / len(pool)
        return middle - gap * (len(pool) - 1) / 2

    for index in order:
        pools.append([index])
        while len(pools) > 1:
            below, above = pools[-2], pools[-1]
            if bottom(above) - bottom(below) >= gap * len(below):
                break
            pools[-2:] = [below + above]
    placed = [0.0] * len(heights)
    for pool in pools:
        for rank, index in enumerate(pool):
            placed[index] = bottom(pool) + gap * rank
    return placed


def keep_below(heights: Sequence[float], top: float, gap: float) -> list[float]:
    """Heights pushed down until none is above `top` and neighbours still are `gap` apart.

    >>> keep_below([99.0, 90.0, 101.0], 100.0, 2.0)
    [98.0, 90.0, 100.0]
    """
    placed = list(heights)
    limit = top
    for index in sorted(range(len(heights)), key=lambda index: -heights[index]):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed


def keep_above(heights: Sequence[float], bottom: float, gap: float) -> list[float]:
    """Heights pushed up until none is below `bottom` and neighbours still are `gap` apart.

    >>> keep_above([1.0, 9.0, -1.0], 0.0, 2.0)
    [2.0, 9.0, 0.0]
    """
    return [-height for height in keep_below([-own for own in heights], -bottom, gap)]


def label_lines(
    figure: "plotly.graph_objects.Figure",
    ends: Sequence[LineEnd],
    span: tuple[float, float],
    plot_height: int,
) -> None:
    """Write every name beside the end of its line.

    Args:
        figure: Gets the labels, to the right of its plotting area.
        ends: The lines.
        span: Lowest and highest value of the axis.
        plot_height: Height of the plotting area in pixels.
    """
    gap = _GAP * (span[1] - span[0]) / plot_height
    heights = keep_above(spread([end.height for end in ends], gap), span[0], gap)
    heights = keep_below(heights, span[1], gap)
    for end, height in zip(ends, heights, strict=True):
        figure.add_annotation(
            x=1,
            xref="paper",
            xanchor="left",
            xshift=8,
            y=height,
            text=f'<span style="color:{end.colour}">{end.mark}</span> {plotly_text(end.name)}',
            showarrow=False,
            align="left",
            font={"size": 12, "color": INK},
        )


def label_margin(names: Sequence[str]) -> int:
    """Pixels to leave free on the right for the longest name."""
    return 40 + round(_CHARACTER * max((len(name) for name in names), default=0))


def named_lines_layout(title: str, names: Sequence[str], height: int) -> dict[str, Any]:
    """The layout, except for the axes, of a figure whose lines are named at their right ends."""
    return {
        "template": template(),
        "title": {"text": plotly_text(title)},
        "height": height,
        "showlegend": False,
        "hovermode": "closest",
        "margin": {"r": label_margin(names), "t": 52, "b": 56},
    }
