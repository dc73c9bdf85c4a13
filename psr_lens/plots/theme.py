"""One palette and one typography for every picture: colours, the plotly template, the style sheet.

Values are drawn as heat: zero is white, positive values turn orange, negative ones blue. Orange and
blue differ in lightness order and hue for every common form of colour blindness, and both are light
enough that black text stays legible on the strongest of them. Lines take the Okabe-Ito colours.

The mixing below is the one that circuitsvis uses (linear in CIE Lab, D50), so that legends, the
script-free pictures and plotly's heatmaps show exactly the colour that a token has.
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
"""What the name of a line begins with, in lower case, whose colour is the same in every figure."""

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

_D50: Final = (96.422, 100.0, 82.521)
_EPSILON: Final = 216 / 24389
_KAPPA: Final = 24389 / 27


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _gamma(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def _to_lab(colour: str) -> tuple[float, float, float]:
    red, green, blue = (_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    # sRGB to XYZ (D65), then the Bradford adaptation to D50, as CSS Color 4 gives them.
    x65 = 0.4124564 * red + 0.3575761 * green + 0.1804375 * blue
    y65 = 0.2126729 * red + 0.7151522 * green + 0.0721750 * blue
    z65 = 0.0193339 * red + 0.1191920 * green + 0.9503041 * blue
    x = 1.0478112 * x65 + 0.0228866 * y65 - 0.0501270 * z65
    y = 0.0295424 * x65 + 0.9904844 * y65 - 0.0170491 * z65
    z = -0.0092345 * x65 + 0.0150436 * y65 + 0.7521316 * z65
    fx, fy, fz = (
        ratio ** (1 / 3) if ratio > _EPSILON else (_KAPPA * ratio + 16) / 116
        for ratio in (100 * x / _D50[0], 100 * y / _D50[1], 100 * z / _D50[2])
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def _from_lab(lab: tuple[float, float, float]) -> str:
    lightness, a, b = lab
    fy = (lightness + 16) / 116
    fx, fz = fy + a / 500, fy - b / 200
    x, y, z = (
        white / 100 * (f**3 if f**3 > _EPSILON else (116 * f - 16) / _KAPPA)
        for f, white in zip((fx, fy, fz), _D50, strict=True)
    )
    x65 = 0.9555766 * x - 0.0230393 * y + 0.0631636 * z
    y65 = -0.0282895 * x + 1.0099416 * y + 0.0210077 * z
    z65 = 0.0122982 * x - 0.0204830 * y + 1.3299098 * z
    channels = (
        3.2404542 * x65 - 1.5371385 * y65 - 0.4985314 * z65,
        -0.9692660 * x65 + 1.8760108 * y65 + 0.0415560 * z65,
        0.0556434 * x65 - 0.2040259 * y65 + 1.0572252 * z65,
    )
    return "#" + "".join(
        f"{round(255 * min(max(_gamma(max(channel, 0.0)), 0.0), 1.0)):02x}" for channel in channels
    )


@cache
def tint(colour: str, share: float) -> str:
    """A colour between white and `colour`, mixed in CIE Lab.

    Args:
        colour: The full colour, `#rrggbb`.
        share: 0 is white, 1 is `colour`; values outside are clamped.
    """
    share = min(max(share, 0.0), 1.0)
    white, full = _to_lab("#ffffff"), _to_lab(colour)
    mixed = tuple(w + share * (f - w) for w, f in zip(white, full, strict=True))
    return _from_lab((mixed[0], mixed[1], mixed[2]))


def value_colour(value: float, low: float, high: float) -> str:
    """The background of a token: white at 0, `POSITIVE` at `high`, `NEGATIVE` at `low`.

    Args:
        value: The number to show.
        low: Where the negative colour is full; 0 where no value is negative.
        high: Where the positive colour is full.
    """
    # A resolution of 1/256 is below what can be seen and lets the cache work.
    if value >= 0:
        return tint(POSITIVE, round(256 * value / high) / 256 if high > 0 else 0.0)
    return tint(NEGATIVE, round(256 * value / low) / 256 if low < 0 else 0.0)


def translucent(colour: str, share: float) -> str:
    """A colour that lets through what is behind it.

    Args:
        colour: `#rrggbb`.
        share: 1 hides what is behind, 0 is invisible.
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def line_colour(index: int) -> str:
    """The colour of the line number `index`; the palette repeats after its end."""
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
    """A colour for every name: the given one, its method's, or the next of the palette that is free.

    A method has one colour in every figure, which the first of its names there gets.
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
