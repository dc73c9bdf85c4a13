"""A Hugging Face checkpoint, read once: model, tokenizer, and where they came from."""

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from psr_lens.models.converted import (
    VARIABLE,
    Conversion,
    find_copy,
    folder_of_copy,
    keep_copy,
    remove_copy,
)
from psr_lens.models.float64 import widen_constants
from psr_lens.models.gguf_file import (
    GGUFContents,
    GGUFOrigin,
    end_turns_too,
    hash_of,
    read_contents,
    unpacking,
    unread_numbers,
    with_rope_factors,
)
from psr_lens.models.progress import LoadingBar, weights_shown
from psr_lens.models.quiet import one_line, quiet
from psr_lens.models.sources import Source, find_source


@dataclass(frozen=True)
class Checkpoint:
    """A loaded Hugging Face model and its tokenizer.

    Attributes:
        model: The model in eval mode, frozen, on its device, in its dtype.
        tokenizer: Its tokenizer, unchanged except for a chat template that was asked for.
        name: Hub name, or name of the directory.
        revision: Revision on the hub, None where there is none.
        gguf: The GGUF file that it was made from, None if there was none.
        template_options: What its chat template is given besides the messages.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    gguf: GGUFOrigin | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    bar: LoadingBar,
    revision: str | None = None,
    gguf_file: str | Path | None = None,
    keep_converted: bool = True,
    loading: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Load model and tokenizer with transformers.

    Args:
        name_or_path: What the user named.
        dtype: Number type of the weights.
        device: Where they go.
        bar: Shows the progress.
        revision: Branch, tag or commit on the hub.
        gguf_file: A GGUF file in that directory, or in that repository on the hub.
        keep_converted: Whether to keep a model converted from a GGUF file for the next time.
        loading: Further options of the model's `from_pretrained`.

    Raises:
        ValueError: If there is no such model, it is not a decoder-only language model, or its files are
            incomplete or damaged.
    """
    source = find_source(name_or_path, gguf_file)
    if source.local and revision is not None:
        kind = "a directory" if source.gguf_file is None else "a file"
        raise ValueError(
            f"revision={revision!r} but {source.name!r} is {kind}: "
            "only models on the hub have revisions"
        )
    options: dict[str, Any] = {}
    if not source.local:
        options["revision"] = revision
        options["local_files_only"] = not hub_reachable()
    wanted = _Wanted(dtype, loading or {})
    # The tokenizer and the config are read with these too.
    options |= {name: wanted.options[name] for name in _OF_ALL_FILES if name in wanted.options}
    if source.gguf_file is None:
        model, tokenizer = _read(source, options, wanted, bar)
        origin = None
    else:
        file = _gguf_path(source, source.gguf_file, options)
        model, tokenizer, made = _read_gguf(file, source.name, wanted, keep_converted, bar)
        # The file's name now; its copy may have been made under another one.
        origin = replace(made.origin, file=file.name if source.local else source.gguf_file)
        for remark in made.remarks:
            warnings.warn(f"{file.name} {remark}", stacklevel=3)
    model = model.eval().requires_grad_(False)
    if dtype == torch.float64:
        widen_constants(model)
    if not is_placed(model):
        model = model.to(device)
    return Checkpoint(model, tokenizer, source.name, revision, origin)


_OF_ALL_FILES = ("trust_remote_code", "token", "cache_dir", "subfolder")


@dataclass(frozen=True)
class _Wanted:
    """How to load the weights.

    Attributes:
        dtype: Their number type.
        options: Further options of `from_pretrained`.
    """

    dtype: torch.dtype
    options: Mapping[str, Any]


def is_placed(model: Any) -> bool:
    """Whether the weights must stay where they are: spread over devices, or quantised."""
    return hasattr(model, "hf_device_map") or getattr(model, "is_quantized", False)


def _read(
    source: Source, options: dict[str, Any], wanted: _Wanted, bar: LoadingBar, more: int = 0
) -> tuple[Any, Any]:
    """Model and tokenizer of a directory, or from the hub."""
    bar.step("reading the tokenizer", more)
    with quiet(downloads=not source.local):
        _require_decoder(_config(source, options), source)
        tokenizer = _tokenizer(source, options)
        bar.step("reading the weights")
        with weights_shown(bar):
            return _text_part(_model(source, options, wanted)), tokenizer


