r"""One layer's PSR heads as a regression: pure functions of tensors.

Given residual streams `x` and what is missing at each token, `y`, minimise

$\sum_t \lVert y_t - s_t \sum_k \mathrm{ReLU}(w_k \cdot x_t + b_k)\, z_k \rVert^2$, with $s_t$ the
strength of the token's example, 1 as a rule.

For given coefficients `c = s ReLU(x w + b)` the best directions are a linear regression,
$z = (c^T c)^{-1} c^T y$, so they are eliminated (variable projection; Golub & Pereyra 1973) and
only `w, b` are searched, with L-BFGS on standardised inputs. The start is closed-form: the first
principal direction of `y`, uncentred, and the ridge regression of the projection on it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_POWER_ITERATIONS = 100
_LINE_SEARCH = "strong_wolfe"
_SMALL = 0.05
"""Share of the energy left below which it is no longer found as a difference: that costs digits."""


@dataclass(frozen=True)
class Heads:
    """Fitted heads of one layer.

    Attributes:
        w: Probe weights.
        b: Probe biases.
        z: Directions.
        train_loss: Share of the energy of `y` that is left on the training tokens.
        dev_loss: The same on the dev tokens; None without them.
        steps: Optimiser steps taken.
    """

    w: Float[Tensor, "head d_model"]
    b: Float[Tensor, " head"]
    z: Float[Tensor, "head d_model"]
    train_loss: float
    dev_loss: float | None
    steps: int


def leading_direction(gram: Float[Tensor, "d_model d_model"]) -> Float[Tensor, " d_model"]:
    """Unit eigenvector of the largest eigenvalue, by power iteration."""
    # A start that is not orthogonal to the answer, and the same in every run.
    direction = gram.sum(dim=0) + gram.diagonal()
    for _ in range(_POWER_ITERATIONS):
        direction = gram @ (direction / direction.norm().clamp_min(1e-30))
    return direction / direction.norm().clamp_min(1e-30)


def principal_direction(y: Float[Tensor, "token d_model"]) -> Float[Tensor, " d_model"]:
    """First right singular vector of `y`, uncentred, pointing where more of the energy lies.

    Uncentred, because centring would take out the mean, which is what is looked for.
    """
    direction = leading_direction(y.T @ y)
    projection = y @ direction
    forwards = projection.clamp_min(0).square().sum()
    return direction if forwards >= projection.clamp_max(0).square().sum() else -direction


def ridge(
    x: Float[Tensor, "token d_model"], targets: Float[Tensor, " token"], penalty: float
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, ""]]:
    """Weights and bias that minimise `mean (x w + b - targets)^2 + penalty |w|^2`."""
    x_mean, t_mean = x.mean(dim=0), targets.mean()
    centred = x - x_mean
    gram = centred.T @ centred / len(x)
    gram.diagonal().add_(max(penalty, 1e-6))
    w = torch.linalg.solve(gram, centred.T @ (targets - t_mean) / len(x))
    return w, t_mean - w @ x_mean


def best_directions(
    c: Float[Tensor, "token head"], y: Float[Tensor, "token d_model"]
) -> Float[Tensor, "head d_model"]:
    """`(c^T c)^{-1} c^T y`: the least-squares directions for given coefficients."""
    return _solve(c.T @ c, c.T @ y)


def _solve(
    gram: Float[Tensor, "head head"], moment: Float[Tensor, "head d_model"]
) -> Float[Tensor, "head d_model"]:
    """`gram^{-1} moment`; heads that never fire, or always together, leave it solvable."""
    ridge = 1e-6 * gram.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(gram + ridge * torch.eye(len(gram)).to(gram), moment)


def fit_heads(
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token d_model"],
    *,
    n_heads: int = 1,
    strength: Float[Tensor, " token"] | None = None,
    dev: tuple[Tensor, Tensor, Tensor | None] | None = None,
    penalty: float = 1e-3,
    max_steps: int = 200,
    patience: int = 4,
) -> Heads:
    """Fit the heads of one layer.

    Args:
        x: Residual streams on the surface.
        y: What is missing there.
        n_heads: Heads per layer.
        strength: A factor on every token's coefficients; 1 if not given.
        dev: `x`, `y` and `strength` of dev tokens: they decide when to stop.
        penalty: Weight of `|w|^2` on standardised inputs, relative to the energy of `y`.
        max_steps: L-BFGS iterations at most.
        patience: Rounds of ten iterations without a better dev loss before it stops.

    Raises:
        ValueError: If there is no token or no head.
    """
    if n_heads < 1 or len(x) == 0:
        raise ValueError(f"n_heads={n_heads} and {len(x)} tokens: both must be at least 1")
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-6)
    inputs = (x - mean) / scale
    energy = y.square().sum()
    if energy == 0:
        zeros = torch.zeros(n_heads, x.shape[1]).to(x)
        return Heads(zeros, zeros[:, 0], zeros, 0.0, None if dev is None else 0.0, 0)
    factor = torch.ones(len(x), 1).to(x) if strength is None else strength.unsqueeze(-1).to(x)
    w, b = _start(inputs, y, n_heads, penalty, factor)
    w, b = w.requires_grad_(), b.requires_grad_()
    dev_inputs = None if dev is None else (dev[0] - mean) / scale

    def coefficients() -> Tensor:
        return factor * torch.relu(inputs @ w.T + b)

    def loss() -> Tensor:
        c = coefficients()
        gram, moment = c.T @ c, c.T @ y
        z = _solve(gram, moment)
        if latest[0] < _SMALL:
            left = (y - c @ z).square().sum() / energy
        else:
            # |y - c z|^2 by its moments: no array of the size of `y` is made.
            left = 1 - (2 * (z * moment).sum() - (z * (gram @ z)).sum()) / energy
        return left + penalty * w.square().sum() / scale_of_start

    # Relative to the start, so that the penalty means the same at every layer.
    scale_of_start = float(w.detach().square().sum().clamp_min(1e-30))

    def losses() -> tuple[float, float | None]:
        c = coefficients()
        z = best_directions(c, y)
        train = float((y - c @ z).square().sum() / energy)
        if dev is None or dev_inputs is None:
            return train, None
        dev_c = torch.relu(dev_inputs @ w.T + b)
        missed = dev[1] - (dev_c if dev[2] is None else dev[2].unsqueeze(-1) * dev_c) @ z
        return train, float(missed.square().sum() / dev[1].square().sum().clamp_min(1e-30))

    with torch.no_grad():
        latest = losses()
        best, best_losses, best_steps = (w.clone(), b.clone()), latest, 0
    stale, steps = 0, 0
    optimiser = torch.optim.LBFGS([w, b], max_iter=10, history_size=20, line_search_fn=_LINE_SEARCH)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    while steps < max_steps and stale < patience:
        with torch.enable_grad():
            optimiser.step(closure)
        steps += 10
        with torch.no_grad():
            latest = losses()
            if _score(latest) < _score(best_losses) * (1 - 1e-4):
                best, best_losses, best_steps, stale = (w.clone(), b.clone()), latest, steps, 0
            else:
                stale += 1
    w_best, b_best = best
    z = best_directions(factor * torch.relu(inputs @ w_best.T + b_best), y)
    unscaled = w_best / scale
    return Heads(unscaled, b_best - unscaled @ mean, z, *best_losses, best_steps)


def _score(losses: tuple[float, float | None]) -> float:
    train, dev = losses
    score = train if dev is None else dev
    return score if score == score else float("inf")


def _start(
    inputs: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token d_model"],
    n_heads: int,
    penalty: float,
    factor: Float[Tensor, "token 1"],
) -> tuple[Float[Tensor, "head d_model"], Float[Tensor, " head"]]:
    """Heads one by one, each on what the earlier ones leave."""
    ws, bs, left = [], [], y
    for _ in range(n_heads):
        direction = principal_direction(left)
        # A token that is to be pushed the other way says with its projection reversed what the
        # head should read.
        w, b = ridge(inputs, (left @ direction) * factor.squeeze(-1).sign(), penalty)
        ws.append(w)
        bs.append(b)
        c = factor * torch.relu(inputs @ torch.stack(ws).T + torch.stack(bs))
        left = y - c @ best_directions(c, y)
    return torch.stack(ws), torch.stack(bs)
