"""A transformers model that is in memory already, as its owner has it."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import psr_lens as pl
from psr_lens.models import as_hooked_model, load_model
from psr_lens.models.numerics import model_fingerprint
from psr_lens.steering.provenance import provenance
from tests.models.cases import pushes
from tests.tiny_models import checkpoint, instructed, tiny_model
from tests.tiny_steerings import made_up

PROMPTS = ["the cat", "what is a dog like today"]
QUESTIONS = ["What is a fox?", "Tell me about owls.", "Who are you?", "Where is it?", "How many?"]


def in_memory(family="llama", seed=0, **options):
    return AutoModelForCausalLM.from_pretrained(checkpoint(family, seed), **options)


def moved_by(model, other):
    with torch.no_grad():
        ours, theirs = model(PROMPTS), other(PROMPTS)
    return float((ours - theirs)[:, -1].abs().max() / theirs[:, -1].abs().max())


def belonging_to(model):
    return pl.ConstantSteering(torch.ones(1, model.d_model), [1], provenance=provenance(model))


def test_it_is_the_model_of_its_name():
    plain = in_memory()
    model = load_model(plain)
    named = tiny_model("llama", "transformers")
    assert model.raw is plain
    assert model.backend == "transformers"
    assert model.name == named.name == "llama-0"
    assert model.cfg is plain.config
    assert model.tokenizer.get_vocab() == named.tokenizer.get_vocab()
    assert model.encoder.end_token_ids == named.encoder.end_token_ids
    assert moved_by(model, named) == 0
    assert as_hooked_model(plain) is model


def test_it_is_frozen_where_it_is_loaded_and_left_alone_where_it_is_steered():
    plain = in_memory().train()
    steering = made_up("constant", tiny_model("llama", "transformers"))
    with steering.applied(plain):
        assert plain.training
        plain(torch.tensor([[3, 4]])).logits.sum().backward()
    assert plain.lm_head.weight.grad is not None
    load_model(plain)
    assert not plain.training
    assert not any(weight.requires_grad for weight in plain.parameters())


def test_nothing_of_ours_stays_in_it():
    plain = in_memory()
    before = set(plain.__dict__)
    load_model(plain).generate("the cat", max_new_tokens=2)
    assert set(plain.__dict__) == before
    assert type(plain).__module__.startswith("transformers.")
    gone = weakref.ref(plain)
    del plain
    gc.collect()
    assert gone() is None


def test_a_tokenizer_of_ones_own_and_none_at_all():
    plain = in_memory()
    plain.config.name_or_path = ""
    steering = made_up("psr", tiny_model("llama", "transformers"))
    with torch.no_grad(), steering.applied(plain):
        assert plain(torch.tensor([[3, 4]])).logits.isfinite().all()
    with pytest.raises(ValueError, match=r"came without a tokenizer.*tokenizer=tokenizer\)"):
        load_model(plain).to_batch("the cat")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("llama"))
    model = load_model(plain, tokenizer=tokenizer, chat_template="{{ messages[0]['content'] }}!")
    assert model.tokenizer is tokenizer
    assert model.encoder.text("the cat") == "the cat!"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "hooked"}, "a model in memory runs as the transformers model that it is"),
        ({"device": "cpu"}, "device='cpu' but the model is in memory already"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' but the model is in memory already"),
        ({"revision": "main"}, "revision='main' but the model is in memory already"),
        ({"gguf_file": "a.gguf"}, "gguf_file='a.gguf' but the model is in memory already"),
        ({"device_map": "auto"}, "device_map= is no argument of load_model for a model that is in"),
    ],
)
def test_what_decides_how_a_model_is_read_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        load_model(in_memory(), **options)
    assert "\n" not in str(error.value)


def test_options_of_from_pretrained_go_with_its_own_backend():
    path = checkpoint("llama")
    model = load_model(path, attn_implementation="eager")
    assert model.backend == "transformers"
    assert model.raw.config._attn_implementation == "eager"
    assert moved_by(model, tiny_model("llama", "transformers")) < 1e-5
    with pytest.raises(ValueError, match=r"^devise= is no argument of load_model; options of from"):
        load_model(path, backend="bridge", devise="cpu")
    with pytest.raises(ValueError, match=r"weights of model 'llama-0' cannot be loaded: .*devise"):
        load_model(path, devise="cpu")
    with pytest.raises(ValueError, match=r"tokenizer= was given but .* is read with its own"):
        load_model(path, tokenizer=object())


def test_an_encoder_decoder_is_refused():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 9}
    with pytest.raises(ValueError, match="this T5ForConditionalGeneration is an encoder-decoder"):
        load_model(T5ForConditionalGeneration(T5Config(**sizes)))


# --- the whole way, on every backend ------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("float64", 1e-10)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3"])
def test_logits_and_deltas_are_those_of_the_other_backends(family, dtype, bound):
    model = tiny_model(family, "transformers", dtype)
    pairs = [instructed(model, question, "Be a pirate.") for question in QUESTIONS[:3]]
    data = pl.sample_responses(model, pairs, max_new_tokens=6, progress=False)
    deltas = pl.collect_deltas(model, data.examples)
    for backend in ("auto", "bridge"):
        other = tiny_model(family, backend, dtype)
        assert moved_by(model, other) < bound
        theirs = pl.collect_deltas(other, data.examples)
        for mine, its in zip(deltas, theirs, strict=True):
            for name in ("accumulated", "local"):
                ours, expected = getattr(mine, name), getattr(its, name)
                assert float((ours - expected).abs().max() / expected.abs().max()) < bound


# --- spread out ---------------------------------------------------------------------------------


PLACES = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


def offloaded(folder, seed=0):
    return load_model(checkpoint("llama", seed), device_map=PLACES, offload_folder=str(folder))


def test_layers_on_the_disk(tmp_path):
    whole, model = tiny_model("llama", "transformers"), offloaded(tmp_path)
    assert any(weight.is_meta for weight in model.raw.parameters())
    assert model.device == torch.device("cpu")
    assert moved_by(model, whole) == 0
    steering = made_up("psr", whole)
    with steering.applied(whole), steering.applied(model):
        assert moved_by(model, whole) == 0
        assert model.generate(PROMPTS, max_new_tokens=4) == whole.generate(
            PROMPTS, max_new_tokens=4
        )
    pairs = [instructed(model, question, "Be a pirate.") for question in QUESTIONS]
    data = pl.sample_responses(model, pairs, max_new_tokens=6, progress=False)
    for method in ("dim", "psr"):
        fitted = pl.fit(model, data, method=method, progress=False)
        expected = pl.fit(whole, data, method=method, progress=False)
        for name, own in fitted.state_dict().items():
            torch.testing.assert_close(own, expected.state_dict()[name])
    for own, expected in zip(
        (model.output_matrix(2), model.final_norm().weight, model.unembedding()),
        (whole.output_matrix(2), whole.final_norm().weight, whole.unembedding()),
        strict=True,
    ):
        torch.testing.assert_close(own, expected)
    parts = pl.measure_components(model, data.examples[:2], progress=False).to_dataframe()
    theirs = pl.measure_components(whole, data.examples[:2], progress=False).to_dataframe()
    assert parts.value.tolist() == pytest.approx(theirs.value.tolist(), nan_ok=True)
    with pytest.raises(ValueError, match="llama-0 is spread over devices or quantised"):
        model.to("cpu")


def test_the_fingerprint_of_weights_on_the_disk_is_taken_anew(tmp_path):
    whole, model = tiny_model("llama", "transformers"), offloaded(tmp_path)
    belonging = belonging_to(whole)
    with belonging.applied(model):
        pass
    # Written to behind torch's back: nothing of the model in memory says so.
    hook = model.raw.model.layers[2].mlp.down_proj._hf_hook
    stored = hook.weights_map["weight"]
    hook.weights_map = {"weight": 1.5 * stored}
    with pytest.raises(ValueError, match="does not belong to"), belonging.applied(model):
        pass


# --- adapters -----------------------------------------------------------------------------------

# peft asks transformers for what that calls otherwise by now.
peft_as_it_is = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    options = peft.LoraConfig(
        r=2, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights=False
    )
    return peft.get_peft_model(in_memory(), options)


@peft_as_it_is
def test_a_live_adapter_is_part_of_the_model(adapted):
    plain = tiny_model("llama", "transformers")
    model = load_model(adapted)
    assert model.raw is adapted
    assert (model.name, model.n_layers, model.d_model) == ("llama-0", 3, 32)
    assert moved_by(model, plain) > 0.01
    belonging = belonging_to(plain)
    with pytest.raises(ValueError, match="does not belong to"), belonging.applied(adapted):
        pass
    # The same weights with the adapter off: nothing was written to.
    with adapted.disable_adapter():
        assert moved_by(model, plain) == 0
        with belonging.applied(adapted):
            pass
    with pytest.raises(ValueError, match="does not belong to"), belonging.applied(adapted):
        pass


@peft_as_it_is
def test_with_and_without_the_adapter_s_object_it_is_one_model(adapted):
    """What is steered through the one is known to be steered through the other."""
    inner = adapted.get_base_model()
    outer, bare = load_model(adapted), load_model(inner)
    steering = made_up("constant", bare)
    before = model_fingerprint(outer)
    with steering.applied(inner):
        assert outer.steerings_on() == bare.steerings_on() == [repr(steering)]
        assert not model_fingerprint(outer).difference(before)
        ids = outer.to_batch(PROMPTS[0]).tokens
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(adapted.generate(ids, **options), inner.generate(ids, **options))
    assert "generate" not in adapted.__dict__
    assert "generate" not in inner.__dict__


@peft_as_it_is
def test_an_adapter_on_what_the_lens_reads(adapted):
    options = peft.LoraConfig(r=2, target_modules=["o_proj", "lm_head"], init_lora_weights=False)
    live = peft.get_peft_model(in_memory(seed=2), options)
    model, merged = load_model(live), load_model(copy.deepcopy(live).merge_and_unload())
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(model.output_matrix(0), merged.output_matrix(0), **near)
    torch.testing.assert_close(model.unembedding(), merged.unembedding(), **near)


@peft_as_it_is
def test_live_and_merged_are_one_model(adapted):
    live = load_model(adapted)
    pairs = [instructed(live, question, "Be a pirate.") for question in QUESTIONS]
    data = pl.sample_responses(live, pairs, max_new_tokens=6, progress=False)
    fitted = pl.fit(live, data, progress=False)
    parts = pl.measure_components(live, data.examples[:2], progress=False)
    logits = live(PROMPTS)
    with fitted.applied(live):
        texts = live.generate(PROMPTS, max_new_tokens=5, temperature=0.0)
        tokens = adapted.generate(
            live.to_batch(PROMPTS[0]).tokens, max_new_tokens=5, do_sample=False
        )
    merged = load_model(adapted.merge_and_unload(), tokenizer=live.tokenizer)
    torch.testing.assert_close(merged(PROMPTS)[:, -1], logits[:, -1], rtol=1e-4, atol=1e-4)
    with fitted.applied(merged):
        assert merged.generate(PROMPTS, max_new_tokens=5, temperature=0.0) == texts
        again = merged.raw.generate(
            merged.to_batch(PROMPTS[0]).tokens, max_new_tokens=5, do_sample=False
        )
    assert torch.equal(tokens, again)
    theirs = pl.measure_components(merged, data.examples[:2], progress=False)
    for ours, expected in zip(
        parts.to_dataframe()["value"], theirs.to_dataframe()["value"], strict=True
    ):
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-4)


@peft_as_it_is
def test_an_adapter_that_transformers_put_in():
    plain = in_memory()
    plain.add_adapter(peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    model, untouched = load_model(plain), tiny_model("llama", "transformers")
    before = model_fingerprint(model)
    assert moved_by(model, untouched) > 0.001
    plain.disable_adapters()
    assert moved_by(model, untouched) == 0
    assert model_fingerprint(model).difference(before)
    assert not model_fingerprint(model).difference(model_fingerprint(untouched))


@peft_as_it_is
def test_learnt_tokens_in_front_of_the_prompt_are_refused():
    options = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="puts learnt tokens in front of every prompt"):
        load_model(peft.get_peft_model(in_memory(), options))


# --- what else may look at it -------------------------------------------------------------------


def test_hidden_states_are_those_that_were_steered():
    """Also where transformers put what records them on the layers first."""
    plain = in_memory()
    ids = torch.tensor([[3, 14, 15]])
    steering = pl.ConstantSteering(torch.ones(1, 32), [1])
    with torch.no_grad():
        before = plain(ids, output_hidden_states=True).hidden_states[2]
        with steering.applied(plain):
            during = plain(ids, output_hidden_states=True).hidden_states[2]
        after = plain(ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(during[:, -1], before[:, -1] + 1)
    assert torch.equal(during[:, :-1], before[:, :-1])
    assert torch.equal(after, before)


def test_a_model_without_keys_and_values_is_refused():
    config = MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=2, state_size=4)
    with pytest.raises(ValueError, match="this MambaForCausalLM keeps no keys and values"):
        load_model(MambaForCausalLM(config))


def test_another_tokenizer_keeps_the_template_options():
    model = load_model(in_memory(), chat_template="{{ tone }}{{ messages[0]['content'] }}")
    model.encoder.template_options = {"tone": "soft "}
    model.use_tokenizer(model.tokenizer)
    assert model.encoder.text("hi") == "soft hi"


def test_a_wrapper_that_is_gone_leaves_what_it_was_told():
    plain = in_memory()
    load_model(plain, chat_template="{{ messages[0]['content'] }}!")
    named = tiny_model("llama", "transformers")
    gc.collect()
    assert as_hooked_model(plain).encoder.text("hi") == "hi!"
    assert as_hooked_model(plain).name == named.name
    raw = load_model(checkpoint("llama"), backend="transformers", revision=None).raw
    gc.collect()
    assert as_hooked_model(raw).name == "llama-0"


def test_torch_dtype_is_not_lost():
    with pytest.raises(ValueError, match=r"torch_dtype=torch\.bfloat16: pass it as dtype="):
        load_model(checkpoint("llama"), torch_dtype=torch.bfloat16)


# --- compiled inside ----------------------------------------------------------------------------


def test_what_is_compiled_under_a_steering_is_steered_and_then_refused():
    """In a process without the type checks of the tests, which torch cannot compile."""
    program = f"""
import torch
import psr_lens as pl
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({str(checkpoint("llama"))!r})
steering = pl.ConstantSteering(torch.ones(1, 32), [1])
ids = torch.tensor([[3, 14, 15, 9, 2, 6]])
with torch.no_grad():
    before = model(ids).logits
    with steering.applied(model):
        steered = model(ids).logits
        model.compile(backend="eager")
        torch.testing.assert_close(model(ids).logits, steered)
    torch.testing.assert_close(model(ids).logits, before)
assert not torch.allclose(steered, before)
try:
    with steering.applied(model):
        raise AssertionError("a compiled model was steered")
except ValueError as error:
    assert "is compiled" in str(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr


def test_a_copy_has_a_wrapper_of_its_own():
    plain = in_memory()
    model = load_model(plain)
    with model.edited(pushes(model)), torch.no_grad():
        twin = as_hooked_model(copy.deepcopy(plain))
        assert twin is not model
        assert moved_by(twin, tiny_model("llama", "transformers")) == 0
        assert moved_by(model, twin) > 0
