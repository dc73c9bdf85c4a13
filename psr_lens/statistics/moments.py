"""Running moments of rows that come in batches and are not kept."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import exactly, sum_device


@final
class RunningMoments:
    """First and second moments of rows `x`, layer by layer, not centred, in float64.

    Holds `layers * (width + 1)` numbers, and `layers * width^2` more with `second`, however many
    rows come. They are on the rows' device, or on the CPU if that has no float64.

    Args:
        n_layers: Number of layers.
        width: Length of a row.
        device: The rows' device.
        second: Whether to keep second moments.
    """

    def __init__(self, n_layers: int, width: int, device: torch.device, *, second: bool = False):
        zeros = torch.zeros(n_layers, width, dtype=torch.float64, device=sum_device(device))
        self.count = 0
        """Rows per layer so far."""
        self.total: Float[Tensor, "layer width"] = zeros
        """Sum of `x`."""
        self.energy: Float[Tensor, " layer"] = zeros.sum(dim=1)
        """Sum of `|x|^2`."""
        self.products: Float[Tensor, "layer width width"] | None = None
        """Sum of `x x^T`; None if not asked for."""
        if second:
            self.products = zeros.unsqueeze(-1).repeat(1, 1, width)

    def add(self, rows: Float[Tensor, "layer row width"]) -> None:
        """Add rows, equally many per layer. Only one layer at a time is in float64."""
        for layer, own in enumerate(rows):
            exact = exactly(own)
            self.total[layer] += exact.sum(dim=0)
            self.energy[layer] += exact.square().sum()
            if self.products is not None:
                self.products[layer].addmm_(exact.mT, exact)
        self.count += rows.shape[1]

    @property
    def mean(self) -> Float[Tensor, "layer width"]:
        """Mean of `x`, on the CPU."""
        return self.total.cpu() / self.count

    def share_left(self, vectors: Float[Tensor, "layer width"]) -> list[float]:
        """The share of the energy left by one vector per layer: mean `|x - v|^2` over mean `|x|^2`."""
        energy = self.energy.cpu() / self.count
        # mean |x - v|^2 = mean |x|^2 - 2 v . mean x + |v|^2
        left = energy - (2 * vectors * self.mean - vectors.square()).sum(dim=1)
        return (left / energy.clamp_min(1e-30)).tolist()
