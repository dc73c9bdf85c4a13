"""`fold_into`: a constant steering in the weights of a transformers model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from psr_lens.deltas import working_dtype
from psr_lens.deploy.architecture import check_belongs, decoder_layers, hf_fingerprint
from psr_lens.deploy.hooks import require_finite
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.handles import FoldedSteering

_LAST_WRITER: Final = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), "mlp.down_proj"),
    # They normalise what the MLP writes, so a bias of the MLP would be normalised with it.
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), "post_feedforward_layernorm"),
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
}
"""By model type, what is added to the residual stream last, as it is, in a decoder layer."""

_BIAS_OPTION: Final = {"llama": ("mlp_bias", ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"))}
"""By model type, the option that gives the last writer a bias when a checkpoint is loaded, and
everything that it gives one to."""


@dataclass(frozen=True, eq=False)
class _Change:
    """Something that was changed: whether it is still as the change left it, and how to undo it."""

    stands: Callable[[], bool]
    put_back: Callable[[], None]


@torch.no_grad()
def fold(steering: ConstantSteering, hf_model: Any, alpha: float = 1.0) -> FoldedSteering:
    """`ConstantSteering.fold_into`."""
    require_finite(alpha)
    layers = decoder_layers(hf_model)
    family = hf_model.config.model_type
    if family not in _LAST_WRITER:
        raise ValueError(
            f"model type {family!r}: it is not known where its layers write last, so nothing can be "
            f"folded in; known are {', '.join(_LAST_WRITER)}; for others use to_hf(...)"
        )
    hf_fingerprint(hf_model)
    check_belongs(steering, hf_model)
    changes: list[_Change] = []
    try:
        for layer, vector in zip(steering.layers, steering.vectors, strict=True):
            writer = layers[layer].get_submodule(_LAST_WRITER[family])
            changes.append(_add_to_bias(writer, alpha * vector.to(working_dtype(vector.dtype))))
        changes += _loadable_biases(hf_model, layers)
    except BaseException:
        # Whole or not at all.
        for change in changes:
            change.put_back()
        raise

    def put_back() -> None:
        # All or nothing: look at every one before the first is touched.
        for change in changes:
            if not change.stands():
                raise ValueError(
                    "the weights were changed after this fold: undo the later change first, or load "
                    "the model anew"
                )
        for change in changes:
            change.put_back()

    return FoldedSteering(hf_model, f"{steering!r}, alpha={alpha:g}", put_back)


def _add_to_bias(module: Any, vector: Tensor) -> _Change:
    bias: nn.Parameter | None = getattr(module, "bias", None)
    if bias is not None:
        before = bias.detach().clone()
        exact = before.to(working_dtype(bias.dtype))
        bias.copy_(exact + vector.to(exact))
        return _Change(_keeper(module), _copier(bias, before))
    weight = module.weight
    made = nn.Parameter(vector.to(weight), requires_grad=weight.requires_grad)
    if isinstance(module, nn.Linear):
        module.bias = made

        def put_back() -> None:
            module.register_parameter("bias", None)
    else:
        put_back = _give_norm_a_bias(module, made)
    return _Change(_keeper(module), put_back)


def _loadable_biases(hf_model: Any, layers: nn.ModuleList) -> list[_Change]:
    """What the saved model needs for `from_pretrained` to read the biases: more of them, all 0."""
    option, names = _BIAS_OPTION.get(hf_model.config.model_type, (None, ()))
    if option is None or getattr(hf_model.config, option):
        return []
    writers: list[Any] = [layer.get_submodule(name) for layer in layers for name in names]
    changes = [
        _add_to_bias(writer, torch.zeros(writer.out_features))
        for writer in writers
        if writer.bias is None
    ]
    setattr(hf_model.config, option, True)
    changes.append(_Change(lambda: True, lambda: setattr(hf_model.config, option, False)))
    return changes


def _keeper(module: Any) -> Callable[[], bool]:
    after = module.bias.detach().clone()

    def stands() -> bool:
        bias = module.bias
        return bias is not None and torch.equal(bias, after.to(bias.device))

    return stands


def _copier(bias: nn.Parameter, before: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def put_back() -> None:
        bias.copy_(before)

    return put_back


def _give_norm_a_bias(norm: nn.Module, bias: nn.Parameter) -> Callable[[], None]:
    if "forward" in norm.__dict__:
        raise ValueError(
            f"the {type(norm).__name__} of this model was given another forward (accelerate does it "
            "where a model is spread over devices): fold before that, or use to_hf(...)"
        )
    plain = type(norm)
    norm.register_parameter("bias", bias)
    # Its class and not a module around it, so that the names of the weights stay as they are.
    norm.__class__ = _biased(plain)

    def put_back() -> None:
        norm.__class__ = plain
        del norm._parameters["bias"]

    return put_back


@cache
def _biased(plain: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        return plain.forward(self, *args, **kwargs) + self.bias

    return type(plain.__name__, (plain,), {"forward": forward, "__module__": plain.__module__})
