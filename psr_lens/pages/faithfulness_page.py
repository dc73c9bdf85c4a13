"""A faithfulness report as files: its numbers, and a page about them that opens anywhere."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from markupsafe import Markup

from psr_lens.faithfulness import MEASURES, PARAPHRASE, FaithfulnessReport
from psr_lens.pages.page import PAGE_MARK, html_page, render
from psr_lens.pages.page_figures import PageFigures
from psr_lens.pages.report_page import blocks, numbers_html, readable
from psr_lens.plots.circuits import page_scripts
from psr_lens.plots.faithfulness import faithfulness_figure, faithfulness_table
from psr_lens.plots.prompt_html import common_note, seen_prompts_html
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
        "Does it change most the tokens that the prompt changes most? Rank correlation over the "
        "tokens of a response, mean over examples; a line is missing where either is constant.",
    ),
    (
        "relative_kl",
        "Next token",
        "What is left of the divergence between the base and the prompted next-token "
        "distribution: 0 is prompting, 1 is no steering.",
    ),
    (
        "agreement",
        "Most likely token",
        "Share of positions where the most likely next token is the prompted one.",
    ),
)
_BANDS: Final = "Bands are 95 % bootstrap intervals over prompts."


def write_faithfulness(report: FaithfulnessReport, out: str | Path) -> Path:
    """Write `report.safetensors`, the report, and `report.html`, a page about it.

    `FaithfulnessReport.load(out / "report")` reads the report back.

    Args:
        report: What `measure_faithfulness` returned.
        out: Directory to write to, made if missing. An older report in it is replaced; whatever else
            it holds stays.

    Returns:
        The path of the page.

    Raises:
        ValueError: If something other than an older report or its page is in their place.
        OSError: If it cannot be written.
    """
    file, page = refuse_foreign_faithfulness(out)
    content = container_bytes(FaithfulnessReport.__name__, *report.packed())
    write_files({file: content, page: faithfulness_page(report).encode()})
    return page


def refuse_foreign_faithfulness(out: str | Path) -> tuple[Path, Path]:
    """Where the report and the page go.

    Raises:
        ValueError: If something is there that is not from an earlier `write_faithfulness`.
    """
    page = Path(out) / "report.html"
    refuse_foreign_files({page: PAGE_MARK})
    return refuse_foreign(Path(out) / "report", FaithfulnessReport.__name__), page


def faithfulness_page(report: FaithfulnessReport) -> str:
    """The report as one self-contained HTML page (about 6 MB, nearly all of it plotly)."""
    figures = PageFigures()
    kept = _kept_examples(report)
    template = common_note(report.prompts(number) for number in kept)
    split = [name for name in report.steerings if "propagation" in report.runs[name].sums]
    shown = min(_SHOWN_WORST, report.worst_kept)
    body = render(
        "faithfulness.html",
        title=report.title,
        lead=_lead(report),
        notes=[template] if template else [],
        words=blocks(report.summary()),
        table=Markup(faithfulness_table(report)),
        measures=list(_measures(report, figures)),
        gaps=[figures.place(report.plot("gap", name=name), f"Error of {name}") for name in split],
        worst=[(name, Markup(_worst(report, name, shown))) for name in report.steerings if shown],
        examples=[_example(report, number, told=bool(template)) for number in kept],
        provenance=_origin(report),
    )
    return html_page(report.title, body, page_scripts() + figures.scripts())


def _measures(report: FaithfulnessReport, figures: PageFigures) -> Iterator[dict[str, object]]:
    for measure, heading, reading in _SECTIONS:
        curves = report.curves(measure)
        if not any(math.isfinite(x) for curve in curves.values() for x in curve.values):
            continue
        figure = faithfulness_figure(report, measure)
        figure.update_layout(title={"text": ""})
        if measure == "relative_rmse" and report.has_intervals:
            reading += f" {_BANDS}"
        place = figures.place(figure, MEASURES[measure].label)
        yield {"heading": heading, "reading": reading, "figure": place}


def _lead(report: FaithfulnessReport) -> str:
    model = report.provenance.get("model", {}).get("name", "a model")
    count = "1 response" if report.examples == 1 else f"{report.examples} responses"
    compared = "the same responses under no steering"
    if PARAPHRASE in report.reference:
        compared += ", under the prompt in other words"
    return (
        f"{'; '.join(report.steerings) or 'No steering'} on {model}: {count} that the prompted model "
        f"gave, run again without the prompt and with the steering at strength {report.alpha:g}. "
        f"For comparison: {compared}, and under oracles that know what the prompt does."
    )


def _kept_examples(report: FaithfulnessReport) -> list[int]:
    return sorted(set(report.tokens["example"].tolist()))[:_SHOWN_EXAMPLES]


def _example(report: FaithfulnessReport, number: int, *, told: bool) -> dict[str, Markup]:
    first = report.steerings[0]
    panels = {"what the prompt does": report.token_values(first, number, "delta")}
    panels |= {
        f"what is wrong under {name}": report.token_values(name, number, "error")
        for name in report.steerings
    }
    heatmap = token_heatmaps(panels, title=f"Response {number}, token by token", shared_scale=True)
    prompts = seen_prompts_html(report.prompts(number), note=not told)
    return {"heatmap": Markup(heatmap.fragment()), "prompts": Markup(prompts)}


def _worst(report: FaithfulnessReport, name: str, n: int) -> str:
    table = report.worst_tokens(name, report.n_layers - 1, n).drop(columns=["layer", "token"])
    return numbers_html(table, digits=".3g", index=False)


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
