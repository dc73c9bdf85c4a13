"""Closed forms: what sums over the deltas of the training surface give, in one pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.examples import Example
from psr_lens.fitting.heads import leading_direction
from psr_lens.models import HookedModel
from psr_lens.models.shared import SharedPrefixes


@dataclass(frozen=True)
class DeltaMoments:
    """Sums over the accumulated deltas `D` of a data set, in float64.

    Attributes:
        mean: Mean of `D` over all surface tokens.
        second: Mean of `D D^T`; None if not asked for.
        energy: Mean of `|D|^2`.
        prompt_mean: Mean of `D` at the last prompt token.
        prompt_steered: Mean of `A(x'y')` at the last prompt token.
    """

    mean: Float[Tensor, "layer d_model"]
    second: Float[Tensor, "layer d_model d_model"] | None
    energy: Float[Tensor, " layer"]
    prompt_mean: Float[Tensor, "layer d_model"]
    prompt_steered: Float[Tensor, "layer d_model"]


@torch.no_grad()
def delta_moments(
    model: HookedModel,
    data: Sequence[Example],
    surface: Surface = "R",
    *,
    second: bool = False,
    batch_size: int = 32,
    progress: bool = False,
) -> DeltaMoments:
    """Stream over the data, base run and prompt-steered run, and add up.

    Args:
        model: The model.
        data: The training examples.
        surface: `R` or `QR`.
        second: Whether the second moments are wanted too, `d_model^2` numbers per layer.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.
    """
    shape = (model.n_layers, model.d_model)
    # float64, which not every accelerator has: the sums are kept on the CPU.
    total, prompt, prompt_steered = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    energy = torch.zeros(model.n_layers, dtype=torch.float64)
    square = torch.zeros(*shape, model.d_model, dtype=torch.float64) if second else None
    tokens = 0
    bases, prompts = SharedPrefixes(model), SharedPrefixes(model)
    for indices in iter_batches(data, batch_size, progress=progress, description="deltas"):
        examples = [data[i] for i in indices]
        base, steered = example_batches(model, examples)
        target = surface_residuals(model, steered, surface, shared=prompts)
        delta = target - surface_residuals(model, base, surface, shared=bases)
        last = torch.tensor(_last_prompt_tokens(examples, surface), device=delta.device)
        total += delta.sum(dim=1).cpu()
        energy += delta.square().sum(dim=(1, 2)).cpu()
        prompt += delta[:, last].sum(dim=1).cpu()
        prompt_steered += target[:, last].sum(dim=1).cpu()
        tokens += delta.shape[1]
        if square is not None:
            square += (delta.mT @ delta).cpu()
    return DeltaMoments(
        total / tokens,
        None if square is None else square / tokens,
        energy / tokens,
        prompt / len(data),
        prompt_steered / len(data),
    )


def _last_prompt_tokens(examples: Sequence[Example], surface: Surface) -> list[int]:
    """Places of the last prompt tokens among the surface tokens laid end to end."""
    places, start = [], 0
    for example in examples:
        length = example.surface_length(surface)
        places.append(start + length - len(example.response_ids) - 1)
        start += length
    return places


def principal_vector(
    mean: Float[Tensor, " d_model"], second: Float[Tensor, "d_model d_model"]
) -> Float[Tensor, " d_model"]:
    r"""Const-PCA: the first principal direction of $\pm D$, as long as the mean's projection on it.

    Of the symmetrised deltas, because centring would take the mean out, which is what is looked
    for. It points where the mean points.
    """
    direction = leading_direction(second)
    return (mean @ direction) * direction
