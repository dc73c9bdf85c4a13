"""Is the steering doing what the prompt does? Measures, intervals, reference lines."""

from psr_lens.faithfulness.assumption_report import AssumptionReport, Measure, Thresholds
from psr_lens.faithfulness.assumptions import measure_assumptions
from psr_lens.faithfulness.measure import measure_faithfulness, name_steerings
from psr_lens.faithfulness.report import (
    EQUIVALENT_PROMPT,
    NO_STEERING,
    ORACLE,
    Curve,
    FaithfulnessReport,
)

__all__ = [
    "EQUIVALENT_PROMPT",
    "NO_STEERING",
    "ORACLE",
    "AssumptionReport",
    "Curve",
    "FaithfulnessReport",
    "Measure",
    "Thresholds",
    "measure_assumptions",
    "measure_faithfulness",
    "name_steerings",
]
