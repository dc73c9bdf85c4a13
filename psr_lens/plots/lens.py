"""What directions say through the unembedding: tables of tokens."""

from typing import TYPE_CHECKING

from psr_lens.lens.reading import DirectionReading, LensReading, TokenLogit
from psr_lens.plots.markup import render
from psr_lens.plots.text import parts_of_characters, plotly_text, visible_token
from psr_lens.plots.theme import GRID, INK, MUTED, POSITIVE, template

if TYPE_CHECKING:
    import plotly.graph_objects

_MAX_CHARACTERS = 14


def lens_table(
    reading: LensReading, *, top: int = 8, title: str = "Tokens that each direction promotes"
) -> "plotly.graph_objects.Figure":
    """Directions from the bottom up; their promoted tokens from left to right, the strongest first.

    The colour is how many standard deviations the token lies above the vocabulary's mean. The
    demoted token of the same rank shows when the pointer rests on a cell.

    Args:
        reading: What `logit_lens`, `read_steering` or `read_delta` returned.
        top: How many tokens to show.
        title: A heading.

    Returns:
        A plotly figure.
    """
    from plotly import graph_objects as go

    rows = reading.readings
    width = max(1, min(top, max((len(own.promoted) for own in rows), default=0)))
    furthest = max((own.standing(own.promoted[0]) for own in rows if own.promoted), default=1.0)

    def cells(own: DirectionReading) -> list[TokenLogit | None]:
        return [*own.promoted[:width], *[None] * (width - len(own.promoted))]

    figure = go.Figure(
        go.Heatmap(
            z=[[None if t is None else own.standing(t) for t in cells(own)] for own in rows],
            x=list(range(1, width + 1)),
            y=list(range(len(rows))),
            text=[["" if t is None else _short(t.token) for t in cells(own)] for own in rows],
            texttemplate="%{text}",
            textfont={"size": 12, "color": INK},
            customdata=[
                [
                    ["", 0.0, "", 0.0]
                    if t is None
                    else [
                        plotly_text(visible_token(t.token)),
                        t.value,
                        plotly_text(visible_token(own.demoted[rank].token)),
                        own.demoted[rank].value,
                    ]
                    for rank, t in enumerate(cells(own))
                ]
                for own in rows
            ],
            hovertemplate=(
                "<b>%{customdata[0]}</b> %{customdata[1]:+.3g}, %{z:.1f} standard deviations"
                "<br>demoted at this rank: <b>%{customdata[2]}</b> %{customdata[3]:+.3g}"
                "<extra></extra>"
            ),
            # Light enough at its end for black text.
            colorscale=[[0.0, "#ffffff"], [1.0, POSITIVE]],
            zmin=0,
            zmax=furthest,
            xgap=1,
            ygap=1,
            colorbar={
                "title": {
                    "text": "standard deviations above the mean",
                    "side": "right",
                    "font": {"size": 13, "color": MUTED},
                },
                "thickness": 12,
                "outlinewidth": 0,
            },
        )
    )
    figure.update_layout(
        template=template(),
        title={"text": plotly_text(title)},
        height=180 + 26 * len(rows),
        xaxis={"title": "rank", "dtick": 1, "showgrid": False, "zeroline": False},
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(rows))),
            "ticktext": [plotly_text(own.name) for own in rows],
            "showgrid": False,
            "zeroline": False,
        },
    )
    return figure


def lens_html(reading: LensReading, *, top: int = 8) -> str:
    """The reading as a small table: a direction per row, tokens with their values."""
    what = (
        "Differences of logits between the prompted and the base run at this layer"
        if reading.exact
        else "Logits per direction, with the final norm linearised and its scale left out"
    )
    named = [t.token for own in reading.readings for t in (*own.promoted[:top], *own.demoted[:top])]
    return render(
        "lens.html",
        what=what,
        parts=parts_of_characters(named),
        readings=reading.readings,
        top=top,
        grid=GRID,
        ink=INK,
        muted=MUTED,
    )


def _short(token: str) -> str:
    shown = visible_token(token)
    cut = shown if len(shown) <= _MAX_CHARACTERS else shown[: _MAX_CHARACTERS - 1] + "…"
    return plotly_text(cut)
