"""GGUF files, llama.cpp's format: what is in one, and the Hugging Face model made from it.

transformers dequantises the weights, so the result is an ordinary model whose weights happen to carry only
a few bits each. The quantisation is part of a result's provenance: two quantisations of one model are two
models.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psr_lens.models.gguf_header import MAGIC, GGUFHeader, read_header
from psr_lens.models.quiet import one_line

_ROPE_FACTORS = "rope_freqs.weight"
# Those of every Llama 3.1, 3.2 and 3.3, which differ only in the factor.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class GGUFOrigin:
    """Which GGUF file a model was made from.

    Attributes:
        file: Name of the file; on the hub with its folder in the repository.
        quantization: Its quantisation as llama.cpp calls it, such as `"Q4_K_M"`: what the file says, or
            else the type of most of its numbers.
        tensors: The number of tensors of each type.
        sha256: Hash of the whole file.
    """

    file: str
    quantization: str
    tensors: Mapping[str, int]
    sha256: str


@dataclass(frozen=True)
class GGUFContents:
    """What a GGUF file says about itself.

    Attributes:
        architecture: llama.cpp's name for it.
        quantization: As in `GGUFOrigin`.
        tensors: As in `GGUFOrigin`.
        numbers: How many numbers all its tensors hold.
        end_token_ids: The tokens that end a text or a turn.
        rope_factors: What the rotary frequencies are divided by; None if the file does not say.
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
        return opened.read(len(MAGIC)) == MAGIC


def hash_of(file: Path) -> str:
    """SHA-256 of a whole file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_contents(file: Path) -> GGUFContents:
    """What a GGUF file says about itself; the weights are not read.

    Raises:
        ValueError: If it is damaged, holds no whole language model, or the package that reads its weights
            is missing.
    """
    try:
        header = read_header(file)
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(file, one_line(error))) from None
    _refuse_other_than_models(file, header)
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
    except ImportError:
        raise ValueError(
            f"{str(file)!r} is a GGUF file, which needs the gguf package: "
            'pip install "psr-lens[gguf]"'
        ) from None
    sizes = {kind.value: (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    unknown = sorted({own.type for own in header.tensors} - set(sizes))
    if unknown:
        raise ValueError(
            f"{str(file)!r} holds tensors of type {unknown[0]}, which the installed gguf package does "
            "not know: pip install --upgrade gguf"
        )
    numbers: Counter[str] = Counter()
    for own in header.tensors:
        name, in_block, bytes_of_block = sizes[own.type]
        numbers[name] += own.numbers
        if own.start + own.numbers // in_block * bytes_of_block > file.stat().st_size:
            raise ValueError(_damaged(file, f"it ends before its tensor {own.name}"))
    file_types = {kind.value: kind.name for kind in LlamaFileType}
    says = file_types.get(header.values.get("general.file_type", -1), "")
    ends = [header.values.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    return GGUFContents(
        architecture=header.values["general.architecture"],
        # All but two of the names begin with "mostly".
        quantization=says.removeprefix("MOSTLY_").removeprefix("ALL_")
        or numbers.most_common(1)[0][0],
        tensors=dict(sorted(Counter(sizes[own.type][0] for own in header.tensors).items())),
        numbers=numbers.total(),
        end_token_ids=tuple(dict.fromkeys(int(end) for end in ends if end is not None)),
        rope_factors=_rope_factors(file, header),
    )


def _damaged(file: Path, why: str) -> str:
    return f"the GGUF file {str(file)!r} is cut off or damaged: {why}"


def _refuse_other_than_models(file: Path, header: GGUFHeader) -> None:
    architecture = header.values.get("general.architecture", "")
    kind = header.values.get("general.type", "model")
    if "controlvector" in (architecture, kind):
        raise ValueError(
            f"{str(file)!r} holds a control vector and not a model: "
            f"psr_lens.ConstantSteering.from_file({str(file)!r})"
        )
    if kind != "model" or not architecture or not header.tensors:
        what = f"is of type {kind!r}" if kind != "model" else "names no architecture or no weights"
        raise ValueError(f"the GGUF file {str(file)!r} {what}: pass one that holds a whole model")
    parts = header.values.get("split.count", 1)
    if parts > 1:
        raise ValueError(
            f"{str(file)!r} is one of {parts} parts of a model: join them first, "
            "llama-gguf-split --merge FIRST_PART WHOLE"
        )


def _rope_factors(file: Path, header: GGUFHeader) -> tuple[float, ...] | None:
    for own in header.tensors:
        if own.name == _ROPE_FACTORS and own.type == 0:
            numbers = np.fromfile(file, "<f4", own.numbers, offset=own.start)
            return tuple(numbers.tolist())
    return None


def unpacking() -> dict[str, Any]:
    """Options that make a model's `from_pretrained` dequantise a GGUF file's weights."""
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


def with_rope_factors(config: Any, contents: GGUFContents) -> str:
    """Write the factors of the rotary frequencies, which transformers leaves out, into a config.

    The file has only the numbers that the frequencies are divided by. To find the rule behind them, that of
    Llama 3 is tried.

    Args:
        config: The config that transformers makes from the file.
        contents: What the file says about itself.

    Returns:
        A warning to follow the file's name; empty unless no rule gives those numbers.
    """
    rope = config.rope_parameters if contents.rope_factors else None
    if not rope or rope.get("rope_type") != "default" or max(contents.rope_factors or ()) == 1.0:
        return ""
    factor = max(contents.rope_factors or ())
    expected = _llama3_factors(rope["rope_theta"], len(contents.rope_factors or ()), factor)
    if not np.allclose(expected, contents.rope_factors or (), rtol=1e-3):
        return (
            f"scales its rotary frequencies ({_ROPE_FACTORS}) by an unknown rule, so they are left "
            "as they are: what the model computes is not quite what it should"
        )
    config.rope_parameters = {**rope, "rope_type": "llama3", "factor": factor, **_LLAMA3}
    return ""


def _llama3_factors(base: float, count: int, factor: float) -> list[float]:
    """What Llama 3 divides its rotary frequencies by: 1 for short waves, `factor` for long ones."""
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    context = _LLAMA3["original_max_position_embeddings"]
    waves = [2 * math.pi * base ** (i / count) for i in range(count)]
    # How far between the two every frequency is, by how often its wave fits into the context.
    between = [min(max((context / wave - low) / (high - low), 0.0), 1.0) for wave in waves]
    return [1 / ((1 - part) / factor + part) for part in between]


def unread_numbers(model: Any, contents: GGUFContents) -> str:
    """A warning, to follow the file's name, of numbers that transformers did not use.

    Empty if it used them all; transformers itself does not report them.
    """
    read = sum(weight.numel() for weight in model.parameters())
    unread = contents.numbers - read - len(contents.rope_factors or ())
    if unread <= 0:
        return ""
    return (
        f"holds {contents.numbers} numbers, {unread} of which have no place in the model that "
        "transformers makes of it, which may not compute what it should"
    )
