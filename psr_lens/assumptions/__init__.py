"""What does a prompt do: one direction, the same strength everywhere, readable off the activation?"""

from psr_lens.assumptions.measure import measure_assumptions
from psr_lens.assumptions.report import AssumptionReport, Measurement, Thresholds

__all__ = ["AssumptionReport", "Measurement", "Thresholds", "measure_assumptions"]
