r"""Principal directions, uncentred: the axes along which rows have most of their energy.

With rows $y_i$, those are the eigenvectors of $\sum_i y_i y_i^\top$, which are the right singular vectors of
the matrix of the rows; an eigenvalue is the energy $\sum_i (y_i \cdot v)^2$ along its vector. Nothing is
centred: centring would take out the mean, which is a direction like any other and often the largest.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import sum_device


def principal_directions(
    products: Float[Tensor, "*layer d_model d_model"], count: int
) -> tuple[Float[Tensor, "*layer rank"], Float[Tensor, "*layer rank d_model"]]:
    """Energies and unit directions, the largest energy first, by `torch.linalg.eigh`.

    Args:
        products: Sums, or means, of `y y^T`; symmetric, float32 or float64.
        count: How many directions, at least 1; there are at most `d_model`.

    Returns:
        Energies, and directions as rows, with arbitrary signs; dtype and device as given.
    """
    # Not every accelerator has eigh.
    values, vectors = torch.linalg.eigh(products.to(sum_device(products.device)))
    # They come in ascending order.
    energies, directions = values[..., -count:].flip(-1), vectors[..., -count:].mT.flip(-2)
    return energies.clamp_min(0).to(products), directions.to(products)


def principal_direction(y: Float[Tensor, "token output"]) -> Float[Tensor, " output"]:
    """The first principal direction of the rows, pointing where more of their energy lies."""
    direction = principal_directions(y.T @ y, 1)[1][0]
    projection = y @ direction
    forwards = projection.clamp_min(0).square().sum()
    return direction if forwards >= projection.clamp_max(0).square().sum() else -direction
