"""A whole text at a glance: layers upwards, tokens from left to right."""

from typing import TYPE_CHECKING

from psr_lens.plots.bounds import resolve_bounds
from psr_lens.plots.text import parts_of_characters, plotly_text, visible_token
from psr_lens.plots.theme import DIVERGING, MUTED, SEQUENTIAL, template
from psr_lens.plots.tokens import BoundsChoice, SupportsTokenValues, values_of

if TYPE_CHECKING:
    import plotly.graph_objects

_MAX_LABELS = 80


def layer_token_heatmap(
    source: SupportsTokenValues,
    *,
    title: str | None = None,
    bounds: BoundsChoice = "robust",
) -> "plotly.graph_objects.Figure":
    """Layers by tokens as a heatmap, one colour scale for all layers.

    `token_heatmap` shows which tokens stand out within a layer; this also shows how the values grow
    from layer to layer.

    Args:
        source: `TokenValues`, or anything with a method `token_values()`. NaN leaves a gap.
        title: A heading; by default the source's own.
        bounds: `"robust"` (see `robust_bounds`, over all layers together), or `(low, high)` with
            `low <= 0 <= high`.

    Returns:
        A plotly figure. The title says when values lie beyond the colour scale, when the response
        was cut off, and what marks of split characters mean.

    Raises:
        ValueError: If a value is infinite, there is nothing to draw, or bounds do not contain 0.
    """
    from plotly import graph_objects as go

    drawn = values_of(source)
    if not drawn.tokens or not drawn.layers:
        raise ValueError(
            f"the source covers {len(drawn.layers)} layers and {len(drawn.tokens)} tokens; "
            "a heatmap needs at least one of each"
        )
    values = drawn.values.detach().cpu().double()
    limits = resolve_bounds(values, bounds)
    labels = [plotly_text(visible_token(token)) for token in drawn.tokens]
    # Positions, not labels, are the coordinate: plotly would merge columns of equal text.
    step = -(-len(labels) // _MAX_LABELS)
    shown = list(range(0, len(labels), step))
    figure = go.Figure(
        go.Heatmap(
            z=[[None if v != v else v for v in row] for row in values.tolist()],
            x=list(range(len(labels))),
            y=list(range(len(drawn.layers))),
            customdata=[[[label, str(layer)] for label in labels] for layer in drawn.layers],
            hovertemplate=(
                "<b>%{customdata[0]}</b> · position %{x} · layer %{customdata[1]}<br>"
                f"{plotly_text(drawn.quantity)} %{{z:.4g}}<extra></extra>"
            ),
            colorscale=[list(stop) for stop in (DIVERGING if limits.low < 0 else SEQUENTIAL)],
            zmin=limits.low,
            # plotly takes equal bounds for no bounds: an all-zero picture has to stay white.
            zmax=limits.high if limits.high > limits.low else limits.low + 1.0,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {
                    "text": plotly_text(drawn.quantity),
                    "side": "right",
                    "font": {"size": 13, "color": MUTED},
                },
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    heading = plotly_text(drawn.title if title is None else title)
    n_clipped = limits.n_clipped(values)
    notes = []
    if n_clipped:
        present = values[~values.isnan()]
        furthest = present[present.abs().argmax()].item()
        notes.append(
            f"{n_clipped} of {values.numel()} values beyond the colour scale, up to {furthest:.3g}"
        )
    if drawn.ending:
        notes.append(f"the response was {plotly_text(drawn.ending)}")
    if parts_of_characters(drawn.tokens):
        notes.append(plotly_text(parts_of_characters(drawn.tokens)))
    for note in notes:
        small = f'<span style="font-size:13px;color:{MUTED}">{note}</span>'
        heading = f"{heading}<br>{small}" if heading else small
    layer_step = -(-len(drawn.layers) // 32)
    figure.update_layout(
        template=template(),
        title={"text": heading},
        height=190 + 24 * min(len(drawn.layers), 32),
        margin={"t": 48 + 24 * min(len(notes), 1) + 20 * max(0, len(notes) - 1)},
        xaxis={
            "tickmode": "array",
            "tickvals": shown,
            "ticktext": [labels[position] for position in shown],
            "tickangle": -60,
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": "layer",
            "tickmode": "array",
            "tickvals": list(range(0, len(drawn.layers), layer_step)),
            "ticktext": [str(layer) for layer in drawn.layers[::layer_step]],
            "showgrid": False,
            "zeroline": False,
        },
    )
    return figure
