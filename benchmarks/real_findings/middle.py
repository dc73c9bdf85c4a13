"""The same fits between attention and MLP: how much nearer is a steering where the prompt comes in?

A prompt's text reaches a token through attention alone. What the MLP of the same block makes of it, the model
works out itself if it is steered in between, at TransformerLens' `resid_mid`.
"""

import time
from collections.abc import Mapping, Sequence
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


def in_the_middle(fits: Mapping[str, Fit], *labels: str) -> dict[str, Fit]:
    """The same fits, to act between attention and MLP."""
    return {label: {**fits[label], "hook_point": "resid_mid"} for label in labels}


def middle_part(
    model: HookedModel, name: str, data: Answers, folder: Path, recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Curves of the fits, with the labels of those after the blocks, and every question's share.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        folder: Where fits are kept.
        recorded: What `prompt_part` found.

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
    fits = all_fits(model, data, folder / name / "fits-middle")
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


def all_fits(model: HookedModel, data: Answers, folder: Path) -> dict[str, Fitted]:
    """Every fit, on the answers that the same fit after the blocks has had."""
    first = data.fitted_on[0]

    def fits(own: SteeringDataset, wanted: dict[str, Fit]) -> dict[str, Fitted]:
        return fitted(model, own, wanted, lambda: own, folder, done=_say, runs=FitRuns())

    found = fits(first, in_the_middle(methods.LAYERWISE, *methods.LAYERWISE))
    with methods.fast_arithmetic(model, first):
        found |= fits(first, in_the_middle(methods.TRAINED, "constant, mse"))
    return found | fits(data.all, in_the_middle(methods.MANY, *methods.MANY))


def _say(label: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}   {label}, resid_mid", flush=True)
