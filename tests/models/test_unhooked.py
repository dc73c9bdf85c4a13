"""Components of a bridge without a hook run as themselves: the same numbers, and no trace."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from psr_lens.models import as_hooked_model, load_model
from tests.tiny import FAMILIES
from tests.tiny_models import checkpoint, tiny_model

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
    handle = model.part_points(0).pattern.module.register_forward_hook(lambda *_: calls.append(1))
    with_hook = logits(model)
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(with_hook, bridge_logits(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_point_of_a_block_sees_what_it_sees_in_the_bridge(family):
    model = tiny_model(family, "bridge")
    names = [name for name in model.raw.hook_dict if name.startswith("blocks.1.")]
    assert len(names) > 10

    def seen(name, run):
        values = []
        point = model.raw.hook_dict[name]
        handle = point.register_forward_hook(lambda module, args, out: values.append(out.clone()))
        try:
            run(model)
        finally:
            handle.remove()
        return values

    def ours(model):
        model.logits(model.to_batch(PROMPTS[1]))

    def theirs(model):
        model.raw(model.to_batch(PROMPTS[1]).tokens)

    for name in names:
        found, expected = seen(name, ours), seen(name, theirs)
        assert len(found) == len(expected), name
        for one, other in zip(found, expected, strict=True):
            # Scores hold minus infinity, or the lowest number, where nothing is attended to.
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)


def test_a_pass_inside_a_pass_sees_its_own_hooks_and_leaves_the_outer_one_alone():
    model = tiny_model("llama", "bridge")
    batch = model.to_batch(PROMPTS[1])
    ablate = [("blocks.1.mlp.hook_out", lambda value, hook: torch.zeros_like(value))]
    with torch.no_grad(), model.raw.hooks(fwd_hooks=ablate):
        expected = model.logits(batch)
    found, around = [], []

    def inner(resid, columns):
        before = switched(model), attention(model)
        with model.unedited():
            with model.raw.hooks(fwd_hooks=ablate):
                found.append(model.logits(batch))
            _, cache = model.run_with_cache(PROMPTS[1])
        found.append("blocks.2.attn.hook_pattern" in cache)
        around.append((before, (switched(model), attention(model))))

    with torch.no_grad(), model.edited({0: inner}):
        model.logits(batch)
    torch.testing.assert_close(found[0], expected)
    assert found[1]
    ((before, after),) = around
    assert before == after
    assert attention(model) == "eager"


@pytest.mark.parametrize("part", ["mlp", "ln1", "attn", "attn.o"])
def test_torch_hooks_on_the_wrapped_modules_fire(part):
    model = tiny_model("llama", "bridge")
    wrapped = model.raw.blocks[1].get_submodule(part).original_component
    calls = []
    handle = wrapped.register_forward_hook(lambda *_: calls.append(1))
    logits(model)
    handle.remove()
    assert calls == [1]


def test_a_torch_hook_on_the_attention_of_the_bridge_gets_the_pattern():
    model = tiny_model("llama", "bridge")
    patterns = []
    handle = model.raw.blocks[1].attn.register_forward_hook(
        lambda module, args, out: patterns.append(out[1])
    )
    logits(model)
    handle.remove()
    assert patterns[0] is not None


def test_a_projection_that_was_replaced_takes_the_bridge_s_way():
    model = tiny_model("llama", "bridge", seed=3)
    logits(model)
    own = model.raw.blocks[1].attn.original_component
    replaced = own.q_proj
    own.q_proj = torch.nn.Linear(replaced.in_features, replaced.out_features, bias=False)
    try:
        assert torch.equal(logits(model), bridge_logits(model))
    finally:
        own.q_proj = replaced


def test_a_norm_in_another_type_stays_the_bridge_s():
    model = as_hooked_model(load_model(checkpoint("llama"), backend="bridge", dtype="bfloat16").raw)
    model.raw.blocks[1].ln1.original_component.float()
    assert torch.isfinite(logits(model)).all()


def test_threads_take_turns():
    model = tiny_model("llama", "bridge")
    expected = logits(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: logits(model), range(40)))
    for one in found:
        torch.testing.assert_close(one, expected)
    assert attention(model) == "eager"
    assert switched(model) == set()


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


def test_float64_loses_nothing_in_either_attention():
    model = tiny_model("llama", "bridge", "float64")
    seen = []
    with model.edited({0: lambda resid, columns: seen.append(attention(model))}):
        fused = logits(model)
    handle = model.part_points(0).pattern.module.register_forward_hook(lambda *_: None)
    with model.edited({0: lambda resid, columns: seen.append(attention(model))}):
        step_by_step = logits(model)
    handle.remove()
    assert seen == ["sdpa", "eager"]
    torch.testing.assert_close(fused, step_by_step, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_blocks_go_the_short_way_where_attention_is_fused(family):
    model = tiny_model(family, "bridge")
    seen = []

    def look(resid, columns):
        block = model.raw.blocks[1]
        seen.append(("forward" in block.__dict__, block.attn.__dict__["_captured_pre_ln_residual"]))

    def look_below(resid, columns):
        seen.append(model.raw.blocks[0].attn.__dict__.get("_captured_pre_ln_residual"))

    with model.edited({0: look_below}):
        model.logits(model.to_batch(PROMPTS))
    with model.edited({1: look}):
        model.logits(model.to_batch(PROMPTS))
    # A block holds on to no residual stream of its own once it is through.
    assert seen == [None, (family in FUSED, None)]
    assert switched(model) == set()
    # Where the bridge is to stop, it goes its own way.
    batch = model.to_batch(PROMPTS)
    stopped = model.raw(batch.tokens, attention_mask=batch.attention_mask.long(), stop_at_layer=1)
    entering = []
    with model.edited({0: lambda resid, columns: entering.append(resid)}):
        model.run(batch)
    real = batch.attention_mask
    assert torch.allclose(stopped[real], entering[0][real], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_block_that_runs_alone_switches_its_own_parts_alone(family):
    model = tiny_model(family, "bridge")

    def switched():
        blocks = enumerate(model.raw.blocks)
        return [i for i, own in blocks if any("forward" in part.__dict__ for part in own.modules())]

    before = switched()
    with model._unhooked.as_themselves(1):
        assert switched() == sorted({*before, 1})
    with model._unhooked.as_themselves():
        assert switched() == list(range(model.n_layers))
    assert switched() == before
