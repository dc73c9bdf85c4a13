"""A plain transformers model behind the model protocol, without TransformerLens."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from psr_lens.models.checkpoint import is_placed
from psr_lens.models.decoder_layers import (
    entering,
    execution_device,
    first_attribute,
    language_model,
    modules_down_to_layers,
    with_entering,
)
from psr_lens.models.float64 import all_float64
from psr_lens.models.parts import PartPoints, Tap
from psr_lens.models.protocol import HookedModel
from psr_lens.models.through_transformers import ThroughTransformers


@final
class TransformersModel(ThroughTransformers):
    """A decoder-only transformers model as it is, be it quantised, on several devices or with an adapter.

    It keeps its own forward pass and attention.
    """

    backend: ClassVar[str] = "transformers"
    # It may well be a `generate` that was meant to be steered but runs in a thread of its own, as with a
    # streamer.
    refuses_other_threads: ClassVar[bool] = True

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._config.hidden_size

    @property
    def d_vocab(self) -> int:
        """Number of logits per position."""
        head = self._language_model.get_output_embeddings()
        return self._config.vocab_size if head is None else head.weight.shape[0]

    @property
    def n_ctx(self) -> int:
        """Longest sequence that the model takes, in tokens; no limit where its config names none."""
        names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
        return first_attribute(self._config, *names) or sys.maxsize

    @property
    def device(self) -> torch.device:
        """Where passes begin: where the token embeddings are looked up."""
        return execution_device(self._language_model.get_input_embeddings())

    def hook_point(self, layer: int) -> nn.Module:
        """Decoder layer `layer`."""
        return self._blocks[layer]

    def part_points(self, layer: int) -> PartPoints:
        """The attention and the MLP of a decoder layer, or the norms after them."""
        block = self._blocks[layer]
        attention = _part(block, layer, "attention", "self_attn", "attn", "attention")
        mlp = _part(block, layer, "MLP", "mlp", "feed_forward")
        after_mlp = getattr(block, "post_feedforward_layernorm", None)
        # If a norm follows the MLP, the norm of this name follows attention.
        after_attention = None if after_mlp is None else block.post_attention_layernorm
        return PartPoints(
            before=Tap(block, entering=True),
            after=Tap(block),
            attn=Tap(attention if after_attention is None else after_attention),
            mlp=Tap(mlp if after_mlp is None else after_mlp),
            mixed=Tap(_projection(attention, layer), entering=True),
            pattern=Tap(attention, item=1),
            post_norm=after_attention,
        )

    @torch.no_grad()
    def output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection's weight, cut into heads."""
        block = self._blocks[layer]
        attention = _part(block, layer, "attention", "self_attn", "attn", "attention")
        projection = _projection(attention, layer)
        return _matrix(projection, self.dtype).reshape(
            self._config.num_attention_heads, -1, self.d_model
        )

    def final_norm(self) -> nn.Module:
        """The norm after the last decoder layer."""
        decoder = modules_down_to_layers(self._language_model)[-2]
        names = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
        found = first_attribute(decoder, *names)
        if found is None:
            raise ValueError(
                f"no norm behind the last layer found in this {type(decoder).__name__} (looked for "
                f"{', '.join(names)}): load the model with backend='bridge'"
            )
        return found

    @torch.no_grad()
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """The output embeddings, including an adapter on them."""
        head = self._language_model.get_output_embeddings()
        return _matrix(head, self.dtype).T

    @property
    def cfg(self) -> Any:
        """The model's own config."""
        return self._language_model.config

    def _found_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        origin = str(self.cfg.name_or_path)
        try:
            return AutoTokenizer.from_pretrained(origin, local_files_only=True)
        except Exception as error:  # the library has many ways to say that there is none
            raise ValueError(
                f"this {type(self._language_model).__name__} came without a tokenizer, which prompts "
                f"need, and none lies where it came from ({origin or 'it does not say where'}): pass "
                "psr_lens.load_model(model, tokenizer=tokenizer)"
            ) from error

    def to(self, device: torch.device | str) -> "HookedModel":
        """Move the weights to another device; returns the model itself."""
        if is_placed(self.raw):
            raise ValueError(
                f"{self.name} is spread over devices or quantised, and stays as it is: load it anew"
            )
        return super().to(device)

    @contextmanager
    def showing_patterns(self) -> Iterator[None]:
        """Use attention that returns its weights, which fused attention never has."""
        config = self._config
        before = config._attn_implementation
        config._attn_implementation = "eager"
        try:
            yield
        finally:
            config._attn_implementation = before

    @property
    def _wrapped(self) -> nn.Module:
        return self.raw

    @cached_property
    def _language_model(self) -> Any:
        return language_model(self.raw)

    @property
    def _blocks(self) -> Sequence[Any]:
        return self._layers

    @cached_property
    def _layers(self) -> Sequence[Any]:
        layers: Any = modules_down_to_layers(self._language_model)[-1]
        return list(layers)

    def _on_entering(self, replace: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            given = replace(entering(args, kwargs))
            return None if given is None else with_entering(args, kwargs, given)

        # Before all that only look.
        return self._blocks[0].register_forward_pre_hook(hook, prepend=True, with_kwargs=True)

    def _handed_on(self, layer: int, resid: Tensor) -> Any:
        length = self._output_length
        return resid if length is None else (resid, *[None] * (length - 1))

    @cached_property
    def _output_length(self) -> int | None:
        """How many things a decoder layer returns, None for the residual stream itself."""
        found: list[int | None] = []

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found.append(len(output) if isinstance(output, tuple) else None)

        handle = self._blocks[0].register_forward_hook(hook)
        try:
            with self.unedited(), torch.no_grad():
                token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
                self._pass(token, torch.ones_like(token, dtype=torch.bool))
        finally:
            handle.remove()
        return found[0]

    @property
    def _attends_as_known(self) -> bool:
        return True

    def _pass(
        self,
        tokens: Int[Tensor, "batch new"],
        mask: Bool[Tensor, "batch pos"],
        cache: Any = None,
        *,
        last: bool = False,
        block: int | None = None,
    ) -> Float[Tensor, "batch logits d_vocab"]:
        options: dict[str, Any] = {"attention_mask": mask.long(), "use_cache": cache is not None}
        if "position_ids" in self._takes:
            # Otherwise it would count the padding.
            positions = (mask.long().cumsum(1) - 1).clamp_min(0)
            options["position_ids"] = positions[:, -tokens.shape[1] :]
        if cache is not None:
            options["past_key_values"] = cache
        if last:
            options |= self._only_the_last
        with all_float64(self.dtype):
            return self.raw(input_ids=tokens, **options).logits


def _part(block: Any, layer: int, kind: str, *names: str) -> nn.Module:
    found = first_attribute(block, *names)
    if found is None:
        raise ValueError(
            f"no {kind} found in decoder layer {layer}, a {type(block).__name__} (looked for "
            f"{', '.join(names)}): load the model with backend='bridge'"
        )
    return found


def _projection(attention: Any, layer: int) -> nn.Module:
    """What mixes the heads."""
    return _part(attention, layer, "output projection", "o_proj", "c_proj", "dense", "out_proj")


def _matrix(projection: Any, dtype: torch.dtype) -> Float[Tensor, "inner d_model"]:
    """What a linear module multiplies by."""
    in_place = not projection.weight.is_meta
    if in_place and type(projection) is nn.Linear:
        return projection.weight.detach().T
    if in_place and type(projection).__name__ == "Conv1D":
        return projection.weight.detach()
    # Quantised, with an adapter, or kept elsewhere: try it on every coordinate.
    width = getattr(projection, "in_features", projection.weight.shape[0])
    units = torch.eye(width, dtype=dtype, device=execution_device(projection))
    # Bypasses the hooks on it, which may be listening now.
    return projection.forward(units) - projection.forward(torch.zeros_like(units[:1]))
