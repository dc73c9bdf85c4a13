r"""Answers with their scores: trait, fluency, and how likely the prompted model finds them.

Trait and fluency read the text alone. The likelihood is the mean over the
tokens of an answer `y` of $\ln p(y_i \mid x', y_{<i})$, in nats, of the model under the instruction: it
also hears what the other two do not, such as words in a wrong order.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

import torch

from psr_lens.demo.everyday import everyday_judge
from psr_lens.evaluation import Answer
from psr_lens.evaluation.answer_likelihoods import answer_likelihoods
from psr_lens.examples import Example
from psr_lens.models import HookedModel, TokenRow
from psr_lens.statistics import bootstrap, estimates, resamples

SCORES: Final = ("trait", "fluency", "likelihood")
_N_BOOTSTRAP: Final = 1000


def judged(
    model: HookedModel, name: str, examples: Sequence[Example], texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Every answer with its question and its scores.

    Args:
        model: The chat model.
        name: The instruction's name.
        examples: What was asked; their own answers are not looked at.
        texts: An answer to each.
    """
    asked = [own.question for own in examples]
    scores = everyday_judge(name).scores(list(map(Answer, asked, texts)))
    likely = likelihoods(model, examples, texts)
    rows = []
    for example, text, score, likelihood in zip(examples, texts, scores, likely, strict=True):
        rows.append(
            {
                "question": str(example.pair.metadata["question"]),
                "text": text,
                "trait": round(score.trait or 0.0, 2),
                "fluency": round(score.coherence or 0.0, 2),
                "likelihood": None if likelihood is None else round(likelihood, 4),
            }
        )
    return rows


def judged_together(
    model: HookedModel, name: str, kinds: Mapping[str, tuple[Sequence[Example], Sequence[str]]]
) -> dict[str, list[dict[str, Any]]]:
    """`judged` for several kinds of answers at once: a prompt is run once for all answers to it.

    Args:
        model: The chat model.
        name: The instruction's name.
        kinds: What was asked and an answer to each, by kind.
    """
    examples = [one for own, _ in kinds.values() for one in own]
    rows = iter(judged(model, name, examples, [text for _, own in kinds.values() for text in own]))
    return {kind: list(islice(rows, len(own))) for kind, (own, _) in kinds.items()}


def likelihoods(
    model: HookedModel, examples: Sequence[Example], texts: Sequence[str]
) -> list[float | None]:
    """Mean log-likelihood per token of every text under the steering prompt, in nats; None if empty."""
    found: list[float | None] = [None] * len(texts)
    places, rows = [], []
    for i, (example, text) in enumerate(zip(examples, texts, strict=True)):
        if text.strip():
            said = model.encoder.encode_response(example.pair.prompted, text, example.rendering)
            last = len(example.prompted_ids) - 1
            places.append(i)
            rows.append(TokenRow(example.prompted_ids + said, last, last))
    for place, own in zip(places, answer_likelihoods(model, rows), strict=True):
        found[place] = own
    return found


def mean_scores(rows: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, list[float]]:
    """The mean of every score with its 95 % interval over questions: value, low, high."""
    questions = list(dict.fromkeys(row["question"] for row in rows))
    found = {}
    for score in SCORES:
        known = [row for row in rows if row[score] is not None]
        if not known:
            continue
        counts = resamples([questions.index(row["question"]) for row in known], _N_BOOTSTRAP, seed)
        values = torch.tensor([float(row[score]) for row in known], dtype=torch.float64)
        (mean,) = estimates(bootstrap(torch.div, (values, torch.ones_like(values)), counts))
        found[score] = [round(end, 4) for end in (mean.value, mean.low, mean.high)]
    return found


def score_difference(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], score: str, seed: int = 0
) -> list[float]:
    """By how much the first's mean score exceeds the second's: value, low, high, paired over questions.

    Args:
        first: Judged answers.
        second: Others, to the same questions in the same order.
        score: One of `SCORES`; pairs in which an answer has none are left out.
        seed: Of the resampling.
    """
    pairs = [
        (a["question"], a[score] - b[score])
        for a, b in zip(first, second, strict=True)
        if a[score] is not None and b[score] is not None
    ]
    questions = list(dict.fromkeys(question for question, _ in pairs))
    counts = resamples([questions.index(own) for own, _ in pairs], _N_BOOTSTRAP, seed)
    values = torch.tensor([gap for _, gap in pairs], dtype=torch.float64)
    return bootstrap(torch.div, (values, torch.ones_like(values)), counts).tolist()
