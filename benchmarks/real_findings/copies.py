"""How far a fitted PSR carries to other copies of its model: number type, bits, weights trained further.

Each copy gets the PSR of the original as it is and, beside it, one fitted to the copy anew, layer by layer on
the same answers; but for bfloat16, in which processors without such numbers are many times slower. What both
are measured against is what the prompt does in the copy itself.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.findings import curve_numbers
from benchmarks.fits import fitted
from benchmarks.real_findings.answers import Answers, answers
from benchmarks.real_findings.methods import LAYERWISE
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import HookedModel, load_model
from psr_lens.steering import PSR, Steering

INSTRUCTION: Final = "french"
METHOD: Final = "PSR, 4 heads"
HALF: Final = "bfloat16"
_TEXT: Final = Path(__file__).parents[2] / "docs" / "method.md"
_ROWS, _LENGTH = 4, 128


def copies_part(model: HookedModel, folder: Path) -> dict[str, Callable[[], Any]]:
    """How every copy is measured, by name."""

    @cache
    def data() -> Answers:
        return answers(model, INSTRUCTION, folder)

    @cache
    def original() -> Steering:
        place = folder / INSTRUCTION / "fits"
        wanted = {METHOD: LAYERWISE[METHOD]}
        first = data().fitted_on[0]
        return fitted(model, first, wanted, lambda: first, place)[METHOD].steering

    return {
        name: partial(_measured, model, make, data, original, anew=name != HALF)
        for name, make in COPIES_OF.items()
    }


def _measured(
    model: HookedModel,
    make: Callable[[HookedModel], HookedModel],
    data: Callable[[], Answers],
    original: Callable[[], Steering],
    anew: bool,
) -> dict[str, Any]:
    carried = original()
    assert isinstance(carried, PSR)
    copy = make(model)
    # Without the records of the original model, by which the copy would rightly be refused.
    fit_on = replace(data().fitted_on[0], model={})
    steerings: dict[str, Steering] = {
        "carried": PSR(carried.w, carried.b, carried.z, carried.layers)
    }
    if anew:
        steerings["fitted anew"] = fit(copy, fit_on, **LAYERWISE[METHOD])
    report = measure_faithfulness(
        copy,
        steerings,
        [replace(own, paraphrase_ids=()) for own in data().test],
        oracle_ranks=(),
        gap=False,
        random_direction=False,
        token_examples=0,
    )
    found = {name: curve_numbers(report.relative_rmse[name]) for name in steerings}
    if anew:
        difference = report.difference("carried", "fitted anew")
        found["carried - fitted anew"] = curve_numbers(difference)
    return found


def _half(model: HookedModel) -> HookedModel:
    return load_model("smollm2", backend="transformers", dtype=torch.bfloat16)


@torch.no_grad()
def rounded_to(bits: int, model: HookedModel) -> HookedModel:
    """The weights of all blocks rounded to whole multiples of a 2^(bits-1) - 1-th of each row's largest."""
    raw = deepcopy(model.raw)
    steps = 2 ** (bits - 1) - 1
    for module in raw.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            unit = module.weight.abs().amax(dim=1, keepdim=True) / steps
            module.weight.copy_((module.weight / unit).round() * unit)
    return load_model(raw, tokenizer=model.tokenizer)


def trained_on(steps: int, rate: float, model: HookedModel) -> HookedModel:
    """All weights trained on by AdamW, on the text of the page on the method, which has no chat in it."""
    raw = deepcopy(model.raw).requires_grad_()
    ids = model.tokenizer(_TEXT.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    rows = torch.tensor(ids[: len(ids) // _LENGTH * _LENGTH]).view(-1, _LENGTH)
    optimiser = torch.optim.AdamW(raw.parameters(), lr=rate)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (_ROWS,), generator=draw)]
        loss = raw(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return load_model(raw.requires_grad_(False).eval(), tokenizer=model.tokenizer)


COPIES_OF: Final[dict[str, Callable[[HookedModel], HookedModel]]] = {
    HALF: _half,
    "8 bits": partial(rounded_to, 8),
    "4 bits": partial(rounded_to, 4),
    "20 steps": partial(trained_on, 20, 2e-5),
    "20 large steps": partial(trained_on, 20, 2e-4),
}
