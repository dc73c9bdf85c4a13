"""The data set that fits and reports are made from, and how it is split."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, overload

import torch

from psr_lens._types import Surface
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
        steered_ids: Token ids of `x'`.
        response_ids: Token ids of `y'`, without its end token. The end token is predicted at the
            last of them, so nothing on the surface lies after it.
        equivalent_ids: Token ids of every paraphrase of `x'`.
        finished: Whether the model ended the response.
        alpha: Strength at which a steering is fitted to this example: 1 for one that shows the
            trait, 0 or less for one that does not.
        rendering: What the chat template was given besides the messages.
        region_length: How many tokens at the end of `x` a `QR` steering acts on when the model
            generates from it; None where that was not found out, for the common suffix.
        seen: Both prompts as text, as the model saw them; None where nobody looked.
        response_text: The response as text, empty where nobody looked.
    """

    pair: PromptPair
    base_ids: tuple[int, ...]
    steered_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    equivalent_ids: tuple[tuple[int, ...], ...] = ()
    finished: bool = True
    alpha: float = 1.0
    rendering: Rendering = field(default_factory=Rendering)
    region_length: int | None = None
    seen: SeenPrompts | None = field(default=None, compare=False, repr=False)
    response_text: str = field(default="", compare=False, repr=False)

    @cached_property
    def key(self) -> str:
        """A short hash of the two prompts' words, the same for every response to them.

        Of the words and not of the tokens, which change with the day where a chat template writes
        the date.
        """
        words = (prompt_words(self.pair.base), prompt_words(self.pair.steered))
        return hashlib.sha256(repr(words).encode()).hexdigest()[:12]

    @cached_property
    def _shared(self) -> int:
        return common_suffix_length(self.base_ids, self.steered_ids)

    @property
    def question_length(self) -> int:
        """Tokens of the question, which end both prompts; at least 1.

        What a steering instruction in front leaves as it is: the longest common suffix of `x` and
        `x'`, and of it what a `QR` steering acts on when the model generates.
        """
        known = self._shared if self.region_length is None else self.region_length
        return max(1, min(self._shared, known))

    @property
    def ending(self) -> str:
        """How the response ends where the model had not ended it; empty where it had."""
        return ending_of(len(self.response_ids), self.finished)

    @property
    def base_prompt(self) -> PromptTokens:
        """`x` as it was tokenised, to generate from."""
        length = self.region_length or self.question_length
        return PromptTokens(self.base_ids, len(self.base_ids) - length)

    def check_surface(self, surface: Surface) -> None:
        """Refuse a surface on which a steering would be fitted on other tokens than it acts on.

        Raises:
            ValueError: If the surface is `QR` and the steered prompt changes tokens of the base prompt
                that a `QR` steering acts on when the model generates.
        """
        if surface == "QR" and self.region_length is not None and self._shared < self.region_length:
            raise ValueError(
                f"surface='QR' but the steered prompt of {prompt_text(self.pair.base)[:60]!r} leaves "
                f"only {self._shared} of the {self.region_length} tokens that a QR steering acts on "
                "when the model generates: put the instruction in front of the question, as "
                "psr_lens.instruct(question, instruction) does, or choose surface='R'"
            )

    def surface_length(self, surface: Surface) -> int:
        """Number of tokens on the surface.

        Raises:
            ValueError: As `check_surface`.
        """
        self.check_surface(surface)
        return (1 if surface == "R" else self.question_length) + len(self.response_ids)

    @property
    def base_row(self) -> TokenRow:
        """`x y'`, with the question where a steering takes it to be when the model generates."""
        base = self.base_prompt
        return TokenRow(base.ids + self.response_ids, base.question_start, len(base.ids) - 1)

    @property
    def steered_row(self) -> TokenRow:
        """`x' y'`."""
        return self._row(self.steered_ids)

    @property
    def equivalent_rows(self) -> tuple[TokenRow, ...]:
        """`x'' y'`, one for every paraphrase of the instruction."""
        return tuple(self._row(ids) for ids in self.equivalent_ids)

    def _row(self, prompt: tuple[int, ...]) -> TokenRow:
        return TokenRow(
            prompt + self.response_ids, len(prompt) - self.question_length, len(prompt) - 1
        )

    def _repr_html_(self) -> str:
        from psr_lens.plots.prompt_html import example_html

        return example_html(self)


def ending_of(length: int, finished: bool) -> str:
    """How a response of so many tokens ends where the model had not ended it; else empty."""
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
        shown: Of how many, from the first on, it shows the tokens.
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
    """How a response that a report shows ends where it was cut off, from its provenance; else empty."""
    return str(_shown_in(provenance, example).get("ending") or "")


def prompts_in(provenance: Mapping[str, Any], example: int) -> SeenPrompts | None:
    """The prompts of a response that a report shows, from its provenance; None where unknown."""
    return SeenPrompts.from_described(_shown_in(provenance, example).get("prompts"))


def _shown_in(provenance: Mapping[str, Any], example: int) -> Mapping[str, Any]:
    shown = provenance.get("responses", {}).get("shown", ())
    return shown[example] if 0 <= example < len(shown) else {}


