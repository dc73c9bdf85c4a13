"""A HookedTransformer or TransformerBridge of one's own behind the protocol."""

import copy
import json

import pytest
import torch

from psr_lens.models import HookedModel, as_hooked_model, load_model
from tests.models.cases import needs_hooked
from tests.tiny_models import BACKENDS, checkpoint, tiny_model


def test_a_hooked_model_passes_through():
    model = tiny_model("llama", BACKENDS[0])
    assert as_hooked_model(model) is model
    assert as_hooked_model(model.raw) is model


def test_other_things_are_refused():
    for thing in (torch.nn.Linear(2, 2), None):
        with pytest.raises(ValueError, match=f"a model of type {type(thing).__name__} was given: "):
            as_hooked_model(thing)
    with pytest.raises(ValueError, match=r"'gpt2': pass psr_lens\.load_model\('gpt2'\)"):
        as_hooked_model("gpt2")


def test_an_adapter_folder_is_named(tmp_path):
    config = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds a PEFT adapter and not the model") as caught:
        load_model(tmp_path)
    assert "merge_and_unload().save_pretrained('merged')" in str(caught.value)
    assert "tokenizer of 'owner/base'" in str(caught.value)
    assert "\n" not in str(caught.value)


def own_bridge(family="llama"):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from psr_lens.models.quiet import quiet

    directory = str(checkpoint(family))
    with quiet():
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(
            directory,
            hf_model=AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager"),
            tokenizer=AutoTokenizer.from_pretrained(directory),
            device="cpu",
        )


def test_a_bridge_of_ones_own():
    raw = own_bridge()
    model = as_hooked_model(raw)
    assert isinstance(model, HookedModel)
    assert model.backend == "bridge"
    assert as_hooked_model(raw) is model
    assert not any(weight.requires_grad for weight in raw.parameters())
    ours = tiny_model("llama", "bridge")
    assert model.encoder.end_token_ids == ours.encoder.end_token_ids
    assert model.generate("Hi", max_new_tokens=5) == ours.generate("Hi", max_new_tokens=5)


def test_a_bridge_without_a_tokenizer():
    raw = own_bridge()
    raw.tokenizer = None
    with pytest.raises(
        ValueError, match=r"TransformerBridge has no tokenizer.*model\.tokenizer = "
    ):
        as_hooked_model(raw)


def test_another_tokenizer_makes_another_wrapper():
    from transformers import AutoTokenizer

    raw = own_bridge()
    first = as_hooked_model(raw)
    raw.tokenizer = AutoTokenizer.from_pretrained(checkpoint("gemma"))
    second = as_hooked_model(raw)
    assert second is not first
    assert second.encoder.tokenizer is raw.tokenizer


@needs_hooked
def test_a_hooked_transformer_of_ones_own():
    raw = copy.deepcopy(tiny_model("llama", "hooked").raw)
    model = as_hooked_model(raw)
    assert model.raw is raw
    assert model.backend == "hooked"
    raw.tokenizer = None
    with pytest.raises(ValueError, match=r"HookedTransformer has no tokenizer.*set_tokenizer"):
        as_hooked_model(raw)
