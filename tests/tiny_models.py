"""Tiny random models of every family on every backend at hand, loaded once per test process."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from psr_lens.models import HookedModel, load_model
from psr_lens.models.load import hooked_available
from psr_lens.prompts import PromptPair, make_pairs
from tests.tiny import FAMILIES, tiny_checkpoint

_TEMPLATES = {
    "llama": "llama3",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
}
# With TransformerLens 4 the bridge alone: plain transformers models never meet TransformerLens.
BACKENDS = ("hooked", "bridge", "transformers") if hooked_available() else ("bridge",)

MODELS = tuple((family, backend) for family in FAMILIES for backend in BACKENDS)
"""Every family on every backend."""

CORE_MODELS = (
    ("llama", BACKENDS[0]),
    ("gpt2", BACKENDS[-1]),
    ("gemma2", "bridge"),
)
"""Three that differ in most: backend, rotary and learnt positions, chat and base, local attention."""


@cache
def _root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tiny-")


@cache
def checkpoint(family: str, seed: int = 0) -> Path:
    """The directory of a family's checkpoint."""
    style = "sentencepiece" if family.startswith("gemma") else "bytes"
    directory = Path(_root().name) / f"{family}-{seed}"
    return tiny_checkpoint(
        family,
        directory,
        tokenizer=style,
        template=_TEMPLATES.get(family),  # type: ignore[arg-type]
        seed=seed,
    )


@cache
def tiny_model(
    family: str, backend: str = "auto", dtype: str = "float32", seed: int = 0
) -> HookedModel:
    """A family's tiny model; tests leave it as they found it."""
    return load_model(checkpoint(family, seed), backend=backend, dtype=dtype)


def instructed(
    model: HookedModel, question: str, instruction: str, paraphrases: Sequence[str] = ()
) -> PromptPair:
    """A pair in the form that the model takes: messages with a template, plain text without."""
    if model.encoder.has_template:
        return make_pairs([question], instruction, paraphrases=paraphrases)[0]
    return PromptPair(
        question,
        f"{instruction} {question}",
        paraphrases=tuple(f"{words} {question}" for words in paraphrases),
    )
