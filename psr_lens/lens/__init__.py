"""Directions and deltas in words: the tokens that they promote and demote."""

from psr_lens.lens.read import logit_lens, read_delta, read_steering
from psr_lens.lens.reading import DirectionReading, LensReading, TokenLogit

__all__ = [
    "DirectionReading",
    "LensReading",
    "TokenLogit",
    "logit_lens",
    "read_delta",
    "read_steering",
]
