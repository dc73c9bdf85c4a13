"""Bootstrap intervals over examples: tokens of one response are not independent, examples are.

Every measure is a function of sums over examples, so a resample is a row of multiplicities, and all
resamples are one matrix product: nothing of the size resamples x examples x layers is ever made.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_LEVEL = (0.025, 0.975)


def resamples(
    n_examples: int, n_bootstrap: int, seed: int
) -> Float[Tensor, "n_bootstrap n_examples"]:
    """How often every example is drawn in each resample, float64; rows sum to `n_examples`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_examples, (n_bootstrap, n_examples), generator=generator)
    counts = torch.zeros(n_bootstrap, n_examples, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def bootstrap(
    statistic: Callable[..., Tensor],
    per_example: tuple[Float[Tensor, "example *shape"], ...],
    counts: Float[Tensor, "n_bootstrap n_examples"],
) -> Float[Tensor, "3 *result"]:
    """The estimate and its 95 % percentile interval.

    Args:
        statistic: From sums over examples `[..., *shape]`, one argument for every element of
            `per_example`, to the measure; it must work on leading batch dimensions.
        per_example: What is summed, per example, float64.
        counts: What `resamples` returned; without rows, or from one
            example, there is no interval and its ends are NaN.

    Returns:
        Estimate, lower and upper end, stacked; NaN where the measure is undefined.
    """
    value = statistic(*(own.sum(dim=0) for own in per_example))
    if len(counts) == 0 or len(per_example[0]) < 2:
        # No interval is not an interval of width 0, which would look like certainty.
        none = torch.full_like(value, float("nan"))
        return torch.stack([value, none, none])
    sums = [torch.tensordot(counts, own, dims=1) for own in per_example]
    # A resample may leave a measure undefined: no example in it where a rank correlation exists.
    ends = torch.nanquantile(statistic(*sums), torch.tensor(_LEVEL, dtype=value.dtype), dim=0)
    return torch.cat([value.unsqueeze(0), ends])
