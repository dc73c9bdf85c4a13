"""Trait and coherence of sampled responses, under a steering or without one."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from psr_lens.models import Prompt, as_hooked_model
from psr_lens.models.generation import generate_tokens
from psr_lens.steering import Steering


@dataclass(frozen=True)
class Score:
    """A judge's word on one response.

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
    """

    alpha: float | None
    responses: tuple[str, ...]
    scores: tuple[Score, ...]

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
    prompts: Sequence[Prompt],
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
        model: A `HookedModel`, HookedTransformer or TransformerBridge.
        prompts: The prompts, at least one.
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
    if not prompts:
        raise ValueError("there is no prompt to respond to: pass at least one")
    hooked = as_hooked_model(model)
    with nullcontext() if steering is None else steering.applied(hooked, alpha):
        generations = generate_tokens(
            hooked,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    responses = tuple(hooked.encoder.decode(generation.tokens) for generation in generations)
    scores = tuple(
        judge(i, text, generation.finished)
        for i, (text, generation) in enumerate(zip(responses, generations, strict=True))
    )
    return Behaviour(None if steering is None else alpha, responses, scores)
