r"""The ReLU probe: heads `ReLU(w . x + b) z`, as a PSR has them at a layer, fitted by regression.

Given residual streams `x` and what is missing at each token, `y`, minimise

$\frac1N \sum_t \lVert y_t - s_t \sum_k \mathrm{ReLU}(w_k \cdot x_t + b_k)\, z_k \rVert^2
+ \lambda \sum_k \lVert w_k \rVert^2 \lVert z_k \rVert^2$, with $s_t$ the strength of the token's example,
usually 1, and `x` standardised.

The penalty is ours: like what the head adds, it does not change when `w, b` grow and `z` shrinks by the
same factor, and for one head that is always on it is that of ridge regression. For given coefficients
`c = s ReLU(x w + b)` the best directions are a linear regression,
$z = (c^T c + N \lambda\, \mathrm{diag} \lVert w_k \rVert^2)^{-1} c^T y$, so they are eliminated
(variable projection; Golub & Pereyra 1973) and only `w, b` are searched, with L-BFGS. Each head starts
from a closed form: the first uncentred principal direction of what the earlier heads leave, and the
ridge regression, with the same penalty, of the projection onto it.

Dev tokens, if given, choose the penalty and the number of heads. One chain of fits, the same whatever
number of heads is requested, goes through 1, 2, 3, ... heads: at 1, 2, 4, 8, ... all heads are fitted
together from their starts, and the penalty moves by factors of ten as long as the dev loss improves; in
between, one head is added to the best fit so far. The best fit along the way is kept, so more heads are
never worse on the dev tokens than fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.statistics.principal import principal_direction
from psr_lens.statistics.ridge import LEAST_PENALTY, solve_ridge, standardisation

MOST_HEADS = 16
"""The most heads that `n_heads="auto"` tries; more are for `fit_wide_heads`."""
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""The penalties that dev tokens choose from."""
_PENALTY = 1e-3
_GAIN = 1e-3
"""Share by which the dev loss must fall for more heads or another penalty: less is noise."""
_LINE_SEARCH = "strong_wolfe"
_ROUND = 10
_SMALL = 0.05
"""Share of the energy left below which it is no longer computed as a difference, which costs digits."""


@dataclass(frozen=True)
class Heads:
    """Fitted heads of one layer.

    Attributes:
        w: Probe weights.
        b: Probe biases.
        z: Directions.
        train_loss: Share of the energy of `y` that is left on the training tokens.
        dev_loss: The same on the dev tokens; None without them.
        steps: Optimiser steps taken to reach these heads.
        used: Heads that add something; the others, after them, are zero.
        penalty: The penalty that they were fitted with; None if noise took its place (`fit_wide_heads`).
    """

    w: Float[Tensor, "head d_model"]
    b: Float[Tensor, " head"]
    z: Float[Tensor, "head output"]
    train_loss: float
    dev_loss: float | None
    steps: int
    used: int
    penalty: float | None


def _solve(
    gram: Float[Tensor, "head head"], moment: Float[Tensor, "head output"]
) -> Float[Tensor, "head output"]:
    """`gram^{-1} moment`, solvable even if heads never fire or always fire together."""
    return solve_ridge(gram, moment, 1e-6 * gram.diagonal().mean().clamp_min(1e-12))


def fit_heads(
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token output"],
    *,
    n_heads: int | Literal["auto"] = 1,
    strength: Float[Tensor, " token"] | None = None,
    dev: tuple[Tensor, Tensor, Tensor | None] | None = None,
    penalty: float | None = None,
    max_steps: int = 200,
    patience: int = 2,
) -> Heads:
    """Fit the heads of one layer.

    Args:
        x: Residual streams on the aligned tokens.
        y: What is missing there: vectors of the residual stream, or of any other length.
        n_heads: Heads per layer. With dev tokens, only as many are used as improve the dev loss, and the
            others are zero; `"auto"`: up to 16, returning only those used.
        strength: A factor on every token's coefficients; 1 if not given.
        dev: `x`, `y` and `strength` of dev tokens: they decide when to stop, how many heads are used
            and, unless it is given, the penalty.
        penalty: Lambda of the module's formula; 1e-3 if neither it nor dev tokens are given.
        max_steps: Most L-BFGS iterations for each number of heads.
        patience: Rounds of ten iterations without a better dev loss before stopping.

    Returns:
        The heads. For the same arguments `dev_loss` never rises with `n_heads`, and never exceeds 1, the
        loss without heads.

    Raises:
        ValueError: If there is no token or no head, or `n_heads="auto"` has no dev tokens.
    """
    if n_heads == "auto" and dev is None:
        raise ValueError(
            "n_heads='auto' without dev tokens, which it needs to decide: pass dev, or a number"
        )
    most = MOST_HEADS if n_heads == "auto" else n_heads
    if most < 1 or len(x) == 0:
        raise ValueError(f"n_heads={n_heads} and {len(x)} tokens: both must be at least 1")
    problem = _Regression(x, y, strength, dev)
    if dev is None:
        penalty = _PENALTY if penalty is None else penalty
        found = problem.fit(most, penalty, max_steps, patience)
    elif problem.train.energy == 0:
        found = problem.nothing()
    else:
        grid = PENALTIES if penalty is None else (penalty,)
        found = _grow(problem, most, grid, max_steps, patience)
    return problem.heads(found, 1 if n_heads == "auto" else most)


