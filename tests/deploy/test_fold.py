"""A constant steering in the weights does what hooks at every position do, and can be undone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig

from psr_lens.steering import ConstantSteering, SumSteering
from psr_lens.steering.provenance import provenance
from tests.tiny import FAMILIES
from tests.tiny_models import BACKENDS, checkpoint, tiny_model

IDS = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 3, 5, 8, 9, 7]])
LAYERS = (0, 2)


def hf_model(family, seed=0, dtype=torch.float64):
    return AutoModelForCausalLM.from_pretrained(
        checkpoint(family, seed), dtype=dtype, attn_implementation="eager"
    ).eval()


def constant(width=32, seed=5, **options):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(LAYERS), width, generator=generator, dtype=torch.float64)
    return ConstantSteering(vectors, LAYERS, **options)


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids, use_cache=False).logits


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_is_hooked_at_every_position_and_undone_is_untouched(family):
    model, steering = hf_model(family), constant()
    before, weights = logits(model), bits(model)
    classes = [type(module) for module in model.modules()]
    # A prompt of one column: every token is one of the response's.
    with steering.applied(model, alpha=1.3, prompt_length=1):
        hooked = logits(model)
    folded = steering.fold_into(model, alpha=1.3)
    torch.testing.assert_close(logits(model), hooked, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(hooked, before)
    # No hook is left to pay for.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    folded.undo()
    folded.undo()
    assert torch.equal(logits(model), before)
    assert [type(module) for module in model.modules()] == classes
    restored = model.state_dict()
    assert restored.keys() == weights.keys()
    assert all(torch.equal(restored[name], weights[name]) for name in weights)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_folds_add_up_and_are_undone_in_order(family):
    model, one, two = hf_model(family), constant(seed=1), constant(seed=2)
    before = logits(model)
    with (one + 0.5 * two).applied(model, prompt_length=1):
        both = logits(model)
    first = one.fold_into(model)
    only_one = logits(model)
    with two.fold_into(model, alpha=0.5):
        torch.testing.assert_close(logits(model), both, rtol=1e-9, atol=1e-9)
        with pytest.raises(ValueError, match="undo the later change first"):
            first.undo()
        torch.testing.assert_close(logits(model), both, rtol=1e-9, atol=1e-9)
    assert torch.equal(logits(model), only_one)
    first.undo()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_a_folded_model_is_saved_with_its_steering(family, tmp_path):
    model = hf_model(family)
    constant().fold_into(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-9, atol=1e-9)


def test_an_undone_fold_leaves_no_bias_and_no_option_on_a_llama():
    model = hf_model("llama")
    with constant().fold_into(model):
        assert model.config.mlp_bias
        inside = constant(seed=6).fold_into(model)
        inside.undo()
        assert model.config.mlp_bias
    assert not model.config.mlp_bias
    assert all(layer.mlp.gate_proj.bias is None for layer in model.model.layers)


def test_a_fold_that_fails_leaves_nothing_behind():
    model = hf_model("llama")
    before = bits(model)
    model.model.layers[2].mlp.up_proj = torch.nn.Sequential(model.model.layers[2].mlp.up_proj)
    with pytest.raises(AttributeError):
        constant().fold_into(model)
    model.model.layers[2].mlp.up_proj = model.model.layers[2].mlp.up_proj[0]
    assert model.state_dict().keys() == before.keys()
    assert not model.config.mlp_bias


def test_two_models_with_one_config_object_are_both_complete():
    one, two = hf_model("llama"), hf_model("llama")
    for module in two.modules():
        if getattr(module, "config", None) is two.config:
            module.config = one.config
    constant().fold_into(one)
    constant().fold_into(two)
    assert all(layer.mlp.gate_proj.bias is not None for layer in two.model.layers)


def test_an_mlp_of_two_layers_is_undone_too():
    model = hf_model("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    before = logits(model)
    folded = constant().fold_into(model)
    assert not torch.equal(logits(model), before)
    folded.undo()
    assert torch.equal(logits(model), before)


def test_constants_of_two_models_do_not_become_one():
    parts = [
        ConstantSteering(
            constant(seed=seed).vectors,
            LAYERS,
            provenance=provenance(tiny_model("llama", seed=seed)),
        )
        for seed in (0, 1)
    ]
    both = parts[0] + parts[1]
    assert isinstance(both, SumSteering)
    with pytest.raises(ValueError, match="was fitted on"):
        both.check(tiny_model("llama", seed=0))
    twice = 2.0 * parts[0]
    assert isinstance(twice, ConstantSteering)
    twice.check(tiny_model("llama", seed=0))
    assert twice.provenance["parts"][0]["weight"] == 2.0
    assert twice.provenance["parts"][0]["provenance"] == parts[0].provenance


def test_what_cannot_be_one_constant_stays_a_sum():
    narrow = ConstantSteering(torch.ones(1, 16), (1,))
    assert isinstance(constant() + narrow, SumSteering)
    assert isinstance(constant() + constant(tokens="question+response"), SumSteering)
    half = ConstantSteering(torch.full((1, 32), 1 / 3, dtype=torch.bfloat16), (0,))
    total = 3.0 * half
    assert total.state_dict()["vectors"].dtype == torch.float32


def test_sums_and_multiples_of_constants_are_folded_too():
    model, one = hf_model("qwen2"), constant(seed=1)
    two = ConstantSteering(constant(seed=2).vectors, (1, 2))
    total = 2.0 * one - two
    assert isinstance(total, ConstantSteering)
    assert total.layers == (0, 1, 2)
    torch.testing.assert_close(total.vectors[2], 2 * one.vectors[1] - two.vectors[1])
    with one.applied(model, 2.0, prompt_length=1), two.applied(model, -1.0, prompt_length=1):
        hooked = logits(model)
    with total.fold_into(model):
        torch.testing.assert_close(logits(model), hooked, rtol=1e-9, atol=1e-9)


def test_generation_follows_the_weights_and_hooks_come_on_top():
    model, one, two = hf_model("qwen2", dtype=torch.float32), constant(seed=1), constant(seed=2)
    origin = provenance(tiny_model("qwen2", BACKENDS[0]))
    named = ConstantSteering(two.vectors, LAYERS, provenance=origin)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(IDS, **options)
    with one.fold_into(model):
        folded = model.generate(IDS, **options)
        assert not torch.equal(folded, plain)
        assert torch.equal(model.generate(IDS, use_cache=False, **options), folded)
        # What lies in the weights does not make the model a stranger.
        with named.applied(model, alpha=5.0):
            assert not torch.equal(model.generate(IDS, **options), folded)
    assert torch.equal(model.generate(IDS, **options), plain)


def test_made_biases_need_gradients_only_where_their_weights_do():
    model = hf_model("llama").requires_grad_(False)
    with constant().fold_into(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_one_clear_line():
    origin = provenance(tiny_model("llama", BACKENDS[0]))
    with pytest.raises(ValueError, match="does not belong to"):
        constant(provenance=origin).fold_into(hf_model("llama", seed=1))
    with pytest.raises(ValueError, match="alpha=inf"):
        constant().fold_into(hf_model("llama"), alpha=float("inf"))
    config = FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    with pytest.raises(ValueError, match=r"model type 'falcon'.*gpt_neox; for others use applied"):
        constant().fold_into(AutoModelForCausalLM.from_config(config))
    gemma = hf_model("gemma2")
    norm = gemma.model.layers[2].post_feedforward_layernorm
    norm.forward = norm.forward
    before = bits(gemma)
    with pytest.raises(ValueError, match="was given another forward"):
        constant().fold_into(gemma)
    assert gemma.state_dict().keys() == before.keys()
