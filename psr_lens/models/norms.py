"""Norms without their division, and what a direction does to the logits through the last one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from psr_lens.models.float64 import all_float64

if TYPE_CHECKING:
    from psr_lens.models.protocol import HookedModel

_CHUNK = 1 << 14


@dataclass(frozen=True, eq=False)
class NormMap:
    """A norm without its division: `x -> weight * centred(x) + bias`.

    Attributes:
        weight: The norm's gain, as it acts.
        bias: What is added, zeros for none.
        centres: Whether the mean of `x` is subtracted first.
    """

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centres: bool

    def linear(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`weight * centred(x)`, in the precision of `x`."""
        centred = x - x.mean(dim=-1, keepdim=True) if self.centres else x
        return centred * self.weight.to(x)


@torch.no_grad()
def norm_map(norm: nn.Module, like: Float[Tensor, "*batch d_model"]) -> NormMap:
    """What a LayerNorm or RMSNorm does besides dividing by a scale, found by trying it out.

    The gain is stored in several ways (Gemma adds one to it), but acts in one. A vector of mean 0
    and root mean square 1 passes through with nothing but gain and bias (and a factor `1 / sqrt(1 + eps)`,
    which the gain absorbs).

    Args:
        norm: The module.
        like: Anything of the model's width, type and device.
    """
    width = like.shape[-1]
    probe = torch.ones(width)
    probe[1::2] = -1.0
    if width % 2:
        probe[-1] = -2.0
        probe[-2] = 1.0
    probe = (probe / probe.square().mean().sqrt()).to(like)
    with all_float64(probe.dtype):
        bias, passed, level = (
            norm(x.expand(1, 1, width))[0, 0]
            for x in (torch.zeros_like(probe), probe, torch.ones_like(probe))
        )
    passed, level = passed - bias, level - bias
    centres = bool(level.abs().max() < 1e-2 * passed.abs().max())
    return NormMap(passed / probe, bias, centres)


@torch.no_grad()
def linear_logits(
    model: "HookedModel", directions: Float[Tensor, "row d_model"]
) -> Float[Tensor, "row d_vocab"]:
    """What directions add to the logits, through the final norm without its division.

    `U (gain * centred(d))`, with `U` the unembedding. Divided by the scale of the norm at a residual
    stream `A`, this is the derivative of the logits along `d` at `A` for fixed scale, before any soft cap;
    the scale is positive, so the ranks are the same at every `A`.

    Args:
        model: The model.
        directions: In units of the residual stream.

    Returns:
        The logits, in the precision of the directions.
    """
    unembedding = model.unembedding()
    normed = norm_map(model.final_norm(), unembedding).linear(directions.to(unembedding.device))
    # A large vocabulary in half precision is never copied as a whole.
    return torch.cat([normed @ rows.to(normed).T for rows in unembedding.split(_CHUNK)], dim=-1)
