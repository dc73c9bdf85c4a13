"""`fold_into`: put a constant steering into the weights of a transformers model."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from psr_lens._types import check_alpha
from psr_lens.deltas import working_dtype
from psr_lens.models import editable_model
from psr_lens.models.decoder_layers import modules_down_to_layers
from psr_lens.models.numerics import keeping_fingerprint
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.handles import FoldedSteering

_LAST_WRITER: Final = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma"), "mlp.down_proj"),
    # They normalise what the MLP writes, so a bias of the MLP would be normalised with it.
    **dict.fromkeys(("gemma2", "gemma3", "gemma3_text"), "post_feedforward_layernorm"),
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
}
"""By model type, the last module of a decoder layer whose output is added to the residual stream as is."""

_BIAS_OPTION: Final = {"llama": ("mlp_bias", ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"))}
"""By model type, the option that gives the last writer a bias when a checkpoint is loaded, and all modules
that it gives one."""


@torch.no_grad()
def fold(steering: ConstantSteering, hf_model: Any, alpha: float = 1.0) -> FoldedSteering:
    """`ConstantSteering.fold_into`."""
    check_alpha(alpha)
    if steering.hook_point != "resid_post":
        raise ValueError(
            f"{steering!r} acts at {steering.hook_point!r}: only what is added after a block can be folded "
            "in; use applied(...)"
        )
    hooked = editable_model(hf_model)
    if hooked.backend != "transformers":
        raise ValueError(
            f"a {type(hf_model).__name__} was given: fold into a plain transformers model, from "
            "load_model(..., backend='transformers') for example"
        )
    hf_model = hooked.raw
    layers: Any = modules_down_to_layers(hf_model)[-1]
    family = hf_model.config.model_type
    if family not in _LAST_WRITER:
        raise ValueError(
            f"model type {family!r}: it is not known where its layers write last, so nothing can be "
            f"folded in; known are {', '.join(_LAST_WRITER)}; for others use applied(...)"
        )
    steering.check(hooked)
    changes = _Changes()
    # Steerings applied or folded in later must still recognise the model that they belong to.
    with keeping_fingerprint(hooked):
        try:
            for layer, vector in zip(steering.layers, steering.vectors, strict=True):
                writer = layers[layer].get_submodule(_LAST_WRITER[family])
                changes.add_to_bias(writer, alpha * vector.to(working_dtype(vector.dtype)))
            _make_loadable(hf_model, layers, changes)
        except BaseException:
            # All or nothing.
            changes.put_back()
            raise
    changes.remember()

    def undo() -> None:
        # All or nothing: check every one before touching the first.
        if not changes.stand():
            raise ValueError(
                "the weights were changed after this fold: undo the later change first, or reload "
                "the model"
            )
        with keeping_fingerprint(hooked):
            changes.put_back()

    return FoldedSteering(hf_model, f"{steering!r}, alpha={alpha:g}", undo)


def _make_loadable(hf_model: Any, layers: nn.ModuleList, changes: "_Changes") -> None:
    """Add what `from_pretrained` needs to read the saved biases: more of them, all 0."""
    option, names = _BIAS_OPTION.get(hf_model.config.model_type, (None, ()))
    if option is None:
        return
    writers: list[Any] = [layer.get_submodule(name) for layer in layers for name in names]
    for writer in writers:
        if writer.bias is None:
            changes.add_to_bias(writer, torch.zeros(writer.out_features))
    if not getattr(hf_model.config, option):
        setattr(hf_model.config, option, True)
        changes.undo_by(lambda: setattr(hf_model.config, option, False))


@final
class _Changes:
    """Changed biases: whether they are still as changed, and how to undo it all."""

    def __init__(self):
        self._undo: list[Callable[[], None]] = []
        self._modules: list[Any] = []
        self._after: list[Tensor] = []

    def undo_by(self, put_back: Callable[[], None]) -> None:
        """Record how to undo one more change, already made."""
        self._undo.append(put_back)

    def add_to_bias(self, module: Any, vector: Tensor) -> None:
        """Add to the bias of a module, making one if it has none."""
        if hasattr(module, "base_layer") or not module.weight.is_floating_point():
            raise ValueError(
                f"a {type(module).__name__} writes last in this model, and has an adapter or is quantised: "
                "merge the adapter first, or use applied(...)"
            )
        bias: nn.Parameter | None = getattr(module, "bias", None)
        if bias is not None:
            before = bias.detach().clone()
            exact = before.to(working_dtype(bias.dtype))
            bias.copy_(exact + vector.to(exact))
            self.undo_by(_copier(bias, before))
        else:
            weight = module.weight
            made = nn.Parameter(vector.to(weight), requires_grad=weight.requires_grad)
            if isinstance(module, nn.Linear):
                module.bias = made
                self.undo_by(lambda: module.register_parameter("bias", None))
            else:
                self.undo_by(_give_norm_a_bias(module, made))
        self._modules.append(module)

    def remember(self) -> None:
        """Record the biases, once all changes are made."""
        self._after = [module.bias.detach().clone() for module in self._modules]

    def stand(self) -> bool:
        """Whether nothing has changed since."""
        return all(
            module.bias is not None and torch.equal(module.bias, after.to(module.bias.device))
            for module, after in zip(self._modules, self._after, strict=True)
        )

    def put_back(self) -> None:
        """Undo everything, the last change first."""
        for put_back in reversed(self._undo):
            put_back()


def _copier(bias: nn.Parameter, before: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def put_back() -> None:
        bias.copy_(before)

    return put_back


def _give_norm_a_bias(norm: nn.Module, bias: nn.Parameter) -> Callable[[], None]:
    if "forward" in norm.__dict__:
        raise ValueError(
            f"the {type(norm).__name__} of this model was given another forward (accelerate does that "
            "when a model is spread over devices): fold before that, or use applied(...)"
        )
    plain = type(norm)
    norm.register_parameter("bias", bias)
    # A new class, not a wrapping module, so that the weights keep their names.
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
