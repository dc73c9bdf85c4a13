"""Lines: faithfulness over layers, behaviour over the steering strength."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from psr_lens.plots.labels import LineEnd, label_lines, label_margin
from psr_lens.plots.text import plotly_text
from psr_lens.plots.theme import MUTED, line_colour, template

if TYPE_CHECKING:
    import plotly.graph_objects

BehaviourRow = tuple[str, float | int | None, float | int, float | int]
"""`(method, alpha, trait, coherence)`; alpha is None for what has no strength, as a prompt."""

_HEIGHT = 420
_DASHES = (("dot", "···"), ("dash", "- -"), ("dashdot", "–·–"), ("longdash", "—"))


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


def _translucent(colour: str, share: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def _colours(names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    """A colour for every name: the given one, or the palette in order."""
    return {name: (given or {}).get(name, line_colour(i)) for i, name in enumerate(names)}


def _add_interval(
    figure: "plotly.graph_objects.Figure", x: list[int], curve: Any, colour: str, group: str
) -> None:
    figure.add_scatter(
        x=x + x[::-1],
        y=[*curve.high, *list(curve.low)[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=_translucent(colour, 0.15),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=plotly_text(group),
    )


def faithfulness_curves(
    report: FaithfulnessCurves,
    *,
    title: str = "Distance to the prompted model, layer by layer",
    colours: Mapping[str, str] | None = None,
) -> "plotly.graph_objects.Figure":
    """Relative RMSE over layers: 0 is what the prompt does, 1 is no steering at all.

    Lines carry their names at the right end, in place of a legend; bands are the 95 % bootstrap
    intervals; references are grey and dashed. A steering that acts on one layer only (a curve
    whose optional attribute `layers` has one element) is marked there.

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
    from plotly import graph_objects as go

    curves = {**report.reference, **report.relative_rmse}
    if not curves:
        raise ValueError("the report has no curve: measure at least one steering before plotting")
    for name, curve in curves.items():
        lengths = (len(curve.values), len(curve.low), len(curve.high))
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                f"{name!r} has {lengths} values, lower and upper ends; "
                "each needs one number per layer"
            )
    figure = go.Figure()
    ends = []
    for number, (name, curve) in enumerate(report.reference.items()):
        x = list(range(len(curve.values)))
        _add_interval(figure, x, curve, MUTED, name)
        dash, mark = _DASHES[number % len(_DASHES)]
        figure.add_scatter(**_line(name, x, curve, {"color": MUTED, "width": 2, "dash": dash}))
        ends.append(LineEnd(name, float(curve.values[-1]), MUTED, mark))
    palette = _colours(list(report.relative_rmse), colours)
    for name, curve in report.relative_rmse.items():
        colour = palette[name]
        x = list(range(len(curve.values)))
        _add_interval(figure, x, curve, colour, name)
        figure.add_scatter(**_line(name, x, curve, {"color": colour, "width": 2.5}))
        acts_on = tuple(getattr(curve, "layers", None) or ())
        if len(acts_on) == 1 and acts_on[0] in x:
            figure.add_scatter(
                x=list(acts_on),
                y=[curve.values[acts_on[0]]],
                mode="markers",
                marker={
                    "color": colour,
                    "size": 11,
                    "symbol": "diamond",
                    "line": {"color": "white", "width": 1},
                },
                hovertemplate=f"{plotly_text(name)} acts on layer %{{x}} only<extra></extra>",
                showlegend=False,
            )
        ends.append(LineEnd(name, float(curve.values[-1]), colour))
    top = 1.05 * max(1.0, *(max(curve.high) for curve in curves.values()))
    n_layers = max(len(curve.values) for curve in curves.values())
    label_lines(figure, ends, (0.0, top), _HEIGHT - 108)
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=_HEIGHT,
        showlegend=False,
        hovermode="closest",
        margin={"r": label_margin(list(curves)), "t": 52, "b": 56},
        xaxis={"title": "layer", "dtick": max(1, n_layers // 12), "range": [-0.2, n_layers - 0.9]},
        yaxis={"title": "relative RMSE (0 prompting, 1 no steering)", "range": [0, top]},
    )
    return figure


def _line(name: str, x: list[int], curve: Any, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": x,
        "y": list(curve.values),
        "customdata": list(zip(curve.low, curve.high, strict=True)),
        "mode": "lines" if len(x) > 1 else "markers",
        "line": line,
        "marker": {"color": line["color"], "size": 9},
        "name": plotly_text(name),
        "hovertemplate": (
            f"<b>{plotly_text(name)}</b><br>layer %{{x}}: %{{y:.3f}} "
            "(95 % %{customdata[0]:.3f} to %{customdata[1]:.3f})<extra></extra>"
        ),
    }


def behaviour_curves(
    rows: Sequence[BehaviourRow],
    *,
    title: str = "Behaviour over the steering strength",
    colours: Mapping[str, str] | None = None,
) -> "plotly.graph_objects.Figure":
    """Trait and coherence over alpha, both 0 to 100, one colour per method.

    A method without a strength (alpha None: prompting, no steering) is a dashed level line. The
    thin line in the coherence panel is at 80, where TA@C80 is read off.

    Args:
        rows: `(method, alpha, trait, coherence)` in any order.
        title: A heading.
        colours: Name to `#rrggbb`, for a method to look the same in several figures.

    Returns:
        A plotly figure of two panels with a common scale.

    Raises:
        ValueError: If there is no row.
    """
    from plotly.subplots import make_subplots

    if not rows:
        raise ValueError("there is no row: evaluate at least one method before plotting")
    methods = list(dict.fromkeys(row[0] for row in rows))
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=("trait", "coherence"),
    )
    strengths = [row[1] for row in rows if row[1] is not None]
    low, high = (min(strengths), max(strengths)) if strengths else (0.0, 1.0)
    span = (low, high) if high > low else (low - 0.5, high + 0.5)
    ends = []
    palette = _colours([m for m in methods if any(_acts(r, m) for r in rows)], colours)
    n_level = 0
    for method in methods:
        steered = sorted((r for r in rows if _acts(r, method)), key=_alpha)
        for level in (r for r in rows if r[0] == method and r[1] is None):
            dash, mark = _DASHES[n_level % len(_DASHES)]
            for column in (1, 2):
                figure.add_scatter(
                    x=list(span),
                    y=[level[1 + column]] * 2,
                    mode="lines",
                    line={"color": MUTED, "width": 2, "dash": dash},
                    hovertemplate=f"<b>{plotly_text(method)}</b>: %{{y:.1f}}<extra></extra>",
                    row=1,
                    col=column,
                )
            ends.append(LineEnd(method, float(level[3]), MUTED, mark))
            n_level += 1
        if not steered:
            continue
        colour = palette[method]
        for column in (1, 2):
            figure.add_scatter(
                x=[row[1] for row in steered],
                y=[row[1 + column] for row in steered],
                mode="lines+markers",
                line={"color": colour, "width": 2.5},
                marker={"size": 7},
                hovertemplate=(
                    f"<b>{plotly_text(method)}</b><br>alpha %{{x}}: %{{y:.1f}}<extra></extra>"
                ),
                row=1,
                col=column,
            )
        ends.append(LineEnd(method, float(steered[-1][3]), colour))
    figure.add_shape(
        type="line",
        xref="x2 domain",
        yref="y2",
        x0=0,
        x1=1,
        y0=80,
        y1=80,
        line={"color": MUTED, "width": 1, "dash": "dot"},
        layer="below",
    )
    label_lines(figure, ends, (-3.0, 103.0), _HEIGHT - 120)
    pad = 0.04 * (span[1] - span[0])
    figure.update_xaxes(title="alpha", range=[span[0] - pad, span[1] + pad])
    figure.update_yaxes(range=[-3, 103], dtick=20)
    figure.update_yaxes(title="score, 0 to 100", col=1)
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=_HEIGHT,
        showlegend=False,
        margin={"r": label_margin(methods), "t": 64, "b": 56},
    )
    return figure


def _acts(row: BehaviourRow, method: str) -> bool:
    return row[0] == method and row[1] is not None


def _alpha(row: BehaviourRow) -> float:
    return float(row[1] or 0.0)
