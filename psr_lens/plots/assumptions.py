"""What a prompt's push looks like: how many directions, how even, how readable."""

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from psr_lens.assumptions import AssumptionReport
from psr_lens.deltas import Kind
from psr_lens.plots.labels import LineEnd, label_lines, named_lines_layout
from psr_lens.plots.text import interval_hover, plotly_text
from psr_lens.plots.theme import INK, MUTED, POSITIVE, line_colour, template
from psr_lens.statistics import Curve

if TYPE_CHECKING:
    import plotly.graph_objects

_HEIGHT: Final = 440
_LINES: Final = (
    ("energy along 8 directions", "energy_share", 8, "solid", "●"),
    ("energy along 1 direction (3.1)", "energy_share", 1, "solid", "●"),
    ("energy of the mean (3.2)", "mean_energy_share", 0, "solid", "●"),
    ("strength, ReLU probe (3.2a)", "relu_r2", 0, "dash", "- -"),
    ("strength, linear probe", "linear_r2", 0, "dot", "···"),
)
_COUNTS: Final = (1, 2, 4, 8, 16, 32, 64)
_MAX_COLUMNS: Final = 3
# R^2 has no lower bound; below this a line says no more than "worse than a constant".
_LOWEST: Final = -0.3


def assumption_curves(
    report: AssumptionReport, *, title: str = "What the prompt adds, layer by layer"
) -> "plotly.graph_objects.Figure":
    """The three assumptions over the layers, each as a share that would be 1 if it held exactly.

    Solid: the share of the deltas' energy along the leading singular direction, along eight of them, and
    in the mean delta, which is all that a constant vector can express. Broken: the share of the
    strength's variance that a probe on the activation explains on held-out examples. Bands are the
    95 % bootstrap intervals.

    Args:
        report: What `measure_assumptions` found.
        title: A heading.

    Returns:
        A plotly figure. Values below -0.3 are drawn at -0.3; the hover text has the number.
    """
    from plotly import graph_objects as go

    figure = go.Figure()
    ends, names = [], []
    lowest = 0.0
    for number, (name, measure, at, dash, mark) in enumerate(_LINES):
        curve = report.curve(measure, at=at)
        # An overview without held-out examples has no probes.
        if all(math.isnan(value) for value in curve.values):
            continue
        colour = line_colour(number)
        _add_line(figure, name, curve, colour, dash)
        lowest = min(lowest, *(max(low, _LOWEST) for low in curve.low if not math.isnan(low)), 0.0)
        ends.append(LineEnd(name, max(curve.values[-1], _LOWEST), colour, mark))
        names.append(name)
    span = (lowest - 0.03, 1.03)
    label_lines(figure, ends, span, _HEIGHT - 108)
    figure.update_layout(
        **named_lines_layout(title, names, _HEIGHT),
        xaxis=_layer_axis(report.layers),
        yaxis={
            "title": "share (100%: the assumption is exact)",
            "range": list(span),
            "tickformat": ".0%",
        },
    )
    return figure


def spectrum_shares(
    report: AssumptionReport, *, title: str = "How many directions does the prompt use?"
) -> "plotly.graph_objects.Figure":
    """Share of the deltas' energy along the top singular directions, layers by number of directions.

    Args:
        report: What `measure_assumptions` found.
        title: A heading.

    Returns:
        A plotly figure: a heatmap of cumulative shares for each kind of delta, layers upwards.
    """
    from plotly.subplots import make_subplots

    kinds: tuple[Kind, ...] = ("local", "accumulated")
    headings = {
        "local": "local: what the layer must still add",
        "accumulated": "accumulated: all that the prompt changed",
    }
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=[headings[kind] for kind in kinds],
    )
    for column, kind in enumerate(kinds, start=1):
        ranks = report.places("singular_energy", kind=kind)
        by_rank = [report.curve("singular_energy", kind=kind, at=rank).values for rank in ranks]
        summed = list(accumulate(by_rank, lambda a, b: tuple(map(sum, zip(a, b, strict=True)))))
        counts = [count for count in _COUNTS if count <= len(ranks)]
        shares = [[summed[count - 1][row] for count in counts] for row in range(len(by_rank[0]))]
        figure.add_heatmap(
            x=[str(count) for count in counts],
            y=[str(layer) for layer in report.layers],
            z=shares,
            text=[[f"{share:.0%}" for share in row] for row in shares],
            texttemplate="%{text}",
            # Light enough at its end for the numbers in the cells.
            colorscale=[[0, "#ffffff"], [1, POSITIVE]],
            textfont={"color": INK},
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            showscale=False,
            hovertemplate=(
                "layer %{y}: the top %{x} directions hold %{z:.1%} of the energy<extra></extra>"
            ),
            row=1,
            col=column,
        )
    figure.update_xaxes(title="number of directions", type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_yaxes(title="layer", col=1)
    figure.update_annotations(font={"size": 13, "color": MUTED})
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=190 + 28 * min(len(report.layers), 40),
        margin={"t": 84},
    )
    return figure


