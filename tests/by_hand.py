"""What a fit says of itself, worked out one example at a time by passes over the whole text."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from psr_lens import Example, HookedModel, Steering, SteeringDataset, sample_responses
from psr_lens.models import TokenRow
from tests.tiny_models import instructed


@cache
def animal_examples(model: HookedModel) -> SteeringDataset:
    """Twelve questions of three lengths, under one instruction."""
    questions = [f"tell me {'more ' * (i % 3)}about animal {i}" for i in range(12)]
    pairs = [instructed(model, q, "always be very kind and short") for q in questions]
    return sample_responses(model, pairs, max_new_tokens=8, seed=0, progress=False)


def residuals(
    model: HookedModel,
    row: TokenRow,
    count: int,
    steering: Steering | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """The last `count` tokens' residual stream after every block, `[layer, token, d_model]`."""
    seen = {}

    def look(layer):
        return lambda resid, columns: seen.__setitem__(layer, resid[0, -count:])

    looks = {layer: look(layer) for layer in range(model.n_layers)}
    applied = nullcontext() if steering is None else steering.applied(model, alpha)
    with applied, model.edited(looks):
        model.run(model.pad([row]))
    return torch.stack([seen[layer] for layer in range(model.n_layers)])


@cache
@torch.no_grad()
def plain_residuals(model: HookedModel, row: TokenRow, count: int) -> Tensor:
    """Without a steering, worked out once: they are the same for every fit."""
    return residuals(model, row, count)


def missing(
    model: HookedModel,
    example: Example,
    steering: Steering | None,
    tokens: str = "response",
    alpha: float = 1.0,
) -> Tensor:
    """`A(x'y') - S`, what a steering leaves to be added, `[layer, token, d_model]`."""
    count = example.aligned_length(tokens)  # type: ignore[arg-type]
    target = plain_residuals(model, example.prompted_row, count)
    if steering is None:
        return target - plain_residuals(model, example.base_row, count)
    return target - residuals(model, example.base_row, count, steering, alpha)


def all_missing(
    model: HookedModel,
    data: Sequence[Example],
    steering: Steering | None,
    tokens: str = "response",
    *,
    weighted: bool = False,
) -> Tensor:
    """Of all examples, end to end; weighted, at every example's own strength."""
    parts = [
        missing(model, example, steering, tokens, example.alpha if weighted else 1.0)
        for example in data
    ]
    return torch.cat(parts, dim=1)


def mse(
    model: HookedModel,
    data: Sequence[Example],
    steering: Steering | None,
    first: int,
    tokens: str = "response",
) -> Tensor:
    """The objective `mse`: mean squares of what is missing, summed from a layer on."""
    left = all_missing(model, data, steering, tokens, weighted=True)[first:]
    return left.square().mean(dim=(1, 2)).sum()


@torch.no_grad()
def relative_rmse(
    model: HookedModel, data: Sequence[Example], steering: Steering, tokens: str = "response"
) -> list[float]:
    """What a steering leaves missing, in units of what is missing without, at every layer."""
    left, plain = (all_missing(model, data, own, tokens) for own in (steering, None))
    squares = [own.square().sum(dim=(1, 2)) for own in (left, plain)]
    return (squares[0] / squares[1]).sqrt().tolist()


@torch.no_grad()
def nll(model: HookedModel, data: Sequence[Example], steering: Steering) -> float:
    """The objective `ll`: nats per token of the response, its end among them where it was reached."""
    ends = sorted(model.encoder.end_token_ids)
    said = []
    with steering.applied(model):
        for example in data:
            logits = model.logits(model.pad([example.base_row]))[0].log_softmax(dim=-1)
            begin = len(example.base_ids) - 1
            said += [float(logits[begin + i, own]) for i, own in enumerate(example.response_ids)]
            if example.finished:
                said.append(float(logits[-1, ends].logsumexp(dim=-1)))
    return -sum(said) / len(said)
