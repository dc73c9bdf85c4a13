"""Is the steering doing what the prompt does? Measures, intervals, reference lines."""

from psr_lens.faithfulness.component_report import (
    Component,
    ComponentReport,
    ComponentTokens,
    Estimate,
)
from psr_lens.faithfulness.components import measure_components
from psr_lens.faithfulness.lens import logit_lens, read_delta, read_steering
from psr_lens.faithfulness.lens_reading import DirectionReading, LensReading, TokenLogit
from psr_lens.faithfulness.measure import measure_faithfulness, name_steerings
from psr_lens.faithfulness.report import (
    EQUIVALENT_PROMPT,
    NO_STEERING,
    ORACLE,
    Curve,
    FaithfulnessReport,
)
from psr_lens.faithfulness.selectivity import Selectivity, measure_selectivity

__all__ = [
    "EQUIVALENT_PROMPT",
    "NO_STEERING",
    "ORACLE",
    "Component",
    "ComponentReport",
    "ComponentTokens",
    "Curve",
    "DirectionReading",
    "Estimate",
    "FaithfulnessReport",
    "LensReading",
    "Selectivity",
    "TokenLogit",
    "logit_lens",
    "measure_components",
    "measure_faithfulness",
    "measure_selectivity",
    "name_steerings",
    "read_delta",
    "read_steering",
]
