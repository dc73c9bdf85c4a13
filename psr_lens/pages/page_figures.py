"""Plotly figures in a page of our own: places in the text, and one script that draws them all."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from markupsafe import Markup

from psr_lens.pages.page import render
from psr_lens.plots.text import script_json

if TYPE_CHECKING:
    import plotly.graph_objects


@final
@dataclass(frozen=True)
class FigurePlace:
    """Where a figure stands.

    Attributes:
        index: Its number in the page.
        description: For those who cannot see it.
        height: In pixels.
    """

    index: int
    description: str
    height: float | int


@final
class PageFigures:
    """Collects the figures of one page, so that it holds plotly and the data once."""

    def __init__(self):
        self._figures: list[dict[str, Any]] = []

    def place(self, figure: "plotly.graph_objects.Figure", description: str) -> FigurePlace:
        """A place in the page for a figure.

        Args:
            figure: With a height in its layout.
            description: For those who cannot see it, plain text.
        """
        drawn = json.loads(figure.to_json() or "{}")
        self._figures.append(drawn)
        return FigurePlace(len(self._figures) - 1, description, drawn["layout"]["height"])

    def scripts(self) -> str:
        """The scripts that draw them, for the end of the page; empty if there is no figure."""
        if not self._figures:
            return ""
        from plotly.offline import get_plotlyjs

        plotly = Markup(get_plotlyjs().replace("</script", "<\\/script"))
        return render("figures.html", plotly=plotly, figures=Markup(script_json(self._figures)))
