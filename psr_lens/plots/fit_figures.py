"""How a fit went: over the layers, and over the steps of training."""

from typing import TYPE_CHECKING

from psr_lens.plots.curve_figures import over_layers
from psr_lens.plots.labels import LineEnd, label_lines, named_lines_layout
from psr_lens.plots.theme import named_colours
from psr_lens.statistics import Curve, Estimate
from psr_lens.steering.fit_report import FitReport

if TYPE_CHECKING:
    import plotly.graph_objects

_HEIGHT = 420


def fit_layers(report: FitReport) -> "plotly.graph_objects.Figure":
    """Relative RMSE on the dev examples over the layers, and what each layer's own fit misses.

    Raises:
        ValueError: If there were no dev examples and no layer was fitted on its own.
    """
    lines = {
        "relative RMSE, dev": dict(enumerate(report.dev_relative_rmse)),
        "missed by a layer's own fit, train": {
            stage.layer: stage.train_loss for stage in report.stages
        },
        "missed by a layer's own fit, dev": {
            stage.layer: stage.dev_loss for stage in report.stages if stage.dev_loss is not None
        },
    }
    n_layers = 1 + max((layer for own in lines.values() for layer in own), default=-1)
    nothing = float("nan")
    curves = {
        name: Curve(
            tuple(Estimate(own.get(layer, nothing), nothing, nothing) for layer in range(n_layers))
        )
        for name, own in lines.items()
        if own
    }
    if not curves:
        raise ValueError(
            "the fit has no numbers by layer: fit with dev examples, or layer by layer"
        )
    title = f"How close {report.method} came, layer by layer"
    return over_layers(
        curves, {}, {}, axis="1 no steering, 0 the prompt", title=title, colours=None
    )


def fit_losses(report: FitReport) -> "plotly.graph_objects.Figure":
    """The objective over the steps: on each step's examples, and on the dev ones after each epoch.

    Raises:
        ValueError: If the steering was not fitted by training.
    """
    from plotly import graph_objects as go

    if not report.losses:
        raise ValueError(f"{report.method} was fitted by {report.solver}: only training has losses")
    epoch = len(report.losses) / max(1, len(report.dev_losses) - 1)
    lines = {
        "train": (list(range(len(report.losses))), report.losses),
        "dev": ([i * epoch for i in range(len(report.dev_losses))], report.dev_losses),
    }
    drawn = {name: own for name, own in lines.items() if own[1]}
    colours = named_colours(list(drawn), None)
    figure = go.Figure()
    for name, (steps, losses) in drawn.items():
        line = {"color": colours[name], "width": 2.5}
        figure.add_scatter(x=steps, y=losses, name=name, mode="lines", line=line)
    values = [loss for _, losses in drawn.values() for loss in losses]
    low, high = min(values), max(values)
    pad = 0.05 * (high - low or 1.0)
    ends = [LineEnd(name, losses[-1], colours[name]) for name, (_, losses) in drawn.items()]
    label_lines(figure, ends, (low - pad, high + pad), _HEIGHT - 108)
    figure.update_layout(
        **named_lines_layout(f"Training of {report.method}", list(drawn), _HEIGHT),
        xaxis={"title": "step"},
        yaxis={"title": report.objective or "objective", "range": [low - pad, high + pad]},
    )
    return figure
