"""Examples: a base prompt, a steering prompt and a response, as token ids."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from reprlib import repr as shown
from typing import Any, Literal

from psr_lens._types import AlignedTokens
from psr_lens.models import TokenRow
from psr_lens.models.chat import PromptTokens, Rendering, common_suffix_length
from psr_lens.prompts import PromptPair, prompt_text, prompt_words
from psr_lens.seen_prompts import SeenPrompts

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class Example:
    """A triplet `(x, x', y')` as token ids.

    Attributes:
        pair: Where it comes from.
        base_ids: Token ids of `x`.
        prompted_ids: Token ids of `x'`.
        response_ids: Token ids of `y'`, without its end token. The end token is predicted at the last of
            these, so the aligned tokens stop there.
        paraphrase_ids: Token ids of every paraphrase of `x'`.
        finished: Whether the model ended the response.
        alpha: Strength at which a steering is fitted to this example: 1 for one that shows the
            trait, 0 or less for one that does not.
        rendering: What the chat template was given besides the messages.
        region_length: How many tokens at the end of `x` a `question+response` steering acts on when the model
            generates from it; None if unknown, which stands for the common suffix.
        seen: Both prompts as text, as the model saw them; None if not recorded.
        response_text: The response as text, empty if not recorded.
    """

    pair: PromptPair
    base_ids: tuple[int, ...]
    prompted_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    paraphrase_ids: tuple[tuple[int, ...], ...] = ()
    finished: bool = True
    alpha: float = 1.0
    rendering: Rendering = field(default_factory=Rendering)
    region_length: int | None = None
    seen: SeenPrompts | None = field(default=None, compare=False, repr=False)
    response_text: str = field(default="", compare=False, repr=False)

    @cached_property
    def key(self) -> str:
        """A short hash of the two prompts' words, the same for every response to them.

        It hashes words, not tokens: where a chat template writes the date, tokens change from day to day.
        """
        words = (prompt_words(self.pair.base), prompt_words(self.pair.prompted))
        return hashlib.sha256(repr(words).encode()).hexdigest()[:12]

    @cached_property
    def _shared(self) -> int:
        return common_suffix_length(self.base_ids, self.prompted_ids)

    @property
    def question_length(self) -> int:
        """Number of question tokens, which end both prompts; at least 1.

        The longest common suffix of `x` and `x'`, which an instruction in front does not change, cut to
        what a `question+response` steering acts on when the model generates.
        """
        known = self._shared if self.region_length is None else self.region_length
        return max(1, min(self._shared, known))

    @property
    def question(self) -> str:
        """What was asked, without the instruction: the last user turn of the base prompt."""
        turns = prompt_words(self.pair.base)
        return next((text for role, text in reversed(turns) if role == "user"), turns[-1][1])

    @property
    def ending(self) -> str:
        """How the response was cut off; empty if the model ended it."""
        return ending_of(len(self.response_ids), self.finished)

    @property
    def base_prompt(self) -> PromptTokens:
        """`x` as it was tokenised, to generate from."""
        length = self.region_length or self.question_length
        return PromptTokens(self.base_ids, len(self.base_ids) - length)

    def check_aligned(self, tokens: AlignedTokens) -> None:
        """Refuse aligned tokens if a steering fitted on them would act on others.

        Raises:
            ValueError: If it is `question+response` and the steering prompt changes tokens of the base prompt
                that such a steering acts on when the model generates.
        """
        if (
            tokens == "question+response"
            and self.region_length is not None
            and self._shared < self.region_length
        ):
            raise ValueError(
                "tokens='question+response' but the steering prompt of "
                f"{prompt_text(self.pair.base)[:60]!r} leaves only {self._shared} of the "
                f"{self.region_length} tokens that such a steering acts on when the model generates: put "
                "the instruction in front of the question, as "
                "psr_lens.make_pairs(questions, instruction) does, or choose tokens='response'"
            )

    def aligned_length(self, tokens: AlignedTokens) -> int:
        """Number of aligned tokens.

        Raises:
            ValueError: As `check_aligned`.
        """
        self.check_aligned(tokens)
        return (1 if tokens == "response" else self.question_length) + len(self.response_ids)

    @property
    def base_row(self) -> TokenRow:
        """`x y'`, with the question where a steering would find it when the model generates."""
        base = self.base_prompt
        return TokenRow(base.ids + self.response_ids, base.question_start, len(base.ids) - 1)

    @property
    def prompted_row(self) -> TokenRow:
        """`x' y'`."""
        return self._row(self.prompted_ids)

    @property
    def paraphrase_rows(self) -> tuple[TokenRow, ...]:
        """`x'' y'`, one for every paraphrase of the instruction."""
        return tuple(self._row(ids) for ids in self.paraphrase_ids)

    def _row(self, prompt: tuple[int, ...]) -> TokenRow:
        return TokenRow(
            prompt + self.response_ids, len(prompt) - self.question_length, len(prompt) - 1
        )

    def _repr_html_(self) -> str:
        from psr_lens.plots.prompt_html import example_html

        return example_html(self)


def number_prompts(data: "Sequence[Example]") -> tuple[int, ...]:
    """The prompt of every example as a number, from 0 on in order of first appearance; by `Example.key`."""
    return _numbered([example.key for example in data])


def check_prompt_numbers(numbers: Sequence[int], n_examples: int) -> None:
    """Refuse anything but what `number_prompts` returns for so many examples.

    Raises:
        ValueError: If there are more or fewer numbers, one is left out, or their order is another.
    """
    if len(numbers) != n_examples or tuple(numbers) != _numbered(numbers):
        raise ValueError(
            f"prompt_of={shown(list(numbers))} of {n_examples} examples: it must hold one number for each, "
            "from 0 on in order of first appearance"
        )


def _numbered(keys: Sequence[Hashable]) -> tuple[int, ...]:
    places: dict[Hashable, int] = {}
    return tuple(places.setdefault(key, len(places)) for key in keys)


def ending_of(length: int, finished: bool) -> str:
    """How a response of `length` tokens was cut off; empty if the model ended it."""
    return "" if finished else f"cut off at {_tokens(length)}"


def _tokens(count: int) -> str:
    return f"{count} token" if count == 1 else f"{count} tokens"


def cut_off_words(data: "Sequence[Example]") -> str:
    """How many responses were cut off; empty where none was.

    "12 of 40 responses were cut off at 64 tokens: the model had not ended them."
    """
    lengths = [len(example.response_ids) for example in data if not example.finished]
    if not lengths:
        return ""
    least, most = min(lengths), max(lengths)
    where = _tokens(most) if least == most else f"{least} to {most} tokens"
    verb, them = ("was", "it") if len(lengths) == 1 else ("were", "them")
    of = "1 response" if len(data) == 1 else f"{len(data)} responses"
    return f"{len(lengths)} of {of} {verb} cut off at {where}: the model had not ended {them}."


def describe_responses(data: "Sequence[Example]", shown: int) -> dict[str, Any]:
    """What a report keeps about the responses, as JSON values: for its provenance.

    Args:
        data: The examples.
        shown: How many of them, from the first on, it shows token by token.
    """
    return {
        "cut_off": cut_off_words(data),
        "shown": [
            {"ending": own.ending, "prompts": None if own.seen is None else own.seen.described()}
            for own in data[:shown]
        ],
    }


def cut_off_of(provenance: Mapping[str, Any]) -> str:
    """How many responses were cut off, from a report's provenance; empty where none was."""
    return str(provenance.get("responses", {}).get("cut_off", ""))


