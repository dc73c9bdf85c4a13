"""What a steered model does: responses, judged."""

from psr_lens.evaluation.behaviour import Behaviour, Judge, Score, measure_behaviour

__all__ = ["Behaviour", "Judge", "Score", "measure_behaviour"]
