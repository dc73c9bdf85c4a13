"""The logits are Hugging Face's, on every family and backend, also in a left-padded batch."""

import logging
import warnings

import pytest
import torch

from psr_lens.models import RawText, load_model
from psr_lens.models.conversion import CannotConvert, hooked_fields
from tests.models.cases import TEXTS, every_backend, every_model, needs_hooked
from tests.tiny import FAMILIES, draw_weights, tiny_checkpoint, tiny_tokenizer
from tests.tiny_models import BACKENDS, checkpoint, tiny_model


def hugging_face_logits(directory, rows, dtype=torch.float32):
    """Every row alone, through the Hugging Face model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", dtype=dtype
    )
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0] for row in rows]


def assert_same_logits(model, directory, tolerance=1e-4):
    prompts = [RawText(text) for text in TEXTS]
    batch = model.to_batch(prompts)
    rows = [
        row[mask].tolist() for row, mask in zip(batch.tokens, batch.attention_mask, strict=True)
    ]
    assert len({len(row) for row in rows}) == len(rows), "the rows are to differ in length"
    logits = model.logits(batch)
    assert logits.shape == (*batch.tokens.shape, model.d_vocab)
    for own, row, expected in zip(
        logits, rows, hugging_face_logits(directory, rows, model.dtype), strict=True
    ):
        gap = (own[-len(row) :] - expected).abs().max() / expected.abs().max()
        assert float(gap) < tolerance


@every_model
def test_padded_logits_equal_hugging_faces_singles(family, backend):
    model = tiny_model(family, backend)
    assert model.backend == backend
    assert_same_logits(model, checkpoint(family))


@every_model
def test_the_logits_depend_on_the_first_token(family, backend):
    # Else the comparison above would say nothing about attention.
    model = tiny_model(family, backend)
    batch = model.to_batch(RawText(TEXTS[1]))
    other = model.to_batch(RawText("Y" + TEXTS[1][1:]))
    width = min(batch.tokens.shape[1], other.tokens.shape[1]) - 3
    gap = model.logits(batch)[0, -width:] - model.logits(other)[0, -width:]
    assert float(gap.abs().max()) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_takes_the_best_backend_without_a_word(family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(checkpoint(family)).backend == BACKENDS[0]


@needs_hooked
def test_the_backends_agree_in_float64():
    for family in ("gpt2", "llama"):
        hooked, bridge = (
            tiny_model(family, "hooked", "float64"),
            tiny_model(family, "bridge", "float64"),
        )
        batch = hooked.to_batch([RawText(text) for text in TEXTS])
        mask = batch.attention_mask
        torch.testing.assert_close(
            hooked.logits(batch)[mask], bridge.logits(batch)[mask], rtol=0, atol=1e-5
        )


ROPE = {"rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
BAND = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = {
    "llama 3.1 rotary scaling": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", **ROPE, **BAND}},
    ),
    "linear rotary scaling": ("llama", {"rope_parameters": {"rope_type": "linear", **ROPE}}),
    "one key head per query head": ("llama", {"num_key_value_heads": 4}),
    "global attention in Mistral": ("mistral", {"sliding_window": None}),
    "local attention in Qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "sequential GPT-NeoX": ("gpt_neox", {"use_parallel_residual": False}),
    "narrow MLP in GPT-2": ("gpt2", {"n_inner": 40, "scale_attn_by_inverse_layer_idx": True}),
}


@needs_hooked
@pytest.mark.parametrize(("family", "config"), VARIANTS.values(), ids=VARIANTS)
def test_variants_of_a_family_convert(family, config, tmp_path):
    directory = tiny_checkpoint(family, tmp_path, **config)
    assert_same_logits(load_model(directory, backend="hooked"), directory)


@needs_hooked
def test_what_cannot_convert_runs_on_the_bridge_and_says_why(tmp_path):
    yarn = tiny_checkpoint("llama", tmp_path, rope_parameters={"rope_type": "yarn", **ROPE})
    with pytest.warns(UserWarning, match="runs on the bridge instead.*no rotary scaling.*'yarn'"):
        model = load_model(yarn)
    assert model.backend == "bridge"
    assert_same_logits(model, yarn)
    with pytest.raises(ValueError, match=r"backend='hooked'.*'yarn'; choose backend='bridge'"):
        load_model(yarn, backend="hooked")


@needs_hooked
def test_a_conversion_that_changes_the_logits_is_not_taken(tmp_path):
    # TransformerLens has no attention biases for Llama and drops them without a word.
    biased = tiny_checkpoint("llama", tmp_path, attention_bias=True)
    with pytest.warns(UserWarning, match="its logits differ from Hugging Face's by"):
        model = load_model(biased)
    assert_same_logits(model, biased)


def test_unknown_kinds_of_attention_are_refused():
    from transformers import Qwen2Config

    config = Qwen2Config(sliding_window=4, use_sliding_window=True, max_window_layers=1)
    config.layer_types = ["chunked_attention"] * config.num_hidden_layers
    with pytest.raises(CannotConvert, match="no attention of kind 'chunked_attention'"):
        hooked_fields(config, "Qwen2ForCausalLM")


@needs_hooked
def test_other_architectures_go_through_transformer_lens_or_the_bridge(tmp_path):
    directory = write(tmp_path, "OPTConfig", ffn_dim=48, word_embed_proj_dim=32)
    model = load_model(directory)
    assert model.backend == "hooked"
    assert_same_logits(model, directory)
    directory = write(tmp_path, "Olmo2Config", intermediate_size=48)
    with pytest.warns(UserWarning, match="Olmo2ForCausalLM is not currently supported"):
        model = load_model(directory)
    assert_same_logits(model, directory)


@every_backend
def test_the_language_model_of_a_gemma_3_with_eyes(backend, tmp_path):
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": len(tiny_tokenizer()),
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
        },
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    directory = write(
        tmp_path,
        "Gemma3Config",
        text_config=text,
        vision_config=vision | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    model = load_model(directory, backend=backend)
    assert (model.n_layers, model.d_model, model.backend) == (3, 32, backend)
    assert_same_logits(model, directory)


def write(directory, config_name, **options):
    """A random checkpoint of an architecture that `tiny_checkpoint` does not know."""
    import transformers

    tokenizer = tiny_tokenizer()
    if "text_config" not in options:
        options |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        options |= {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    options |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    options |= {"bos_token_id": tokenizer.bos_token_id}
    config = getattr(transformers, config_name)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(model, 0)
    target = directory / config_name
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


@every_backend
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_run(dtype, backend):
    for family in ("llama", "gemma3"):
        model = tiny_model(family, backend, dtype)
        assert str(model.dtype) == f"torch.{dtype}"
        batch = model.to_batch(list(TEXTS))
        assert bool(model.logits(batch)[batch.attention_mask].isfinite().all())
        wide = tiny_model(family, backend).logits(batch)
        gap = (model.logits(batch).float() - wide)[batch.attention_mask].abs().max()
        assert float(gap / wide[batch.attention_mask].abs().max()) < 0.2
        assert isinstance(model.generate(TEXTS[1], max_new_tokens=3), str)


@every_backend
def test_load_is_silent_and_leaves_the_logs_alone(backend, capfd):
    root = logging.getLogger()
    before = (list(root.handlers), root.manager.disable)
    path = checkpoint("llama")
    # Writing it shows a bar of its own, and loading shows one where it takes seconds.
    capfd.readouterr()
    load_model(path, backend=backend, progress=False)
    assert capfd.readouterr() == ("", "")
    assert (list(root.handlers), root.manager.disable) == before


@every_model
def test_weights_are_frozen_and_the_model_is_in_eval_mode(family, backend):
    raw = tiny_model(family, backend).raw
    assert not raw.training
    assert not any(weight.requires_grad for weight in raw.parameters())
    assert not any(module.training for module in raw.modules())


# --- how weights lie in memory ------------------------------------------------------------------


@needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_no_weight_is_copied_in_a_pass_and_every_bit_is_the_same(family, monkeypatch):
    laid_out = tiny_model(family, "hooked")
    monkeypatch.setattr("psr_lens.models.conversion.lay_out", lambda model: model)
    plain = load_model(checkpoint(family), backend="hooked")
    for ours, theirs in zip(laid_out.raw.parameters(), plain.raw.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    batch = laid_out.to_batch([RawText(text) for text in TEXTS])
    assert torch.equal(laid_out.logits(batch), plain.logits(batch))
    # Llama's weights are views of Hugging Face's, which lie as they are read already.
    assert (copied_weights(plain, batch) > 0) == (family != "llama")
    assert copied_weights(laid_out, batch) == 0


def copied_weights(model, batch):
    """How many matrices a pass copies to have them contiguous."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.raw.parameters()}
    copied = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            of_a_weight = (
                "clone" in str(function)
                and args[0].ndim > 1
                and args[0].untyped_storage().data_ptr() in weights
            )
            if of_a_weight:
                copied.append(function)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        model.logits(batch)
    return len(copied)
