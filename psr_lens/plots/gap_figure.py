"""Where the distance to the prompt comes from, as bars over the layers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from psr_lens.plots.text import interval_hover, plotly_text
from psr_lens.plots.theme import INK, LINES, MUTED, template
from psr_lens.statistics import Curve

if TYPE_CHECKING:
    import plotly.graph_objects

_HEIGHT: Final = 420
_PARTS: Final = (
    ("gap_coefficient", "wrong strength", LINES[1]),
    ("gap_direction", "outside of its directions", LINES[0]),
    ("gap_uncovered", "where it does not act", "#9aa3b0"),
    ("gap_propagation", "what blocks make of errors below", LINES[2]),
)


def gap_bars(
    parts: Mapping[str, Curve], total: Curve, name: str, *, title: str | None = None
) -> "plotly.graph_objects.Figure":
    """Where a steering's squared distance to the prompt comes from, as bars over the layers.

    The bars add up to the squared relative RMSE, which is drawn as a diamond. A bar below zero makes the
    distance smaller: blocks undo errors of updates below them.

    Args:
        parts: `gap_coefficient`, `gap_direction`, `gap_uncovered`, `gap_propagation`.
        total: Relative RMSE.
        name: The steering.
        title: A heading in place of the usual one.
    """
    from plotly import graph_objects as go

    figure = go.Figure()
    for key, label, colour in _PARTS:
        curve = parts[key]
        figure.add_bar(
            x=list(range(len(curve.values))),
            y=list(curve.values),
            name=label,
            marker={"color": colour, "line": {"color": "white", "width": 1}},
            customdata=list(zip(curve.low, curve.high, strict=True)),
            hovertemplate=(
                f"<b>{label}</b><br>layer %{{x}}: %{{y:.4f}}"
                + interval_hover(curve.low, " (95 % %{customdata[0]:.4f} to %{customdata[1]:.4f})")
                + "<extra></extra>"
            ),
        )
    figure.add_scatter(
        x=list(range(len(total.values))),
        y=[value**2 for value in total.values],
        mode="markers",
        name="squared relative RMSE",
        marker={"symbol": "diamond", "size": 10, "color": INK, "line": {"color": "white"}},
        hovertemplate="<b>squared relative RMSE</b><br>layer %{x}: %{y:.4f}<extra></extra>",
    )
    heading = f"Why {name} is not the prompt" if title is None else title
    figure.update_layout(
        template=template(),
        barmode="relative",
        bargap=0.35,
        title={"text": plotly_text(heading)},
        height=_HEIGHT,
        margin={"t": 52, "b": 108},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "traceorder": "normal"},
        xaxis={"title": "layer", "dtick": max(1, len(total.values) // 12), "showgrid": False},
        yaxis={"title": "part of the squared relative RMSE", "zerolinecolor": MUTED},
    )
    return figure
