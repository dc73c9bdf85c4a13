"""Which tests run on which model, on what text, and under which edits."""

import pytest
import torch

from psr_lens.models import RawText, TokenRow
from psr_lens.models.columns import RESPONSE
from psr_lens.models.float64 import all_float64
from tests.tiny_models import BACKENDS, CORE_MODELS, MODELS

# Every family runs on every backend, and `auto` takes HookedTransformer without a warning.
every_model = pytest.mark.parametrize(("family", "backend"), MODELS)
core_models = pytest.mark.parametrize(("family", "backend"), CORE_MODELS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
# What is called on TransformerLens' own objects.
LENS_BACKENDS = [backend for backend in BACKENDS if backend != "transformers"]
every_lens_backend = pytest.mark.parametrize("backend", LENS_BACKENDS)
needs_hooked = pytest.mark.skipif(
    "hooked" not in BACKENDS, reason="the installed TransformerLens has the bridge alone"
)

# Of different lengths, one longer than the local attention windows.
TEXTS = (
    "Tell me about the otter and the whale, and what each of them eats by the river.",
    "What does a fox eat?",
    "Hi",
)
PROMPTS = [RawText(text) for text in TEXTS]


def called(model, tokens, **options):
    """Logits of a direct call of what is wrapped; of one in float64, in float64 throughout."""
    with all_float64(model.dtype):
        found = model.raw(tokens, **options)
    return getattr(found, "logits", found)


def rows_of(model, prompts=PROMPTS):
    """Prompts with a made-up question and response inside, so that every region occurs."""
    encoded = [model.encoder.encode(prompt).ids for prompt in prompts]
    return [TokenRow(ids, len(ids) // 4, len(ids) // 2) for ids in encoded]


def push(layer_seed, scale=1.0):
    """An edit that adds a fixed uneven vector on the response."""

    def edit(resid, columns):
        generator = torch.Generator().manual_seed(layer_seed)
        vector = torch.randn(resid.shape[-1], generator=generator).to(resid)
        return resid + scale * vector * (columns.region == RESPONSE).unsqueeze(-1)

    return edit


def pushes(model, scale=1.0):
    return {layer: push(layer, scale) for layer in range(model.n_layers)}
