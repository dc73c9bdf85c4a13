"""Whole HTML pages: one file each, which opens anywhere and needs no network.

    from psr_lens import pages

    pages.write_faithfulness(report, "report")         # report.safetensors, report.html
    pages.write_decomposition(model, data.test, "deltas")
    pages.render_traits(page)                          # a page of one's own, as text

Every report writes a page of its own too: `report.to_html(path)`. The HTML is in `templates`.
"""

from psr_lens.pages.decomposition_page import write_decomposition
from psr_lens.pages.faithfulness_page import write_faithfulness
from psr_lens.pages.trait_page import TraitPage, TraitSection, render_traits

__all__ = [
    "TraitPage",
    "TraitSection",
    "render_traits",
    "write_decomposition",
    "write_faithfulness",
]
