"""Where a transformers model keeps its decoder layers, and whether a steering belongs to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from psr_lens.models.binding import suspended
from psr_lens.models.numerics import Fingerprint, Weights, probe_ids, sum_up, weights_now
from psr_lens.steering.base import Steering
from psr_lens.steering.provenance import check_origin
from psr_lens.steering.sums import SumSteering

_PATHS: Final = (
    "model.layers",  # Llama, Mistral, Qwen, Gemma, and most others
    "model.language_model.layers",  # the language model of one that also sees images
    "transformer.h",  # GPT-2, GPT-J, Falcon, Bloom
    "gpt_neox.layers",
)
_FINGERPRINTS: "WeakKeyDictionary[nn.Module, tuple[Weights, Fingerprint]]" = WeakKeyDictionary()


def modules_down_to_layers(hf_model: Any) -> list[nn.Module]:
    """The model, the modules inside it on the way to its decoder layers, and their list, last.

    Raises:
        ValueError: If it is no such model.
    """
    for path in _PATHS:
        way: list[Any] = [hf_model]
        for name in path.split("."):
            way.append(getattr(way[-1], name, None))
        if isinstance(way[-1], nn.ModuleList) and hasattr(hf_model, "config"):
            return way
    raise ValueError(
        f"no decoder layers found in this {type(hf_model).__name__} (looked for "
        f"{', '.join(_PATHS)}): pass a decoder-only model that AutoModelForCausalLM loaded; a model "
        "of load_model is steered by applied(...)"
    )


def decoder_layers(hf_model: Any) -> nn.ModuleList:
    """The decoder layers: what each gives out is the residual stream after a block.

    Raises:
        ValueError: If there are none where they are looked for.
    """
    layers = modules_down_to_layers(hf_model)[-1]
    assert isinstance(layers, nn.ModuleList)
    return layers


def residual_of(output: Any) -> Tensor:
    """The residual stream in what a decoder layer gives out: a tensor, or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


def check_belongs(steering: Steering, hf_model: Any) -> None:
    """Refuse a transformers model that a steering, or a part of it, does not belong to.

    Raises:
        ValueError: If it was fitted on another model, or covers a layer that the model lacks.
    """
    if isinstance(steering, SumSteering):
        for _, part in steering.parts:
            check_belongs(part, hf_model)
        return
    check_origin(
        steering.provenance,
        max(steering.layers, default=-1),
        steering.width,
        hf_model.config.name_or_path or type(hf_model).__name__,
        (len(decoder_layers(hf_model)), hf_model.config.get_text_config().hidden_size),
        lambda: hf_fingerprint(hf_model),
    )


def hf_fingerprint(hf_model: Any) -> Fingerprint:
    """The same numbers as `model_fingerprint` takes, on a transformers model.

    Taken anew only where the weights were exchanged or written to. What steers the model at the
    moment is no part of it: neither hooks nor, inside `keeping_fingerprint`, what is folded in.
    """
    known = _known_fingerprint(hf_model)
    if known is None:
        known = _take_fingerprint(hf_model)
        _FINGERPRINTS[hf_model] = (weights_now(hf_model), known)
    return known


@contextmanager
def keeping_fingerprint(hf_model: Any) -> Iterator[None]:
    """What is written to the weights inside the context leaves the fingerprint as it was."""
    known = _known_fingerprint(hf_model)
    try:
        yield
    finally:
        if known is not None:
            _FINGERPRINTS[hf_model] = (weights_now(hf_model), known)


def _known_fingerprint(hf_model: Any) -> Fingerprint | None:
    weights, known = _FINGERPRINTS.get(hf_model, (None, None))
    return known if weights == weights_now(hf_model) else None


@torch.no_grad()
def _take_fingerprint(hf_model: Any) -> Fingerprint:
    layers = decoder_layers(hf_model)
    seen: dict[int, Tensor] = {}
    here = current_thread()

    def recorder(layer: int):
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Another thread may run the model at the same time.
            if current_thread() is here:
                seen[layer] = residual_of(output)[0, -1].cpu().double()

        return hook

    d_vocab = hf_model.config.get_text_config().vocab_size
    ids = torch.tensor([probe_ids(d_vocab)], device=hf_model.device)
    training = [module for module in hf_model.modules() if module.training]
    handles = [layer.register_forward_hook(recorder(index)) for index, layer in enumerate(layers)]
    try:
        # Dropout would blur it.
        for module in training:
            module.training = False
        with suspended(*layers):
            output = hf_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    resid = torch.stack([seen[layer] for layer in range(len(layers))])
    return sum_up(resid, output.logits[0, -1], hf_model.dtype)
