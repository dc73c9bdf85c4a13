"""How far from the prompt every fit remains, beside the reference lines, on test questions."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.findings import PARTS, curve_numbers, rounded
from benchmarks.fits import Fitted
from benchmarks.real_findings.answers import Answers
from psr_lens.examples import Example
from psr_lens.faithfulness import NO_STEERING, FaithfulnessReport, measure_faithfulness
from psr_lens.models import HookedModel

RANKS: Final = (1, 4, 16)
MEASURES: Final = ("relative_kl", "agreement", "cosine", "spearman")
"""Kept at the last layer; the relative RMSE at all of them."""


def distances_part(
    model: HookedModel, data: Answers, fits: Mapping[str, Fitted], seed: int = 0
) -> dict[str, Any]:
    """Curves, what the rest of the distance comes from, and every question's share of it.

    Args:
        model: The chat model.
        data: The answers.
        fits: By label.
        seed: Of the intervals and the random direction.
    """
    report = measure_faithfulness(
        model,
        {label: own.steering for label, own in fits.items()},
        data.test,
        oracle_ranks=RANKS,
        token_examples=0,
        worst_tokens=0,
        seed=seed,
    )
    return {
        "examples": report.examples,
        "fits": {label: own.report for label, own in fits.items()},
        "relative_rmse": {
            name: curve_numbers(own) for name, own in report.curves("relative_rmse").items()
        },
        **{measure: last_layer(report, measure) for measure in MEASURES},
        "gap": {part: last_layer(report, f"gap_{part}") for part in PARTS},
        "questions": by_question(report, data.test),
    }


def last_layer(report: FaithfulnessReport, measure: str) -> dict[str, list[float]]:
    """Value and ends of the interval at the last layer, by name."""
    return {
        name: rounded([own.values[-1], own.low[-1], own.high[-1]])
        for name, own in report.curves(measure).items()
    }


def by_question(report: FaithfulnessReport, data: Sequence[Example]) -> dict[str, Any]:
    """Every question's part of the squared relative RMSE at the last layer.

    Summed over the questions it is that square, so whatever is compared can be resampled from here.
    """
    names = [str(example.pair.metadata["question"]) for example in data]
    questions = list(dict.fromkeys(names))
    energy = report.runs[NO_STEERING].sums["energy"][:, -1].sum()
    missed = {}
    for name, run in report.runs.items():
        shares = (run.sums["missed"][:, -1] / energy).tolist()
        parts = dict.fromkeys(questions, 0.0)
        for question, share in zip(names, shares, strict=True):
            parts[question] += share
        missed[name] = list(parts.values())
    return {"names": questions, "missed": missed}
