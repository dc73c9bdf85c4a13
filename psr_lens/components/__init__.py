"""Which attention head or MLP brings the instruction in, at which token?"""

from psr_lens.components.component_report import Component, ComponentReport, ComponentTokens
from psr_lens.components.measure_components import measure_components

__all__ = ["Component", "ComponentReport", "ComponentTokens", "measure_components"]
