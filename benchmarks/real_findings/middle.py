"""The same fits between attention and MLP: how much nearer is a steering where the prompt comes in?

A prompt's text reaches a token through attention alone. What the MLP of the same block makes of it, the model
works out itself if it is steered in between, at TransformerLens' `resid_mid`.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.findings import curve_numbers
from benchmarks.fits import Fit, Fitted, fitted
from benchmarks.real_findings import methods
from benchmarks.real_findings.answers import SAMPLING, Answers
from benchmarks.real_findings.distances import by_question, last_layer
from psr_lens.dataset import SteeringDataset
from psr_lens.examples import Example
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import FitRuns
from psr_lens.models import HookedModel

MEASURES: Final = ("relative_kl", "agreement")
"""Kept at the last layer."""
FEW: Final = "PSR, 16 heads"
OTHERS: Final = ("constant, mse", "PSR", "PSR, 4 heads")
"""Also compared in both places, on these:"""
COMPARED: Final = ("french", "german")


def in_the_middle(fits: Mapping[str, Fit], labels: Collection[str]) -> dict[str, Fit]:
    """Those of the fits that have these labels, to act between attention and MLP."""
    return {
        label: {**own, "hook_point": "resid_mid"} for label, own in fits.items() if label in labels
    }


def middle_part(
    model: HookedModel,
    name: str,
    data: Answers,
    folder: Path,
    recorded: Mapping[str, Any],
    fits: Mapping[str, Fitted],
) -> dict[str, Any]:
    """Curves of the fits, with the labels of those after the blocks, and every question's share.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        folder: Where answers are kept.
        recorded: What `prompt_part` found.
        fits: By label.

    Raises:
        ValueError: If the answers are not those that the other parts were measured on.
    """
    texts = [row["text"] for row in recorded["answers"]["prompt"]]
    test = as_recorded(model, data.test, texts)
    if test is None:
        raise ValueError(
            f"the answers in {folder / name} are not those that the other parts of {name!r} were measured "
            "on, so the two cannot be compared: measure the instruction anew, with its file moved away"
        )
    report = measure_faithfulness(
        model,
        {label: own.steering for label, own in fits.items()},
        test,
        oracle_ranks=(),
        random_direction=False,
        token_examples=0,
        worst_tokens=0,
    )
    return {
        "fits": {label: own.report for label, own in fits.items()},
        "relative_rmse": {
            label: curve_numbers(own) for label, own in report.curves("relative_rmse").items()
        },
        **{measure: last_layer(report, measure) for measure in MEASURES},
        "questions": by_question(report, test),
    }


def as_recorded(
    model: HookedModel, sampled: Sequence[Example], texts: Sequence[str]
) -> list[Example] | None:
    """The answers as they were when the other parts were measured, in the order of the texts.

    Another processor rounds otherwise, and once in a thousand tokens the model then says something else. Such
    an answer is taken from its text.

    Returns:
        The answers; None if more than one in ten came out otherwise, or a text cannot be had.
    """
    found = []
    for example, text in zip(sampled, texts, strict=True):
        if model.encoder.decode(example.response_ids) != text:
            ids = tuple(model.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
            finished = len(ids) < SAMPLING["max_new_tokens"]
            example = replace(example, response_ids=ids, response_text=text, finished=finished)
        found.append(example)
    changed = sum(own is not before for own, before in zip(found, sampled, strict=True))
    said = [model.encoder.decode(own.response_ids) for own in found]
    return found if said == list(texts) and 10 * changed <= len(found) else None


def all_fits(model: HookedModel, name: str, data: Answers, folder: Path) -> dict[str, Fitted]:
    """Every fit: many heads on all answers, the others on those that the same fit after the blocks had.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        folder: Where fits are kept.
    """
    first, place = data.fitted_on[0], folder / name / "fits-middle"

    def fits(own: SteeringDataset, wanted: dict[str, Fit]) -> dict[str, Fitted]:
        return fitted(model, own, wanted, lambda: own, place, done=_say, runs=FitRuns())

    labels = (FEW, *(OTHERS if name in COMPARED else ()))
    found = fits(first, in_the_middle(methods.LAYERWISE, labels))
    with methods.fast_arithmetic(model, first):
        found |= fits(first, in_the_middle(methods.TRAINED, labels))
    return found | fits(data.all, in_the_middle(methods.MANY, methods.MANY))


def _say(label: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}   {label}, resid_mid", flush=True)
