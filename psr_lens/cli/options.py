"""Options that several subcommands share, and checks that come before the work."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from psr_lens.examples import SteeringDataset
    from psr_lens.models import HookedModel
    from psr_lens.prompts import PromptPair


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str
    """Hub name, checkpoint directory, `demo` or `demo-gpt2`."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """HookedTransformer, TransformerBridge, or whichever can be had."""
    device: str | None = None
    """Where to run (`cpu`, `cuda`); the model's default if not given."""
    dtype: str | None = None
    """Number type of the weights (`float32`, `bfloat16`, `float16`)."""
    revision: str | None = None
    """Revision on the hub."""

    def load(self) -> "HookedModel":
        """The model."""
        from psr_lens.models import load_model

        return load_model(
            self.model,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
        )


@dataclass(frozen=True)
class PairOptions(ModelOptions):
    """Which pairs, and how responses to them are sampled."""

    pairs: Path = tyro.MISSING
    """JSON Lines file: `base`, `steered`, and optionally `response` per line."""
    surface: Literal["R", "QR"] = "R"
    """Last prompt token and response, or the question's tokens too."""
    max_new_tokens: int = 128
    """Longest sampled response, in tokens."""
    temperature: float = 1.0
    """Sampling temperature, 0 for greedy decoding."""
    batch_size: int = 32
    """Examples per batch."""
    seed: int = 0
    """The same seed gives the same result."""

    def read(self) -> "tuple[HookedModel, list[PromptPair]]":
        """Model and pairs; a wrong pairs file is found before the model is loaded."""
        from psr_lens.prompts import load_pairs

        pairs = load_pairs(self.pairs)
        return self.load(), pairs

    def sample(self, model: "HookedModel", pairs: "Sequence[PromptPair]") -> "SteeringDataset":
        """Responses to the pairs, split into train, dev and test."""
        from psr_lens.responses import sample_responses

        return sample_responses(
            model,
            pairs,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            batch_size=self.batch_size,
        )


def refuse_file(directory: Path) -> None:
    """An output directory must not be a file, and must be writable."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--out {directory} is a file: name a directory")
    refuse_unwritable(directory.absolute())


def file_names(paths: Sequence[Path]) -> list[str]:
    """Names for steerings from their files: without the ending, numbered where they repeat."""
    names: list[str] = []
    for path in paths:
        stem = path.name.removesuffix(".safetensors")
        # They name directories too, and these must be new ones.
        stem = path.name if stem in ("", ".", "..") else stem
        number = sum(name == stem or name.startswith(f"{stem} (") for name in names) + 1
        names.append(stem if number == 1 else f"{stem} ({number})")
    return names


def refuse_unwritable(directory: Path) -> None:
    """Before the work and not after it: can files be made there?"""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        # A file without a name where the system has them: nothing is left, however this ends.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"--out: cannot write in {existing} ({error.strerror}): name another"
        ) from None


def parse_layers(text: str) -> "int | list[int] | Literal['all', 'best']":
    """`all`, `best`, `3` or `3,4,5`."""
    if text in ("all", "best"):
        return text
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--layers {text!r}: write all, best, 3 or 3,4,5") from None
    return indices[0] if len(indices) == 1 else indices
