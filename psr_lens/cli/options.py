"""Options that several subcommands share, and checks that come before the work."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from psr_lens.examples import SteeringDataset
    from psr_lens.models import HookedModel
    from psr_lens.prompts import PromptPair
    from psr_lens.steering import Steering


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str
    """Hub name, checkpoint directory, `.gguf` file, `smollm2`, `demo` or `demo-gpt2`."""
    gguf_file: str | None = None
    """Which GGUF file, where the model is a directory or a hub name."""
    keep_converted: bool = True
    """Whether a copy of what is made of a GGUF file is kept for the next time (`False`: none)."""
    backend: Literal["auto", "hooked", "bridge"] = "auto"
    """HookedTransformer, TransformerBridge, or whichever can be had."""
    device: str | None = None
    """Where to run (`cpu`, `cuda`); the model's default if not given."""
    dtype: str | None = None
    """Number type of the weights (`float32`, `bfloat16`, `float16`)."""
    revision: str | None = None
    """Revision on the hub."""
    chat_template: Path | None = None
    """File with a chat template (Jinja), in place of the tokenizer's."""
    template_options: str | None = None
    """What the chat template takes besides the messages, as JSON: `{"enable_thinking": false}`. What a
    steering was fitted with, if not given."""

    def load(self, steerings: "Sequence[Steering]" = ()) -> "HookedModel":
        """The model, its prompts laid out as those were that the steerings were fitted on."""
        from psr_lens.models import load_model

        options = parse_json("--template-options", self.template_options)
        fitted = fitted_with("template_options", steerings)
        template = None
        if self.chat_template is not None:
            template = self.chat_template.read_text(encoding="utf-8")
        return load_model(
            self.model,
            backend=self.backend,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            chat_template=template,
            template_options=fitted if options is None else options,
            gguf_file=self.gguf_file,
            keep_converted=self.keep_converted,
        )


@dataclass(frozen=True)
class PairOptions(ModelOptions):
    """Which pairs, and how responses to them are sampled."""

    pairs: Path = tyro.MISSING
    """JSON Lines file: `base`, `steered`, and optionally `response` per line. 50 pairs or more: a fifth is
    held out to measure on, and from fewer than 5 there are no intervals."""
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
    date: str | None = None
    """The day for a chat template that writes the date, as `2026-11-25`; today, or that of the fit, if not
    given."""

    def check(self) -> None:
        """Refuse what is wrong whatever the model and the pairs are; every subcommand has its own."""
        from psr_lens._types import check_count
        from psr_lens.models.generation import check_sampling

        check_sampling(self.max_new_tokens, self.temperature, self.seed)
        check_count("batch_size", self.batch_size)

    def read(
        self, needs: int = 1, what_for: str = "", steerings: "Sequence[Steering]" = ()
    ) -> "tuple[HookedModel, list[PromptPair]]":
        """Model and pairs; a wrong pairs file is found before the model is loaded.

        Args:
            needs: Least number of groups that the pairs have to be of.
            what_for: Why, and the way out, for the message.
            steerings: What the model is to be loaded for.
        """
        from psr_lens.prompts import load_pairs

        pairs = load_pairs(self.pairs)
        groups = len({pair.group for pair in pairs})
        if groups < needs:
            raise ValueError(
                f"{self.pairs} has pairs of {groups} {'group' if groups == 1 else 'groups'} but "
                f"{what_for}"
            )
        return self.load(steerings), pairs

    def sample(
        self,
        model: "HookedModel",
        pairs: "Sequence[PromptPair]",
        steerings: "Sequence[Steering]" = (),
    ) -> "SteeringDataset":
        """Responses to the pairs, split into train, dev and test."""
        from psr_lens.responses import sample_responses

        return sample_responses(
            model,
            pairs,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            batch_size=self.batch_size,
            date=fitted_with("date", steerings) if self.date is None else self.date,
        )


def parse_json(option: str, text: str | None) -> "dict[str, Any] | None":
    """An option that is a JSON object; None where it was not given."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f'{option} {text!r}: write a JSON object, {{"enable_thinking": false}} say'
        )
    return found


def fitted_with(name: str, steerings: "Sequence[Steering]") -> Any:
    """How the prompts were laid out that steerings were fitted on; None where they differ."""
    found = [own.provenance.get("data", {}).get("sampling", {}).get(name) for own in steerings]
    return found[0] if found and all(own == found[0] for own in found) else None


def refuse_file(directory: Path) -> None:
    """An output directory must not be a file, and must be writable."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"--out {directory} is a file: name a directory")
    refuse_unwritable(directory.absolute())


def refuse_directory(file: Path) -> None:
    """An output file must not be a directory, and its own directory must be writable."""
    if file.is_dir():
        raise ValueError(f"--out {file} is a directory: name a file")
    refuse_unwritable(file.absolute().parent)


def file_names(paths: Sequence[str | Path]) -> list[str]:
    """Names for steerings from their files, or from their places on the hub.

    Without the ending, numbered where they repeat.
    """
    names: list[str] = []
    for path in paths:
        name = Path(path).name
        stem = name.removesuffix(".safetensors")
        # They name files below --out too.
        stem = name if stem in ("", ".", "..") else stem
        number = sum(name == stem or name.startswith(f"{stem} (") for name in names) + 1
        names.append(stem if number == 1 else f"{stem} ({number})")
    return names


def refuse_unwritable(directory: Path, option: str = "--out") -> None:
    """Before the work and not after it: can files be made there?"""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        # A file without a name where the system has them: nothing is left, however this ends.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"{option}: cannot write in {existing} ({error.strerror}): name another"
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
