"""A picture beside every figure that a notebook stores, for readers without scripts.

GitHub and offline conversions cannot show plotly's own format, and GitHub drops all styles of HTML
outputs. A headless Chromium draws each figure once; the PNG is stored in the same output:

- beside plotly's format, for viewers that cannot draw it;
- beside a token heatmap's HTML, for conversions to PDF and the like, and once more inside it, hidden
  by a style: GitHub drops the style, so the picture shows there and nowhere else.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from tests.browser import Page, browser

PLOTLY = "application/vnd.plotly.v1+json"
PNG = "image/png"
HEATMAP = "psr-tokens"
MARK = "picture_of"
DRAWN_FIGURE = "document.querySelector('.main-svg')"
DRAWN_TOKENS = "!document.querySelector('.psr-uncoloured')"
_WIDTH, _HEIGHT = 900, 450
_HIDDEN = re.compile(r'\n<img style="display:none"[^>]*>\Z')
_PAGE = """<!doctype html><html><head><meta charset="utf-8">
<style>body {{ margin: 0; background: #fff; font-family: system-ui, sans-serif }}</style>
</head><body><div id="shown">{body}</div></body></html>"""


def figures(notebook: nbformat.NotebookNode) -> Iterator[Any]:
    """The outputs that are figures."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if PLOTLY in data or HEATMAP in data.get("text/html", ""):
                yield output


def fingerprint(data: Any) -> str:
    """A hash of what is drawn, kept beside the picture so that a stale one is noticed."""
    return hashlib.sha256(_html(data).encode()).hexdigest()[:16]


def add_pictures(notebook: nbformat.NotebookNode) -> int:
    """Draw every figure and store the pictures. Returns how many there are."""
    found = list(figures(notebook))
    if not found:
        return 0
    with tempfile.TemporaryDirectory() as folder, browser() as running:
        for number, output in enumerate(found):
            data, path = output["data"], Path(folder, f"{number}.html")
            drawn = DRAWN_FIGURE if PLOTLY in data else DRAWN_TOKENS
            path.write_text(_page(data), encoding="utf-8")
            with running.page(path, width=_WIDTH, height=_HEIGHT) as page:
                page.wait_for(drawn)
                picture = _photograph(page)
            data[PNG] = picture
            output["metadata"] = {**output.get("metadata", {}), MARK: fingerprint(data)}
            if PLOTLY not in data:
                data["text/html"] = (
                    _html(data) + f'\n<img style="display:none" alt="the figure as a picture" '
                    f'src="data:{PNG};base64,{picture}">'
                )
    return len(found)


def _html(data: Any) -> str:
    """What is drawn, as it was stored: a heatmap's HTML, or plotly's figure as JSON."""
    if PLOTLY in data:
        return json.dumps(data[PLOTLY], sort_keys=True)
    return _HIDDEN.sub("", data["text/html"])


def _page(data: Any) -> str:
    if PLOTLY not in data:
        return _PAGE.format(body=_html(data))
    from plotly.offline import get_plotlyjs

    figure = data[PLOTLY]
    parts = (figure["data"], figure["layout"])
    drawn, layout = (json.dumps(part).replace("<", "\\u003c") for part in parts)
    height = int(figure["layout"].get("height", _HEIGHT))
    bundle = get_plotlyjs().replace("</script", "<\\/script")
    return _PAGE.format(
        body=f'<div id="figure" style="width:{_WIDTH}px;height:{height}px"></div>'
        f'<script>{bundle}</script><script>Plotly.newPlot("figure", {drawn}, {layout}, '
        "{staticPlot: true})</script>"
    )


def _photograph(page: Page) -> str:
    """The whole figure as PNG, in base64."""
    box = "document.getElementById('shown').getBoundingClientRect()"
    clip = {
        "x": 0,
        "y": 0,
        "width": _WIDTH,
        "height": page.evaluate(f"Math.ceil({box}.height)"),
        "scale": 1,
    }
    shot = page.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    return shot["data"]
