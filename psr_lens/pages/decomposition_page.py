"""A decomposition as files: a page of token heatmaps and a table of all norms."""

from pathlib import Path
from typing import Any

from psr_lens._types import AlignedTokens
from psr_lens.dataset import SteeringDataset
from psr_lens.deltas import iter_deltas
from psr_lens.examples import Example, cut_off_words
from psr_lens.model_record import describe_model
from psr_lens.models import unsteered_model
from psr_lens.pages.page import PAGE_MARK
from psr_lens.pages.trait_page import TraitPage, TraitSection, render_traits
from psr_lens.prompt_effect import PromptEffect, measure_prompt_effect
from psr_lens.prompts import prompt_text
from psr_lens.storage.atomic import refuse_foreign_files, write_files

_LEAD = (
    "Each panel colours the tokens of one response by how far the steering prompt moves them: in "
    "total up to that layer (accumulated delta), or what the layer itself must add once the earlier "
    "ones are prompted (local delta). Norms are Euclidean, in units of the residual stream."
)

_COLUMNS = ("example", "layer", "pos", "token", "accumulated", "local")


def refuse_foreign_decomposition(out: str | Path) -> tuple[Path, Path]:
    """Where the table and the page go.

    Raises:
        ValueError: If something is there that is not from an earlier decomposition.
    """
    table, page = Path(out) / "norms.csv", Path(out) / "deltas.html"
    refuse_foreign_files({table: ",".join(_COLUMNS).encode(), page: PAGE_MARK})
    return table, page


def write_decomposition(
    model: Any,
    data: SteeringDataset,
    out: str | Path,
    *,
    tokens: AlignedTokens = "response",
    show: int = 8,
    batch_size: int = 32,
    effect: PromptEffect | None = None,
    progress: bool = True,
) -> Path:
    """Write `deltas.html` (heatmaps of the first examples) and `norms.csv` (all of them).

    If the prompts hardly change what the model says, the page says so first. It also says how many
    responses were cut off, and shows the prompts as the model saw them.

    `norms.csv` has one row per example, layer and token: its place, the token, and the norms of the
    accumulated and the local delta. Where a character is spread over several tokens, all but the last
    show their bytes, as `⟨C3⟩`.

    Args:
        model: The model.
        data: The examples.
        out: Directory to write to, made if missing.
        tokens: `response` or `question+response`.
        show: Examples on the page.
        batch_size: Examples per forward pass.
        effect: How much the prompts do, if already measured.
        progress: Whether to show a bar.

    Returns:
        The path of the page.

    Raises:
        ValueError: If `show` is not positive, there is no example, or something other than an earlier
            decomposition is in the way of a file.
    """
    import pandas as pd

    if show < 1 or len(data) == 0:
        raise ValueError(f"show={show} of {len(data)} examples: both must be at least 1")
    table_file, page_file = refuse_foreign_decomposition(out)
    hooked = unsteered_model(model, "write_decomposition(...)")
    effect = effect or measure_prompt_effect(hooked, data, batch_size=batch_size)
    frames: dict[int, pd.DataFrame] = {}
    sections: dict[int, TraitSection] = {}
    for i, deltas in iter_deltas(
        hooked, data, tokens=tokens, batch_size=batch_size, progress=progress
    ):
        both = {kind: deltas.token_values(kind) for kind in ("accumulated", "local")}
        frames[i] = deltas.to_dataframe().assign(example=i)
        if i < show:
            sections[i] = TraitSection(
                name=f"example {i}",
                instruction=prompt_text(deltas.example.pair.prompted),
                summary=_base_words(deltas.example),
                prompt_text=prompt_text(deltas.example.pair.prompted),
                prompts=deltas.example.seen,
                heatmaps=tuple((f"{kind} delta norm", values) for kind, values in both.items()),
            )
    table = pd.concat([frames[i] for i in range(len(data))]).to_csv(
        columns=list(_COLUMNS), index=False, float_format="%.6g"
    )
    described = describe_model(hooked)
    described.pop("fingerprint")
    page = render_traits(
        TraitPage(
            "What did these prompts do inside the model?",
            f"{effect.warning} {_LEAD}".lstrip(),
            tuple(sections[i] for i in sorted(sections)),
            {**described, "tokens": tokens, "examples": str(len(data))},
            notes=tuple(filter(None, [cut_off_words(data)])),
        )
    )
    write_files({table_file: table.encode(), page_file: page.encode()})
    return page_file


def _base_words(example: Example) -> str:
    """The base prompt in words, if what the model saw is unknown and so not shown."""
    return "" if example.seen else f"Base prompt: {prompt_text(example.pair.base)}"
