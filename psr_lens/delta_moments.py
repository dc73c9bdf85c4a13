"""Moments of what a prompt does, summed in one pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.deltas import iter_runs, working_dtype
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.statistics import RunningMoments, principal_directions


@dataclass(frozen=True, eq=False)
class DeltaMoments:
    """Sums over the accumulated deltas `D` of a data set.

    Attributes:
        deltas: Moments of `D` at all aligned tokens.
        at_prompt: Moments of `D` at the last prompt tokens.
        prompted: Moments of `A(x'y')` at the last prompt tokens.
    """

    deltas: RunningMoments
    at_prompt: RunningMoments
    prompted: RunningMoments


def delta_moments(
    model: HookedModel,
    data: Sequence[Example],
    tokens: AlignedTokens = "response",
    *,
    second: bool = False,
    batch_size: int = 32,
    progress: bool = False,
) -> DeltaMoments:
    """Sum the moments over base and prompted runs of the data.

    Args:
        model: The model.
        data: The training examples.
        tokens: `response` or `question+response`.
        second: Whether to keep second moments too, `d_model^2` numbers per layer.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """
    shape = (model.n_layers, model.d_model, model.device)
    deltas = RunningMoments(*shape, second=second)
    at_prompt, prompted = RunningMoments(*shape), RunningMoments(*shape)
    for runs in iter_runs(model, data, tokens, batch_size=batch_size, progress=progress):
        responses = torch.tensor([len(example.response_ids) for example in runs.examples])
        last = (torch.tensor(runs.lengths).cumsum(0) - responses - 1).to(model.device)
        accumulated = runs.accumulated
        deltas.add(accumulated)
        at_prompt.add(accumulated[:, last])
        prompted.add(runs.target[:, last])
    return DeltaMoments(deltas, at_prompt, prompted)


def leading_directions(
    model: HookedModel,
    data: Sequence[Example],
    tokens: AlignedTokens,
    rank: int,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> Float[Tensor, "layer rank d_model"]:
    """Principal directions of the local deltas at every layer, the strongest first.

    Not centred: the mean delta is a part of what the prompt does. Holds one `d_model x d_model` matrix per
    layer, in float64.

    Args:
        model: The model.
        data: The examples.
        tokens: `response` or `question+response`.
        rank: Directions per layer, at most `d_model`.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """
    moments = RunningMoments(model.n_layers, model.d_model, model.device, second=True)
    for runs in iter_runs(
        model,
        data,
        tokens,
        base=False,
        local=True,
        batch_size=batch_size,
        progress=progress,
        description="local deltas",
    ):
        assert runs.local is not None
        moments.add(runs.local)
    assert moments.products is not None
    _, leading = principal_directions(moments.products, rank)
    return leading.cpu().to(working_dtype(model.dtype))
