"""What does a prompt do: one direction, the same strength everywhere, readable off the activation?"""

from psr_lens.assumptions.assumption_report import AssumptionReport, Measurement, Thresholds
from psr_lens.assumptions.measure_assumptions import measure_assumptions

__all__ = ["AssumptionReport", "Measurement", "Thresholds", "measure_assumptions"]
