"""Trait and coherence of sampled responses, under a steering or without one."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from psr_lens._types import check_alpha
from psr_lens.examples import ending_of
from psr_lens.models import Prompt, unsteered_model
from psr_lens.models.chat import PromptTokens
from psr_lens.models.generation import generate_tokens
from psr_lens.steering import Steering


@dataclass(frozen=True)
class Score:
    """A judge's verdict on one response.

    Attributes:
        trait: How much of the trait it shows, 0 to 100.
        coherence: How coherent it is, 0 to 100.
    """

    trait: float
    coherence: float


Judge = Callable[[int, str, bool], Score]
"""`judge(index of the prompt, response text, whether the model ended it)`."""


@dataclass(frozen=True)
class Behaviour:
    """How a model behaves on a list of prompts.

    Attributes:
        alpha: Strength of the steering; None without one.
        responses: One text per prompt.
        scores: One score per prompt.
        endings: How each response was cut off ("cut off at 64 tokens"), empty if the model ended it; no
            entries if unknown.
    """

    alpha: float | None
    responses: tuple[str, ...]
    scores: tuple[Score, ...]
    endings: tuple[str, ...] = ()

    def shown(self, prompt: int) -> str:
        """A response as a reader should see it: one that was cut off says so at its end."""
        ending = self.endings[prompt] if self.endings else ""
        return self.responses[prompt] + (f" … ({ending})" if ending else "")

    @property
    def trait(self) -> float:
        """Mean trait score, 0 to 100."""
        return sum(score.trait for score in self.scores) / len(self.scores)

    @property
    def coherence(self) -> float:
        """Mean coherence score, 0 to 100."""
        return sum(score.coherence for score in self.scores) / len(self.scores)


def measure_behaviour(
    model: Any,
    prompts: Sequence[Prompt | PromptTokens],
    judge: Judge,
    *,
    steering: Steering | None = None,
    alpha: float = 1.0,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Behaviour:
    """Sample a response to every prompt and have each judged.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        prompts: The prompts, at least one; for an example, its `base_prompt`, as the data set had it.
        judge: Scores a response.
        steering: What to steer with, None for the model as it is.
        alpha: Its strength.
        max_new_tokens: Longest response, in tokens.
        temperature: 0 for greedy decoding.
        seed: Decides what is sampled.
        batch_size: Prompts per batch; it does not change what is sampled.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no prompt, or an argument is out of its range.
    """
    (found,) = measure_at(
        model,
        prompts,
        judge,
        steering,
        (alpha,),
        max_new_tokens,
        temperature,
        seed,
        batch_size,
        progress,
    )
    return found


def measure_at(
    model: Any,
    prompts: Sequence[Prompt | PromptTokens],
    judge: Judge,
    steering: Steering | None,
    alphas: Sequence[float],
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    progress: bool,
) -> tuple[Behaviour, ...]:
    """One behaviour per strength, all sampled together; a single one without a steering."""
    if not prompts:
        raise ValueError("there is no prompt to respond to: pass at least one")
    hooked = unsteered_model(
        model, "measuring behaviour", "pass the steering in: measure_behaviour(..., steering=...)"
    )
    n = len(prompts)
    rows = [(alpha, i) for alpha in map(check_alpha, alphas) for i in range(n)]

    def inside(indices: Sequence[int]) -> AbstractContextManager[object]:
        if steering is None:
            return nullcontext()
        own = [rows[at][0] for at in indices]
        one = len(set(own)) == 1
        return steering.applied(hooked, own[0] if one else torch.tensor(own, dtype=torch.float64))

    generations = generate_tokens(
        hooked,
        [prompts[i] for _, i in rows],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
        streams=[i for _, i in rows],
        inside=inside,
    )
    texts = [hooked.encoder.decode(generation.tokens) for generation in generations]
    scores = [
        judge(i, text, generation.finished)
        for (_, i), text, generation in zip(rows, texts, generations, strict=True)
    ]
    return tuple(
        Behaviour(
            None if steering is None else float(alpha),
            tuple(texts[at : at + n]),
            tuple(scores[at : at + n]),
            tuple(ending_of(len(own.tokens), own.finished) for own in generations[at : at + n]),
        )
        for at, alpha in zip(range(0, len(rows), n), alphas, strict=True)
    )
