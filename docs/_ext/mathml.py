"""Equations as MathML, written at build time.

The usual renderer has the reader's browser fetch MathJax. These pages also work without a network,
so docutils translates the TeX, and the browser draws it by itself.
"""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number


def _to_mathml(node: nodes.Element, *, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        raise ValueError(f"cannot draw the equation {node.astext()!r}: {error}") from None


def _visit_inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_to_mathml(node, as_block=False))
    raise nodes.SkipNode


def _visit_block(writer: Any, node: nodes.math_block) -> None:
    attributes = {"ids": node["ids"]} if node.get("ids") else {}
    writer.body.append(writer.starttag(node, "div", CLASS="math", **attributes))
    if node["number"]:
        writer.body.append(f'<span class="eqno">({get_node_equation_number(writer, node)})</span>')
    writer.body.append(_to_mathml(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Make this the HTML builder's way with equations."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_visit_inline, None), block_renderers=(_visit_block, None)
    )
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
