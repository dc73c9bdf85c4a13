"""One panel of a token heatmap: its numbers for every layer, and its script-free HTML."""

from dataclasses import dataclass
from typing import Any, final

import torch

from psr_lens._types import TokenValues
from psr_lens.plots.bounds import Bounds
from psr_lens.plots.text import ending_html, escape, n_line_breaks, visible_token
from psr_lens.plots.theme import NEGATIVE, POSITIVE, tint, value_colour


@final
@dataclass(frozen=True, eq=False)
class TokenPanel:
    """One text with its values, and the colour bounds of every layer.

    Attributes:
        caption: A heading, empty for none.
        source: Tokens and values.
        bounds: One per layer of `source`.
    """

    caption: str
    source: TokenValues
    bounds: tuple[Bounds, ...]

    def row(self, layer: int) -> int | None:
        """Index of a layer in the values, None where this panel has none for it."""
        return self.source.layers.index(layer) if layer in self.source.layers else None


def _signed(panel: TokenPanel) -> bool:
    return any(bounds.low < 0 for bounds in panel.bounds)


def _number(value: float) -> str:
    return f"{value + 0.0:.3g}"


def row_data(panel: TokenPanel, layer: int) -> dict[str, Any]:
    """Everything that one layer of one panel shows: values, bounds, the legend's words."""
    index = panel.row(layer)
    if index is None:
        labels = {"low": "", "high": "", "note": f"nothing at layer {layer}"}
        return {"values": None, "low": 0.0, "high": 0.0, "labels": labels}
    values = panel.source.values[index].detach().cpu().double()
    bounds = panel.bounds[index]
    # Four digits are more than a colour or a reader can tell apart, and keep pages small.
    rounded = [None if v != v else float(f"{v:.4g}") + 0.0 for v in values.tolist()]
    return {
        "values": rounded,
        "low": bounds.low,
        "high": bounds.high,
        "labels": {
            "low": _number(bounds.low),
            "high": _number(bounds.high),
            "note": _note(values, bounds),
        },
    }


def _note(values: torch.Tensor, bounds: Bounds) -> str:
    present = values[~torch.isnan(values)]
    if len(present) == 0:
        return "no values"
    if not bool((present != 0).any()):
        return "all zero"
    n_clipped = bounds.n_clipped(values)
    if not n_clipped:
        return ""
    furthest = present[present.abs().argmax()].item()
    tokens = "token" if n_clipped == 1 else "tokens"
    return f"{n_clipped} {tokens} beyond the scale, up to {_number(furthest)}: darkest"


def _static_token(
    token: str, position: int, panel: TokenPanel, row: dict[str, Any], layer: int
) -> str:
    value = None if row["values"] is None else row["values"][position]
    colour = value_colour(value or 0.0, row["low"], row["high"])
    number = "no value" if value is None else f"{panel.source.quantity} {value:g}"
    hint = escape(f"{visible_token(token)} · {number} · position {position} · layer {layer}")
    n_breaks = n_line_breaks(token)
    return (
        f'<span><span style="background-color:{colour};color:#000" title="{hint}">'
        f"{escape(visible_token(token))}{'&nbsp;' * n_breaks}</span>{'<br>' * n_breaks}</span>"
    )


def panel_html(panel: TokenPanel, layer: int) -> str:
    """The panel as HTML that needs no script, for one layer."""
    row = row_data(panel, layer)
    labels = row["labels"]
    caption = f'<p class="psr-caption">{escape(panel.caption)}</p>'
    stops = [tint(NEGATIVE, s / 4) for s in range(4, 0, -1)] if _signed(panel) else []
    stops += [tint(POSITIVE, s / 4) for s in range(5)]
    tokens = "".join(
        _static_token(token, position, panel, row, layer)
        for position, token in enumerate(panel.source.tokens)
    )
    return (
        f'<div class="psr-panel">{caption if panel.caption else ""}'
        f'<p class="psr-legend"><span class="psr-low">{escape(labels["low"])}</span> '
        f'<span class="psr-bar" style="background:linear-gradient(90deg,{",".join(stops)})">'
        f'</span> <span class="psr-high">{escape(labels["high"])}</span> '
        f'<span class="psr-quantity">{escape(panel.source.quantity)}</span> '
        f'<span class="psr-note">{escape(labels["note"])}</span></p>'
        f'<div class="psr-text"><div class="colored-tokens">{tokens}</div>'
        f"{ending_html(panel.source.ending)}</div></div>"
    )
