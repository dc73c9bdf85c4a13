"""The data set that fits and reports are made from: how it is split, saved and tied to its model."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Final, overload

import torch

from psr_lens._types import AlignedTokens
from psr_lens.dataset_file import pack_examples, pack_split, take_examples, take_split
from psr_lens.examples import SPLITS, Example, Split, check_examples
from psr_lens.model_record import describe_model, recorded_fingerprint
from psr_lens.models import HookedModel
from psr_lens.models.numerics import model_fingerprint
from psr_lens.prompts import prompt_text
from psr_lens.storage import read_container, write_container
from psr_lens.storage.fields import (
    if_there,
    listed,
    mapping,
    number,
    only,
    reading,
    text,
    whole,
)

KIND: Final = "dataset"

_FIELDS: Final = ("provenance", "model", "renderings")
_READ_AGAIN: Final = 8
"""About how many examples are tokenised again to check that a model reads their prompts as stored."""


@dataclass(frozen=True)
class SteeringDataset(Sequence[Example]):
    """Examples with a split into train, dev and test that never divides a group.

    Attributes:
        examples: The triplets.
        split_of_group: The split that each group belongs to.
        provenance: Which model sampled the responses, and how.
        model: The model whose tokens these are: name, revision, fingerprint, chat template and its
            options. Whatever takes a model and the data refuses any other model. Empty if the data was not
            made by `sample_responses`; then nothing is checked. Nor is a plain list of examples: pass
            `list(data)` with a model that was changed on purpose.
    """

    examples: tuple[Example, ...]
    split_of_group: Mapping[str, Split]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
        """The examples for which `keep` returns true: those that pass a judge, say."""
        return replace(self, examples=tuple(e for e in self.examples if keep(e)))

    def sorted(self) -> "SteeringDataset":
        """The same examples sorted by token ids, so the original order does not matter."""

        def place(example: Example) -> tuple[Any, ...]:
            ids = (example.base_ids, example.prompted_ids, example.response_ids)
            return *ids, example.paraphrase_ids, example.finished, example.alpha

        return replace(self, examples=tuple(sorted(self.examples, key=place)))

    def weighted(self, scores: Sequence[float], offset: float = -0.5) -> "SteeringDataset":
        """Positives and negatives: `alpha = score + offset` for every example.

        Heyman & Vandeputte's use of negatives, with `offset = b_m = -0.5`: a response that does not
        show the trait gets a negative strength, so the fit learns to push away from it.

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

    def at_strengths(self, strengths: Sequence[float]) -> "SteeringDataset":
        """Every example once for each strength: what is fitted to them is to be right at all of these.

        `alpha` is multiplied by the strength, and what is to come out remains what the prompt does. From that
        a PSR learns to stop where enough has been added: its heads read the residual stream, with everything
        that earlier layers have added to it. It is for fits that look at strengths: layer by layer and
        through the model, and not closed forms, nor methods that find their own strength. Time and memory of
        the fit grow with the number of strengths. What the fit reports of the dev examples as a relative RMSE
        is at strength 1.

        Args:
            strengths: Numbers above 0, each once.

        Returns:
            All examples at the first strength, then all at the next; each with the group, and so the split,
            that it has here.

        Raises:
            ValueError: If there is no strength, or one is not such a number.
        """
        wanted = [float(own) for own in strengths]
        if not wanted or len(set(wanted)) < len(wanted) or not all(0 < s < inf for s in wanted):
            raise ValueError(
                f"strengths={list(strengths)}: pass at least one number above 0, each once"
            )
        return replace(
            self,
            examples=tuple(
                replace(example, alpha=strength * example.alpha)
                for strength in wanted
                for example in self.examples
            ),
        )

    def save(self, path: str | Path) -> Path:
        """Write the data to one file; an older data set there is replaced.

        Everything is kept: prompts, paraphrases, responses, their tokens, the split, the model, and how the
        responses were sampled.

        Args:
            path: Where; `.safetensors` is added if missing.

        Returns:
            The path of the file.

        Raises:
            ValueError: If something other than a data set is at the path, a pair's metadata or the
                provenance holds something that JSON cannot represent, or a group is in no split.
            OSError: If the file cannot be written.

        Example:
            >>> from tempfile import mkdtemp
            >>> import psr_lens as pl
            >>> pairs = pl.make_pairs(["describe the fox ."], "shout .")
            >>> model = pl.load_model("demo")
            >>> data = pl.sample_responses(model, pairs, max_new_tokens=8, progress=False)
            >>> file = data.save(f"{mkdtemp()}/loud")
            >>> pl.SteeringDataset.load(file) == data
            True
        """
        tensors, renderings = pack_examples(self.examples)
        # Never write what could not be read back.
        take_examples(dict(tensors), renderings)
        _check_groups(self.examples, self.split_of_group)
        header = {
            "provenance": dict(self.provenance),
            "model": dict(self.model),
            "renderings": renderings,
        }
        if json.loads(json.dumps(header, default=str)) != header:
            raise ValueError(
                "the data set cannot be kept: its provenance, or what its chat template was given, holds "
                "what JSON does not keep as it is (a tuple, an array, NaN); use lists, numbers and text"
            )
        return write_container(path, KIND, tensors | pack_split(self.split_of_group), header)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringDataset":
        """Read a data set that `save` wrote: the same examples in the same split.

        Args:
            path: The file, with or without `.safetensors`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or not a data set.
        """
        tensors, header = read_container(path, KIND)
        with reading(path, "data set"):
            only(header, *_FIELDS)
            examples = take_examples(tensors, listed(header, "renderings", mapping))
            split = take_split(tensors)
            only(tensors)
            found = cls(
                examples,
                split,
                _checked_sampling(mapping(header, "provenance")),
                _checked_model(mapping(header, "model")),
            )
            _check_groups(examples, split)
        return found

    def _part(self, split: Split) -> "SteeringDataset":
        return self.filter(lambda example: self.split_of_group[example.pair.group] == split)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(self._part(split))} {split}" for split in SPLITS)
        return f"SteeringDataset({len(self)} examples: {sizes})"