def _convert(
    file: Path,
    name: str,
    contents: GGUFContents,
    wanted: _Wanted,
    bar: LoadingBar,
    more: int = 0,
) -> tuple[Any, Any, tuple[str, ...]]:
    """Model and tokenizer of a GGUF file, as if they had never been in one; and what is amiss."""
    source = Source(str(file.parent), name, local=True, gguf_file=file.name)
    options: dict[str, Any] = {"gguf_file": file.name}
    bar.step("reading the tokenizer", more)
    with quiet():
        config = _config(source, options)
        _require_decoder(config, source)
        # Reading the file takes seconds, and once is enough.
        options["config"] = config
        tokenizer = _tokenizer(source, options)
    amiss = [with_rope_factors(config, contents)]
    bar.step("converting the weights")
    with quiet():
        model = _text_part(_model(source, {**options, **unpacking()}, wanted))
    amiss.append(unread_numbers(model, contents))
    # The result is not quantised, and with this could be neither saved nor converted.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    end_turns_too(model.generation_config, contents.end_token_ids)
    return model, tokenizer, tuple(filter(None, amiss))


def _gguf_path(source: Source, gguf_file: str, options: dict[str, Any]) -> Path:
    """Where the file is on this machine; one on the hub is downloaded."""
    if source.local:
        return Path(source.location) / gguf_file
    from huggingface_hub import hf_hub_download

    try:
        with quiet(downloads=True):
            return Path(hf_hub_download(source.location, gguf_file, **options))
    except Exception as error:  # every failure is one line for the user
        raise ValueError(
            f"the GGUF file {gguf_file!r} of {source.name!r} {_not_to_be_had(options, error)}"
        ) from None


def _read_gguf(
    file: Path, name: str, wanted: _Wanted, keep: bool, bar: LoadingBar
) -> tuple[Any, Any, Conversion]:
    """Model and tokenizer of a GGUF file: from the kept copy if there is one, else from the file."""
    # Converted weights are float32, to which float64 adds nothing.
    stored = torch.float32 if wanted.dtype == torch.float64 else wanted.dtype
    bar.step("looking for a converted copy", more=1)
    sha256 = hash_of(file)
    folder = folder_of_copy(file, sha256, stored) if keep else None
    kept = None if folder is None else _read_copy(folder, name, wanted, bar)
    if kept is not None:
        return kept
    contents = read_contents(file)
    origin = GGUFOrigin(file.name, contents.quantization, contents.tensors, sha256)
    if folder is None:
        model, tokenizer, amiss = _convert(file, name, contents, wanted, bar)
        return model, tokenizer, Conversion(origin, amiss)
    model, tokenizer, amiss = _convert(file, name, contents, replace(wanted, dtype=stored), bar)
    conversion = Conversion(origin, amiss)
    is_kept = _kept(folder, conversion, model, tokenizer, bar)
    if not is_kept and stored == wanted.dtype:
        return model, tokenizer, conversion
    # The next load reads the copy, so this one does too and both give the same. Never hold two models.
    del model
    kept = _read_copy(folder, name, wanted, bar, more=2) if is_kept else None
    if kept is not None:
        return kept
    return *_convert(file, name, contents, wanted, bar, more=2)[:2], conversion


def _kept(
    folder: Path, conversion: Conversion, model: Any, tokenizer: Any, bar: LoadingBar
) -> bool:
    """Keep a copy and report its size; returns whether that was possible."""
    bar.step("keeping a converted copy", more=1)
    file = conversion.origin.file
    try:
        with quiet():
            size = keep_copy(folder, conversion, model, tokenizer)
    except Exception as error:  # a full disk, a folder that cannot be written, ...
        warnings.warn(
            f"no converted copy of {file} is kept in {str(folder.parent)!r}, so it is converted again "
            f"the next time: {one_line(error)}",
            stacklevel=5,
        )
        return False
    bar.say(
        f"kept a converted copy of {file}, {size / 2**20:.0f} MiB, in {str(folder)!r} "
        f"({VARIABLE}=off or keep_converted=False: none)"
    )
    return True


