"""Does ReFT-r1's latent tell responses that show a trait from those that do not?

    python -m benchmarks.detection        # every instruction of the demo world, on `demo`

writes `benchmarks/detection.json`, which `python -m benchmarks.methods --page-only` shows.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from psr_lens.artifacts import write_bytes
from psr_lens.deltas import surface_residuals
from psr_lens.demo.experiment import MAX_NEW_TOKENS, fit_data, held_out_data
from psr_lens.demo.instructions import INSTRUCTION_NAMES
from psr_lens.examples import Example
from psr_lens.fitting import fit
from psr_lens.models import HookedModel, load_model
from psr_lens.models.generation import generate_tokens
from psr_lens.responses import add_negatives, make_example
from psr_lens.steering import ReFTr1

NUMBERS = Path(__file__).parent / "detection.json"
LAYER = 2
TOP_K = 3
"""Latents of a response that count: as many as make its strength while it is trained."""


def detection(model: HookedModel, name: str, layer: int, seed: int = 0) -> tuple[ReFTr1, float]:
    """Fit ReFT-r1 on the training animals, and its AUROC on the held-out ones.

    Positives are responses to the instruction, negatives the model's plain responses to the same
    questions; both are read behind the plain prompt, by the mean of their `TOP_K` largest latents.

    Args:
        model: A demo model.
        name: An instruction.
        layer: The layer.
        seed: Of the data and the responses.
    """
    train = add_negatives(
        model, fit_data(model, name, seed), max_new_tokens=MAX_NEW_TOKENS, batch_size=128
    )
    steering = fit(model, train, method="reft_r1", layers=layer, epochs=6)
    assert isinstance(steering, ReFTr1)
    test = held_out_data(model, name, seed + 1)
    said = generate_tokens(
        model,
        [example.pair.base for example in test],
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed + 3,
        batch_size=64,
    )
    plain = [make_example(model, e.pair, own.tokens) for e, own in zip(test, said, strict=True)]

    def presence(example: Example) -> float:
        resid = surface_residuals(model, model.pad([example.base_row]), "R")[layer]
        latent = steering.latent(layer, resid)
        return float(latent.topk(min(TOP_K, len(latent))).values.mean())

    with_it, without = (torch.tensor([presence(e) for e in own]) for own in (test, plain))
    return steering, auroc(with_it, without)


def auroc(positive: Tensor, negative: Tensor) -> float:
    """How often a positive scores above a negative, ties counting half."""
    above = (positive[:, None] > negative[None]).double()
    return float((above + 0.5 * (positive[:, None] == negative[None])).mean())


def main() -> None:
    """Measure every instruction."""
    model = load_model("demo")
    found: dict[str, dict[str, float]] = {}
    for name in INSTRUCTION_NAMES:
        steering, value = detection(model, name, LAYER)
        losses = steering.fit_report.dev_losses
        found[name] = {
            "auroc": round(value, 4),
            "dev loss before": round(losses[0], 4),
            "dev loss after": round(min(losses), 4),
        }
        print(f"{name}: {found[name]}", flush=True)
        write_bytes(NUMBERS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
