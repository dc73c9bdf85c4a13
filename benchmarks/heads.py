"""What more PSR heads do on a chat model where data is short: `python -m benchmarks.heads --model PATH`.

The model answers questions under one instruction; PSRs with several numbers of heads are replayed on
few and on more of the answers, all with the same dev topics. Written down are the relative RMSE at
the last layer on the dev examples that the fit chose on and on test examples that it never saw, how
many heads every layer uses, their penalties, and processor time.

It is a study, not one of the timed benchmarks: minutes on a small model.
"""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from psr_lens import load_model, make_pairs, sample_responses
from psr_lens.dataset import SteeringDataset
from psr_lens.examples import Split
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import HookedModel

# fmt: off
TOPICS = (
    "bread", "bees", "volcanoes", "chess", "tea", "trains", "dreams", "maps", "soap", "rivers",
    "bicycles", "clocks", "salt", "owls", "paper", "bridges", "deserts", "pianos", "honey",
    "glaciers", "coffee", "whales", "castles", "kites", "cheese", "lightning", "gardens",
    "libraries", "sharks", "glass", "wolves", "rain", "opera", "tulips", "satellites", "mirrors",
    "ants", "wine", "sailing", "caves", "pottery", "horses", "comets", "rice", "forests",
    "robots", "snow", "lighthouses", "silk", "penguins", "earthquakes", "candles", "tunnels",
    "spices", "marathons", "fossils", "harbours", "violins", "mushrooms", "islands",
)
# fmt: on
QUESTIONS = (
    "Tell me about {}.",
    "Why do people like {}?",
    "Name one surprising fact about {}.",
    "How would you explain {} to a child?",
)
_EVERY = 12
"""Of so many topics one is for dev and one for test."""


@dataclass(frozen=True)
class Study:
    """Fit PSRs with several numbers of heads on several numbers of examples of a chat model."""

    model: Path
    """A directory that `transformers` loads: a chat model with its tokenizer."""
    instruction: str = "Answer only in French."
    """What the steering prompts say."""
    examples: tuple[int, ...] = (40, 120, 200)
    """Training examples."""
    heads: tuple[str, ...] = ("1", "4", "16", "auto")
    """Heads per layer."""
    tokens: int = 40
    """Longest response."""
    seed: int = 0
    """Decides responses and which of them are fitted on."""
    out: Path = Path("benchmarks", "heads.json")
    """Where the figures go."""

    def run(self) -> None:
        """Sample once, fit all, write after every fit."""
        model = load_model(str(self.model), backend="bridge")
        data = self._sample(model)
        rows: list[dict[str, Any]] = []
        for row in self._rows(model, data):
            rows.append(row)
            print(json.dumps(row), flush=True)
            about = {"model": self.model.name, "instruction": self.instruction, "seed": self.seed}
            self.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")

    def _sample(self, model: HookedModel) -> SteeringDataset:
        parts: dict[int, Split] = {_EVERY // 2: "dev", _EVERY - 1: "test"}
        split: dict[str, Split] = {
            topic: parts.get(i % _EVERY, "train") for i, topic in enumerate(TOPICS)
        }
        pairs = [
            pair
            for question in QUESTIONS
            for pair in make_pairs(
                {topic: [question.format(topic)] for topic in TOPICS}, self.instruction
            )
        ]
        return sample_responses(
            model, pairs, max_new_tokens=self.tokens, seed=self.seed, split=split
        )

    def _rows(self, model: HookedModel, data: SteeringDataset) -> Iterator[dict[str, Any]]:
        order = list(data.train)
        random.Random(self.seed).shuffle(order)
        for count in self.examples:
            chosen = {id(example) for example in [*order[:count], *data.dev]}
            part = data.filter(lambda example, chosen=chosen: id(example) in chosen)
            for heads in self.heads:
                start = time.process_time()
                steering = fit(
                    model,
                    part,
                    solver="layerwise",
                    n_heads="auto" if heads == "auto" else int(heads),
                    seed=self.seed,
                )
                seconds = time.process_time() - start
                test = measure_faithfulness(
                    model,
                    {"psr": steering},
                    data.test,
                    outputs=False,
                    gap=False,
                    random_direction=False,
                    oracle_ranks=(),
                    token_examples=0,
                )
                report = steering.fit_report
                yield {
                    "examples": len(part.train),
                    "heads": heads,
                    "dev": report.dev_relative_rmse[-1],
                    "test": float(test.relative_rmse["psr"].values[-1]),
                    "used": [stage.heads for stage in report.stages],
                    "penalties": [stage.penalty for stage in report.stages],
                    "dev_losses": [stage.dev_loss for stage in report.stages],
                    "cpu_seconds": round(seconds, 1),
                }


if __name__ == "__main__":
    tyro.cli(Study).run()
