"""Pictures of a faithfulness report: measures over layers, outputs, and where the error comes from."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from psr_lens.faithfulness.curves import find_measure
from psr_lens.faithfulness.measures import HEADLINES
from psr_lens.plots.labels import LineEnd, label_lines, label_margin
from psr_lens.plots.text import escape, plotly_text
from psr_lens.plots.theme import GRID, INK, LINES, MUTED, line_colour, template, translucent

if TYPE_CHECKING:
    import plotly.graph_objects

    import psr_lens.faithfulness

_HEIGHT: Final = 420
_DASHES: Final = (
    ("dot", "···"),
    ("dash", "- -"),
    ("dashdot", "–·–"),
    ("longdash", "—"),
    ("longdashdot", "—·"),
    ("2px,6px", "· ·"),
)
_PARTS: Final = (
    ("gap_coefficient", "wrong strength", LINES[1]),
    ("gap_direction", "outside of its directions", LINES[0]),
    ("gap_uncovered", "where it does not act", "#9aa3b0"),
    ("gap_propagation", "what blocks make of errors below", LINES[2]),
)


@runtime_checkable
class Curve(Protocol):
    """One number per layer with its interval."""

    @property
    def values(self) -> Sequence[float]:
        """The estimate, one per layer."""
        ...

    @property
    def low(self) -> Sequence[float]:
        """Lower end of the 95 % bootstrap interval."""
        ...

    @property
    def high(self) -> Sequence[float]:
        """Upper end of the 95 % bootstrap interval."""
        ...


@runtime_checkable
class FaithfulnessCurves(Protocol):
    """What `faithfulness_curves` reads from a faithfulness report."""

    @property
    def relative_rmse(self) -> Mapping[str, Any]:
        """Steering name to `Curve`."""
        ...

    @property
    def reference(self) -> Mapping[str, Any]:
        """Name of a reference ("no steering", "equivalent prompt") to `Curve`."""
        ...


def faithfulness_curves(
    report: FaithfulnessCurves,
    *,
    title: str = "Distance to the prompted model, layer by layer",
    colours: Mapping[str, str] | None = None,
) -> "plotly.graph_objects.Figure":
    """Relative RMSE over layers: 0 is what the prompt does, 1 is no steering at all.

    Lines carry their names at the right end, in place of a legend; bands are the 95 % bootstrap
    intervals; references are grey and dashed. A steering that acts on one layer only (a curve
    whose optional attribute `layers` has one element) is marked there. Where the report has several
    `paraphrases`, the darker band reaches from the closest to the furthest of them.

    Args:
        report: `relative_rmse` and `reference` map names to curves with `values`, `low` and
            `high`, sequences over all layers (dimensionless).
        title: A heading.
        colours: Name to `#rrggbb`, for a method to look the same in several figures.

    Returns:
        A plotly figure.

    Raises:
        ValueError: If there is no curve, or a curve's values and intervals differ in length.
    """
    return _over_layers(
        report.relative_rmse,
        report.reference,
        getattr(report, "paraphrases", {}),
        axis=find_measure("relative_rmse").label,
        title=title,
        colours=colours,
    )


def faithfulness_figure(
    report: "psr_lens.faithfulness.FaithfulnessReport",
    measure: str = "relative_rmse",
    *,
    colours: Mapping[str, str] | None = None,
) -> "plotly.graph_objects.Figure":
    """Any measure of a report: over the layers, or one point per run for measures of the output.

    Args:
        report: What `measure_faithfulness` returned.
        measure: Name of the measure.
        colours: Name to `#rrggbb`.

    Raises:
        ValueError: If there is no such measure, or no run has it.
    """
    label = find_measure(measure).label
    steerings = report.curves(measure, "steering")
    references = report.curves(measure, "reference")
    if not steerings and not references:
        raise ValueError(
            f"{measure} was not measured: gap_... need a steering and gap=True, relative_kl, kl and "
            "agreement need outputs=True"
        )
    if find_measure(measure).sums[-1] in ("kl_unsteered", "predicted"):
        return _points(steerings, references, axis=label, colours=colours)
    return _over_layers(
        steerings,
        references,
        report.curves(measure, "paraphrase"),
        axis=label,
        title="Faithfulness to the prompt, layer by layer",
        colours=colours,
    )


def gap_bars(
    parts: Mapping[str, Curve], total: Curve, name: str, *, title: str | None = None
) -> "plotly.graph_objects.Figure":
    """Where a steering's squared distance to the prompt comes from, as bars over the layers.

    Bars above zero add up, with those below zero taken off, to the squared relative RMSE, which is
    drawn as a diamond. A bar below zero makes the distance smaller: blocks undo errors of pushes below
    them.

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
                f"<b>{label}</b><br>layer %{{x}}: %{{y:.4f}} "
                "(95 % %{customdata[0]:.4f} to %{customdata[1]:.4f})<extra></extra>"
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


