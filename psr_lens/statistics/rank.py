"""Rank correlation, where values that differ only by rounding are ties."""

import torch
from jaxtyping import Float
from torch import Tensor


def spearman(
    first: Float[Tensor, "row token"],
    second: Float[Tensor, "row token"],
    noise: Float[Tensor, "row token"],
) -> Float[Tensor, " row"]:
    """Spearman's rank correlation within each row, ties at their mean rank.

    Args:
        first: One side.
        second: The other.
        noise: Values that differ by no more than this are ties.

    Returns:
        From -1 to 1; NaN if a side is constant or there is only one token.
    """
    ranks = [average_ranks(side, noise) for side in (first, second)]
    centred = [own - own.mean(dim=1, keepdim=True) for own in ranks]
    return (centred[0] * centred[1]).sum(dim=1) / (centred[0].norm(dim=1) * centred[1].norm(dim=1))


def average_ranks(
    values: Float[Tensor, "row token"], noise: Float[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """Ranks from 1 within each row; values within `noise` share the mean of their ranks."""
    ordered = values.sort(dim=1).values.contiguous()
    below = torch.searchsorted(ordered, values - noise)
    up_to = torch.searchsorted(ordered, values + noise, right=True)
    return (below + up_to + 1).to(values.dtype) / 2
