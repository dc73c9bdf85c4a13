"""The models and the data that everything recorded is computed from: few examples, sampled anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import psr_lens as pl
from psr_lens import demo
from scripts.recorded.names import responses_of
from scripts.recorded.record import Record

TRAIN: Final = demo.TRAINING_ANIMALS[:8]
DEV: Final = demo.TRAINING_ANIMALS[8:11]
TEST: Final = demo.HELD_OUT_ANIMALS[:6]
TRAIT: Final = "pirate"
PROMPTS: Final = ("tell me about the fox .", "what is the bat like ?", "describe the owl .")


Extent = Literal["few", "most", "all"]
_EXTENTS: Final = get_args(Extent)


@dataclass(frozen=True)
class Setup:
    """A model on a backend, and how much is recorded of it.

    Attributes:
        model: Name of the model.
        backend: Name of the backend.
        extent: `all`; `most`, without some of the slowest fits; `few`, only what depends on the
            backend.
    """

    model: str
    backend: str
    extent: Extent

    @property
    def name(self) -> str:
        """The name in front of its quantities."""
        return f"{self.model}, {self.backend}"

    def covers(self, extent: Extent) -> bool:
        """Whether what belongs to an extent is recorded here."""
        return _EXTENTS.index(extent) <= _EXTENTS.index(self.extent)


SETUPS: Final = (
    Setup("demo", "hooked", "all"),
    Setup("demo-gpt2", "hooked", "most"),
    Setup("demo", "bridge", "few"),
    Setup("demo-gpt2", "bridge", "few"),
)


@dataclass(frozen=True)
class Given:
    """What the quantities of a setup are computed from.

    Attributes:
        setup: The setup.
        model: Its model.
        data: Sampled examples, split into train, dev and test.
        with_negatives: The same with plain responses beside them.
    """

    setup: Setup
    model: pl.HookedModel
    data: pl.SteeringDataset
    with_negatives: pl.SteeringDataset


def pairs_about(animals: Sequence[Any], wordings: int) -> list[pl.PromptPair]:
    """A pair for every animal and question."""
    asked = demo.QUESTION_WORDINGS[:wordings]
    return pl.make_pairs(
        {own.name: [question.format(animal=own.name) for question in asked] for own in animals},
        demo.system_prompt(TRAIT),
        paraphrases=[demo.system_prompt(TRAIT, None), demo.system_prompt(TRAIT, 2)],
    )


def sampled(model: pl.HookedModel, record: Record) -> tuple[pl.SteeringDataset, ...]:
    """The data, with its tokens written down."""
    parts = {"train": TRAIN, "dev": DEV, "test": TEST}
    split: Any = {animal.name: part for part, animals in parts.items() for animal in animals}
    pairs = [*pairs_about((*TRAIN, *DEV), 2), *pairs_about(TEST, 2)]
    data = pl.sample_responses(model, pairs, max_new_tokens=20, seed=3, split=split, progress=False)
    negatives = pl.add_negatives(model, data, max_new_tokens=20, seed=4)
    few = pairs[::12]
    greedy = pl.sample_responses(model, few, temperature=0.0, max_new_tokens=30, progress=False)
    twice = pl.sample_responses(
        model, few, samples_per_pair=2, max_new_tokens=30, seed=1, batch_size=3, progress=False
    )
    record.add_exact("sampled", responses_of(data[::2]))
    record.add_exact("plain", responses_of(negatives[len(data) :][::5]))
    record.add_exact("greedy", responses_of(greedy))
    record.add_exact("sampled twice", responses_of(twice))
    record.add_exact(
        "split by shares", [len(part) for part in (twice.train, twice.dev, twice.test)]
    )
    record.add_exact("prompts", [[list(e.base_ids), list(e.prompted_ids)] for e in data[:2]])
    record.add_exact("question lengths", [example.question_length for example in data[::5]])
    return data, negatives
