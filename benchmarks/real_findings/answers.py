"""What the model answers: three samples to fit on, one to report on, kept in files.

Every question is answered twice under the instruction. Questions are split by topic: 36 to train on, 9 to
choose on, 15 to report on. The answers are taken as they come, whether they show the trait or not: what is
to be replaced is the prompt, with its failures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from psr_lens.dataset import SteeringDataset
from psr_lens.demo.everyday import everyday_pairs, everyday_split
from psr_lens.examples import Split
from psr_lens.models import HookedModel
from psr_lens.responses import sample_responses

SEEDS: Final = (0, 1, 2)
"""Sampling seeds of what is fitted on."""
TEST_SEED: Final = 100
PER_QUESTION: Final = 2
SAMPLING: Final[dict[str, Any]] = {"max_new_tokens": 24, "temperature": 0.7, "batch_size": 128}
"""Of every answer, with the prompt, without it, and under a steering."""


@dataclass(frozen=True)
class Answers:
    """The answers to one instruction.

    Attributes:
        fitted_on: Train and dev answers, one data set for each of `SEEDS`.
        test: The answers that everything is reported on.
    """

    fitted_on: tuple[SteeringDataset, ...]
    test: SteeringDataset

    @property
    def all(self) -> SteeringDataset:
        """The answers of all seeds: three times as many to fit on."""
        first = self.fitted_on[0]
        return replace(first, examples=tuple(one for own in self.fitted_on for one in own))


def answers(model: HookedModel, name: str, folder: Path) -> Answers:
    """Sampled, or read from the folder if they are there.

    Args:
        model: The chat model.
        name: The instruction's name.
        folder: Where they are kept.
    """
    fitted_on = tuple(
        sampled(model, name, ("train", "dev"), seed, PER_QUESTION, folder) for seed in SEEDS
    )
    return Answers(fitted_on, sampled(model, name, ("test",), TEST_SEED, PER_QUESTION, folder))


def sampled(
    model: HookedModel, name: str, parts: Sequence[Split], seed: int, each: int, folder: Path
) -> SteeringDataset:
    """Answers to the questions of some parts of the split, `each` to a question."""
    length = SAMPLING["max_new_tokens"]
    file = folder / name / f"answers-{'-'.join(parts)}-{seed}-{each}-of-{length}.safetensors"
    if file.is_file():
        return SteeringDataset.load(file)
    split = everyday_split()
    found = sample_responses(
        model,
        [pair for pair in everyday_pairs(name) if split[pair.group] in parts],
        samples_per_pair=each,
        seed=seed,
        split=split,
        progress=False,
        **SAMPLING,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    found.save(file)
    return found
