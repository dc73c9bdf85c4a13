"""The rows of an `AssumptionReport` as they come in."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from psr_lens.assumptions.assumption_report import ALL_TOKENS, Measurement
from psr_lens.deltas import Kind
from psr_lens.statistics import estimates


@final
class MeasureTable:
    """The rows of the report as they come in."""

    def __init__(self, layers: tuple[int, ...]):
        self.layers = layers
        self.rows: list[Measurement] = []

    def add(
        self,
        name: str,
        kind: Kind,
        values: Float[Tensor, "ends layer"],
        token_class: str = ALL_TOKENS,
        at: int = 0,
    ) -> None:
        """One number per layer, with its interval or, in a single row, without one."""
        for layer, own in zip(self.layers, estimates(values), strict=True):
            self.rows.append(Measurement(name, kind, layer, token_class, at, own))
