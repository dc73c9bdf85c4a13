"""How unevenly a prompt acts on the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from psr_lens._types import Surface
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.models import as_hooked_model
from psr_lens.responses import Example


@dataclass(frozen=True)
class Selectivity:
    """How unevenly the prompt acts on the tokens, per layer.

    Attributes:
        p10: 10th percentile of the accumulated delta norm over surface tokens.
        p50: Median.
        p90: 90th percentile.
        mean_energy_share: `n |mean D|^2 / sum |D|^2`: what a constant vector can express.
    """

    p10: tuple[float, ...]
    p50: tuple[float, ...]
    p90: tuple[float, ...]
    mean_energy_share: tuple[float, ...]


@torch.no_grad()
def measure_selectivity(
    model: Any,
    data: Sequence[Example],
    *,
    surface: Surface = "R",
    batch_size: int = 32,
    progress: bool = False,
) -> Selectivity:
    """Percentiles of the accumulated delta's norm, and the energy of its mean.

    Streams over the data; only the norms of all tokens are kept.

    Args:
        model: The model.
        data: The examples.
        surface: Where to measure.
        batch_size: Examples per forward pass.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no example.
    """
    hooked = as_hooked_model(model)
    if len(data) == 0:
        raise ValueError("there is no example to measure on: pass at least one")
    norms: list[Tensor] = []
    total = torch.zeros(hooked.n_layers, hooked.d_model, dtype=torch.float64)
    for indices in iter_batches(data, batch_size, progress=progress, description="selectivity"):
        base, steered = example_batches(hooked, [data[i] for i in indices])
        deltas = surface_residuals(hooked, steered, surface) - surface_residuals(
            hooked, base, surface
        )
        norms.append(deltas.norm(dim=-1).double().cpu())
        total += deltas.double().sum(dim=1).cpu()
    lengths = torch.cat(norms, dim=1)
    p10, p50, p90 = torch.quantile(lengths, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), 1)
    share = total.square().sum(-1) / lengths.shape[1] / lengths.square().sum(1).clamp_min(1e-30)
    return Selectivity(*(tuple(x.tolist()) for x in (p10, p50, p90, share)))