def strength_classes(
    report: AssumptionReport, *, title: str = "Where does the prompt push?"
) -> "plotly.graph_objects.Figure":
    """The strength over the layers, one panel per class of tokens, on a common scale.

    The strength is the projection of the delta on the layer's leading direction. Line: the median
    token. Dark band: the middle half of the tokens. Light band: all but the 5 % at either end.

    Args:
        report: What `measure_assumptions` found.
        title: A heading.

    Returns:
        A plotly figure.
    """
    from plotly.subplots import make_subplots

    classes = report.token_classes
    columns = 2 if len(classes) == 4 else min(len(classes), _MAX_COLUMNS)
    rows = -(-len(classes) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.05,
        vertical_spacing=0.3 / rows,
        subplot_titles=[_class_heading(report, name) for name in classes],
    )
    for number, name in enumerate(classes):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        _add_fan(figure, report, name, place)
    figure.update_xaxes(_layer_axis(report.layers))
    ends = [
        value
        for name in classes
        for at in (5, 95)
        for value in report.curve("strength_quantile", token_class=name, at=at).values
    ]
    pad = 0.05 * (max(ends) - min(ends)) or 1.0
    figure.update_yaxes(
        range=[min(0.0, *ends) - pad, max(0.0, *ends) + pad],
        zeroline=True,
        zerolinecolor=MUTED,
        zerolinewidth=1,
    )
    figure.update_yaxes(title="strength", col=1)
    note = "line: the median token; bands: the middle half, and all but 5 % at either end"
    note = f'<span style="font-size:13px;color:{MUTED}">{note}</span>'
    figure.update_annotations(font={"size": 13, "color": MUTED})
    figure.update_layout(
        template=template(),
        title={"text": f"{plotly_text(title)}<br>{note}"},
        height=150 + 230 * rows,
        showlegend=False,
        margin={"t": 94},
    )
    return figure


def _class_heading(report: AssumptionReport, name: str) -> str:
    count = int(report.curve("tokens", token_class=name).values[0])
    return f"{plotly_text(name)} ({count:,} {'token' if count == 1 else 'tokens'})"


def _layer_axis(layers: tuple[int, ...]) -> dict[str, Any]:
    low, high = layers[0], layers[-1]
    step = max(1, (high - low + 1) // 12)
    return {"title": "layer", "dtick": step, "tick0": 0, "range": [low - 0.3, high + 0.3]}


def _add_line(
    figure: "plotly.graph_objects.Figure", name: str, curve: Curve, colour: str, dash: str
) -> None:
    shown = [max(value, _LOWEST) for value in curve.values]
    if not any(math.isnan(low) for low in curve.low):
        low, high = ([max(v, _LOWEST) for v in own] for own in (curve.low, curve.high))
        _add_band(figure, curve.layers, low, high, _rgba(colour, 0.13))
    figure.add_scatter(
        x=list(curve.layers),
        y=shown,
        customdata=list(zip(curve.values, curve.low, curve.high, strict=True)),
        mode="lines+markers",
        line={"color": colour, "width": 2.5, "dash": dash},
        marker={"color": colour, "size": 6 if len(shown) > 1 else 9},
        name=plotly_text(name),
        hovertemplate=(
            f"<b>{plotly_text(name)}</b><br>layer %{{x}}: %{{customdata[0]:.1%}}"
            + interval_hover(curve.low, " (95 % %{customdata[1]:.1%} to %{customdata[2]:.1%})")
            + "<extra></extra>"
        ),
    )


def _add_fan(
    figure: "plotly.graph_objects.Figure",
    report: AssumptionReport,
    name: str,
    place: dict[str, int],
) -> None:
    quantile = {
        at: report.curve("strength_quantile", token_class=name, at=at).values
        for at in (5, 25, 50, 75, 95)
    }
    for low, high, share in ((5, 95, 0.25), (25, 75, 0.55)):
        fill = _rgba(POSITIVE, share)
        _add_band(figure, report.layers, quantile[low], quantile[high], fill, **place)
    energy = report.curve("class_energy_share", token_class=name).values
    figure.add_scatter(
        x=list(report.layers),
        y=list(quantile[50]),
        customdata=list(zip(quantile[5], quantile[95], energy, strict=True)),
        mode="lines+markers",
        line={"color": "#6b2300", "width": 2},
        marker={"size": 5},
        hovertemplate=(
            f"<b>{plotly_text(name)}</b><br>layer %{{x}}: median %{{y:.3g}}, 5 to 95 % "
            "%{customdata[0]:.3g} to %{customdata[1]:.3g}<br>%{customdata[2]:.0%} of the energy"
            "<extra></extra>"
        ),
        **place,
    )


def _add_band(
    figure: "plotly.graph_objects.Figure",
    layers: tuple[int, ...],
    low: Any,
    high: Any,
    fill: str,
    **place: int,
) -> None:
    # A band over a single layer would have no width.
    single = len(layers) == 1
    x = [layers[0] - 0.1, layers[0] + 0.1] if single else list(layers)
    lows, highs = (list(own) * 2 if single else list(own) for own in (low, high))
    figure.add_scatter(
        x=x + x[::-1],
        y=highs + lows[::-1],
        mode="lines",
        fill="toself",
        fillcolor=fill,
        line={"width": 0},
        hoverinfo="skip",
        **place,
    )


def _rgba(colour: str, share: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"
