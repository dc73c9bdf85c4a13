"""One palette and one typography for every picture: colours, the plotly template, the style sheet.

Values are drawn as heat: zero is white, positive values turn orange, negative ones blue. Orange and
blue differ in lightness order and hue for every common form of colour blindness, and both are light
enough that black text stays legible on the strongest of them. Lines take the Okabe-Ito colours.

circuitsvis mixes a token's colour linearly in CIE Lab; legends are mixed in the same space.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import plotly.graph_objects

POSITIVE: Final = "#f0803c"
"""The colour of the largest positive value on a token."""
NEGATIVE: Final = "#56b4e9"
"""The colour of the largest negative value on a token."""
INK: Final = "#1d2430"
"""Text."""
MUTED: Final = "#5b6472"
"""Secondary text and reference lines; contrast 6 to 1 on white."""
GRID: Final = "#e4e7ec"
"""Grid lines and borders."""
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

LINES: Final = ("#d55e00", "#0072b2", "#009e73", "#562d80", "#1d2430", "#731700")
"""Line colours in the order of use: three of Okabe-Ito, then those that stay furthest from them
and from each other under each form of colour blindness. All reach a contrast of 3 on white."""

METHODS: Final = {
    "psr": LINES[0],
    "const": LINES[1],
    "difference in means": LINES[2],
    "dim": LINES[2],
}
"""How names of lines begin, in lower case, and the colour that these have in every figure."""

SEQUENTIAL: Final = ((0.0, "#ffffff"), (0.5, POSITIVE), (1.0, "#6b2300"))
"""plotly scale for values that are never negative; cells carry no text, so it may end dark."""
DIVERGING: Final = (
    (0.0, "#0b3c6f"),
    (0.25, NEGATIVE),
    (0.5, "#ffffff"),
    (0.75, POSITIVE),
    (1.0, "#6b2300"),
)
"""plotly scale for signed values, white at zero when the bounds are symmetric."""


def translucent(colour: str, share: float) -> str:
    """A colour that lets through what is behind it.

    Args:
        colour: `#rrggbb`.
        share: 1 hides what is behind, 0 is invisible.
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def line_colour(index: int) -> str:
    """The colour of line number `index`; the palette repeats."""
    return LINES[index % len(LINES)]


def template() -> "plotly.graph_objects.layout.Template":
    """The plotly template of every figure: white paper, light grid, the page's font."""
    from plotly import graph_objects as go

    axis = {
        "gridcolor": GRID,
        "zerolinecolor": GRID,
        "linecolor": "#c3c9d2",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#c3c9d2",
        "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {
                "font": {"size": 16},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "pad": {"l": 12},
            },
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "colorway": list(LINES),
            "colorscale": {
                "sequential": [list(stop) for stop in SEQUENTIAL],
                "diverging": [list(stop) for stop in DIVERGING],
            },
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "bgcolor": "white",
                "bordercolor": GRID,
                "font": {"color": INK, "family": FONT},
            },
            "margin": {"l": 64, "r": 24, "t": 48, "b": 56},
        }
    )


@cache
def style_sheet() -> str:
    """The style sheet shared by token heatmaps and reports."""
    return (Path(__file__).parent / "assets" / "style.css").read_text(encoding="utf-8")


def named_colours(names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """A colour for every name: the given one, its method's, or the next free one of the palette.

    A method has one colour in every figure; the first of its names there gets it.
    """
    found: dict[str, str] = {}
    for name in names:
        of_method = next((c for words, c in METHODS.items() if name.lower().startswith(words)), "")
        colour = (given or {}).get(name, of_method)
        if colour and (name in (given or {}) or colour not in found.values()):
            found[name] = colour
    free = [own for own in LINES if own not in found.values()] or list(LINES)
    rest = [name for name in names if name not in found]
    found |= {name: free[i % len(free)] for i, name in enumerate(rest)}
    return {name: found[name] for name in names}
