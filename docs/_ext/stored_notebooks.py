"""Show the notebooks as they are stored, plotly figures included, without a network.

myst-nb reads no file outside of the documentation's folder, and leaves plotly's own format to Jupyter.
So the notebooks are copied in, each figure with a piece of HTML that draws it, and plotly's script is
put beside the pages once.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import plotly

_PLOTLY = "application/vnd.plotly.v1+json"
_DRAW = """<div id="{name}" style="height: {height}px"></div>
<script>
window.addEventListener("load", () => Plotly.newPlot("{name}", {data}, {layout},
  {{responsive: true, displaylogo: false, showSendToCloud: false}}));
</script>"""
_LOAD = '<script src="../_static/plotly.min.js"></script>'


def copy_notebooks(source: Path, target: Path, static: Path) -> None:
    """Copy every notebook, with its figures as HTML.

    Args:
        source: Folder of the notebooks.
        target: Folder to fill; what it held is removed.
        static: Folder for plotly's script, which the pages find as `../_static`.
    """
    for folder in (target, static):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", static)
    for path in sorted(source.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        figures = [
            output["data"]
            for cell in notebook["cells"]
            for output in cell.get("outputs", ())
            if _PLOTLY in output.get("data", {})
        ]
        for number, bundle in enumerate(figures):
            load = _LOAD if number == 0 else ""
            bundle["text/html"] = load + _figure_html(f"{path.stem}-{number}", bundle.pop(_PLOTLY))
        (target / path.name).write_text(json.dumps(notebook), encoding="utf-8")


def _figure_html(name: str, figure: dict[str, Any]) -> str:
    layout = figure.get("layout", {})
    data, layout_text = (
        json.dumps(part).replace("<", "\\u003c") for part in (figure["data"], layout)
    )
    return _DRAW.format(
        name=name, height=int(layout.get("height", 450)), data=data, layout=layout_text
    )
