"""Colour bounds that a few outliers cannot wash out.

Residual norms at the first token of a text (the attention sink) are often twenty times those of
any other token, and a prompt moves the first few tokens of a response far more than the rest. A scale
from 0 to the maximum would then paint every other token white.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

QUANTILE = 0.95
"""The quantile of the non-zero magnitudes that becomes the bound when there is an outlier."""
OUTLIER_RATIO = 3.0
"""How many times that quantile the largest magnitude must be for it to count as an outlier."""
MEDIAN_RATIO = 5.0
"""Or how many times the median: the median token then has at least a fifth of the full colour, unless
more than one token in twenty lies that far out."""


@dataclass(frozen=True)
class Bounds:
    """Where the colours are full; zero is always white.

    Attributes:
        low: The value drawn in the full negative colour, 0 where nothing is negative.
        high: The value drawn in the full positive colour.
    """

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"bounds=({self.low}, {self.high}): both must be finite numbers")
        if not self.low <= 0 <= self.high:
            raise ValueError(
                f"bounds=({self.low}, {self.high}) must contain 0, which is drawn white; "
                f"pass ({min(self.low, 0)}, {max(self.high, 0)})"
            )

    def n_clipped(self, values: Float[Tensor, "..."]) -> int:
        """How many values lie outside, and so share the full colour with the bound."""
        slack = 1e-6 * max(self.high, -self.low)
        return int(((values > self.high + slack) | (values < self.low - slack)).sum())


def check_finite(values: Float[Tensor, "..."], what: str) -> None:
    """Refuse infinite values; NaN is allowed and means that there is no value here.

    Raises:
        ValueError: If a value is infinite.
    """
    n_infinite = int(torch.isinf(values).sum())
    if n_infinite:
        raise ValueError(
            f"{what} has {n_infinite} infinite values, which have no colour; "
            "replace them with a number, or with NaN to leave the token uncoloured"
        )


def all_equal(values: Float[Tensor, "..."]) -> bool:
    """Whether there are several values (NaN ignored), all the same."""
    present = values[~torch.isnan(values)]
    return len(present) > 1 and bool((present == present[0]).all())


def robust_bounds(values: Float[Tensor, "..."], signed: bool | None = None) -> Bounds:
    """Bounds that follow the bulk of the values, or the maximum if it is no outlier.

    With `m` the sorted non-zero magnitudes, `q = m[floor(0.95 (n - 1))]` and `h = m[floor(0.5 (n - 1))]`,
    the bound is `max m` if `max m <= 3 q` and `max m <= 5 h`, else `q`. Zeros are left out because a
    ReLU gives many of them: the few tokens that it does push must keep their differences. From three
    values on, the lower order statistic (no interpolation) keeps a single outlier out of `q`; of two
    values it is the smaller.

    If all values are the same, the bound is twice their magnitude, for a middling colour: next to
    other pictures, a full one would suggest that every token is moved far.

    Args:
        values: Numbers of any shape; NaN are ignored.
        signed: Symmetric bounds `(-b, b)` if True, `(0, b)` if False; by default whether any
            value is negative.

    Returns:
        The bounds; `(0, 0)` where every value is zero or missing.

    Raises:
        ValueError: If a value is infinite.
    """
    check_finite(values, "values")
    present = values[~torch.isnan(values)].double().flatten()
    if signed is None:
        signed = bool((present < 0).any())
    magnitudes = present.abs()
    magnitudes = magnitudes[magnitudes > 0].sort().values
    if len(magnitudes) == 0:
        return Bounds(0.0, 0.0)
    bulk, middle = (
        float(magnitudes[math.floor(at * (len(magnitudes) - 1))]) for at in (QUANTILE, 0.5)
    )
    largest = float(magnitudes[-1])
    bound = largest if largest <= min(OUTLIER_RATIO * bulk, MEDIAN_RATIO * middle) else bulk
    if all_equal(values):
        bound = 2 * largest
    return Bounds(-bound if signed else 0.0, bound)


def resolve_bounds(
    values: Float[Tensor, "..."],
    bounds: tuple[float | int, float | int] | Literal["robust"],
    signed: bool | None = None,
) -> Bounds:
    """The user's bounds, or robust ones.

    Raises:
        ValueError: If `bounds` does not contain 0, or `values` has infinite entries.
    """
    if isinstance(bounds, str):
        return robust_bounds(values, signed)
    check_finite(values, "values")
    if bounds[0] == bounds[1]:
        raise ValueError(f"bounds={bounds} is empty; pass (low, high) with low < high")
    return Bounds(float(bounds[0]), float(bounds[1]))
