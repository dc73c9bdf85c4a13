"""Plotly figures in a page of our own: places in the text, and one script that draws them all."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from psr_lens.plots.text import escape, script_json

if TYPE_CHECKING:
    import plotly.graph_objects

_CONFIG = {"showSendToCloud": False, "displaylogo": False, "responsive": True}


@final
class PageFigures:
    """Collects the figures of one page, so that plotly and the data stand in it once."""

    def __init__(self):
        self._figures: list[dict[str, Any]] = []

    def place(self, figure: "plotly.graph_objects.Figure", description: str) -> str:
        """A place in the page for a figure.

        Args:
            figure: With a height in its layout.
            description: For those who cannot see it, plain text.
        """
        drawn = json.loads(figure.to_json() or "{}")
        self._figures.append(drawn)
        return (
            '<div class="psr-scroll"><div class="psr-figure" '
            f'id="psr-figure-{len(self._figures) - 1}" '
            f'role="img" aria-label="{escape(description)}" '
            f'style="height:{drawn["layout"]["height"]}px">'
            "<noscript>This figure needs JavaScript.</noscript></div></div>"
        )

    def scripts(self) -> str:
        """What draws them: for the end of the page; empty where there is no figure."""
        if not self._figures:
            return ""
        from plotly.offline import get_plotlyjs

        bundle = get_plotlyjs().replace("</script", "<\\/script")
        return f"""<script>{bundle}</script>
<script type="application/json" id="psr-figures">{script_json(self._figures)}</script>
<script>
JSON.parse(document.getElementById("psr-figures").textContent).forEach((figure, index) => {{
  const place = document.getElementById("psr-figure-" + index);
  place.replaceChildren();
  Plotly.newPlot(place, figure.data, figure.layout, {json.dumps(_CONFIG)});
}});
</script>"""


def provenance_footer(provenance: Mapping[str, Any]) -> str:
    """How the numbers came about, folded up at the foot of a page."""
    if not provenance:
        return ""
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_plain(value))}</dd>"
        for name, value in provenance.items()
    )
    return f"<footer><details><summary>Provenance</summary><dl>{items}</dl></details></footer>"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
