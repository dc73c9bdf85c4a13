"""Ridge regression (Hoerl & Kennard 1970), from rows or from their moments."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_PENALTY = 1e-6
"""Least penalty of a regression on standardised inputs, so that it has a unique solution."""


def solve_ridge(
    gram: Float[Tensor, "*layer input input"],
    moment: Float[Tensor, "*layer input output"],
    penalty: float | Float[Tensor, "*layer"],
) -> Float[Tensor, "*layer input output"]:
    r"""$(G + \lambda I)^{-1} M$, in the moments' dtype; gradients flow.

    Args:
        gram: $G = X^\top X$, or the mean in place of the sum.
        moment: $M = X^\top Y$, likewise.
        penalty: $\lambda$, in the units of `gram`; one, or one for each layer.
    """
    weight = penalty.to(gram) if isinstance(penalty, Tensor) else gram.new_tensor(penalty)
    gram = gram + weight[..., None, None] * torch.eye(gram.shape[-1]).to(gram)
    # Half the work of LU, the fallback for what rounding has made indefinite.
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed.any()):
        return torch.linalg.solve(gram, moment)
    return torch.cholesky_solve(moment, factor)


def ridge(
    x: Float[Tensor, "token d_model"],
    targets: Float[Tensor, " token"],
    penalties: Sequence[float],
) -> list[tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]]:
    r"""Weights and bias that minimise $\mathrm{mean}\,(x w + b - t)^2 + \lambda |w|^2$, for each penalty.

    Args:
        x: Inputs, standardised.
        targets: $t$.
        penalties: Values of $\lambda$, taken to be at least `LEAST_PENALTY`; they share the moments of `x`.
    """
    x_mean, t_mean = x.mean(dim=0), targets.mean()
    centred = x - x_mean
    moment = centred.T @ (targets - t_mean).unsqueeze(-1) / len(x)
    gram = centred.T @ centred / len(x)
    weights = [solve_ridge(gram, moment, max(one, LEAST_PENALTY)).squeeze(-1) for one in penalties]
    return [(w, t_mean - w @ x_mean) for w in weights]


def standardisation(
    x: Float[Tensor, "token d_model"],
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Mean and standard deviation of every coordinate: `(x - mean) / scale` is standardised.

    A constant coordinate carries no information, and its rounding must not be blown up: where the standard
    deviation is not above a millionth of the largest, the scale is infinite.
    """
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    return mean, torch.where(scale > 1e-6 * scale.max().clamp_min(1e-30), scale, torch.inf)
