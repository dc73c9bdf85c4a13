"""Any report as a page: its words, its table, its figures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from psr_lens.plots.figures import PageFigures, provenance_footer
from psr_lens.plots.page import html_page
from psr_lens.plots.text import escape
from psr_lens.report import Report

if TYPE_CHECKING:
    import pandas


def report_page(report: Report) -> str:
    """The report as one self-contained HTML page (about 6 MB, nearly all of it plotly)."""
    figures, drawers = PageFigures(), report.figures()
    title, words = escape(report.title), summary_html(report.words())
    parts = [f"<header><h1>{title}</h1></header><main><section>{words}</section>"]
    if table := report.table_html():
        parts.append(f'<section><h2>Numbers</h2><div class="psr-scroll">{table}</div></section>')
    parts += [
        f"<section>{figures.place(drawers[name](), name)}</section>" for name in report.drawable()
    ]
    body = "".join([*parts, "</main>", provenance_footer(readable(report.origin()))])
    return html_page(report.title, body, figures.scripts())


def numbers_html(frame: "pandas.DataFrame", *, digits: str = ".3f", index: bool = True) -> str:
    """A table of numbers, its columns in words; a dash where there is none."""
    shown = frame.rename_axis(index=None, columns=None)
    shown.columns = [str(name).replace("_", " ") for name in shown.columns]
    return shown.to_html(
        border=0,
        classes="psr-numbers",
        float_format=f"{{:{digits}}}".format,
        index=index,
        na_rep="–",
    )


def summary_html(summary: str) -> str:
    """The lines of a summary as paragraphs, those that begin with a dash as a list."""
    html, items = [], []
    for line in [*summary.splitlines(), ""]:
        if line.startswith("- "):
            items.append(escape(line[2:]))
        elif line.startswith("  ") and items:
            items[-1] += f"<br>{escape(line.strip())}"
        else:
            if items:
                html.append(f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>")
                items = []
            html.append(f'<p class="psr-summary">{escape(line)}</p>' if line else "")
    return "".join(html)


def readable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A provenance without what only a machine can read, and what a page says anyway."""
    left_out = {"model": "fingerprint", "data": "example_keys"}
    found = {k: v for k, v in provenance.items() if k not in ("responses", "prompt_effect")}
    for part in left_out.keys() & found.keys():
        found[part] = {k: v for k, v in found[part].items() if k != left_out[part]}
    return found
