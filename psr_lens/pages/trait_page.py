"""One page that shows what a steering does beside what the prompt does, trait by trait.

The page is one file: plotly once, circuitsvis once, every number in it. It opens from a disk or an
e-mail without a network; texts and tables show even where scripts do not run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from markupsafe import Markup

from psr_lens._types import TokenValues
from psr_lens.pages.page import html_page, render
from psr_lens.pages.page_figures import PageFigures
from psr_lens.plots.circuits import page_scripts
from psr_lens.plots.faithfulness import FaithfulnessCurves, faithfulness_curves
from psr_lens.plots.number_table import Cell, number_table
from psr_lens.plots.prompt_html import common_note, seen_prompts_html
from psr_lens.plots.strength_curves import BehaviourRow, behaviour_curves
from psr_lens.plots.theme import named_colours
from psr_lens.plots.tokens import token_heatmaps
from psr_lens.seen_prompts import SeenPrompts

Example = tuple[str, str, tuple[str, ...]]
"""`(method, question, completions)`."""

_OPEN_ROWS = 12
_READING = (
    "The same response in every panel: the stronger the colour, the larger the {number} at that token. "
    "What colours a token acts on the next one: the model chooses every token at the one before it. "
    "Move the slider to see the other layers."
)


@final
@dataclass(frozen=True)
class TraitSection:
    """One steering instruction and everything measured for it.

    Attributes:
        name: The trait, as a heading.
        instruction: What the steering prompt tells the model.
        summary: What the pictures show, plain text.
        prompt_text: The whole steering prompt.
        heatmaps: `(caption, values)`, all over the tokens of one response: the lengths of what the
            prompt adds first, then those of each steering.
        curves: Faithfulness over layers, None for none.
        behaviour: `(method, alpha, trait, coherence)`, scores 0 to 100.
        examples: `(method, question, completions)`; methods are set side by side per question.
        shared_scale: Whether the panels are in one unit and take one colour scale.
        layer: The layer that the panels show first, None for that of the prompt's largest median;
            see `layer_to_show`.
        prompts: Both prompts as the model saw them, which the page shows in place of `prompt_text`;
            None if unknown.
        notes: More paragraphs under the summary, plain text: how many responses were cut off, say.
    """

    name: str
    instruction: str
    summary: str
    prompt_text: str
    heatmaps: tuple[tuple[str, TokenValues], ...] = ()
    curves: FaithfulnessCurves | None = None
    behaviour: tuple[BehaviourRow, ...] = ()
    examples: tuple[Example, ...] = ()
    shared_scale: bool = False
    layer: int | None = None
    prompts: SeenPrompts | None = None
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class TraitPage:
    """A page on one or several traits.

    Attributes:
        title: The page's heading.
        lead: One paragraph of plain text: what the page shows.
        sections: The traits, in order.
        provenance: How the numbers came about, shown at the foot.
        notes: More paragraphs under the lead, plain text.
    """

    title: str
    lead: str
    sections: tuple[TraitSection, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def render_traits(page: TraitPage) -> str:
    """The page as one self-contained HTML page (about 6 MB, nearly all of it plotly).

    Equal contents give equal pages.

    Raises:
        ValueError: If it has no section, captions of one section repeat, or its panels
            show different tokens.
    """
    if not page.sections:
        raise ValueError("the page has no section: give at least one trait")
    figures = PageFigures()
    # What the chat template adds to every prompt is said once.
    common = common_note(section.prompts for section in page.sections)
    body = render(
        "traits.html",
        page=page,
        notes=[note for note in (*page.notes, common) if note],
        sections=[_section(section, figures, told=bool(common)) for section in page.sections],
        open_rows=_OPEN_ROWS,
    )
    return html_page(page.title, body, page_scripts() + figures.scripts())


def _section(section: TraitSection, figures: PageFigures, *, told: bool) -> dict[str, Any]:
    """What the template shows of a section, its rendered parts included."""
    colours = _method_colours(section)
    shown: dict[str, Any] = {
        "own": section,
        "heatmap": "",
        "prompts": Markup(seen_prompts_html(section.prompts, note=not told)),
        "curves": None,
        "behaviour": None,
        "numbers": Markup(_behaviour_table(section.behaviour)),
        "answers": _by_question(section.examples),
    }
    if section.heatmaps:
        panels = dict(section.heatmaps)
        if len(panels) < len(section.heatmaps):
            captions = [caption for caption, _ in section.heatmaps]
            raise ValueError(f"captions {captions} repeat; give every panel a caption of its own")
        heatmap = token_heatmaps(
            panels, layer=section.layer, title=_reading(panels), shared_scale=section.shared_scale
        )
        shown["heatmap"] = Markup(heatmap.fragment())
    if section.curves is not None:
        figure = faithfulness_curves(section.curves, title="", colours=colours)
        shown["curves"] = figures.place(figure, "Relative RMSE over layers")
    if any(row[1] is not None for row in section.behaviour):
        figure = behaviour_curves(section.behaviour, title="", colours=colours)
        shown["behaviour"] = figures.place(figure, "Trait and coherence over alpha")
    return shown


def _reading(panels: Mapping[str, TokenValues]) -> str:
    """How to read the panels: by the quantity's name where all of them show the same one."""
    quantities = {values.quantity for values in panels.values()}
    return _READING.format(number=quantities.pop() if len(quantities) == 1 else "number")


def _method_colours(section: TraitSection) -> dict[str, str]:
    """One colour per steering method, the same in both figures of a section."""
    names = list(section.curves.relative_rmse) if section.curves is not None else []
    names += [row[0] for row in section.behaviour if row[1] is not None]
    return named_colours(list(dict.fromkeys(names)), None)


def _behaviour_table(rows: Sequence[BehaviourRow]) -> str:
    cells = [
        (method, [Cell("–" if a is None else f"{a:g}"), Cell(f"{t:.1f}"), Cell(f"{c:.1f}")])
        for method, a, t, c in rows
    ]
    return number_table(("method", "alpha", "trait", "coherence"), cells)


def _by_question(
    examples: Sequence[Example],
) -> list[tuple[str, list[tuple[str, tuple[str, ...]]]]]:
    """What every method answered, question by question."""
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for method, question, completions in examples:
        found.setdefault(question, []).append((method, completions))
    return list(found.items())
