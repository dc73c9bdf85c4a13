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
from psr_lens.statistics.relu_probe import MOST_HEADS, Heads, fit_heads
from psr_lens.statistics.ridge import ridge, solve_ridge, standardisation
from psr_lens.statistics.wide_heads import fit_wide_heads

__all__ = [
    "LEAST_PROMPTS",
    "MOST_HEADS",
    "Curve",
    "Estimate",
    "Heads",
    "RunningMoments",
    "bootstrap",
    "estimates",
    "fit_heads",
    "fit_wide_heads",
    "principal_direction",
    "principal_directions",
    "resamples",
    "ridge",
    "solve_ridge",
    "spearman",
    "standardisation",
    "why_no_interval",
]
