"""Token heatmaps: the text itself, each token on the colour of its value, layer by layer."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from markupsafe import Markup

from psr_lens._types import TokenValues
from psr_lens.plots.bounds import Bounds, all_equal, resolve_bounds
from psr_lens.plots.circuits import notebook_script, page_scripts
from psr_lens.plots.markup import render
from psr_lens.plots.panels import TokenPanel, panel_frame, row_data
from psr_lens.plots.text import (
    circuitsvis_token,
    n_line_breaks,
    parts_of_characters,
    script_json,
    visible_token,
)
from psr_lens.plots.theme import NEGATIVE, POSITIVE, style_sheet

BoundsChoice = tuple[float | int, float | int] | Literal["robust"]
"""Colour bounds: `(low, high)` for all layers, or `"robust"`, one pair per layer."""


@runtime_checkable
class SupportsTokenValues(Protocol):
    """Anything that can be drawn over tokens: deltas, coefficients, or `TokenValues` itself."""

    def token_values(self) -> TokenValues:
        """One number for every layer and token."""
        ...


@final
@dataclass(frozen=True, eq=False)
class TokenHeatmap:
    """Token panels side by side under one layer selector; a notebook shows it by itself.

    circuitsvis draws it in the browser, which needs scripts; without them the text shows uncoloured.
    No form of it opens a network connection.

    Attributes:
        panels: What is drawn, all over the same tokens.
        layer: The layer shown first.
        title: A heading, empty for none.
    """

    panels: tuple[TokenPanel, ...]
    layer: int
    title: str = ""

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that some panel has, ascending."""
        return tuple(sorted({layer for panel in self.panels for layer in panel.source.layers}))

    def __repr__(self) -> str:
        tokens = len(self.panels[0].source.tokens)
        return (
            f"TokenHeatmap({len(self.panels)} panel(s), {tokens} tokens, layers "
            f"{self.layers[0]} to {self.layers[-1]}; .save(path) writes it as a page)"
        )

    def fragment(self) -> str:
        """The picture as HTML for a page that has `style_sheet()` and ends with `page_scripts()`.

        Equal pictures give equal text, ids included.
        """
        contents = self._data()
        data = script_json(contents)
        endings = "".join(panel.source.ending for panel in self.panels)
        named = (self.title + data + endings).encode("utf-8", "backslashreplace")
        tokens = self.panels[0].source.tokens
        return render(
            "tokens.html",
            name=hashlib.sha256(named).hexdigest()[:12],
            title=self.title,
            # A legend with a note at any layer keeps room for it at every layer.
            noted=any(row["labels"]["note"] for own in contents["panels"] for row in own["rows"]),
            layers=self.layers,
            layer=self.layer,
            scale=self._scale(),
            unit=self._unit(),
            panels=[panel_frame(panel, self.layer) for panel in self.panels],
            text=" ".join(visible_token(own) + "\n" * n_line_breaks(own) for own in tokens),
            parts=parts_of_characters(tokens),
            data=Markup(data),
        )

    def to_html(self) -> str:
        """A page of its own (1.4 MB) that opens anywhere, without a network."""
        from psr_lens.pages.page import html_page

        return html_page(self.title or "Token heatmap", self.fragment(), page_scripts())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_html()`, replacing a file of that name at once.

        Raises:
            FileNotFoundError: If the folder does not exist.
        """
        from psr_lens.pages.page import write_page

        return write_page(path, self.to_html())

    def _repr_html_(self) -> str:
        return f"<style>{style_sheet()}</style>{self.fragment()}{notebook_script()}"

    def _data(self) -> dict[str, Any]:
        return {
            "tokens": [circuitsvis_token(token) for token in self.panels[0].source.tokens],
            "layers": list(self.layers),
            "first": self.layers.index(self.layer),
            "positive": POSITIVE,
            "negative": NEGATIVE,
            "panels": [
                {
                    "quantity": panel.source.quantity,
                    "rows": [row_data(panel, layer) for layer in self.layers],
                }
                for panel in self.panels
            ],
        }

    def _scale(self) -> str:
        if len({bounds for panel in self.panels for bounds in panel.bounds}) == 1:
            return "One colour scale for all layers."
        of_layer: dict[int, set[Bounds]] = {}
        for panel in self.panels:
            for layer, bounds in zip(panel.source.layers, panel.bounds, strict=True):
                of_layer.setdefault(layer, set()).add(bounds)
        if len(self.panels) > 1 and all(len(found) == 1 for found in of_layer.values()):
            return "Each layer has its own colour scale, the same in all panels."
        return "Each layer has its own colour scale."

    def _unit(self) -> str:
        units = {panel.source.unit for panel in self.panels}
        unit = units.pop() if len(units) == 1 else ""
        return f"Numbers are in units of {unit}." if unit else ""


def values_of(source: Any) -> TokenValues:
    """The values that a source has to draw.

    Raises:
        ValueError: If it has none.
    """
    if not isinstance(source, SupportsTokenValues):
        hint = "pass one of its elements" if isinstance(source, Sequence) else "pass TokenValues"
        raise ValueError(f"a {type(source).__name__} has no values over tokens: {hint}")
    return source.token_values()


def _default_layer(source: TokenValues) -> int:
    medians = source.values.detach().double().nanmedian(dim=1).values.nan_to_num(-torch.inf)
    largest = (medians == medians.max()).nonzero()[-1].item()
    return source.layers[int(largest)]


def _bounds(
    source: TokenValues, group: Sequence[TokenValues], choice: BoundsChoice
) -> tuple[Bounds, ...]:
    """Bounds of every layer of `source`, common to the group that it belongs to."""
    signed = any(bool((other.values < 0).any()) for other in group)
    common = []
    for layer in source.layers:
        # Each panel's own bounds first: pooled, the many equal values of a constant vector would
        # make outliers of the tokens that another steering pushes most.
        rows = [
            other.values[other.layers.index(layer)].detach()
            for other in group
            if layer in other.layers
        ]
        own = [resolve_bounds(row, choice, signed) for row in rows]
        if choice == "robust" and not all(all_equal(row) for row in rows):
            # Equal values get a middling colour where nothing shows how large they are. Here other
            # panels do, and doubling the bound of a long constant vector would make them pale.
            own = [
                Bounds(limits.low / 2, limits.high / 2) if all_equal(row) else limits
                for row, limits in zip(rows, own, strict=True)
            ]
        common.append(Bounds(min(b.low for b in own), max(b.high for b in own)))
    return tuple(common)


def token_heatmaps(
    sources: Mapping[str, SupportsTokenValues],
    *,
    layer: int | None = None,
    title: str = "",
    bounds: BoundsChoice = "robust",
    shared_scale: bool = False,
) -> TokenHeatmap:
    """Several quantities over the same tokens, side by side under one layer selector.

    What the prompt adds beside what a steering adds, token by token:

        prompt = deltas.token_values("local")
        token_heatmaps({"prompt": prompt, "constant": constant, "PSR": psr}, shared_scale=True)

    What is added at a token acts on the next one: the model chooses every token at the one before
    it. The first of the `response` tokens is therefore the prompt's last one, where the response's
    first token is chosen.

    Zero is white, positive values orange, negative ones blue. By default every layer of every
    panel has its own robust colour bounds (see `robust_bounds`), printed in the legend together
    with the number of tokens beyond them; a given pair holds for all.

    Args:
        sources: Caption to values. NaN means that a token has no value and stays uncoloured.
        layer: The layer shown first; by default the one with the largest median in the first
            panel, the last of them where several are equal.
        title: A heading.
        bounds: `"robust"`, or `(low, high)` with `low <= 0 <= high`.
        shared_scale: One scale per layer for all panels. Right for one quantity in one unit, such
            as local deltas and the coefficients of any steering.

    Raises:
        ValueError: If there is no source, tokens differ, a layer is unknown, a value is infinite,
            or bounds do not contain 0.
    """
    if not sources:
        raise ValueError("sources is empty: pass at least one caption with its values")
    if not isinstance(sources, Mapping):
        raise ValueError(
            f"sources of type {type(sources).__name__}: pass a mapping from captions to values"
        )
    drawn = {caption: values_of(source) for caption, source in sources.items()}
    first_caption, first = next(iter(drawn.items()))
    for caption, source in drawn.items():
        if source.tokens != first.tokens:
            raise ValueError(
                f"{caption!r} has {len(source.tokens)} tokens, {first_caption!r} has "
                f"{len(first.tokens)}, and they are not the same; panels side by side show "
                "one text, so compute both on the same prompt and response"
            )
        if not source.tokens or not source.layers:
            raise ValueError(
                f"{caption!r} covers {len(source.layers)} layers and {len(source.tokens)} tokens; "
                "a heatmap needs at least one of each"
            )
    panels = tuple(
        TokenPanel(
            caption,
            source,
            _bounds(source, list(drawn.values()) if shared_scale else [source], bounds),
        )
        for caption, source in drawn.items()
    )
    heatmap = TokenHeatmap(panels, _default_layer(first) if layer is None else layer, title)
    if heatmap.layer not in heatmap.layers:
        raise ValueError(
            f"layer={layer} has no values here; the layers drawn are {list(heatmap.layers)}"
        )
    return heatmap


def token_heatmap(
    source: SupportsTokenValues,
    *,
    layer: int | None = None,
    title: str | None = None,
    bounds: BoundsChoice = "robust",
) -> TokenHeatmap:
    """One number per token, drawn as the colour behind it, with a selector for the layer.

        token_heatmap(deltas)                # in a notebook: shows itself
        token_heatmap(deltas).save("deltas.html")

    Where a number is what a prompt or a steering adds, it acts on the next token: the model chooses
    every token at the one before it.

    Args:
        source: `TokenValues`, or anything with a method `token_values()`.
        layer: The layer shown first; by default the one with the largest median.
        title: A heading; by default the source's own.
        bounds: `"robust"`, or `(low, high)` with `low <= 0 <= high`; see `token_heatmaps`.

    Raises:
        ValueError: If the layer is unknown, a value is infinite, or bounds do not contain 0.
    """
    drawn = values_of(source)
    heading = drawn.title if title is None else title
    return token_heatmaps({"": drawn}, layer=layer, title=heading, bounds=bounds)
