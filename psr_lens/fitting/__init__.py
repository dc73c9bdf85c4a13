"""From examples to a steering."""

from psr_lens.fitting.fit import FitReport, StageReport, fit
from psr_lens.fitting.heads import Heads, fit_heads

__all__ = ["FitReport", "Heads", "StageReport", "fit", "fit_heads"]
