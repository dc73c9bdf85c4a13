"""Is the steering doing what the prompt does? Measures, intervals, reference lines."""

from psr_lens.faithfulness.curves import Difference, Run
from psr_lens.faithfulness.faithfulness_report import FaithfulnessReport
from psr_lens.faithfulness.measure_faithfulness import measure_faithfulness, name_steerings
from psr_lens.faithfulness.measures import MEASURES, Measure
from psr_lens.faithfulness.references import (
    NO_STEERING,
    ORACLE,
    PARAPHRASE,
    RANDOM_DIRECTION,
)

__all__ = [
    "MEASURES",
    "NO_STEERING",
    "ORACLE",
    "PARAPHRASE",
    "RANDOM_DIRECTION",
    "Difference",
    "FaithfulnessReport",
    "Measure",
    "Run",
    "measure_faithfulness",
    "name_steerings",
]
