r"""Dozens of ReLU heads at once, which do not learn the training tokens by heart.

The heads are those of `relu_probe`, and so is what they are to add. `fit_heads` searches exactly, which
with many heads fits the noise of a few thousand tokens; these are trained by AdamW on standardised inputs
with normal noise, which falls on other tokens in every step:

$\min \; \mathbb{E}_\epsilon \frac1N \sum_t \lVert y_t - s_t \sum_k
\mathrm{ReLU}(w_k \cdot (x_t + \sigma \epsilon) + b_k)\, z_k \rVert^2$

Noise on the inputs keeps what is added from changing steeply between one token and its neighbours (Bishop,
"Training with Noise is Equivalent to Tikhonov Regularization", 1995). How much is right depends on the
data: `sigma` falls from 1 to 0.1 during the training, the weights are averaged over the last steps
(Polyak & Juditsky, 1992), and the average that is best on the dev tokens is kept. The last head is a
constant.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.statistics.relu_probe import Heads
from psr_lens.statistics.ridge import standardisation

_NOISE: Final = (1.0, 0.1)
"""In standard deviations of an input, in the first and the last round."""
_NOISES: Final = 4096
"""Draws of it, of which every step takes some: drawing costs more than the rest of a step."""
_ROUNDS: Final = 60
_STEPS: Final = 40
"""In a round, after which the dev tokens are asked."""
_BATCH: Final = 256
_LR: Final = 3e-3
_DECAY: Final = 3.0
_AVERAGED: Final = 80
"""Steps that the average reaches back."""
_PATIENCE: Final = 15


@torch.no_grad()
def fit_wide_heads(
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token output"],
    *,
    n_heads: int,
    dev: tuple[Tensor, Tensor, Tensor | None],
    strength: Float[Tensor, " token"] | None = None,
    seed: int = 0,
) -> Heads:
    """Fit the heads of one layer by stochastic gradient on noisy inputs.

    Args:
        x: Residual streams on the aligned tokens.
        y: What is missing there.
        n_heads: Heads, the constant among them: at least two.
        dev: `x`, `y` and `strength` of dev tokens, which decide when to stop and with it the noise.
        strength: A factor on every token's coefficients; 1 if not given.
        seed: Decides the start, the order of the tokens and the noise.

    Returns:
        The heads, in the units of `x` and `y`; zeros if none are better on the dev tokens. Same arguments,
        same heads.

    Raises:
        ValueError: If there is no token, or fewer than two heads.
    """
    if n_heads < 2 or len(x) == 0:
        raise ValueError(f"n_heads={n_heads} and {len(x)} tokens: at least 2 and 1 are needed")
    mean, scale = standardisation(x)
    inputs, dev_inputs = ((own - mean) / scale for own in (x, dev[0]))
    size = y.square().sum(dim=-1).mean().sqrt()
    nothing = Heads(
        w=x.new_zeros(n_heads, x.shape[1]),
        b=x.new_zeros(n_heads),
        z=y.new_zeros(n_heads, y.shape[1]),
        train_loss=1.0 if size else 0.0,
        dev_loss=1.0 if dev[1].any() else 0.0,
        steps=0,
        used=0,
        penalty=None,
    )
    if not size:
        return nothing

    # Drawn on the processor, so that every device starts alike and sees the same order and noise.
    draw, noise = (torch.Generator().manual_seed(seed) for _ in range(2))
    w, z = (
        (torch.randn(n_heads - 1, own.shape[1], generator=draw) / own.shape[1] ** 0.5).to(own)
        for own in (x, y)
    )
    weights = [w, 0.4 * z / n_heads**0.5, x.new_zeros(n_heads - 1), (y / size).mean(dim=0)]
    averages = [own.clone() for own in weights]
    optimiser = torch.optim.AdamW(
        [
            {"params": weights[:2], "weight_decay": _DECAY},
            {"params": weights[2:], "weight_decay": 0.0},
        ],
        lr=_LR,
        fused=True,
    )
    wanted = y / size
    jitter = torch.randn(_NOISES, x.shape[1], generator=noise, dtype=x.dtype).to(x.device)
    best, best_round, kept = nothing.dev_loss or 0.0, 0, None
    for at in range(_ROUNDS):
        sigma = _NOISE[0] * (_NOISE[1] / _NOISE[0]) ** (at / (_ROUNDS - 1))
        for step in range(at * _STEPS, (at + 1) * _STEPS):
            rows = torch.randint(len(x), (_BATCH,), generator=draw).to(x.device)
            place = int(torch.randint(_NOISES - _BATCH + 1, (1,), generator=draw))
            seen = inputs.index_select(0, rows).add_(jitter[place : place + _BATCH], alpha=sigma)
            part = None if strength is None else strength[rows]
            found = _gradients(weights, seen, wanted.index_select(0, rows), part)
            for own, gradient in zip(weights, found, strict=True):
                own.grad = gradient
            optimiser.step()
            # The first averages forget the start quickly.
            reach = min(_AVERAGED, 1 + step / 10)
            for average, own in zip(averages, weights, strict=True):
                average.lerp_(own, 1 / reach)
        left = _share_left(averages, dev_inputs, dev[1] / size, dev[2])
        if left < best:
            best, best_round, kept = left, at, [own.clone() for own in averages]
        if at - best_round >= _PATIENCE:
            break
    if kept is None:
        return nothing
    w, z, b, constant = kept
    w = w / scale
    return Heads(
        w=torch.cat([w, w.new_zeros(1, w.shape[1])]),
        b=torch.cat([b - w @ mean, b.new_ones(1)]),
        z=size * torch.cat([z, constant[None]]),
        train_loss=_share_left(kept, inputs, wanted, strength),
        dev_loss=best,
        steps=(best_round + 1) * _STEPS,
        used=n_heads,
        penalty=None,
    )


def _gradients(
    weights: list[Tensor], inputs: Tensor, wanted: Tensor, strength: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the mean over tokens of the squared distance, by each of the weights.

    Written out, since a step is so short that recording it would take as long as the step.
    """
    w, z, b, constant = weights
    fired = torch.addmm(b, inputs, w.T).relu_()
    missed = torch.addmm(constant, fired, z)
    factor = None if strength is None else strength.unsqueeze(-1)
    if factor is not None:
        missed *= factor
    missed -= wanted
    missed *= 2 / len(inputs)
    if factor is not None:
        missed *= factor
    through = (missed @ z.T).mul_(fired > 0)
    return through.T @ inputs, fired.T @ missed, through.sum(dim=0), missed.sum(dim=0)


def _added(weights: list[Tensor], inputs: Tensor, strength: Tensor | None) -> Tensor:
    w, z, b, constant = weights
    found = torch.relu(inputs @ w.T + b) @ z + constant
    return found if strength is None else strength.unsqueeze(-1) * found


def _share_left(
    weights: list[Tensor], inputs: Tensor, wanted: Tensor, strength: Tensor | None
) -> float:
    left = (wanted - _added(weights, inputs, strength)).square().sum()
    return float(left / wanted.square().sum().clamp_min(1e-30))
