"""Any report as a page: its words, its table, its figures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from psr_lens.pages.page import html_page, render
from psr_lens.pages.page_figures import PageFigures
from psr_lens.report import Report

if TYPE_CHECKING:
    import pandas

Block = tuple[Literal["paragraph"], str] | tuple[Literal["list"], list[list[str]]]
"""A paragraph, or a list whose items have one or several lines."""


def report_page(report: Report) -> str:
    """The report as one self-contained HTML page (about 6 MB, nearly all of it plotly)."""
    figures, drawers = PageFigures(), report.figures()
    body = render(
        "report.html",
        title=report.title,
        words=blocks(report.words()),
        table=Markup(report.table_html()),
        figures=[figures.place(drawers[name](), name) for name in report.drawable()],
        provenance=readable(report.origin()),
    )
    return html_page(report.title, body, figures.scripts())


def numbers_html(frame: "pandas.DataFrame", *, digits: str = ".3f", index: bool = True) -> str:
    """A table of numbers, its columns in words; a dash for a missing number."""
    shown = frame.rename_axis(index=None, columns=None)
    shown.columns = [str(name).replace("_", " ") for name in shown.columns]
    return shown.to_html(
        border=0,
        classes="psr-numbers",
        float_format=f"{{:{digits}}}".format,
        index=index,
        na_rep="–",
    )


def blocks(summary: str) -> list[Block]:
    """The lines of a summary as paragraphs, those that begin with a dash as a list."""
    found: list[Block] = []
    items: list[list[str]] | None = None
    for line in summary.splitlines():
        if line.startswith("- "):
            if items is None:
                items = []
                found.append(("list", items))
            items.append([line[2:]])
        elif line.startswith("  ") and items:
            items[-1].append(line.strip())
        else:
            items = None
            if line:
                found.append(("paragraph", line))
    return found


def readable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without what only a machine can read or the page says anyway."""
    left_out = {"model": "fingerprint", "data": "example_keys"}
    found = {k: v for k, v in provenance.items() if k not in ("responses", "prompt_effect")}
    for part in left_out.keys() & found.keys():
        found[part] = {k: v for k, v in found[part].items() if k != left_out[part]}
    return found
