"""One panel of a token heatmap: its numbers for every layer, and its legend."""

from dataclasses import dataclass
from typing import Any, final

import torch

from psr_lens._types import TokenValues
from psr_lens.plots.bounds import Bounds
from psr_lens.plots.theme import NEGATIVE, POSITIVE


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


def panel_frame(panel: TokenPanel, layer: int) -> dict[str, Any]:
    """What stands around the text of a panel for one layer: see `templates/tokens.html`."""
    stops = [NEGATIVE, "#ffffff", POSITIVE] if _signed(panel) else ["#ffffff", POSITIVE]
    return {
        "caption": panel.caption,
        "quantity": panel.source.quantity,
        "ending": panel.source.ending,
        "labels": row_data(panel, layer)["labels"],
        "stops": ",".join(stops),
    }
