r"""Principal directions, uncentred: the axes along which rows have most of their energy.

With rows $y_i$, those are the eigenvectors of $\sum_i y_i y_i^\top$, which are the right singular vectors of
the matrix of the rows; an eigenvalue is the energy $\sum_i (y_i \cdot v)^2$ along its vector. Nothing is
centred: centring would take out the mean, which is a direction like any other and often the largest.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import sum_device

_MOST_STEPS: Final = 200
"""Of the Lanczos method, before all eigenvectors are computed instead."""


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
    """The first principal direction of the rows, pointing where more of their energy lies.

    By the Lanczos method, for which some tens of products with `y` are usually enough; `y^T y` and all of its
    eigenvectors take far longer.

    Args:
        y: The rows, float32 or float64, on any device.

    Returns:
        A unit direction; of equally large energies any one. Same rows, same direction.
    """
    direction = _leading_eigenvector(y)
    if direction is None:
        direction = principal_directions(y.T @ y, 1)[1][0]
    projection = y @ direction
    forwards = projection.clamp_min(0).square().sum()
    return direction if forwards >= projection.clamp_max(0).square().sum() else -direction


def _leading_eigenvector(y: Float[Tensor, "token output"]) -> Float[Tensor, " output"] | None:
    """Of `y^T y`, by Lanczos steps from a drawn vector, every new one made orthogonal to all before.

    Ends where the residual, `|y^T y v - value v|`, is below `eps^0.75` times the value, with the number
    type's `eps`: in float32 54 times its rounding, no more than sums over many tokens cost anyway (Golub &
    Van Loan, Matrix Computations, section 10.1).

    Returns:
        The vector; None if it takes too many steps.
    """
    # Squares of squares stay inside the number type's range.
    y = y / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)
    width = y.shape[1]
    # Drawn on the processor, so that every device begins alike.
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(width, generator=draw, dtype=torch.float64).to(y)
    basis = y.new_zeros(min(width, _MOST_STEPS) + 1, width)
    basis[0] = v / v.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    least = torch.finfo(y.dtype).eps ** 0.75
    for step in range(len(basis) - 1):
        v = y.T @ (y @ basis[step])
        diagonal.append(float(v @ basis[step]))
        # Twice is enough to keep them orthogonal (Parlett, The Symmetric Eigenvalue Problem, section 6.9).
        for _ in range(2):
            v = v - basis[: step + 1].T @ (basis[: step + 1] @ v)
        beside.append(float(v.norm()))
        # Looking at the small matrix costs as much as some steps.
        last = beside[-1] <= least * max(diagonal)
        if last or step % 8 == 7 or step == len(basis) - 2:
            small = torch.tensor(diagonal, dtype=torch.float64).diag()
            off = torch.tensor(beside[:-1], dtype=torch.float64)
            values, vectors = torch.linalg.eigh(small + off.diag(1) + off.diag(-1))
            if last or beside[-1] * abs(float(vectors[-1, -1])) <= least * float(values[-1]):
                found = vectors[:, -1].to(y) @ basis[: step + 1]
                return found / found.norm()
        basis[step + 1] = v / beside[-1]
    return None
