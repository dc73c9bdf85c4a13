"""Interventions that stand in for a prompt, and how to load them."""

from psr_lens.steering.base import Coefficients, PushSteering, Steering
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.loading import load_steering
from psr_lens.steering.oracle import OracleSteering
from psr_lens.steering.psr import PSR

__all__ = [
    "PSR",
    "Coefficients",
    "ConstantSteering",
    "OracleSteering",
    "PushSteering",
    "Steering",
    "load_steering",
]