def ending_in(provenance: Mapping[str, Any], example: int) -> str:
    """How a response in a report was cut off, from the report's provenance; empty if it was not."""
    return str(_shown_in(provenance, example).get("ending") or "")


def prompts_in(provenance: Mapping[str, Any], example: int) -> SeenPrompts | None:
    """The prompts of a response in a report, from the report's provenance; None if unknown."""
    return SeenPrompts.from_described(_shown_in(provenance, example).get("prompts"))


def _shown_in(provenance: Mapping[str, Any], example: int) -> Mapping[str, Any]:
    shown = provenance.get("responses", {}).get("shown", ())
    return shown[example] if 0 <= example < len(shown) else {}


def check_examples(data: Any, tokens: AlignedTokens = "response") -> "Sequence[Example]":
    """Return the examples if they are valid and have the aligned tokens.

    Raises:
        ValueError: If it is anything but a data set or a sequence of examples, or a steering prompt
            changes what a steering on the aligned tokens acts on.
    """
    if isinstance(data, Example):
        raise ValueError("one Example was given where several are taken: pass [example]")
    if not isinstance(data, Sequence) or not all(isinstance(one, Example) for one in data):
        raise ValueError(
            f"data of type {type(data).__name__} holds no examples: pass what sample_responses "
            "returns, or one of its splits"
        )
    for example in data:
        example.check_aligned(tokens)
    return data


def check_prompts_differ(data: "Sequence[Example]") -> None:
    """Refuse examples none of which has a steering prompt: there is nothing to measure.

    By their token ids: what a model computes for equal ones may differ in the last bits.

    Raises:
        ValueError: If base and steering prompt of every example are equal.
    """
    if all(example.base_ids == example.prompted_ids for example in data):
        raise ValueError(
            "the steering prompts change nothing: base and steering prompt of every example are equal"
        )
