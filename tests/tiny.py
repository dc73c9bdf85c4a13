"""Tiny random checkpoints of every family, with tokenizers and chat templates as in the wild.

Everything is made on the spot: nothing is downloaded. The weights are drawn wide, so that logits
depend on every token and layer, and local attention windows are shorter than the sentences below.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TokenizerStyle = Literal["bytes", "sentencepiece"]
TemplateStyle = Literal["llama3", "qwen2", "gemma"]

SENTENCES = (
    "The otter is a playful animal that lives by the river and eats fish.",
    "Tell me about the whale, the owl and the small grey mouse of the house.",
    "You are a helpful assistant. Answer like a pirate, and shout all the time!",
    "What does a fox eat? It eats mice, berries, and now and then a hen.",
    "user system assistant model turn header; é ü ß, naïve café.",
)


@dataclass(frozen=True)
class _Markup:
    """Special tokens and template of one chat style."""

    bos: str | None
    eos: str
    others: tuple[str, ...]
    ends: tuple[str, ...]
    template: str | None


_MARKUP: dict[str | None, _Markup] = {
    None: _Markup("<s>", "</s>", (), ("</s>",), None),
    "llama3": _Markup(
        "<|begin|>",
        "<|end|>",
        ("<|header|>", "<|/header|>", "<|eot|>"),
        ("<|end|>", "<|eot|>"),
        "{{ bos_token }}"
        "{% for m in messages %}"
        "{{ '<|header|>' + m['role'] + '<|/header|>\n\n' + m['content'] | trim + '<|eot|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}",
    ),
    # No BOS, and a default system prompt where none is given.
    "qwen2": _Markup(
        None,
        "<|im_end|>",
        ("<|im_start|>", "<|endoftext|>"),
        ("<|im_end|>", "<|endoftext|>"),
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        "{% endif %}"
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    # Refuses a system role, and calls the assistant "model".
    "gemma": _Markup(
        "<bos>",
        "<eos>",
        ("<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}"
        "{% endif %}"
        "{% for m in messages %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
}

_WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
_LOCAL = {"sliding_window": 24}
_FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}),
    "gpt_neox": (GPTNeoXConfig, {**_WIDTHS, "num_attention_heads": 4}),
    "llama": (LlamaConfig, {**_WIDTHS, **_HEADS, "rope_theta": 50_000.0}),
    # Its heads are wider than hidden_size / heads.
    "mistral": (MistralConfig, {**_WIDTHS, **_HEADS, **_LOCAL, "head_dim": 16}),
    "qwen2": (Qwen2Config, {**_WIDTHS, **_HEADS}),
    "qwen3": (Qwen3Config, {**_WIDTHS, **_HEADS, "head_dim": 16}),
    "gemma": (GemmaConfig, {**_WIDTHS, **_HEADS, "head_dim": 16}),
    "gemma2": (
        Gemma2Config,
        {
            **_WIDTHS,
            **_HEADS,
            **_LOCAL,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            # Low enough to bend the scores and logits of a tiny model.
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        Gemma3TextConfig,
        {
            **_WIDTHS,
            **_HEADS,
            **_LOCAL,
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
}
FAMILIES = tuple(_FAMILIES)


def tiny_tokenizer(
    style: TokenizerStyle = "bytes", template: TemplateStyle | None = None
) -> PreTrainedTokenizerFast:
    """A small tokenizer trained on `SENTENCES`, with pad = eos.

    Args:
        style: `"bytes"`: byte-level BPE, as GPT-2, Llama 3 and Qwen have it. `"sentencepiece"`:
            BPE over pieces that begin with a visible space, with byte fallback, as Llama 2 and
            Gemma have it.
        template: The chat template's style, None for a base model.
    """
    markup = _MARKUP[template]
    special = [token for token in (markup.bos, markup.eos, *markup.others) if token]
    if style == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        # Llama 2 puts a space in front of the text, Gemma does not.
        leading = template != "gemma"
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        spaces = normalizers.Replace(" ", "\u2581")
        tokenizer.normalizer = (
            normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if leading else spaces
        )
        # Pieces begin with their space; for the training only, as in the wild.
        tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence(
            [*steps, decoders.Strip(" ", 1, 0)] if leading else steps
        )
        special = ["<unk>", *special]
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + 160,
        initial_alphabet=alphabet,
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if style == "sentencepiece":
        tokenizer.model = _with_byte_pieces(tokenizer)
        tokenizer.pre_tokenizer = None
    if markup.bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{markup.bos} $A",
            special_tokens=[(markup.bos, tokenizer.token_to_id(markup.bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=markup.bos,
        eos_token=markup.eos,
        pad_token=markup.eos,
        unk_token="<unk>" if style == "sentencepiece" else None,
        extra_special_tokens=list(markup.others),
        chat_template=markup.template,
        clean_up_tokenization_spaces=False,
    )


def _with_byte_pieces(tokenizer: Tokenizer) -> models.BPE:
    """The trained model with a piece for every byte, which a trainer cannot add."""
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = trained["vocab"]
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return models.BPE(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in trained["merges"]],
        byte_fallback=True,
        fuse_unk=True,
        unk_token="<unk>",
    )


def tiny_checkpoint(
    family: str,
    directory: Path,
    *,
    tokenizer: TokenizerStyle = "bytes",
    template: TemplateStyle | None = None,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a tiny random checkpoint and return its directory.

    Args:
        family: One of `FAMILIES`.
        directory: Where to write it; made if it does not exist.
        tokenizer: Style of the tokenizer.
        template: Style of the chat template, None for a base model.
        seed: Of the weights.
        config: Fields of the Hugging Face config to set otherwise.
    """
    made = tiny_tokenizer(tokenizer, template)
    ends = [made.convert_tokens_to_ids(end) for end in _MARKUP[template].ends]
    config_class, fields = _FAMILIES[family]
    options = {
        # More rows than the tokenizer has tokens, as in Qwen.
        "vocab_size": len(made) + 3,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
        "tie_word_embeddings": family in ("gpt2", "gemma", "gemma2", "gemma3"),
    }
    if family != "gpt2":
        options["max_position_embeddings"] = 256
    model = AutoModelForCausalLM.from_config(config_class(**(options | fields | config)))
    draw_weights(model, seed)
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(directory)
    made.save_pretrained(directory)
    return directory


@torch.no_grad()
def draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Draw every weight anew, wide: gains around their neutral value, all else around zero."""
    generator = torch.Generator().manual_seed(seed)
    # A Gemma multiplies its embeddings by the square root of their width.
    embedding_std = 0.1 if "gemma" in model.config.model_type else 0.5
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1 and name.endswith("weight"):
            # Zero where a Gemma adds one to it, else one.
            weight.copy_(weight.mean().round() + 0.2 * noise)
        else:
            is_embedding = any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
            weight.copy_((embedding_std if is_embedding else 0.2) * noise)
