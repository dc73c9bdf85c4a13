"""Where a transformers model keeps its decoder layers, and what they return."""

from typing import Any

import torch
from torch import Tensor, nn

_NAMES = ("layers", "h", "blocks", "block")
"""Names of the list of decoder layers: in most models, in GPT-2 and its kin, in MPT, in RecurrentGemma."""


def language_model(hf_model: Any) -> Any:
    """The transformers model itself, without a live PEFT adapter around it.

    Raises:
        ValueError: If the adapter puts tokens of its own in front of the prompt.
    """
    if not hasattr(hf_model, "peft_config"):
        return hf_model
    active: Any = getattr(hf_model, "active_peft_config", None)
    if getattr(active, "is_prompt_learning", False):
        raise ValueError(
            f"this {type(hf_model).__name__} puts learnt tokens in front of every prompt "
            f"({active.peft_type.value}), which have no place in its text: merge or disable the adapter"
        )
    # A model that got its adapter from transformers itself has this config too, but no wrapper.
    return hf_model.get_base_model() if hasattr(hf_model, "get_base_model") else hf_model


def modules_down_to_layers(hf_model: Any) -> list[nn.Module]:
    """The model, the modules inside it on the way to its decoder layers, and their list, last.

    The list is the first one that has as many modules as the config has hidden layers.

    Raises:
        ValueError: If there is no such list.
    """
    config: Any = getattr(hf_model, "config", None)
    if isinstance(hf_model, nn.Module) and hasattr(config, "get_text_config"):
        found = _way_down(hf_model, config.get_text_config().num_hidden_layers)
        if found is not None:
            return found
    raise ValueError(
        f"no decoder layers found in this {type(hf_model).__name__} (a list of modules, one for each "
        "hidden layer of its config): pass a decoder-only model that AutoModelForCausalLM loaded"
    )


def _way_down(module: nn.Module, count: int) -> list[nn.Module] | None:
    """The modules from one down to the list of layers in it, the shortest such way."""
    ways = [[module]]
    while ways:
        for way in ways:
            last = way[-1]
            if isinstance(last, nn.ModuleList) and len(last) == count:
                return way
        ways = [
            [*way, child]
            for way in ways
            if not isinstance(way[-1], nn.ModuleList)
            for child in _in_order(way[-1])
        ]
    return None


def _in_order(module: nn.Module) -> list[nn.Module]:
    """The children of a module, those named like lists of layers first."""
    children = list(module.named_children())
    return [child for _, child in sorted(children, key=lambda own: own[0] not in _NAMES)]


def residual_of(output: Any) -> Tensor:
    """The residual stream in what a decoder layer returns: a tensor, or a tuple that begins with one."""
    return output[0] if isinstance(output, tuple) else output


def with_residual(output: Any, resid: Tensor) -> Any:
    """What a decoder layer returns, with another residual stream in it."""
    return (resid, *output[1:]) if isinstance(output, tuple) else resid


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream that a decoder layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def with_entering(
    args: tuple[Any, ...], kwargs: dict[str, Any], resid: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a decoder layer is called with, but with another residual stream."""
    return ((resid, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": resid})


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes, even if its weights are kept elsewhere, such as on disk."""
    planned = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if planned is None else torch.device(planned)


def first_attribute(thing: Any, *names: str) -> Any:
    """The first of these attributes that exists and is not None; None if there is none."""
    return next((own for name in names if (own := getattr(thing, name, None)) is not None), None)
