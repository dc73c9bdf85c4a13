"""Who writes what the prompt does: attention and MLPs over layers, heads, components over tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from psr_lens._types import TokenValues
from psr_lens.components.component_report import Component, ComponentReport
from psr_lens.examples import ending_in
from psr_lens.plots.layers import layer_token_heatmap
from psr_lens.plots.text import interval_hover, plotly_text, visible_token
from psr_lens.plots.theme import DIVERGING, LINES, MUTED, SEQUENTIAL, template

if TYPE_CHECKING:
    import plotly.graph_objects

_NAMES = {"embed": "embeddings", "attn": "attention", "mlp": "MLP"}
_COLOURS = {"embed": MUTED, "attn": LINES[0], "mlp": LINES[1]}
_MAX_ROWS = 66


def component_shares(
    report: ComponentReport, *, title: str = "What writes the prompt's effect, layer by layer"
) -> "plotly.graph_objects.Figure":
    """Shares of every layer's attention and MLP in the prompt's delta after the last layer.

    All bars add up to 100 %; one below zero writes against the others. Whiskers are 95 % bootstrap
    intervals over prompts.

    Args:
        report: What `measure_components` returned.
        title: A heading.

    Returns:
        A plotly figure.
    """
    from plotly import graph_objects as go

    figure = go.Figure()
    # Embeddings differ between the runs only where positions are learned.
    moved = any(component.norm.value > 0 for component in report.of_kind("embed"))
    for kind, name in _NAMES.items():
        own = report.of_kind(kind)  # type: ignore[arg-type]
        if kind == "embed" and not moved:
            continue
        total = sum(component.share.value for component in own)
        figure.add_bar(
            x=[component.layer for component in own],
            y=[component.share.value for component in own],
            name=f"{name}: {total:z.0%} in all",
            marker={"color": _COLOURS[kind], "line": {"width": 0}},
            error_y=_whiskers(own),
            customdata=[
                (component.name, component.share.low, component.share.high, component.norm.value)
                for component in own
            ],
            hovertemplate=(
                "<b>%{customdata[0]}</b>: %{y:.1%}"
                + interval_hover(
                    [component.share.low for component in own],
                    " (95 % %{customdata[1]:.1%} to %{customdata[2]:.1%})",
                )
                + "<br>delta norm %{customdata[3]:.3g}<extra></extra>"
            ),
        )
    layers = list(range(-1 if moved else 0, report.n_layers))
    step = -(-report.n_layers // 24)
    shown = [layer for layer in layers if layer < 0 or layer % step == 0]
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=400,
        barmode="group",
        bargap=0.25,
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
        margin={"t": 92},
        xaxis={
            "title": "layer",
            "tickmode": "array",
            "tickvals": shown,
            "ticktext": ["embed" if layer < 0 else str(layer) for layer in shown],
            "showgrid": False,
        },
        yaxis={
            "title": "share of the prompt's delta after the last layer",
            "tickformat": ".0%",
            "zeroline": True,
            "zerolinecolor": MUTED,
        },
    )
    return figure


def _whiskers(own: Sequence[Component]) -> dict[str, Any]:
    shares = [component.share for component in own]
    return {
        "type": "data",
        "array": [share.high - share.value for share in shares],
        "arrayminus": [share.value - share.low for share in shares],
        "color": MUTED,
        "thickness": 1.2,
        "width": 3,
    }


def head_heatmap(
    report: ComponentReport, *, title: str = "Attention heads: what they write, and what they read"
) -> "plotly.graph_objects.Figure":
    """Layers by heads: the share of the prompt's delta, and the attention to the instruction.

    A head that both reads the instruction and writes much of the delta brings it in directly.

    Args:
        report: What `measure_components` returned, with heads.
        title: A heading.

    Returns:
        A plotly figure of two panels, or one if attention weights were not available.

    Raises:
        ValueError: If the heads were not measured.
    """
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    heads = report.of_kind("head")
    if not heads:
        raise ValueError("the heads were left out: measure with heads=True")
    panels = {"share": "writes: share of the prompt's delta"}
    if all(head.instruction_attention is not None for head in heads):
        panels["instruction_attention"] = "reads: attention to the instruction"
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=list(panels.values()),
        shared_yaxes=True,
        horizontal_spacing=0.16,
    )
    n_heads = 1 + max(head.head for head in heads)
    for column, measure in enumerate(panels, start=1):
        grid = torch.full((report.n_layers, n_heads), torch.nan, dtype=torch.float64)
        for head in heads:
            grid[head.layer, head.head] = getattr(head, measure).value
        # Up to the very largest: a reader looks for the one head that stands out.
        high = float(grid.nan_to_num().abs().max()) or 1.0
        low = -high if float(grid.nan_to_num().min()) < -0.02 * high else 0.0
        right = 0.44 if len(panels) == 2 and column == 1 else 1.02
        figure.add_trace(
            go.Heatmap(
                z=[[None if v != v else v for v in row] for row in grid.tolist()],
                x=list(range(n_heads)),
                y=list(range(report.n_layers)),
                colorscale=[list(stop) for stop in (DIVERGING if low < 0 else SEQUENTIAL)],
                zmin=low,
                zmax=high,
                xgap=1,
                ygap=1,
                colorbar={
                    "tickformat": ".0%" if high - low > 0.05 else ".1%",
                    "thickness": 10,
                    "outlinewidth": 0,
                    "x": right,
                    "xanchor": "left",
                },
                hovertemplate=(
                    f"<b>head %{{y}}.%{{x}}</b> {panels[measure]} %{{z:.1%}}<extra></extra>"
                ),
            ),
            row=1,
            col=column,
        )
    step = -(-report.n_layers // 32)
    figure.update_layout(template=template(), title={"text": plotly_text(title)}, margin={"t": 84})
    figure.update_layout(height=190 + 24 * min(report.n_layers, 32))
    figure.update_annotations(font={"size": 13, "color": MUTED})
    figure.update_xaxes(
        title="attention head", dtick=max(1, n_heads // 16), showgrid=False, zeroline=False
    )
    figure.update_yaxes(dtick=step, showgrid=False, zeroline=False)
    figure.update_yaxes(title="layer", col=1)
    return figure


def component_tokens(
    report: ComponentReport,
    example: int = 0,
    *,
    quantity: Literal["norm", "share"] = "norm",
    components: Sequence[str] | None = None,
    title: str | None = None,
) -> "plotly.graph_objects.Figure":
    """Components by tokens: which of them brings the instruction in at which token.

    Args:
        report: What `measure_components` returned.
        example: Which of the examples whose tokens were kept.
        quantity: `norm`, the length of the component's delta; or `share`, its signed contribution
            to the delta after the last layer, whose cells add up to 100 % over all tokens.
        components: Names of those to draw, from the bottom up (`attn 0`, `mlp 3`, `3.1` for a
            head); by default attention and MLP of all layers, of every n-th layer in a deep model.
        title: A heading.

    Returns:
        A plotly figure.

    Raises:
        ValueError: If no tokens of the example were kept, or a name is unknown.
    """
    own = report.example_tokens(example)
    row_of = {component.name: row for row, component in enumerate(report.components)}
    if components is None:
        step = -(-2 * report.n_layers // _MAX_ROWS)
        components = [
            component.name
            for component in report.of_kind("embed", "attn", "mlp")
            if (
                component.norm.value > 0
                if component.kind == "embed"
                else component.layer % step == 0
            )
        ]
    unknown = [name for name in components if name not in row_of]
    if unknown or not components:
        raise ValueError(
            f"components={unknown or list(components)}: name some of {', '.join(list(row_of)[:4])}, "
            f"... {list(row_of)[-1]}"
        )
    values = own.norms if quantity == "norm" else own.shares
    what = "delta norm" if quantity == "norm" else "share of the delta"
    drawn = TokenValues(
        own.tokens,
        values[[row_of[name] for name in components]],
        tuple(range(len(components))),
        what,
        ending=ending_in(report.provenance, example),
    )
    heading = f"Example {example}: what each component adds, token by token"
    figure = layer_token_heatmap(drawn, title=heading if title is None else title)
    form = ".1%" if quantity == "share" else ".3g"
    labels = [plotly_text(visible_token(token)) for token in own.tokens]
    heatmap = figure.data[0]
    heatmap.customdata = [[[label, name] for label in labels] for name in components]
    heatmap.hovertemplate = (
        "<b>%{customdata[0]}</b> · position %{x} · %{customdata[1]}<br>"
        f"{what} %{{z:{form}}}<extra></extra>"
    )
    heatmap.colorbar.tickformat = form if quantity == "share" else None  # type: ignore[attr-defined]
    figure.update_layout(height=200 + 18 * len(components))
    figure.update_yaxes(title="", tickvals=list(range(len(components))), ticktext=list(components))
    return figure
