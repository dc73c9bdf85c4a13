"""Bootstrap intervals over examples: tokens of one response are not independent, examples are.

Every measure is a function of sums over examples, so a resample is a row of multiplicities, and all
resamples are one matrix product: nothing of the size resamples x examples x layers is ever made.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

_LEVEL = (0.025, 0.975)

LEAST_EXAMPLES: Final = 5
"""From how many examples on there is an interval. From fewer, resamples repeat so few values that it is
too narrow to be called one: of log-normal examples (standard deviation of the logarithm 0.6) it holds
the truth in 69 of 100 cases with three of them and in 78 with five, not in 95 (86 with ten, 91 with
twenty)."""


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
        counts: What `resamples` returned; without rows, or from fewer than `LEAST_EXAMPLES`
            examples, there is no interval and its ends are NaN.

    Returns:
        Estimate, lower and upper end, stacked; NaN where the measure is undefined.
    """
    value = statistic(*(own.sum(dim=0) for own in per_example))
    if len(counts) == 0 or len(per_example[0]) < LEAST_EXAMPLES:
        # No interval is not an interval of width 0, which would look like certainty.
        none = torch.full_like(value, float("nan"))
        return torch.stack([value, none, none])
    sums = [torch.tensordot(counts, own, dims=1) for own in per_example]
    # A resample may leave a measure undefined: no example in it where a rank correlation exists.
    ends = torch.nanquantile(statistic(*sums), torch.tensor(_LEVEL, dtype=value.dtype), dim=0)
    return torch.cat([value.unsqueeze(0), ends])


def why_no_interval(n_examples: int) -> str:
    """A sentence on why nothing has an interval; empty where there are examples enough."""
    if n_examples >= LEAST_EXAMPLES:
        return ""
    count = "1 example is" if n_examples == 1 else f"{n_examples} examples are"
    return (
        f"{count} too few for intervals, which need {LEAST_EXAMPLES}: no difference is called clear. "
        "Of 50 pairs of prompts, 10 are left to measure on."
    )


def in_brackets(low: float, high: float, form: str = ".2f") -> str:
    """An interval behind its estimate, ` (0.10 to 0.30)`; nothing where there is none.

    >>> in_brackets(0.1, 0.3), in_brackets(float("nan"), float("nan"))
    (' (0.10 to 0.30)', '')
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f" ({low:{form}} to {high:{form}})"
