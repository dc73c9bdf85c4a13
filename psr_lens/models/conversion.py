"""From a Hugging Face model to a HookedTransformer or a TransformerBridge, unprocessed.

TransformerLens infers a family's shape from official model names or the text of a path. Here it is read
from the Hugging Face config alone, so any checkpoint of a family converts.
"""

import copy
import math
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from psr_lens.models.checkpoint import Checkpoint
from psr_lens.models.float64 import all_float64
from psr_lens.models.quiet import one_line, quiet


class CannotConvert(Exception):
    """Why a checkpoint cannot run on a backend, in one line."""


def to_hooked(checkpoint: Checkpoint) -> Any:
    """A HookedTransformer with the checkpoint's weights.

    Raises:
        CannotConvert: If TransformerLens lacks the architecture or one of its features.
    """
    with quiet():
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

        source = checkpoint.model
        try:
            architecture = type(source).__name__
            fields = hooked_fields(source.config, architecture)
            fields |= {
                "model_name": checkpoint.name.rpartition("/")[2],
                "original_architecture": architecture,
                "tokenizer_name": None,
                "init_weights": False,
                "device": str(source.device),
                "dtype": source.dtype,
            }
            config = HookedTransformerConfig.from_dict(fields)
            with all_float64(source.dtype):
                # With a model in hand the name is not used, but it has to be an existing path.
                weights = get_pretrained_state_dict(".", config, source, dtype=source.dtype)
                model = HookedTransformer(config, tokenizer=own_tokenizer(checkpoint.tokenizer))
            # All at once: TransformerLens' own loader walks all modules for every single weight. And not
            # copied: most of them are views of Hugging Face's, whose memory is reused. What TransformerLens
            # adds itself, such as zero biases, may be of another type.
            own = model.state_dict()
            weights = {
                name: weight.to(own[name]) if name in own else weight
                for name, weight in model.fill_missing_keys(weights).items()
            }
            model.load_state_dict(weights, strict=False, assign=True)
        except CannotConvert:
            raise
        except Exception as error:  # whatever stops TransformerLens is the reason
            raise CannotConvert(
                f"TransformerLens cannot convert it ({type(error).__name__}: {one_line(error)})"
            ) from error
        return lay_out(model.to(source.device))


@torch.no_grad()
def lay_out(model: Any) -> Any:
    """Lay out a HookedTransformer's weights in memory as it reads them; values and shapes stay.

    TransformerLens multiplies by transposed weights, `W.T.contiguous()`, and so copies every matrix in
    every pass, which takes most of a decoding step. If the transposed view is already contiguous, there is
    nothing to copy. Every bit of every result is the same.
    """
    for name, weight in model.named_parameters():
        kind = name.rpartition(".")[2]
        if kind in ("W_Q", "W_K", "W_V", "_W_K", "_W_V"):
            weight.data = weight.data.transpose(1, 2).contiguous().transpose(1, 2)
        elif kind == "W_O":
            weight.data = weight.data.permute(2, 0, 1).contiguous().permute(1, 2, 0)
        elif kind in ("W_in", "W_gate", "W_out", "W_U") and weight.ndim == 2:
            weight.data = weight.data.t().contiguous().t()
        else:
            # Such as parts of a joint bias of queries, keys and values.
            weight.data = weight.data.contiguous()
    return model


def to_bridge(checkpoint: Checkpoint) -> Any:
    """A TransformerBridge around the checkpoint's model, which it takes over.

    Raises:
        CannotConvert: If TransformerLens has no adapter for the architecture.
    """
    with quiet():
        from transformer_lens.model_bridge import TransformerBridge

        try:
            return TransformerBridge.boot_transformers(
                checkpoint.name,
                hf_model=checkpoint.model,
                tokenizer=own_tokenizer(checkpoint.tokenizer),
                device=str(checkpoint.model.device),
                dtype=checkpoint.model.dtype,
            )
        except Exception as error:  # whatever stops TransformerLens is the reason
            raise CannotConvert(
                f"TransformerLens cannot wrap it ({type(error).__name__}: {one_line(error)})"
            ) from error


def own_tokenizer(tokenizer: Any) -> Any:
    """A copy for TransformerLens, which sets pad and BOS tokens on the one it is given."""
    copied = copy.deepcopy(tokenizer)
    # Otherwise TransformerLens reloads it by name, to get one that adds a BOS.
    copied.init_kwargs["add_bos_token"] = True
    return copied


