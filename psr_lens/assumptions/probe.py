r"""Probes: can the strength of the push be read off the activation?

A probe predicts a number $c$ per token from the residual stream $A$ there. Two are fitted on the same
tokens, with the penalty $\lambda$ that does best on tokens set aside:

- linear: $\hat c = w \cdot A + b$, ridge regression;
- ReLU: $\hat c = \mathrm{ReLU}(w \cdot A + b)$, as a PSR's coefficient, by L-BFGS from the linear one.

Both minimise $\mathrm{mean}\,(c - \hat c)^2 + \lambda |w|^2$ in standardised inputs and targets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens.fitting.heads import ridge

PENALTIES: Final = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
"""The penalties that are tried, on inputs and targets of unit variance."""
_WITHOUT_DEV: Final = 0.1
_STEPS: Final = 60


@dataclass(frozen=True)
class Probe:
    """A fitted probe, in the units of the residual stream.

    Attributes:
        w: Weights.
        b: Bias.
        rectified: Whether a ReLU follows.
        penalty: The penalty that was chosen.
    """

    w: Float[Tensor, " d_model"]
    b: Float[Tensor, ""]
    rectified: bool
    penalty: float

    def __call__(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, " token"]:
        """The predicted strengths."""
        linear = x @ self.w + self.b
        return linear.relu() if self.rectified else linear


def fit_probes(
    x: Float[Tensor, "token d_model"],
    c: Float[Tensor, " token"],
    dev: Bool[Tensor, " token"],
) -> tuple[Probe, Probe]:
    """The ReLU probe and the linear probe.

    Args:
        x: Residual streams, float64.
        c: Strengths to predict, float64.
        dev: The tokens that choose the penalty; both probes are then fitted again on all tokens. If
            it holds none of them, or all, the penalty is 0.1.
    """
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    # A coordinate that never moves says nothing, and must not be blown up by its rounding.
    scale = torch.where(scale > 1e-6 * scale.max().clamp_min(1e-30), scale, torch.inf)
    unit = c.std(correction=0).clamp_min(1e-30)
    inputs, targets = (x - mean) / scale, c / unit

    def fitted(solve: _Solver, rectified: bool) -> Probe:
        (w, b), penalty = _tuned(solve, inputs, targets, dev, rectified)
        w = w * unit / scale
        return Probe(w, b * unit - w @ mean, rectified, penalty)

    return fitted(_rectified, True), fitted(ridge, False)


_Line = tuple[Tensor, Tensor]
_Solver = Callable[[Tensor, Tensor, float], _Line]


def _tuned(
    solve: _Solver, inputs: Tensor, targets: Tensor, dev: Tensor, rectified: bool
) -> tuple[_Line, float]:
    """The best penalty by the dev tokens, and what it gives on all tokens."""

    def dev_loss(penalty: float) -> float:
        w, b = solve(inputs[~dev], targets[~dev], penalty)
        fitted = inputs[dev] @ w + b
        return float((targets[dev] - (fitted.relu() if rectified else fitted)).square().mean())

    undecided = bool(dev.all()) or not bool(dev.any())
    penalty = _WITHOUT_DEV if undecided else min(PENALTIES, key=dev_loss)
    return solve(inputs, targets, penalty), penalty


def _rectified(inputs: Tensor, targets: Tensor, penalty: float) -> _Line:
    """The ReLU probe on standardised tokens."""
    w, b = (own.clone().requires_grad_() for own in ridge(inputs, targets, penalty))
    optimiser = torch.optim.LBFGS(
        [w, b], max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        missed = targets - (inputs @ w + b).relu()
        loss = missed.square().mean() + penalty * w.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return w.detach(), b.detach()
