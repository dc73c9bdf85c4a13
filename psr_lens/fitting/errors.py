"""How far fitted steerings stay from the prompt, on one set of examples."""

from collections.abc import Sequence

import torch

from psr_lens._types import Surface
from psr_lens.deltas import example_batches, iter_batches, surface_residuals
from psr_lens.examples import Example
from psr_lens.models import HookedModel
from psr_lens.models.shared import SharedPrefixes
from psr_lens.steering import Steering


@torch.no_grad()
def relative_rmse(
    model: HookedModel,
    candidates: Sequence[Steering],
    data: Sequence[Example],
    surface: Surface,
    batch_size: int,
) -> list[tuple[float, ...]]:
    """Relative RMSE of every candidate at every layer; the prompt's runs are shared."""
    missed = torch.zeros(len(candidates), model.n_layers, dtype=torch.float64)
    energy = torch.zeros(model.n_layers, dtype=torch.float64)

    def squares(difference: torch.Tensor) -> torch.Tensor:
        return difference.square().sum(dim=(1, 2)).cpu().double()

    plain, prompt = SharedPrefixes(model), SharedPrefixes(model)
    for indices in iter_batches(data, batch_size, progress=False, description=""):
        examples = [data[i] for i in indices]
        base, steered = example_batches(model, examples)
        target = surface_residuals(model, steered, surface, shared=prompt)
        energy += squares(surface_residuals(model, base, surface, shared=plain) - target)
        for i, candidate in enumerate(candidates):
            edits = candidate.edits(model, 1.0, examples)
            missed[i] += squares(surface_residuals(model, base, surface, edits) - target)
    return [tuple(own.tolist()) for own in (missed / energy.clamp_min(1e-30)).sqrt()]