def check_examples(data: Any, surface: Surface = "R") -> "Sequence[Example]":
    """The examples, if they are that and have the surface.

    Raises:
        ValueError: If it is anything but a data set or a sequence of examples, or a steered prompt
            changes what a steering on the surface acts on.
    """
    if isinstance(data, Example):
        raise ValueError("one Example was given where several are taken: pass [example]")
    if not isinstance(data, Sequence) or not all(isinstance(one, Example) for one in data):
        raise ValueError(
            f"data of type {type(data).__name__} holds no examples: pass what sample_responses "
            "returns, or one of its splits"
        )
    for example in data:
        example.check_surface(surface)
    return data


@dataclass(frozen=True)
class SteeringDataset(Sequence[Example]):
    """Examples with a split into train, dev and test that never tears a group apart.

    Attributes:
        examples: The triplets.
        split_of_group: To which split every group belongs.
        provenance: Which model sampled the responses, and how.
    """

    examples: tuple[Example, ...]
    split_of_group: Mapping[str, Split]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "SteeringDataset": ...
    def __getitem__(self, index: int | slice) -> "Example | SteeringDataset":
        if isinstance(index, slice):
            return replace(self, examples=self.examples[index])
        return self.examples[index]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    @property
    def train(self) -> "SteeringDataset":
        """The examples to fit on."""
        return self._part("train")

    @property
    def dev(self) -> "SteeringDataset":
        """The examples that decide when to stop and what to choose."""
        return self._part("dev")

    @property
    def test(self) -> "SteeringDataset":
        """The examples to report on."""
        return self._part("test")

    def filter(self, keep: Callable[[Example], bool]) -> "SteeringDataset":
        """The examples for which `keep` holds: a judge's filter, say."""
        return replace(self, examples=tuple(e for e in self.examples if keep(e)))

    def sorted(self) -> "SteeringDataset":
        """The same examples by their token ids: in an order that does not depend on the given one."""

        def place(example: Example) -> tuple[Any, ...]:
            ids = (example.base_ids, example.steered_ids, example.response_ids)
            return *ids, example.equivalent_ids, example.finished, example.alpha

        return replace(self, examples=tuple(sorted(self.examples, key=place)))

    def weighted(self, scores: Sequence[float], offset: float = -0.5) -> "SteeringDataset":
        """Positives and negatives: `alpha = score + offset` for every example.

        Heyman & Vandeputte's use of negatives, with `offset = b_m = -0.5`: a response that does not
        show the trait gets a negative strength, so that the fit learns to push away from it.

        Args:
            scores: How much every example shows the trait, 0 to 1.
            offset: What is added.

        Raises:
            ValueError: If there is not one score from 0 to 1 per example.
        """
        if len(scores) != len(self) or not all(0 <= score <= 1 for score in scores):
            raise ValueError(
                f"{len(scores)} scores for {len(self)} examples: pass one from 0 to 1 for each"
            )
        pairs = zip(self.examples, scores, strict=True)
        weighted = tuple(replace(example, alpha=score + offset) for example, score in pairs)
        return replace(self, examples=weighted)

    def _part(self, split: Split) -> "SteeringDataset":
        return self.filter(lambda example: self.split_of_group[example.pair.group] == split)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(self._part(split))} {split}" for split in SPLITS)
        return f"SteeringDataset({len(self)} examples: {sizes})"


def split_examples(
    examples: Sequence[Example], shares: tuple[float, float, float], seed: int
) -> dict[str, Split]:
    """`split_groups`, with groups that share a pair of prompts kept on one side.

    A pair is shared where it has the same words or the same tokens: two questions that differ in
    unknown words alone are the same example to the model, whatever their groups are called.
    """
    root: dict[str, str] = {}

    def find(group: str) -> str:
        while root.setdefault(group, group) != group:
            group = root[group]
        return group

    first_with: dict[Any, str] = {}
    for example in examples:
        for same in (example.key, (example.base_ids, example.steered_ids)):
            group = find(example.pair.group)
            other = find(first_with.setdefault(same, group))
            # The smaller name stands for both, whatever the order of the examples.
            root[max(group, other)] = min(group, other)
    part = split_groups([find(group) for group in root], shares, seed)
    return {group: part[find(group)] for group in root}


def split_groups(
    groups: Sequence[str], shares: tuple[float, float, float], seed: int
) -> dict[str, Split]:
    """Shuffle the distinct groups by `seed` and cut them by `shares`.

    A split with a positive share gets at least one group as long as there are enough of them, train
    first, then test, then dev.

    Raises:
        ValueError: If a share is negative or they do not sum to 1.
    """
    valid = isinstance(shares, Sequence) and len(shares) == 3
    if not valid or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split={shares}: shares of train, dev and test must be >= 0 and sum to 1")
    distinct = sorted(set(groups))
    generator = torch.Generator().manual_seed(seed)
    shuffled = [distinct[i] for i in torch.randperm(len(distinct), generator=generator).tolist()]
    counts = [int(share * len(distinct)) for share in shares]
    for i in (0, 2, 1):
        if shares[i] > 0 and counts[i] == 0 and sum(counts) < len(distinct):
            counts[i] = 1
    counts[0 if shares[0] > 0 else counts.index(max(counts))] += len(distinct) - sum(counts)
    last_of_train, last_of_dev = counts[0], counts[0] + counts[1]
    parts = (shuffled[:last_of_train], shuffled[last_of_train:last_of_dev], shuffled[last_of_dev:])
    return {group: split for split, part in zip(SPLITS, parts, strict=True) for group in part}