def faithfulness_table(report: "psr_lens.faithfulness.FaithfulnessReport") -> str:
    """The measures at the last layer as an HTML table, one row per run."""
    curves = {measure: report.curves(measure) for measure in HEADLINES}
    columns = [measure for measure in HEADLINES if curves[measure]]
    head = "".join(f'<th scope="col">{escape(m.replace("_", " "))}</th>' for m in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(_cell(curves[measure].get(name)) for measure in columns)
        + "</tr>"
        for name in report.runs
    )
    return (
        '<div class="psr-scroll"><table class="psr-numbers"><thead><tr><th scope="col">run</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(curve: Any) -> str:
    if curve is None or math.isnan(curve.values[-1]):
        return "<td>–</td>"
    value, low, high = curve.values[-1], curve.low[-1], curve.high[-1]
    return f'<td title="95 % interval {low:.3f} to {high:.3f}">{value:.3f}</td>'


def _over_layers(
    steerings: Mapping[str, Any],
    references: Mapping[str, Any],
    paraphrases: Mapping[str, Any],
    *,
    axis: str,
    title: str,
    colours: Mapping[str, str] | None,
) -> "plotly.graph_objects.Figure":
    from plotly import graph_objects as go

    curves = {**references, **steerings}
    if not curves:
        raise ValueError("the report has no curve: measure at least one steering before plotting")
    for name, curve in curves.items():
        lengths = (len(curve.values), len(curve.low), len(curve.high))
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                f"{name!r} has {lengths} values, lower and upper ends; "
                "each needs one number per layer"
            )
    # A line that is nowhere defined, as the direction of doing nothing, is no line.
    curves = {name: curve for name, curve in curves.items() if _finite(curve.values)}
    figure = go.Figure()
    if paraphrases:
        columns = list(zip(*(own.values for own in paraphrases.values()), strict=True))
        _add_band(figure, [min(c) for c in columns], [max(c) for c in columns], MUTED, "wordings")
    ends = []
    for number, (name, curve) in enumerate(references.items()):
        if name not in curves:
            continue
        dash, mark = _DASHES[number % len(_DASHES)]
        _add_band(figure, curve.low, curve.high, MUTED, name)
        figure.add_scatter(**_line(name, curve, {"color": MUTED, "width": 2, "dash": dash}))
        ends.append(LineEnd(name, _finite(curve.values)[-1], MUTED, mark))
    palette = named_colours(list(steerings), colours)
    for name, curve in steerings.items():
        if name not in curves:
            continue
        colour = palette[name]
        _add_band(figure, curve.low, curve.high, colour, name)
        figure.add_scatter(**_line(name, curve, {"color": colour, "width": 2.5}))
        acts_on = tuple(getattr(curve, "layers", None) or ())
        if len(acts_on) == 1 and acts_on[0] < len(curve.values):
            figure.add_scatter(**_only_layer(name, acts_on[0], curve, colour))
        ends.append(LineEnd(name, _finite(curve.values)[-1], colour))
    top = 1.05 * max([1.0, *(x for curve in curves.values() for x in _finite(curve.high))])
    floor = min([0.0, *(1.05 * x for curve in curves.values() for x in _finite(curve.low))])
    n_layers = max(len(curve.values) for curve in curves.values())
    label_lines(figure, ends, (floor, top), _HEIGHT - 108)
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=_HEIGHT,
        showlegend=False,
        hovermode="closest",
        margin={"r": label_margin(list(curves)), "t": 52, "b": 56},
        xaxis={"title": "layer", "dtick": max(1, n_layers // 12), "range": [-0.2, n_layers - 0.9]},
        yaxis={"title": axis, "range": [floor, top]},
    )
    return figure


def _points(
    steerings: Mapping[str, Any],
    references: Mapping[str, Any],
    *,
    axis: str,
    colours: Mapping[str, str] | None,
) -> "plotly.graph_objects.Figure":
    from plotly import graph_objects as go

    palette = named_colours(list(steerings), colours)
    # plotly counts upwards: the first name belongs on top.
    rows = list({**steerings, **references}.items())[::-1]
    figure = go.Figure()
    for place, (name, curve) in enumerate(rows):
        value, low, high = curve.values[0], curve.low[0], curve.high[0]
        colour = palette.get(name, MUTED)
        figure.add_scatter(
            x=[value],
            y=[place],
            mode="markers",
            marker={"color": colour, "size": 10, "symbol": "circle"},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value],
                "arrayminus": [value - low],
                "color": colour,
                "thickness": 2,
            },
            name=plotly_text(name),
            hovertemplate=(
                f"<b>{plotly_text(name)}</b>: {value:.3f} "
                f"(95 % {low:.3f} to {high:.3f})<extra></extra>"
            ),
        )
    highest = max(1.0, *(curve.high[0] for _, curve in rows))
    figure.update_layout(
        template=template(),
        title={"text": "Faithfulness of the next token"},
        height=120 + 32 * len(rows),
        showlegend=False,
        margin={"t": 52, "b": 56},
        xaxis={"title": axis, "range": [-0.03 * highest, 1.05 * highest]},
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [plotly_text(name) for name, _ in rows],
            "gridcolor": GRID,
            "zeroline": False,
        },
    )
    return figure


