"""The bridge's attention as one fused call: the same numbers, and only where nobody looks."""

import pytest
import torch

from tests.tiny import FAMILIES
from tests.tiny_models import tiny_model

PROMPTS = ["a", "the quick brown fox jumps over", "b c d"]
FUSED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3"}
"""Not GPT-2 and GPT-NeoX, whose projections the bridge splits, nor Gemma 2 with its soft cap."""


def _implementations(model):
    """What the attention of every layer runs on in the context of a pass."""
    return [block.attn.__dict__.get("forward") for block in model.raw.blocks]


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_attention_gives_the_logits_of_the_attention_with_hooks(family):
    model = tiny_model(family, "bridge")
    batch = model.to_batch(PROMPTS)
    calls = []
    # A hook on a pattern makes the bridge compute patterns.
    handle = model.part_points(0).pattern.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        seen = model.logits(batch)[batch.attention_mask]
        handle.remove()
        unseen = model.logits(batch)[batch.attention_mask]
    assert len(calls) == 1
    assert float((seen - unseen).abs().max() / seen.abs().max()) < 5e-6
    assert bool((seen != unseen).any()) == (family in FUSED)


@pytest.mark.parametrize("family", sorted(FUSED))
def test_the_hooks_of_the_projections_fire_and_the_switch_leaves_no_trace(family):
    model = tiny_model(family, "bridge")
    attention = model.raw.blocks[1].attn
    inside, fired = [], []

    def look(module, args, out):
        inside.append(_implementations(model))
        fired.append(model.raw.original_model.config._attn_implementation)

    handles = [
        getattr(attention, name).hook_out.register_forward_hook(look) for name in ("q", "k", "v")
    ]
    handles.append(attention.o.hook_in.register_forward_hook(look))
    model(PROMPTS)
    for handle in handles:
        handle.remove()
    assert fired == ["sdpa"] * 4
    assert all(None not in found for found in inside)
    assert _implementations(model) == [None] * model.n_layers
    assert model.raw.original_model.config._attn_implementation == "eager"


def test_a_pass_that_fails_switches_back():
    model = tiny_model("llama", "bridge")

    def fail(resid, columns):
        raise KeyError("on purpose")

    with pytest.raises(KeyError), model.edited({1: fail}):
        model(PROMPTS)
    assert _implementations(model) == [None] * model.n_layers
    assert model.raw.original_model.config._attn_implementation == "eager"


def test_float64_keeps_the_attention_that_has_hooks():
    model = tiny_model("llama", "bridge", "float64")
    seen = []

    def look(resid, columns):
        seen.append(_implementations(model))

    with model.edited({0: look}):
        model(PROMPTS)
    assert seen == [[None] * model.n_layers]
