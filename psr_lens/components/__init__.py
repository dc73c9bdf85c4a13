"""Which attention head or MLP brings the instruction in, at which token?"""

from psr_lens.components.measure import measure_components
from psr_lens.components.report import Component, ComponentReport, ComponentTokens

__all__ = ["Component", "ComponentReport", "ComponentTokens", "measure_components"]