def fit_one_head(
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token output"],
    penalties: Sequence[float],
    *,
    max_steps: int = 200,
) -> list[Heads]:
    """One head at each of several penalties, as `fit_heads` fits it without dev tokens.

    What does not depend on the penalty is computed once: standardised inputs and their second moments.
    """
    problem = _Regression(x, y, None, None)
    found = [problem.fit(1, penalty, max_steps, patience=2) for penalty in penalties]
    return [problem.heads(one, 1) for one in found]


def _grow(
    problem: "_Regression", most: int, grid: Sequence[float], max_steps: int, patience: int
) -> "_Found":
    """The best fit on the dev tokens along the chain of the module's docstring, up to `most` heads.

    Nothing but its end may depend on `most`: that is why more are never worse.
    """
    best = problem.nothing(grid[0])
    starts, grown_from, idle = best, None, 0
    for count in range(1, most + 1):
        # With the penalty chosen for fewer heads, or, for the first head, the best of all.
        choices = grid if count == 1 else (best.penalty,)
        starts = problem.with_one_more(starts, choices)
        if count & (count - 1) == 0:
            fresh = _climb(problem, starts, grid, max_steps, patience, up=count > 1)
        elif best is grown_from:
            # The same head on top of the same fit has just been refused.
            continue
        else:
            grown_from = best
            fresh = problem.descend(problem.with_one_more(best, (best.penalty,)), _ROUND, 1)
        if fresh.score < best.score * (1 - _GAIN):
            best, idle = fresh, 0
        elif count & (count - 1) == 0:
            idle += 1
        if idle == 2:
            break
    return best


def _climb(
    problem: "_Regression",
    start: "_Found",
    grid: Sequence[float],
    max_steps: int,
    patience: int,
    up: bool,
) -> "_Found":
    """Fit, then refit with the next higher penalty as long as that helps, or else the next lower.

    The first head's start was chosen among all penalties, and the best one for a start is, if anything, too
    high for the fit: without `up` only lower ones are tried.
    """
    best = problem.descend(start, max_steps, patience)
    for step in (1, -1) if up else (-1,):
        moved = False
        while 0 <= (at := grid.index(best.penalty) + step) < len(grid):
            other = problem.descend(problem.refit(best, grid[at]), max_steps, 1)
            if other.score >= best.score * (1 - _GAIN):
                break
            best, moved = other, True
        if moved:
            break
    return best


@dataclass(frozen=True)
class _Found:
    """Heads on standardised inputs, and the shares of the energy that they leave."""

    w: Tensor
    b: Tensor
    z: Tensor
    penalty: float
    train: float
    dev: float | None
    steps: int

    @property
    def score(self) -> float:
        """The dev loss, or the training loss without dev tokens; lower is better, NaN is worst."""
        score = self.train if self.dev is None else self.dev
        return score if score == score else float("inf")


@final
class _Tokens:
    """Standardised inputs and targets."""

    def __init__(self, inputs: Tensor, y: Tensor, strength: Tensor | None):
        self.inputs, self.y = inputs, y
        self.strength = None if strength is None else strength.unsqueeze(-1).to(inputs)
        self.energy = float(y.square().sum())

    def coefficients(self, w: Tensor, b: Tensor) -> Tensor:
        c = torch.relu(self.inputs @ w.T + b)
        return c if self.strength is None else self.strength * c

    def share_left(self, c: Tensor, z: Tensor) -> float:
        return float((self.y - c @ z).square().sum()) / max(self.energy, 1e-30)


