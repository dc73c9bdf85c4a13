"""A Hugging Face checkpoint, read once: model, tokenizer, and where they came from."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from psr_lens.models.foreign import describe_adapter
from psr_lens.models.quiet import one_line, quiet

EMBEDDED_MODELS = ("demo", "demo-gpt2")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded Hugging Face model and its tokenizer.

    Attributes:
        model: The model in eval mode, frozen, on its device, in its dtype.
        tokenizer: Its tokenizer, untouched but for a chat template that was asked for.
        name: Hub name, or name of the directory.
        revision: Revision on the hub, None where there is none.
        template_options: What its chat template is given besides the messages.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    template_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies.

    Attributes:
        location: What `from_pretrained` takes: a directory or a hub name.
        name: What the model is called.
        local: Whether `location` is a directory.
    """

    location: str
    name: str
    local: bool


def find_source(name_or_path: str | Path) -> Source:
    """Tell directories, embedded models and hub names apart.

    Raises:
        ValueError: If it is a path without a checkpoint, or can be neither a path nor a hub name.
    """
    text = str(name_or_path)
    if text in EMBEDDED_MODELS and isinstance(name_or_path, str):
        if Path(text).is_dir():
            warnings.warn(
                f"{text!r} is the embedded model; write './{text}' for the directory of that name",
                stacklevel=4,
            )
        directory = resources.files("psr_lens.demo") / "checkpoints" / text
        return _directory(Path(str(directory)), text)
    path = Path(text).expanduser()
    written_as_path = text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
    if isinstance(name_or_path, Path) or written_as_path or (text and path.is_dir()):
        return _directory(path, path.resolve().name)
    if not _HUB_NAME.fullmatch(text):
        raise ValueError(
            f"model {text!r} is neither a directory nor a hub name: pass a checkpoint directory, "
            f"'owner/name', or an embedded model ({', '.join(map(repr, EMBEDDED_MODELS))})"
        )
    return Source(text, text, local=False)


def read_checkpoint(
    name_or_path: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None = None,
) -> Checkpoint:
    """Load model and tokenizer with transformers, with eager attention.

    Raises:
        ValueError: If there is no such model, it is no decoder-only language model, or its files
            are incomplete or damaged.
    """
    source = find_source(name_or_path)
    if source.local and revision is not None:
        raise ValueError(
            f"revision={revision!r} but {source.name!r} is a directory: "
            "only models on the hub have revisions"
        )
    options: dict[str, Any] = {}
    if not source.local:
        options["revision"] = revision
        options["local_files_only"] = not hub_reachable()
    with quiet(downloads=not source.local):
        _require_decoder(_config(source, options), source)
        tokenizer = _tokenizer(source, options)
        model = _text_part(_model(source, options, dtype))
    model = model.eval().requires_grad_(False).to(device)
    return Checkpoint(model, tokenizer, source.name, revision)


def hub_reachable() -> bool:
    """Whether the hub answers: one quick request, where its client retries for half a minute."""
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


def _directory(path: Path, name: str) -> Source:
    if not path.exists():
        raise ValueError(f"model directory {str(path)!r} does not exist")
    if not (path / "config.json").is_file():
        adapter = describe_adapter(path)
        if adapter is not None:
            raise ValueError(adapter)
        raise ValueError(
            f"{str(path)!r} is no checkpoint, it has no config.json: "
            "pass a directory that save_pretrained wrote"
        )
    return Source(str(path), name, local=True)


def _config(source: Source, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source.location, **options)
    except Exception as error:  # every failure is one line for the user
        if source.local:
            message = f"the config.json of {source.location!r} cannot be read: {one_line(error)}"
        elif options["local_files_only"]:
            message = (
                f"model {source.name!r} is no directory, is not in the local cache of the hub, and "
                "the hub cannot be reached: go online once, or pass a checkpoint directory"
            )
        else:
            message = (
                f"model {source.name!r} is neither a directory nor a model that the hub gives out: "
                f"{one_line(error)}"
            )
        raise ValueError(message) from None


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


def _model(source: Source, options: dict[str, Any], dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
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
