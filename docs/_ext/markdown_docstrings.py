"""Docstrings here read as Markdown in an editor; autodoc reads reStructuredText.

Before napoleon sees a docstring, code in single backticks, formulas between dollars, links and
tables are rewritten. Doctests stay as they are.
"""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

_SPAN = re.compile(
    r"(?<![`\w:])`(?P<code>[^`]+)`(?!`)"
    r"|\$(?P<math>[^$\s](?:[^$]*[^$\s])?)\$"
    r"|\[(?P<text>[^\]]+)\]\((?P<url>https?://[^)\s]+)\)"
)
_ROW = re.compile(r"^\s*\|.*\|\s*$")
_RULE = re.compile(r"^\s*\|[\s:|-]+\|\s*$")


def to_rst(lines: list[str]) -> list[str]:
    """The lines of a Markdown docstring as reStructuredText."""
    return [line for block in _blocks(lines) for line in _rewrite(block)]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines between empty ones: inline markup may cross a line's end, but not these."""
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
            continue
        yield block
        yield [line]
        block = []
    yield block


def _rewrite(block: list[str]) -> list[str]:
    if not block or any(line.lstrip().startswith(">>>") for line in block):
        return block
    table = [i for i, line in enumerate(block) if _ROW.match(line)]
    if len(table) > 1 and _RULE.match(block[table[1]]):
        first, last = table[0], table[-1] + 1
        return [*_rewrite(block[:first]), *_table(block[first:last]), *_rewrite(block[last:])]
    return _SPAN.sub(_span, "\n".join(block)).split("\n")


def _span(match: re.Match[str]) -> str:
    one_line = {key: " ".join(text.split()) for key, text in match.groupdict().items() if text}
    after = match.string[match.end() : match.end() + 1]
    # Markup must not touch a letter that follows it.
    end = "\\ " if after.isalnum() else ""
    if "code" in one_line:
        return f"``{one_line['code']}``{end}"
    if "math" in one_line:
        return f":math:`{one_line['math']}`{end}"
    return f"`{one_line['text']} <{one_line['url']}>`__{end}"


def _table(rows: list[str]) -> list[str]:
    indent = re.match(r"\s*", rows[0])[0]  # pyright: ignore[reportOptionalSubscript]
    lines = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in (rows[0], *rows[2:]):
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        for i, cell in enumerate(cells):
            bullet = "* -" if i == 0 else "  -"
            lines.append(f"{indent}   {bullet} {_SPAN.sub(_span, cell)}")
    return [*lines, ""]


def _process(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen before napoleon does."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
