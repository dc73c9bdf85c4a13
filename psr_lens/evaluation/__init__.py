"""Measures of behaviour."""

from psr_lens.evaluation.behaviour import Behaviour, Judge, Score, measure_behaviour
from psr_lens.evaluation.strength import ALPHAS, COHERENT, best_strength, measure_strengths

__all__ = [
    "ALPHAS",
    "COHERENT",
    "Behaviour",
    "Judge",
    "Score",
    "best_strength",
    "measure_behaviour",
    "measure_strengths",
]
