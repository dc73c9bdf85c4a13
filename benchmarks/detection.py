"""Does ReFT-r1's latent tell responses that show a trait from those that do not?

    python -m benchmarks.detection        # every instruction of the demo world, on `demo`

writes `benchmarks/detection.json`, which `python -m benchmarks.methods --page-only` shows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from psr_lens.dataset import SteeringDataset
from psr_lens.deltas import aligned_residuals
from psr_lens.demo.animals import MAX_NEW_TOKENS, fit_data, held_out_data
from psr_lens.demo.instructions import INSTRUCTION_NAMES
from psr_lens.examples import Example
from psr_lens.fitting import fit
from psr_lens.models import HookedModel, load_model
from psr_lens.models.generation import generate_tokens
from psr_lens.responses import add_negatives, make_example
from psr_lens.steering import ReFTr1
from psr_lens.storage.atomic import write_bytes

NUMBERS = Path(__file__).parent / "detection.json"
TOP_K = 3
"""Latents of a response that count: as many as make its strength while it is trained."""
EPOCHS = 6

Latent = Callable[[Tensor], Tensor]
"""Residual streams `[pos, d_model]` of one layer to one number per token."""


@dataclass(frozen=True)
class Texts:
    """Responses to an instruction and plain ones to the same questions.

    Attributes:
        data: Both kinds, with the strength 1 and 0, split by animals into train and dev.
        prompted: Responses to the instruction about the held-out animals.
        plain: Plain ones.
    """

    data: SteeringDataset
    prompted: Sequence[Example]
    plain: Sequence[Example]


def sample_texts(model: HookedModel, name: str, seed: int = 0) -> Texts:
    """The texts that an instruction's detector is fitted and judged on.

    Args:
        model: A demo model.
        name: An instruction.
        seed: Of the data and the responses.
    """
    data = add_negatives(
        model, fit_data(model, name, seed), max_new_tokens=MAX_NEW_TOKENS, batch_size=128
    )
    prompted = held_out_data(model, name, seed + 1)
    said = generate_tokens(
        model,
        [example.pair.base for example in prompted],
        max_new_tokens=MAX_NEW_TOKENS,
        seed=seed + 3,
        batch_size=64,
    )
    pairs = zip(prompted, said, strict=True)
    plain = [make_example(model, example.pair, own.tokens) for example, own in pairs]
    return Texts(data, prompted, plain)


def fit_detector(model: HookedModel, texts: Texts, layer: int, epochs: int = EPOCHS) -> ReFTr1:
    """ReFT-r1 on the training animals."""
    steering = fit(model, texts.data, method="reft_r1", layers=layer, epochs=epochs)
    assert isinstance(steering, ReFTr1)
    return steering


def detection(model: HookedModel, texts: Texts, layer: int, latent: Latent) -> dict[str, float]:
    """AUROC of a latent on the dev animals and on the held-out ones.

    Every response is read behind the plain prompt, by the mean of its `TOP_K` largest latents.
    """
    shown = [example for example in texts.data.dev if example.alpha > 0]
    not_shown = [example for example in texts.data.dev if example.alpha == 0]

    def presences(examples: Sequence[Example]) -> Tensor:
        return torch.stack([_top(latent(x)) for x in read(model, examples, layer)])

    return {
        "dev": auroc(presences(shown), presences(not_shown)),
        "auroc": auroc(presences(texts.prompted), presences(texts.plain)),
    }


def read(model: HookedModel, examples: Sequence[Example], layer: int) -> list[Tensor]:
    """Residual streams of every response behind its plain prompt."""
    rows = [model.pad([example.base_row]) for example in examples]
    return [aligned_residuals(model, row, "response")[layer] for row in rows]


def supervised(model: HookedModel, texts: Texts, layer: int, steps: int = 300) -> Latent:
    """The direction that is trained to detect and does nothing else: what a latent could reach.

    Logistic regression on the mean of the `TOP_K` largest latents, with the labels that ReFT-r1
    only uses to know which responses are negatives.
    """
    train = texts.data.train
    streams = read(model, train, layer)
    labels = torch.tensor([float(example.alpha > 0) for example in train])
    mean, scale = torch.cat(streams).mean(dim=0), torch.cat(streams).std(dim=0).clamp_min(1e-6)
    inputs = torch.nn.utils.rnn.pad_sequence([(x - mean) / scale for x in streams], True)
    on = torch.nn.utils.rnn.pad_sequence([torch.ones(len(x)) for x in streams], True) > 0
    generator = torch.Generator().manual_seed(0)
    w = (0.05 * torch.randn(inputs.shape[-1], generator=generator)).requires_grad_()
    b = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([w, b], lr=0.02, weight_decay=1e-4)
    for _ in range(steps):
        latents = (inputs @ w + b).masked_fill(~on, -1e9)
        scores = latents.topk(TOP_K, dim=1).values.mean(dim=1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    direction = (w / scale).detach()
    return lambda resid: resid @ direction


def auroc(positive: Tensor, negative: Tensor) -> float:
    """How often a positive scores above a negative, ties counting half."""
    above = (positive[:, None] > negative[None]).double()
    return float((above + 0.5 * (positive[:, None] == negative[None])).mean())


def _top(latents: Tensor) -> Tensor:
    return latents.topk(min(TOP_K, len(latents))).values.mean()


def measure(model: HookedModel, name: str) -> dict[str, dict[str, float]]:
    """ReFT-r1 and the supervised direction, each at the layer that is best on the dev animals."""
    texts = sample_texts(model, name)
    trained: list[dict[str, float]] = []
    supervised_ones: list[dict[str, float]] = []
    for layer in range(model.n_layers):
        steering = fit_detector(model, texts, layer)
        losses = steering.fit_report.dev_losses
        own = detection(model, texts, layer, lambda x, s=steering, at=layer: s.latent(at, x))
        trained.append({"layer": layer, **own, "loss before": losses[0], "loss after": min(losses)})
        own = detection(model, texts, layer, supervised(model, texts, layer))
        supervised_ones.append({"layer": layer, **own})
    return {
        kind: max(found, key=lambda one: one["dev"])
        for kind, found in (("reft_r1", trained), ("supervised", supervised_ones))
    }


def main() -> None:
    """Measure every instruction."""
    model = load_model("demo")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in INSTRUCTION_NAMES:
        found[name] = {
            kind: {key: round(value, 4) for key, value in own.items()}
            for kind, own in measure(model, name).items()
        }
        print(f"{name}: {found[name]}", flush=True)
    write_bytes(NUMBERS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
