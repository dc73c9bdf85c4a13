"""At which strength is a steering judged? At its own best, chosen on prompts that are not reported.

A strength that is right for one method is too weak or too strong for another, so methods are
compared at the strength that suits each: on dev prompts, the one with the highest trait score among
those that leave the responses coherent.
"""

from collections.abc import Sequence
from typing import Any, Final

from psr_lens.evaluation.behaviour import Behaviour, Judge, measure_at
from psr_lens.models import Prompt
from psr_lens.models.chat import PromptTokens
from psr_lens.steering import Steering

ALPHAS: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""The strengths that are tried."""
COHERENT: Final = 95.0
"""Mean coherence from which responses count as coherent, of 100."""


def measure_strengths(
    model: Any,
    prompts: Sequence[Prompt | PromptTokens],
    judge: Judge,
    *,
    steering: Steering,
    alphas: Sequence[float] = ALPHAS,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[Behaviour, ...]:
    """The behaviour under a steering at several strengths, all in the same batches.

    The same as calling `measure_behaviour` once per strength, up to rounding: a prompt draws the same
    random numbers at every strength. A batch mixes strengths, which for a small model costs little more
    than a single one.

    Args:
        model: A `HookedModel`, HookedTransformer, TransformerBridge or transformers model.
        prompts: The prompts, at least one; for an example, its `base_prompt`, as the data set had it.
        judge: Scores a response.
        steering: What to steer with.
        alphas: Its strengths, at least one.
        max_new_tokens: Longest response, in tokens.
        temperature: 0 for greedy decoding.
        seed: Decides what is sampled.
        batch_size: Prompts per batch, each at one strength; it does not change what is sampled.
        progress: Whether to show a bar.

    Returns:
        One behaviour per strength, in their order.

    Raises:
        ValueError: If there is no prompt or no strength, or an argument is out of its range.
    """
    if not alphas:
        raise ValueError("alphas is empty: name at least one strength")
    return measure_at(
        model,
        prompts,
        judge,
        steering,
        alphas,
        max_new_tokens,
        temperature,
        seed,
        batch_size,
        progress,
    )


def best_strength(behaviours: Sequence[Behaviour], coherent: float = COHERENT) -> float:
    r"""The strength with the highest trait score whose coherence is at least `coherent`.

    $\arg\max_\alpha \{ \mathrm{trait}(\alpha) : \mathrm{coherence}(\alpha) \ge c \}$; the weakest if
    several are equal. If no strength is that coherent, it is the most coherent one. Choose on dev prompts,
    report on others.

    Args:
        behaviours: One per strength, on dev prompts.
        coherent: The lowest coherence allowed, 0 to 100.

    Raises:
        ValueError: If there is no behaviour, or one without a strength.

    Example:
        >>> from psr_lens.evaluation import Behaviour, Score
        >>> scores = {0.5: Score(20.0, 100.0), 1.0: Score(80.0, 96.0), 1.5: Score(99.0, 40.0)}
        >>> best_strength([Behaviour(a, ("",), (score,)) for a, score in scores.items()])
        1.0
    """
    strengths = [(own.alpha, own) for own in behaviours]
    if not strengths or any(alpha is None for alpha, _ in strengths):
        raise ValueError(
            f"strengths {[alpha for alpha, _ in strengths]}: pass the behaviour under a steering at "
            "one strength or more"
        )
    found = [(float(alpha or 0.0), own) for alpha, own in strengths]
    allowed = [(alpha, own) for alpha, own in found if own.coherence >= coherent]
    if allowed:
        return min(allowed, key=lambda one: (-one[1].trait, one[0]))[0]
    return min(found, key=lambda one: (-one[1].coherence, one[0]))[0]