def _read_copy(
    folder: Path, name: str, wanted: _Wanted, bar: LoadingBar, more: int = 0
) -> tuple[Any, Any, Conversion] | None:
    """The contents of a sound copy; None if there is none.

    Raises:
        ValueError: If it is intact but cannot be read.
    """
    conversion = find_copy(folder)
    if conversion is None:
        return None
    try:
        return *_read(Source(str(folder), name, local=True), {}, wanted, bar, more), conversion
    except ValueError as error:
        # Too little memory, say: converting it again would fare no better.
        if find_copy(folder, thorough=True) is not None:
            raise ValueError(
                f"{error} (from the converted copy in {str(folder)!r}, which is whole; "
                "keep_converted=False converts the file instead)"
            ) from None
    # A read-only cache keeps it.
    with contextlib.suppress(OSError):
        remove_copy(folder)
    return None


def hub_reachable() -> bool:
    """Whether the hub answers: one quick request, as its client would retry for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # the client library, and so the error's type, varies by version
        return False
    return True


def end_token_ids(generation_config: Any) -> tuple[int, ...]:
    """The ids that end a response by a generation config, which holds one, several or none."""
    ids = getattr(generation_config, "eos_token_id", None)
    if ids is None:
        return ()
    return (int(ids),) if isinstance(ids, int) else tuple(int(i) for i in ids)


def _config(source: Source, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.location, **options)
    except Exception as error:  # every failure is one line for the user
        if source.gguf_file is not None:
            message = (
                f"transformers cannot make a model of the GGUF file {source.gguf_file!r}: "
                f"{one_line(error)}"
            )
        elif source.local:
            message = f"the config.json of {source.location!r} cannot be read: {one_line(error)}"
        elif source.or_else:
            message = f"{source.or_else} {_not_to_be_had(options, error)}"
        elif options["local_files_only"]:
            message = (
                f"model {source.name!r} is no directory, is not in the local cache of the hub, and "
                "the hub cannot be reached: go online once, or pass a checkpoint directory"
                f"{_or_a_gguf_file(source, error)}"
            )
        else:
            message = (
                f"model {source.name!r} is neither a directory nor a model that the hub provides: "
                f"{one_line(error)}{_or_a_gguf_file(source, error)}"
            )
        raise ValueError(message) from None


def _or_a_gguf_file(source: Source, error: Exception) -> str:
    """The other way, for a repository on the hub that may hold GGUF files and no config.json."""
    if "gguf" not in source.name.lower() and "config.json" not in one_line(error):
        return ""
    return ", or name one of its GGUF files with gguf_file=..."


def _not_to_be_had(options: Mapping[str, Any], error: Exception) -> str:
    if options["local_files_only"]:
        return "is not in the local cache of the hub, which cannot be reached: go online once"
    return f"is not available from the hub: {one_line(error)}"


def _require_decoder(config: Any, source: Source) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"model {source.name!r} ({config.model_type}) is an encoder-decoder: "
            "psr_lens takes decoder-only language models"
        )


def _tokenizer(source: Source, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.location, **options)
    except Exception as error:  # every failure is one line for the user
        raise ValueError(
            f"model {source.name!r} has no tokenizer that can be read, save one beside the model: "
            f"{one_line(error)}"
        ) from None


def _model(source: Source, options: dict[str, Any], wanted: _Wanted) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=wanted.dtype,
            output_loading_info=True,
            **{**wanted.options, **options},
        )
    except Exception as error:  # every failure is one line for the user
        raise ValueError(
            f"the weights of model {source.name!r} cannot be loaded: {one_line(error)}"
        ) from None
    model, report = loaded
    lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lacking:
        raise ValueError(
            f"model {source.name!r} lacks weights ({len(lacking)}, such as {lacking[0]}), which "
            "would be random: its files are incomplete, or of another architecture"
        )
    return model


def _text_part(model: Any) -> Any:
    """The language model of a Gemma 3 that also sees images; any other model as it is."""
    if type(model).__name__ != "Gemma3ForConditionalGeneration":
        return model
    from transformers import Gemma3ForCausalLM

    with torch.device("meta"):
        text = Gemma3ForCausalLM(model.config.text_config)
    text.config.architectures = ["Gemma3ForCausalLM"]
    text.model, text.lm_head = model.model.language_model, model.lm_head
    text.generation_config = model.generation_config
    return text
