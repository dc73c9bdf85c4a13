"""One page that shows what a steering does beside what the prompt does, trait by trait.

The page is one file: plotly once, circuitsvis once, every number in it. It opens from a disk or a
mail without a network, and its token pictures and tables are there even where scripts do not run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from psr_lens._types import TokenValues
from psr_lens.plots.circuits import page_scripts
from psr_lens.plots.faithfulness import FaithfulnessCurves, faithfulness_curves
from psr_lens.plots.figures import PageFigures, provenance_footer
from psr_lens.plots.page import html_page
from psr_lens.plots.prompt_html import common_note, seen_prompts_html
from psr_lens.plots.strength_curves import BehaviourRow, behaviour_curves
from psr_lens.plots.text import escape
from psr_lens.plots.theme import named_colours
from psr_lens.plots.tokens import token_heatmaps
from psr_lens.seen_prompts import SeenPrompts

Example = tuple[str, str, tuple[str, ...]]
"""`(method, question, completions)`."""

_OPEN_ROWS = 12
_READING = (
    "The same response in every panel: the stronger the colour, the larger the {number} at that token. "
    "Colour on a token acts on the next one, for the model chooses every token at the one before it. "
    "Move the slider to see the other layers."
)


@final
@dataclass(frozen=True)
class TraitSection:
    """One steering instruction and everything measured for it.

    Attributes:
        name: The trait, as a heading.
        instruction: What the steering prompt tells the model.
        summary: What is to be seen in the pictures, plain text.
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
            None where they are not known.
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
        lead: One paragraph of plain text: what is seen.
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
    # What the template does to every prompt is said once.
    common = common_note(section.prompts for section in page.sections)
    sections = "\n".join(
        _section(number, section, figures, told=bool(common))
        for number, section in enumerate(page.sections)
    )
    notes = _paragraphs(note for note in (*page.notes, common) if note)
    links = "".join(
        f'<li><a href="#trait-{number}">{escape(section.name)}</a></li>'
        for number, section in enumerate(page.sections)
    )
    navigation = f'<nav aria-label="Traits"><ul>{links}</ul></nav>'
    body = (
        f"<header><h1>{escape(page.title)}</h1>"
        f'<p class="psr-lead">{escape(page.lead)}</p>{notes}'
        f"{navigation if len(page.sections) > 1 else ''}</header>\n"
        f"<main>{sections}</main>\n"
        f"{provenance_footer(page.provenance)}"
    )
    return html_page(page.title, body, f"{page_scripts()}\n{figures.scripts()}")


def _paragraphs(notes: Iterable[str]) -> str:
    return "".join(f'<p class="psr-page-note">{escape(note)}</p>' for note in notes)


def _section(number: int, section: TraitSection, figures: PageFigures, *, told: bool) -> str:
    parts = [
        f"<h2>{escape(section.name)}</h2>",
        f'<p class="psr-instruction"><span>Instruction</span> {escape(section.instruction)}</p>',
    ]
    if section.heatmaps:
        panels = dict(section.heatmaps)
        if len(panels) < len(section.heatmaps):
            captions = [caption for caption, _ in section.heatmaps]
            raise ValueError(f"captions {captions} repeat; give every panel a caption of its own")
        heatmap = token_heatmaps(
            panels, layer=section.layer, title=_reading(panels), shared_scale=section.shared_scale
        )
        parts.append(heatmap.fragment())
    if section.summary:
        parts.append(f'<p class="psr-summary">{escape(section.summary)}</p>')
    parts.append(_paragraphs(section.notes))
    parts.append(seen_prompts_html(section.prompts, note=not told))
    if section.prompt_text and section.prompts is None:
        prompt = f'<pre class="psr-prompt">{escape(section.prompt_text)}</pre>'
        parts.append(f"<details><summary>The whole prompt</summary>{prompt}</details>")
    colours = _method_colours(section)
    if section.curves is not None:
        parts.append(
            "<h3>Faithfulness</h3><p>How far the steered residual stream is from the prompted one: "
            "0 is exactly what the prompt does, 1 is no steering. Bands are 95&nbsp;% bootstrap "
            "intervals over examples.</p>"
        )
        figure = faithfulness_curves(section.curves, title="", colours=colours)
        parts.append(figures.place(figure, "Relative RMSE over layers"))
    if section.behaviour:
        parts.append(
            "<h3>Behaviour</h3><p>How strongly the responses show the trait, and how coherent they "
            "stay, both from 0 to 100.</p>"
        )
        if any(row[1] is not None for row in section.behaviour):
            figure = behaviour_curves(section.behaviour, title="", colours=colours)
            parts.append(figures.place(figure, "Trait and coherence over alpha"))
        parts.append(_behaviour_table(section.behaviour))
    if section.examples:
        parts.append(f"<h3>Examples</h3>{_examples(section.examples)}")
    return f'<section id="trait-{number}">{"".join(parts)}</section>'


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
    body = "".join(
        f'<tr><th scope="row">{escape(method)}</th>'
        f"<td>{'–' if alpha is None else f'{alpha:g}'}</td>"
        f"<td>{trait:.1f}</td><td>{coherence:.1f}</td></tr>"
        for method, alpha, trait, coherence in rows
    )
    table = (
        '<div class="psr-scroll"><table class="psr-numbers"><thead><tr>'
        '<th scope="col">method</th><th scope="col">alpha</th><th scope="col">trait</th>'
        f'<th scope="col">coherence</th></tr></thead><tbody>{body}</tbody></table></div>'
    )
    if len(rows) <= _OPEN_ROWS:
        return table
    return f"<details><summary>All {len(rows)} numbers</summary>{table}</details>"


def _examples(examples: Sequence[Example]) -> str:
    parts = []
    for question in dict.fromkeys(example[1] for example in examples):
        rows = "".join(
            f'<tr><th scope="row">{escape(method)}</th><td>'
            + "".join(f"<p>{escape(completion)}</p>" for completion in completions)
            + "</td></tr>"
            for method, asked, completions in examples
            if asked == question
        )
        parts.append(
            f'<table class="psr-examples"><caption>{escape(question)}</caption>'
            f"<tbody>{rows}</tbody></table>"
        )
    return "".join(parts)
