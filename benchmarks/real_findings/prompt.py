"""How well the prompt works, and how well the judges tell: prompted answers, base answers, bad text."""

import random
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.real_findings.answers import PER_QUESTION, SAMPLING, Answers
from benchmarks.real_findings.judged import judged_together, mean_scores
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.chat import Prompt, PromptTokens
from psr_lens.models.generation import generate_tokens

ANSWER_SEED: Final = 101
"""Of the answers to test questions, under every steering and without one."""
_LOOP: Final = 6


def prompt_part(model: HookedModel, name: str, data: Answers, seed: int = 0) -> dict[str, Any]:
    """Scores of base answers, prompted ones, those to its paraphrases, and of three kinds of bad text.

    Args:
        model: The chat model.
        name: The instruction's name.
        data: The answers.
        seed: Of what is shuffled and of the intervals.
    """
    test, dev = data.test, data.fitted_on[0].dev
    said = [model.encoder.decode(example.response_ids) for example in test]
    draw = random.Random(seed)
    # The first of a question's answers: one under every paraphrase.
    once = list(test)[::PER_QUESTION]
    wordings = range(len(once[0].pair.paraphrases))
    asked = [(one, one.pair.paraphrases[k]) for k in wordings for one in once]
    kinds: dict[str, tuple[Sequence[Example], Sequence[str]]] = {
        "base": (test, _answered(model, [one.base_prompt for one in test])),
        "prompt": (test, said),
        "paraphrases": (
            [one for one, _ in asked],
            _answered(model, [prompt for _, prompt in asked]),
        ),
        "words shuffled": (test, [_shuffled(text.split(), " ", draw) for text in said]),
        "letters shuffled": (
            test,
            [" ".join(_shuffled(list(w), "", draw) for w in text.split()) for text in said],
        ),
        "in a loop": (test, [_looped(text) for text in said]),
        "prompt, dev": (dev, [model.encoder.decode(one.response_ids) for one in dev]),
    }
    rows = judged_together(model, name, kinds)
    return {
        "means": {kind: mean_scores(own, seed) for kind, own in rows.items()},
        "answers": {kind: rows[kind] for kind in ("base", "prompt", "paraphrases", "prompt, dev")},
    }


def _answered(model: HookedModel, prompts: Sequence[Prompt | PromptTokens]) -> list[str]:
    found = generate_tokens(model, prompts, seed=ANSWER_SEED, **SAMPLING)
    return [model.encoder.decode(own.tokens) for own in found]


def _shuffled(parts: list[str], between: str, draw: random.Random) -> str:
    mixed = list(parts)
    draw.shuffle(mixed)
    return between.join(mixed)


def _looped(text: str) -> str:
    """The first words again and again, as long as the text."""
    found = text.split()
    start = found[:_LOOP]
    return " ".join(start[i % len(start)] for i in range(len(found))) if start else ""
