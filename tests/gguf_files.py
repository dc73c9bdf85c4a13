"""Small GGUF files, written as llama.cpp's converter writes them, from the tiny Llama."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_tokenizer

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    checkpoint: Path,
    file: Path,
    *,
    quantized: bool = False,
    more: Mapping[str, np.ndarray] | None = None,
    values: Mapping[str, Any] | None = None,
    architecture: str = "llama",
) -> Path:
    """A tiny Llama with a byte-level tokenizer as a GGUF file.

    Args:
        checkpoint: Its directory.
        file: What to write.
        quantized: As Q8_0, where the rows are a multiple of its 32 numbers long; else float32.
        more: Tensors that it holds besides.
        values: Metadata that it holds besides; whole numbers and text.
        architecture: What it says that it is.
    """
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    whole = json.loads((checkpoint / "tokenizer.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("model")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads["q_proj"])
    writer.add_head_count_kv(heads["k_proj"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads["q_proj"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if quantized:
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for name, value in (values or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(name, value)
    _add_tokenizer(writer, whole, config)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        inside = name.startswith("model.layers.")
        part = (part if inside else name).removesuffix(".weight")
        array = _as_llama_cpp_has_it(tensor, heads.get(part.rpartition(".")[2]))
        theirs = f"blk.{layer}.{_NAMES[part]}" if inside else _NAMES[part]
        _add(writer, f"{theirs}.weight", array, quantized)
    for name, array in (more or {}).items():
        _add(writer, name, array, False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: Any, name: str, array: np.ndarray, quantized: bool) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    if quantized and array.ndim == 2 and array.shape[1] % 32 == 0:
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array)


def _as_llama_cpp_has_it(tensor: torch.Tensor, heads: int | None) -> np.ndarray:
    """Rotary pairs lie side by side there, and half a head apart in Hugging Face's."""
    array = tensor.numpy()
    if heads is None:
        return array
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _add_tokenizer(writer: Any, whole: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    special = {added["content"]: added["id"] for added in whole["added_tokens"]}
    tokens = whole["model"]["vocab"] | special
    words = sorted(tokens, key=lambda word: tokens[word])
    # Rows that no token has are filled up, as llama.cpp does.
    words += [f"[PAD{i}]" for i in range(len(words), config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in whole["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_uint32("tokenizer.ggml.eot_token_id", special["<|eot|>"])
    writer.add_chat_template(tiny_tokenizer("bytes", "llama3").chat_template)
