"""A faithfulness report as files: its numbers, and a page about them that opens anywhere."""

import math
from pathlib import Path
from typing import Final

from psr_lens.faithfulness import MEASURES, PARAPHRASE, FaithfulnessReport
from psr_lens.plots.circuits import page_scripts
from psr_lens.plots.faithfulness import faithfulness_figure, faithfulness_table
from psr_lens.plots.figures import PageFigures, provenance_footer
from psr_lens.plots.page import PAGE_MARK, html_page
from psr_lens.plots.prompt_html import common_note, seen_prompts_html
from psr_lens.plots.report_page import numbers_html, readable, summary_html
from psr_lens.plots.text import escape
from psr_lens.plots.tokens import token_heatmaps
from psr_lens.storage import container_bytes, refuse_foreign
from psr_lens.storage.atomic import refuse_foreign_files, write_files

_SHOWN_EXAMPLES: Final = 3
_SHOWN_WORST: Final = 10
_SECTIONS: Final = (
    (
        "relative_rmse",
        "Distance to the prompt",
        "How far the steered residual stream is from the prompted one, in units of the prompt's own "
        "effect: 0 is exactly what the prompt does, 1 is no steering.",
    ),
    (
        "cosine",
        "Direction",
        "Cosine between what the steering changes and what the prompt changes, over all tokens: 1 is "
        "the same direction everywhere and the same distribution over the tokens.",
    ),
    (
        "spearman",
        "Where it acts",
        "Does it change those tokens most that the prompt changes most? Rank correlation over the "
        "tokens of a response, mean over examples; a line is missing where a side is constant.",
    ),
    (
        "relative_kl",
        "Next token",
        "What is left of the divergence between the unsteered and the prompted next-token "
        "distribution: 0 is prompting, 1 is no steering.",
    ),
    (
        "agreement",
        "Most likely token",
        "At how many positions the most likely next token is the prompted one.",
    ),
)
_BANDS: Final = "Bands are 95 % bootstrap intervals over examples."
_GAP: Final = (
    "The squared distance, taken apart: updates of the wrong strength, what lies outside of the "
    "steering's directions, layers and tokens where it does not act, and what later blocks make of "
    "all that. A bar below zero makes the distance smaller."
)
_WORST: Final = (
    "The tokens, in brackets, that are farthest from the prompted ones at the last layer: length of the "
    "prompt's effect and of the error, and the error in units of the effect's root mean square."
)
_TOKENS: Final = (
    "<h2>Token by token</h2><p>Length of the prompt's effect on every token, and of what is missing "
    "or too much under a steering, on one colour scale.</p>"
)


def write_faithfulness(report: FaithfulnessReport, out: str | Path) -> Path:
    """Write `report.safetensors`, the report, and `report.html`, a page about it.

    `FaithfulnessReport.load(out / "report")` gets the report back.

    Args:
        report: What `measure_faithfulness` returned.
        out: Directory to write to, made if missing. An older report in it is replaced; whatever else
            it holds stays.

    Returns:
        The path of the page.

    Raises:
        ValueError: If something that is not an older report or its page is in their place.
        OSError: If it cannot be written.
    """
    file, page = refuse_foreign_faithfulness(out)
    content = container_bytes(FaithfulnessReport.__name__, *report.packed())
    write_files({file: content, page: faithfulness_page(report).encode()})
    return page


def refuse_foreign_faithfulness(out: str | Path) -> tuple[Path, Path]:
    """Where the report and the page go.

    Raises:
        ValueError: If something is there that is not of an earlier `write_faithfulness`.
    """
    page = Path(out) / "report.html"
    refuse_foreign_files({page: PAGE_MARK})
    return refuse_foreign(Path(out) / "report", FaithfulnessReport.__name__), page