def describe_origin(model: HookedModel) -> dict[str, Any]:
    """What a data set records of its model: `describe_model` and the chat template's options."""
    described = describe_model(model)
    described["template_options"] = dict(model.encoder.template_options)
    # Through JSON and back, so a saved and loaded data set compares equal.
    return json.loads(json.dumps(described))


def check_data(
    model: HookedModel, data: Sequence[Example], tokens: AlignedTokens = "response"
) -> Sequence[Example]:
    """Return the examples if they are valid, have the aligned tokens and belong to the model.

    The same weights on another backend count as the same model, as for steerings.

    Raises:
        ValueError: As `check_examples`, or if the data was sampled with other weights, another tokenizer or
            chat template, or other template options.
    """
    check_examples(data, tokens)
    if not isinstance(data, SteeringDataset) or not data.model:
        return data
    difference = _difference(model, data)
    if difference:
        raise ValueError(
            f"the data was sampled with {data.model['name']!r} and does not belong to "
            f"{model.name!r}: {difference}; or sample responses anew"
        )
    return data


def _difference(model: HookedModel, data: SteeringDataset) -> str:
    """How a model differs from the data's, and the way out; empty if it does not."""
    recorded, encoder = data.model, model.encoder
    expected = recorded_fingerprint({"model": recorded})
    other = "" if expected is None else expected.difference(model_fingerprint(model))
    if other:
        return f"{other}; load the model that it was sampled with"
    if recorded["chat_template"] != encoder.template_hash:
        return "the chat template is another one; load the model with the template of the data"
    options = dict(encoder.template_options)
    # Options first given for the data alone may have become the model's since.
    if options not in (recorded["template_options"], data.provenance.get("template_options", {})):
        given = recorded["template_options"]
        return f"template_options={options} and not {given}; load the model with those of the data"
    for example in islice(data, 0, None, max(1, len(data) // _READ_AGAIN)):
        pair, rendering = example.pair, example.rendering
        prompts = ((pair.base, example.base_ids), (pair.prompted, example.prompted_ids))
        if any(encoder.encode(prompt, rendering).ids != ids for prompt, ids in prompts):
            return (
                f"its tokenizer makes other tokens of {prompt_text(pair.prompted)[:60]!r}; load the "
                "model with the tokenizer of the data"
            )
    return ""


def _check_groups(examples: Sequence[Example], split_of_group: Mapping[str, Split]) -> None:
    for example in examples:
        if example.pair.group not in split_of_group:
            raise ValueError(
                f"group {example.pair.group[:60]!r} is in no split: name train, dev or test for it"
            )


def _checked_sampling(found: dict[str, Any]) -> dict[str, Any]:
    """A provenance, with every field that anything reads checked."""
    for name in ("responses_from", "date"):
        if_there(found, name, text)
    for name in ("sampled", "seed", "max_new_tokens"):
        if_there(found, name, whole)
    if_there(found, "temperature", number)
    if_there(found, "template_options", mapping)
    return found


def _checked_model(found: dict[str, Any]) -> dict[str, Any]:
    """What `describe_origin` returned, with every field that anything reads checked."""
    if found:
        for name in ("name", "chat_template"):
            text(found, name)
        mapping(found, "template_options")
        recorded_fingerprint({"model": found})
    return found


def split_examples(
    examples: Sequence[Example], shares: tuple[float, float, float], seed: int
) -> dict[str, Split]:
    """`split_groups`, keeping groups that share a prompt pair in the same split.

    Pairs are the same if their words or their tokens are: two questions that differ only in unknown words
    are one example to the model, whatever their groups are called.
    """
    root: dict[str, str] = {}

    def find(group: str) -> str:
        while root.setdefault(group, group) != group:
            group = root[group]
        return group

    first_with: dict[Any, str] = {}
    for example in examples:
        for same in (example.key, (example.base_ids, example.prompted_ids)):
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
