"""Interventions that stand in for a prompt, and how to load them."""

from psr_lens.steering.ablation import DirectionalAblation
from psr_lens.steering.actadd import ActAdd
from psr_lens.steering.base import Steering
from psr_lens.steering.coefficients import Coefficients
from psr_lens.steering.constant import ConstantSteering
from psr_lens.steering.dim import DifferenceInMeans
from psr_lens.steering.loading import load_steering
from psr_lens.steering.loreft import LoReFT
from psr_lens.steering.oracle import OracleSteering
from psr_lens.steering.pca import PrincipalDirection
from psr_lens.steering.projection import ProjectionMatch
from psr_lens.steering.psr import PSR
from psr_lens.steering.reft_r1 import ReFTr1
from psr_lens.steering.registry import register
from psr_lens.steering.sums import SumSteering

__all__ = [
    "PSR",
    "ActAdd",
    "Coefficients",
    "ConstantSteering",
    "DifferenceInMeans",
    "DirectionalAblation",
    "LoReFT",
    "OracleSteering",
    "PrincipalDirection",
    "ProjectionMatch",
    "ReFTr1",
    "Steering",
    "SumSteering",
    "load_steering",
    "register",
]
