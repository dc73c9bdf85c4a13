"""Is the steering doing what the prompt does? Measures, intervals, reference lines."""

from psr_lens.faithfulness.assumption_report import AssumptionReport, Thresholds
from psr_lens.faithfulness.assumptions import measure_assumptions
from psr_lens.faithfulness.component_report import (
    Component,
    ComponentReport,
    ComponentTokens,
    Estimate,
)
from psr_lens.faithfulness.components import measure_components
from psr_lens.faithfulness.curves import Curve, Difference, Run
from psr_lens.faithfulness.lens import logit_lens, read_delta, read_steering
from psr_lens.faithfulness.lens_reading import DirectionReading, LensReading, TokenLogit
from psr_lens.faithfulness.measure import measure_faithfulness, name_steerings
from psr_lens.faithfulness.measures import MEASURES, Measure
from psr_lens.faithfulness.references import (
    EQUIVALENT_PROMPT,
    NO_STEERING,
    ORACLE,
    RANDOM_DIRECTION,
)
from psr_lens.faithfulness.report import FaithfulnessReport

__all__ = [
    "EQUIVALENT_PROMPT",
    "MEASURES",
    "NO_STEERING",
    "ORACLE",
    "RANDOM_DIRECTION",
    "AssumptionReport",
    "Component",
    "ComponentReport",
    "ComponentTokens",
    "Curve",
    "Difference",
    "DirectionReading",
    "Estimate",
    "FaithfulnessReport",
    "LensReading",
    "Measure",
    "Run",
    "Thresholds",
    "TokenLogit",
    "logit_lens",
    "measure_assumptions",
    "measure_components",
    "measure_faithfulness",
    "name_steerings",
    "read_delta",
    "read_steering",
]