@final
class _Regression:
    """The loss of the module's docstring on training tokens, and the loss reached on dev tokens."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        strength: Tensor | None,
        dev: tuple[Tensor, Tensor, Tensor | None] | None,
    ):
        mean, scale = self._mean, self._scale = standardisation(x)
        self.train = train = _Tokens((x - mean) / scale, y, strength)
        self.dev = None if dev is None else _Tokens((dev[0] - mean) / scale, dev[1], dev[2])
        self._gram = train.inputs.T @ train.inputs / len(train.inputs)

    def heads(self, found: _Found, least: int) -> Heads:
        """What was found in the units of `x`, and zeros after it if it is fewer heads than `least`."""
        used = len(found.b)
        w, b, z = (
            torch.cat([part, part.new_zeros(max(least - used, 0), *part.shape[1:])])
            for part in (
                found.w / self._scale,
                found.b - (found.w / self._scale) @ self._mean,
                found.z,
            )
        )
        return Heads(w, b, z, found.train, found.dev, found.steps, used, found.penalty)

    def nothing(self, penalty: float = 0.0) -> _Found:
        """No head."""
        w, z = self.train.inputs[:0], self.train.y[:0]
        left = float(self.train.energy != 0)
        return _Found(w, w.sum(dim=1), z, penalty, left, None if self.dev is None else left, 0)

    def fit(self, count: int, penalty: float, max_steps: int, patience: int) -> _Found:
        """That many heads at one penalty, without dev tokens; none if there is nothing to fit."""
        if self.train.energy == 0:
            return self.nothing()
        start = self.nothing(penalty)
        for _ in range(count):
            start = self.with_one_more(start, (penalty,))
        return self.descend(start, max_steps, patience)

    @torch.no_grad()
    def refit(self, found: _Found, penalty: float, steps: int = 0) -> _Found:
        """The best directions for the given `w, b`, and the losses."""
        c = self.train.coefficients(found.w, found.b)
        weight = len(c) * penalty * found.w.square().sum(dim=1)
        gram, moment = c.T @ c, c.T @ self.train.y
        z = _solve(gram + weight.diag(), moment)
        dev = None
        if self.dev is not None:
            dev = self.dev.share_left(self.dev.coefficients(found.w, found.b), z)
        energy = self.train.energy
        train = 1 + float((z * (gram @ z - 2 * moment)).sum()) / energy
        # Heads that nearly cancel cost digits, too.
        if train < _SMALL * (1 + float(gram.diagonal() @ z.square().sum(dim=1)) / energy):
            train = self.train.share_left(c, z)
        return _Found(found.w, found.b, z, penalty, train, dev, found.steps + steps)

    @torch.no_grad()
    def with_one_more(self, found: _Found, penalties: Sequence[float]) -> _Found:
        """One more head, from the closed form on what the given ones leave, at the best penalty."""
        train = self.train
        left = train.y - train.coefficients(found.w, found.b) @ found.z
        targets = left @ principal_direction(left)
        if train.strength is not None:
            # If a token is to be pushed the other way, the head should read its reversed projection.
            targets = targets * train.strength.squeeze(-1).sign()
        # As `ridge`, which would recompute the inputs' second moments for every head and penalty.
        b = targets.mean()
        moment = train.inputs.T @ (targets - b).unsqueeze(-1) / len(targets)
        tried = []
        for penalty in penalties:
            w = solve_ridge(self._gram, moment, max(penalty, LEAST_PENALTY))
            w = torch.cat([found.w, w.mT])
            tried.append(self.refit(replace(found, w=w, b=torch.cat([found.b, b[None]])), penalty))
        return min(tried, key=lambda one: one.score)

    @torch.no_grad()
    def slope(
        self, w: Tensor, b: Tensor, penalty: float, small: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at the best directions, as a share of the energy, and its gradient by `w` and by `b`.

        At the best directions the loss does not change with them in first order: but for what `_solve` adds
        to the diagonal, its gradient is that for fixed directions. Written out, since autograd takes longer.

        Args:
            w: Probe weights on standardised inputs.
            b: Probe biases.
            penalty: Lambda of the module's formula.
            small: Whether so little is left that it is not to be computed as a difference.
        """
        x, y, energy = self.train.inputs, self.train.y, self.train.energy
        fired = torch.addmm(b, x, w.T).relu_()
        c = fired if self.train.strength is None else self.train.strength * fired
        weight = len(c) * penalty * w.square().sum(dim=1)
        gram, moment = c.T @ c + weight.diag(), c.T @ y
        z = _solve(gram, moment)
        if small:
            missed = torch.addmm(y, c, z, beta=-1)
            value = missed.square().sum() + (weight * z.square().sum(dim=1)).sum()
            through = missed @ z.T
        else:
            # |y - c z|^2 and its gradient by c from moments, without an array of the size of `y`.
            value = energy - 2 * (z * moment).sum() + (z * (gram @ z)).sum()
            through = torch.addmm(y @ z.T, c, z @ z.T, beta=-1)
        if self.train.strength is not None:
            through *= self.train.strength
        through *= fired > 0
        by_w = torch.addmm(len(c) * penalty * z.square().sum(dim=1, keepdim=True) * w, through.T, x)
        return value / energy, by_w * (2 / energy), through.sum(dim=0) * (2 / energy)

    def descend(self, start: _Found, max_steps: int, patience: int) -> _Found:
        """The best fit on the way down from the start, by L-BFGS on all heads together."""
        w, b = start.w.clone(), start.b.clone()
        best = latest = start
        optimiser = torch.optim.LBFGS(
            [w, b], max_iter=_ROUND, history_size=20, line_search_fn=_LINE_SEARCH
        )

        def closure() -> Tensor:
            value, w.grad, b.grad = self.slope(w, b, start.penalty, latest.train < _SMALL)
            return value

        # Without dev tokens, run until it converges.
        gain = _GAIN if self.dev is not None else 1e-4
        steps = stale = 0
        while steps < max_steps and stale < patience:
            optimiser.step(closure)
            steps += _ROUND
            now = replace(start, w=w.detach().clone(), b=b.detach().clone())
            latest = self.refit(now, start.penalty, steps)
            if latest.score < best.score * (1 - gain):
                best, stale = latest, 0
            else:
                stale += 1
        return best
