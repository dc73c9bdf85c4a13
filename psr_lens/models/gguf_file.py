"""GGUF files, llama.cpp's format: what is in one, and the Hugging Face model that is made of it.

transformers takes the numbers out of their quantisation, so the model that comes out is an ordinary
one whose weights happen to be a few bits' worth each. Which bits is part of where a result comes
from: two quantisations of one model are two models.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psr_lens.models.quiet import one_line

_MAGIC = b"GGUF"


@dataclass(frozen=True)
class GGUFOrigin:
    """Which GGUF file a model was made of.

    Attributes:
        file: Name of the file.
        quantization: Its quantisation as llama.cpp calls it, `"Q4_K_M"` say: what the file says of
            itself, and where it says nothing the type that most of its numbers have.
        tensors: How many tensors are of which type.
        sha256: Hash of the whole file.
    """

    file: str
    quantization: str
    tensors: Mapping[str, int]
    sha256: str


@dataclass(frozen=True)
class GGUFContents:
    """What a GGUF file says of itself.

    Attributes:
        architecture: llama.cpp's name for it.
        quantization: As in `GGUFOrigin`.
        tensors: As in `GGUFOrigin`.
        numbers: How many numbers all its tensors hold.
        end_token_ids: The tokens that end a text or a turn.
        rope_factors: What the rotary frequencies are divided by, where the file has that.
    """

    architecture: str
    quantization: str
    tensors: Mapping[str, int]
    numbers: int
    end_token_ids: tuple[int, ...]
    rope_factors: tuple[float, ...] | None


def is_gguf(file: Path) -> bool:
    """Whether a file begins like a GGUF file.

    Raises:
        OSError: If it cannot be read.
    """
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def hash_of(file: Path) -> str:
    """SHA-256 of a whole file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def require_gguf_package(file: Path) -> None:
    """Refuse where the package that reads GGUF files is not there.

    Raises:
        ValueError: If it is not.
    """
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{str(file)!r} is a GGUF file, which needs the gguf package: "
            'pip install "psr-lens[gguf]"'
        ) from None


def read_contents(file: Path) -> GGUFContents:
    """What a GGUF file says of itself; the weights are not read.

    Raises:
        ValueError: If it is damaged, or holds no whole language model.
    """
    require_gguf_package(file)
    from gguf import GGUFReader

    try:
        reader: Any = GGUFReader(file)
    except Exception as error:  # what is wrong in it decides the error's type
        raise ValueError(
            f"the GGUF file {str(file)!r} is cut off or damaged: {one_line(error)}"
        ) from None
    architecture = str(_value(reader, "general.architecture", ""))
    kind = str(_value(reader, "general.type", "model"))
    if "controlvector" in (architecture, kind):
        raise ValueError(
            f"{str(file)!r} holds a control vector and not a model: "
            f"psr_lens.ConstantSteering.from_file({str(file)!r})"
        )
    if kind != "model" or not architecture or not reader.tensors:
        what = f"is of type {kind!r}" if kind != "model" else "names no architecture or no weights"
        raise ValueError(f"the GGUF file {str(file)!r} {what}: pass one that holds a whole model")
    parts = int(_value(reader, "split.count", 1))
    if parts > 1:
        raise ValueError(
            f"{str(file)!r} is one of {parts} parts of a model: join them first, "
            "llama-gguf-split --merge FIRST_PART WHOLE"
        )
    numbers: Counter[str] = Counter()
    for tensor in reader.tensors:
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    ends = [_value(reader, f"tokenizer.ggml.{kind}_token_id", None) for kind in ("eos", "eot")]
    return GGUFContents(
        architecture=architecture,
        quantization=_file_type(reader) or numbers.most_common(1)[0][0],
        tensors=dict(sorted(Counter(own.tensor_type.name for own in reader.tensors).items())),
        numbers=numbers.total(),
        end_token_ids=tuple(dict.fromkeys(int(end) for end in ends if end is not None)),
        rope_factors=_rope_factors(reader),
    )


def _value(reader: Any, key: str, default: Any) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _file_type(reader: Any) -> str:
    """What `general.file_type` says, without the "mostly" that all names but two begin with."""
    from gguf import LlamaFileType

    number = _value(reader, "general.file_type", None)
    names = {own.value: own.name for own in LlamaFileType}
    return names.get(number, "").removeprefix("MOSTLY_").removeprefix("ALL_")


def _rope_factors(reader: Any) -> tuple[float, ...] | None:
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            return tuple(tensor.data.reshape(-1).tolist())
    return None


def unpacking() -> dict[str, Any]:
    """What a model's `from_pretrained` is told, to make ordinary numbers of a GGUF file's weights."""
    import transformers

    config_class: Any = getattr(transformers, "GgufConfig", None)
    # Newer transformers would keep some architectures packed, where no hook finds their weights.
    return {} if config_class is None else {"quantization_config": config_class(dequantize=True)}


def end_turns_too(generation_config: Any, ends: tuple[int, ...]) -> None:
    """Let every token that the file names as an end of a text or a turn end a response."""
    known = generation_config.eos_token_id
    known = [] if known is None else known if isinstance(known, list) else [known]
    every = list(dict.fromkeys([*known, *ends]))
    if every:
        generation_config.eos_token_id = every if len(every) > 1 else every[0]