def named_colours(names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """A colour for every name: the given one, or the palette in order."""
    return {name: (given or {}).get(name, line_colour(i)) for i, name in enumerate(names)}


def _finite(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _add_band(
    figure: "plotly.graph_objects.Figure",
    low: Sequence[float],
    high: Sequence[float],
    colour: str,
    group: str,
) -> None:
    inside = [i for i in range(len(low)) if math.isfinite(low[i]) and math.isfinite(high[i])]
    figure.add_scatter(
        x=inside + inside[::-1],
        y=[high[i] for i in inside] + [low[i] for i in inside[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=translucent(colour, 0.15),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=plotly_text(group),
    )


def _line(name: str, curve: Any, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": list(range(len(curve.values))),
        "y": list(curve.values),
        "customdata": list(zip(curve.low, curve.high, strict=True)),
        "mode": "lines" if len(curve.values) > 1 else "markers",
        "line": line,
        "marker": {"color": line["color"], "size": 9},
        "name": plotly_text(name),
        "hovertemplate": (
            f"<b>{plotly_text(name)}</b><br>layer %{{x}}: %{{y:.3f}} "
            "(95 % %{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>"
        ),
    }


def _only_layer(name: str, layer: int, curve: Any, colour: str) -> dict[str, Any]:
    return {
        "x": [layer],
        "y": [curve.values[layer]],
        "mode": "markers",
        "marker": {
            "color": colour,
            "size": 11,
            "symbol": "diamond",
            "line": {"color": "white", "width": 1},
        },
        "hovertemplate": f"{plotly_text(name)} acts on layer %{{x}} only<extra></extra>",
        "showlegend": False,
    }