def hooked_fields(config: Any, architecture: str) -> dict[str, Any]:
    """The fields of a HookedTransformerConfig that describe the architecture.

    Args:
        config: The Hugging Face config.
        architecture: Name of the Hugging Face model's class.

    Raises:
        CannotConvert: If HookedTransformer lacks one of its features.
    """
    family = _FAMILIES.get(architecture)
    return family(config) if family else _fields_by_transformer_lens(config, architecture)


def _llama_like(config: Any) -> dict[str, Any]:
    """RMSNorm, rotary positions, a gated MLP: Llama, Mistral, Qwen, and the basis of Gemma."""
    heads = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.rms_norm_eps,
        "act_fn": getattr(config, "hidden_activation", None) or config.hidden_act,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "rotary_adjacent_pairs": False,
        "use_qk_norm": False,
        **_attention_windows(config),
        **_rope(config),
    }


def _qwen2(config: Any) -> dict[str, Any]:
    return _llama_like(config) | {"default_prepend_bos": False}


def _qwen3(config: Any) -> dict[str, Any]:
    return _qwen2(config) | {"use_qk_norm": True}


def _gemma2(config: Any) -> dict[str, Any]:
    """Norms on both sides of attention and MLP, soft caps, every other layer local."""
    return _llama_like(config) | {
        "use_normalization_before_and_after": True,
        "attn_scale": math.sqrt(config.query_pre_attn_scalar),
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
    }


def _gemma3(config: Any) -> dict[str, Any]:
    """Gemma 2 with query and key norms, and other rotary bases on local layers."""
    return _gemma2(config) | {"use_qk_norm": True}


def _gpt2(config: Any) -> dict[str, Any]:
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _gpt_neox(config: Any) -> dict[str, Any]:
    d_head = config.hidden_size // config.num_attention_heads
    partial = (config.rope_parameters or {}).get("partial_rotary_factor", 1.0)
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_eps,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
        "positional_embedding_type": "rotary",
        "rotary_dim": int(partial * d_head),
        "rotary_adjacent_pairs": False,
        "default_prepend_bos": False,
        **_rope(config),
    }


_FAMILIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "LlamaForCausalLM": _llama_like,
    "MistralForCausalLM": _llama_like,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "GemmaForCausalLM": _llama_like,
    "Gemma2ForCausalLM": _gemma2,
    "Gemma3ForCausalLM": _gemma3,
    "GPT2LMHeadModel": _gpt2,
    "GPTNeoXForCausalLM": _gpt_neox,
}


def _attention_windows(config: Any) -> dict[str, Any]:
    window = getattr(config, "sliding_window", None)
    if window is None:
        return {}
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention"] * config.num_hidden_layers
    names = {"sliding_attention": "local", "full_attention": "global"}
    unknown = sorted(set(kinds) - set(names))
    if unknown:
        raise CannotConvert(f"HookedTransformer has no attention of kind {unknown[0]!r}")
    return {
        "use_local_attn": True,
        "window_size": window,
        "attn_types": [names[kind] for kind in kinds],
    }


def _rope(config: Any) -> dict[str, Any]:
    """Rotary bases and scaling, of global and, where they differ, of local layers."""
    parameters = config.rope_parameters
    local = parameters.get("sliding_attention")
    parameters = parameters.get("full_attention", parameters)
    fields: dict[str, Any] = {"rotary_base": parameters["rope_theta"]}
    kind = parameters.get("rope_type", "default")
    if kind == "linear":
        fields["rotary_scaling_factor"] = parameters["factor"]
    elif kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": parameters["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": parameters["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": parameters["high_freq_factor"],
            "NTK_by_parts_factor": parameters["factor"],
        }
    elif kind != "default":
        raise CannotConvert(f"HookedTransformer has no rotary scaling of type {kind!r}")
    if local is not None:
        if local.get("rope_type", "default") != "default":
            raise CannotConvert("HookedTransformer has no rotary scaling on local layers")
        fields["rotary_base_local"] = local["rope_theta"]
    return fields


def _fields_by_transformer_lens(config: Any, architecture: str) -> dict[str, Any]:
    """What TransformerLens itself makes of the config of any other architecture."""
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        fields = convert_hf_model_config(directory)
    # It takes the architecture from the path if that contains a family's name.
    if fields["original_architecture"] != architecture:
        raise CannotConvert(f"TransformerLens cannot convert {architecture} in {directory}")
    return fields
