"""Components of a bridge without a hook run as themselves: the same numbers, and no trace."""

import pytest
import torch

from tests.tiny import FAMILIES
from tests.tiny_models import tiny_model

PROMPTS = ["a", "the quick brown fox jumps over", "b c d"]
FUSED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3"}
"""Not GPT-2 and GPT-NeoX, whose projections the bridge splits, nor Gemma 2 with its soft cap."""


def switched(model) -> set[str]:
    """Names of the components that are not the bridge's own just now."""
    modules = model.raw.original_model.named_modules()
    return {name for name, module in modules if "forward" in module.__dict__}


def attention(model) -> str:
    return model.raw.original_model.config._attn_implementation


@torch.no_grad()
def logits(model):
    batch = model.to_batch(PROMPTS)
    return model.logits(batch)[batch.attention_mask]


@torch.no_grad()
def bridge_logits(model):
    """The bridge by itself, as TransformerLens runs it."""
    batch = model.to_batch(PROMPTS)
    mask = batch.attention_mask
    return model.raw(batch.tokens, attention_mask=mask.long())[mask]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_the_bridge_s(family):
    model = tiny_model(family, "bridge")
    ours, theirs = logits(model), bridge_logits(model)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 5e-6
    # Beside the fused attention nothing differs by a single bit.
    assert torch.equal(ours, theirs) == (family not in FUSED)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hook_on_a_pattern_brings_back_the_attention_with_patterns(family):
    model = tiny_model(family, "bridge")
    calls = []
    handle = model.part_points(0).pattern.register_forward_hook(lambda *_: calls.append(1))
    with_hook = logits(model)
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(with_hook, bridge_logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_point_of_a_block_fires_as_often_as_in_the_bridge(family):
    model = tiny_model(family, "bridge")
    names = [name for name in model.raw.hook_dict if name.startswith("blocks.1.")]
    assert len(names) > 10

    def fired(name, run):
        calls = []
        handle = model.raw.hook_dict[name].register_forward_hook(lambda *_: calls.append(1))
        try:
            run(model)
        finally:
            handle.remove()
        return len(calls)

    for name in names:
        assert fired(name, logits) == fired(name, bridge_logits), name


def test_the_switch_leaves_no_trace_even_where_a_pass_fails():
    model = tiny_model("llama", "bridge")
    seen = []

    def look(resid, columns):
        seen.append((switched(model), attention(model)))

    def fail(resid, columns):
        raise KeyError("on purpose")

    with model.edited({0: look}):
        logits(model)
    names, implementation = seen[0]
    assert any(name.endswith("self_attn") for name in names)
    assert any(name.endswith("mlp") for name in names)
    assert any("layernorm" in name for name in names)
    assert implementation == "sdpa"
    with pytest.raises(KeyError), model.edited({1: fail}):
        logits(model)
    assert switched(model) == set()
    assert attention(model) == "eager"


def test_float64_keeps_the_attention_that_has_hooks():
    model = tiny_model("llama", "bridge", "float64")
    seen = []
    with model.edited({0: lambda resid, columns: seen.append(attention(model))}):
        ours = logits(model)
    assert seen == ["eager"]
    handle = model.part_points(0).pattern.register_forward_hook(lambda *_: None)
    assert torch.equal(ours, logits(model))
    handle.remove()