def faithfulness_page(report: FaithfulnessReport) -> str:
    """The report as one self-contained HTML page (about 6 MB, nearly all of it plotly)."""
    figures = PageFigures()
    kept = _kept_examples(report)
    template = common_note(report.prompts(number) for number in kept)
    notes = f'<p class="psr-page-note">{escape(template)}</p>' if template else ""
    parts = [
        f'<header><h1>{report.title}</h1><p class="psr-lead">{escape(_lead(report))}</p>{notes}</header>',
        "<main>",
        f"<section><h2>In words</h2>{summary_html(report.summary())}</section>",
        f"<section><h2>At the last layer</h2>{faithfulness_table(report)}</section>",
    ]
    for measure, heading, reading in _SECTIONS:
        curves = report.curves(measure)
        if not any(math.isfinite(x) for curve in curves.values() for x in curve.values):
            continue
        figure = faithfulness_figure(report, measure)
        figure.update_layout(title={"text": ""})
        if measure == "relative_rmse" and report.has_intervals:
            reading += f" {_BANDS}"
        place = figures.place(figure, MEASURES[measure].label)
        parts.append(f"<section><h2>{heading}</h2><p>{escape(reading)}</p>{place}</section>")
    split = [name for name in report.steerings if "propagation" in report.runs[name].sums]
    if split:
        bars = "".join(
            figures.place(report.plot("gap", name=name), f"Error of {name}") for name in split
        )
        parts.append(
            f"<section><h2>Where the distance comes from</h2><p>{_GAP}</p>{bars}</section>"
        )
    if shown := min(_SHOWN_WORST, report.worst_kept):
        tables = "".join(_worst(report, name, shown) for name in report.steerings)
        parts.append(f"<section><h2>Where it fails most</h2><p>{_WORST}</p>{tables}</section>")
    parts += [_example(report, number, told=bool(template)) for number in kept]
    body = "".join([*parts, "</main>", provenance_footer(_origin(report))])
    return html_page(report.title, body, f"{page_scripts()}\n{figures.scripts()}")


def _lead(report: FaithfulnessReport) -> str:
    model = report.provenance.get("model", {}).get("name", "a model")
    count = "1 response" if report.examples == 1 else f"{report.examples} responses"
    compared = "the same responses under no steering"
    if PARAPHRASE in report.reference:
        compared += ", under the prompt in other words"
    return (
        f"{'; '.join(report.steerings) or 'No steering'} on {model}: {count} that the prompted model "
        f"gave, run again without the prompt and with the steering at strength {report.alpha:g}. "
        f"To read the numbers by: {compared}, and under oracles that know what the prompt does."
    )


def _kept_examples(report: FaithfulnessReport) -> list[int]:
    return sorted(set(report.tokens["example"].tolist()))[:_SHOWN_EXAMPLES]


def _example(report: FaithfulnessReport, number: int, *, told: bool) -> str:
    first = report.steerings[0]
    panels = {"what the prompt does": report.token_values(first, number, "delta")}
    panels |= {
        f"what {name} leaves": report.token_values(name, number, "error")
        for name in report.steerings
    }
    heatmap = token_heatmaps(panels, title=f"Response {number}, token by token", shared_scale=True)
    prompts = seen_prompts_html(report.prompts(number), note=not told)
    return f"<section>{_TOKENS if number == 0 else ''}{heatmap.fragment()}{prompts}</section>"


def _worst(report: FaithfulnessReport, name: str, n: int) -> str:
    table = report.worst_tokens(name, report.n_layers - 1, n).drop(columns=["layer", "token"])
    rows = numbers_html(table, digits=".3g", index=False)
    return f'<h3>{escape(name)}</h3><div class="psr-scroll">{rows}</div>'


def _origin(report: FaithfulnessReport) -> dict[str, object]:
    found = readable(report.provenance)
    return {
        **found.pop("model", {}),
        "tokens": report.measured_on,
        "alpha": report.alpha,
        "seed": report.seed,
        "resamples": report.n_bootstrap,
        "data": found.get("data", {}),
        "psr_lens": report.provenance.get("psr_lens", ""),
    }
