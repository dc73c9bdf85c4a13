"""Statistics on plain numbers, shared by fits and reports: nothing here knows about models."""

from psr_lens.statistics.intervals import (
    LEAST_PROMPTS,
    Curve,
    Estimate,
    bootstrap,
    estimates,
    resamples,
    why_no_interval,
)
from psr_lens.statistics.moments import RunningMoments
from psr_lens.statistics.principal import principal_direction, principal_directions
from psr_lens.statistics.rank import spearman
from psr_lens.statistics.relu_probe import MOST_HEADS, Heads, fit_heads, fit_one_head
from psr_lens.statistics.ridge import ridge, solve_ridge, standardisation
from psr_lens.statistics.upper_bounds import (
    draws_needed,
    mean_bound,
    quantile_bound,
    share_bound,
)
from psr_lens.statistics.wide_heads import fit_wide_heads

__all__ = [
    "LEAST_PROMPTS",
    "MOST_HEADS",
    "Curve",
    "Estimate",
    "Heads",
    "RunningMoments",
    "bootstrap",
    "draws_needed",
    "estimates",
    "fit_heads",
    "fit_one_head",
    "fit_wide_heads",
    "mean_bound",
    "principal_direction",
    "principal_directions",
    "quantile_bound",
    "resamples",
    "ridge",
    "share_bound",
    "solve_ridge",
    "spearman",
    "standardisation",
    "why_no_interval",
]
