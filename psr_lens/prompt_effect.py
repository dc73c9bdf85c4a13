"""Did the prompt do anything? Checked before anything is fitted to its effect or measured against it.

A model may not understand an instruction, or may ignore it. Then there is next to nothing to decompose, fit
or be faithful to, and relative numbers, which divide by the effect, hide that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import exactly
from psr_lens.deltas import example_batches, last_residuals, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.generation import generate_tokens
from psr_lens.prompts import prompt_text

LEAST_KL: Final = 0.05
"""Nats per token below which the prompt counts as having done nothing. By Pinsker's inequality the two
next-token distributions then differ by at most `sqrt(0.05 / 2) = 0.16` in total variation, on average: at
least 84 of 100 tokens could come out the same. Instructions that a model followed had 0.2 or more, those
that it ignored at most 0.06 (SmolLM2-135M-Instruct; 0.26 and 0.013 on the demo models; means of eight
examples)."""

WEAK: Final = "The prompt hardly changes what the model says"
"""What a warning of a weak prompt begins with."""

MOST_EXAMPLES: Final = 4
"""How many examples are looked at: a real effect shows in any of them."""


@dataclass(frozen=True)
class PromptEffect:
    """How much the prompt changes what the model says.

    Attributes:
        kl: Mean over the response's tokens of `KL(p(. | x' y'_<i) || p(. | x y'_<i))`, in nats.
        examples: How many examples were looked at.
        question: The first example's base prompt, if the effect is weak.
        prompted: The example's response, to the steering prompt.
        base: A response to the base prompt.
    """

    kl: float
    examples: int
    question: str = ""
    prompted: str = ""
    base: str = ""

    @property
    def is_weak(self) -> bool:
        """Whether the prompt did next to nothing."""
        return self.kl < LEAST_KL

    @property
    def warning(self) -> str:
        """A line that says so and shows it; empty where the prompt did something."""
        if not self.is_weak:
            return ""
        count = "1 response" if self.examples == 1 else f"{self.examples} responses"
        return (
            f"{WEAK}: next-token distributions with and without it are {self.kl:.2g} nats apart per token "
            f"(KL, {count}; prompts that work have {LEAST_KL:g} and more), so these results describe next to "
            "nothing. To "
            f"{self.question!r} the model answers with the prompt {self.prompted!r} and without it "
            f"{self.base!r}."
        )

    def described(self) -> dict[str, Any]:
        """The same as JSON values, for the provenance that reports read it from."""
        kl = self.kl if isfinite(self.kl) else None
        return {"kl_per_token": kl, "examples": self.examples, "warning": self.warning}


@torch.no_grad()
def measure_prompt_effect(
    model: HookedModel, data: Sequence[Example], *, batch_size: int = MOST_EXAMPLES
) -> PromptEffect:
    """Run some examples with and without the prompt; if its effect is weak, sample a response without.

    Args:
        model: The model.
        data: The examples; those that a steering should push away from are left out.
        batch_size: Examples per forward pass.
    """
    # Each once, whatever number of strengths it is fitted at.
    several = {
        (example.base_ids, example.prompted_ids, example.response_ids): example
        for example in data
        if example.alpha > 0
    }
    examples = list(several.values())[:MOST_EXAMPLES]
    if not examples:
        return PromptEffect(float("nan"), 0)
    parts = []
    for start in range(0, len(examples), batch_size):
        parts += _divergences(model, examples[start : start + batch_size])
    effect = PromptEffect(float(torch.cat(parts).mean()), len(examples))
    return _shown(model, data, examples[0], effect) if effect.is_weak else effect


def _divergences(model: HookedModel, examples: Sequence[Example]) -> list[Tensor]:
    base, steered = (last_residuals(model, batch) for batch in example_batches(model, examples))
    parts = []
    for own, prompted, example in zip(base, steered, examples, strict=True):
        # What would follow a cut-off response is unknown.
        known = len(own) - (not example.finished)
        if known:
            logits = (model.unembed(resid[:known]) for resid in (prompted, own))
            parts.append(_divergence(*logits))
    return parts or [torch.zeros(0)]


def _divergence(
    prompted: Float[Tensor, "pos d_vocab"], base: Float[Tensor, "pos d_vocab"]
) -> Float[Tensor, " pos"]:
    wanted, own = (x.to(working_dtype(x.dtype)).log_softmax(-1) for x in (prompted, base))
    # 0 * -inf, from a token that can never occur, counts as 0.
    terms = torch.where(wanted.exp() > 0, wanted.exp() * (wanted - own), 0.0)
    return exactly(terms.sum(-1))


def _shown(
    model: HookedModel, data: Sequence[Example], example: Example, effect: PromptEffect
) -> PromptEffect:
    """The effect with a response to each of the two prompts, sampled the same way."""
    sampling = getattr(data, "provenance", {})
    room = model.n_ctx - len(example.base_ids)
    (said,) = generate_tokens(
        model,
        [example.base_prompt],
        max_new_tokens=max(1, min(room, len(example.response_ids) + 1)),
        temperature=sampling.get("temperature", 0.0) if sampling.get("sampled") else 0.0,
        seed=sampling.get("seed", 0),
    )
    return PromptEffect(
        effect.kl,
        effect.examples,
        prompt_text(example.pair.base),
        model.encoder.decode(example.response_ids),
        model.encoder.decode(said.tokens),
    )
