r"""Probes: can the strength of the push be read off the activation?

A probe predicts a number $c$ per token from the residual stream $A$ there. Two are fitted on the same
tokens, with the penalty $\lambda$ that does best on tokens set aside:

- linear: $\hat c = w \cdot A + b$, ridge regression;
- ReLU: $\hat c = \mathrm{ReLU}(w \cdot A + b)\, z$, one head of a PSR whose direction is a number.

Both minimise $\mathrm{mean}\,(c - \hat c)^2 + \lambda |w|^2 z^2$ in standardised inputs ($z = 1$ for the
linear one).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens.statistics import fit_one_head, ridge, standardisation

PENALTIES: Final = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
"""The penalties that are tried."""
_WITHOUT_DEV: Final = 0.1
_STEPS: Final = 60


@dataclass(frozen=True)
class Probe:
    """A fitted probe, in the units of the residual stream.

    Attributes:
        w: Weights.
        b: Bias.
        z: What the ReLU is multiplied by; None for the linear probe, which has no ReLU.
        penalty: The penalty that was chosen.
    """

    w: Float[Tensor, " d_model"]
    b: Float[Tensor, ""]
    z: Float[Tensor, ""] | None
    penalty: float

    def __call__(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, " token"]:
        """The predicted strengths."""
        linear = x @ self.w + self.b
        return linear if self.z is None else linear.relu() * self.z


def fit_probes(
    x: Float[Tensor, "token d_model"],
    c: Float[Tensor, " token"],
    dev: Bool[Tensor, " token"],
) -> tuple[Probe, Probe]:
    """The ReLU probe and the linear probe.

    Args:
        x: Residual streams, float64.
        c: Strengths to predict, float64.
        dev: Marks the tokens that choose the penalty; both probes are then refitted on all tokens. If
            it marks none or all of them, the penalty is 0.1.
    """
    undecided = bool(dev.all()) or not bool(dev.any())
    (x_train, x_dev), (c_train, c_dev) = ((own[~dev], own[dev]) for own in (x, c))

    def dev_loss(probe: Probe) -> float:
        return float((c_dev - probe(x_dev)).square().mean())

    def tuned(fit: Callable[[Tensor, Tensor, Sequence[float]], list[Probe]]) -> Probe:
        penalty = _WITHOUT_DEV
        if not undecided:
            penalty = min(fit(x_train, c_train, PENALTIES), key=dev_loss).penalty
        return fit(x, c, [penalty])[0]

    return tuned(_rectified), tuned(_linear)


def _linear(x: Tensor, c: Tensor, penalties: Sequence[float]) -> list[Probe]:
    mean, scale = standardisation(x)
    found = ridge((x - mean) / scale, c, penalties)
    return [
        Probe(w / scale, b - (w / scale) @ mean, None, penalty)
        for (w, b), penalty in zip(found, penalties, strict=True)
    ]


def _rectified(x: Tensor, c: Tensor, penalties: Sequence[float]) -> list[Probe]:
    found = fit_one_head(x, c.unsqueeze(-1), penalties, max_steps=_STEPS)
    return [
        Probe(heads.w[0], heads.b[0], heads.z[0, 0], penalty)
        for heads, penalty in zip(found, penalties, strict=True)
    ]
