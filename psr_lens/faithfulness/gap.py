r"""Where the distance to the prompted run comes from (ours).

Let `P[l]` be the residual stream after block `l` when all earlier layers are prompted, so
that the local delta is `D_loc[l] = A'[l] - P[l]`. In a steering's own run, `P_S[l]` comes out of
block `l` and the steering adds its update `u[l]`: `S[l] = P_S[l] + u[l]`. With `Pi[l]` the projection
on the steering's directions at the layer, the error `E[l] = S[l] - A'[l]` is

```
E[l] = (u[l] - Pi D_loc[l])      coefficient: right direction, wrong strength
     - (I - Pi) D_loc[l]         direction: what lies outside the steering's directions
     + (P_S[l] - P[l])           the error of the layers below, as this block hands it on
```

and `P_S[l] - P[l] = E[l-1] + f[l]`, where `f[l]` is what block `l` makes of the error of its input.
Where the steering does not act at all, the second line is called *uncovered*. Unrolled, with
`E[-1] = 0`, the error is a sum of four vectors:

`E[l] = sum_{j <= l} (coefficient[j] + direction[j] + uncovered[j] + f[j])`,

and the parts `<part, E[l]>`, summed over tokens and divided by `sum |D|^2`, add up to the squared
relative RMSE. A negative part makes the error smaller: negative propagation means that blocks undo
errors in their input, whether an update made them or the lack of one. Where a steering acts at one
layer, much of the propagation is therefore what the model goes on to make of the uncovered part. A
steering that was fitted to make up for errors from below departs from `Pi D_loc` on purpose: this
shows in its coefficient part, and cancels propagation.
"""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from psr_lens._types import exactly
from psr_lens.faithfulness.measures import PARTS
from psr_lens.steering import Steering
from psr_lens.steering.oracle import orthonormal_rows


def local_parts(
    update: Float[Tensor, "token d_model"],
    local: Float[Tensor, "token d_model"],
    basis: Float[Tensor, "rank d_model"] | None,
    covered: Bool[Tensor, " token"],
) -> dict[str, Float[Tensor, "token d_model"]]:
    """What one layer's update does wrong: vectors that add up to `update - local`.

    Args:
        update: `u`, what the steering added.
        local: `D_loc`, what it should have added.
        basis: Orthonormal directions of the steering (zero rows do no harm); None: each token's
            own update is its direction.
        covered: Where the steering acts.
    """
    if basis is None:
        unit = torch.nn.functional.normalize(update, dim=1)
        along = (local * unit).sum(dim=1, keepdim=True) * unit
    else:
        along = local @ basis.T @ basis
    inside = covered.unsqueeze(1)
    return {
        "coefficient": torch.where(inside, update - along, update),
        "direction": torch.where(inside, along - local, 0.0),
        "uncovered": torch.where(inside, 0.0, -local),
    }


def bases_of(
    steering: Steering, device: torch.device, dtype: torch.dtype
) -> dict[int, Float[Tensor, "rank d_model"]]:
    """Orthonormal directions of a steering, at the layers where it names some."""
    found = {layer: steering.span(layer) for layer in steering.layers}
    return {
        layer: orthonormal_rows(rows.detach().to(device, dtype))
        for layer, rows in found.items()
        if rows is not None
    }


@final
class GapSplit:
    """Follows a run up the layers and splits its error.

    Args:
        target: `A'` on the aligned tokens, all layers.
        local: `D_loc` there.
        bases: Of the steering, from `bases_of`.
        covered: Where it acts, at every layer.
    """

    def __init__(
        self,
        target: Float[Tensor, "layer token d_model"],
        local: Float[Tensor, "layer token d_model"],
        bases: Mapping[int, Float[Tensor, "rank d_model"]],
        covered: Bool[Tensor, "layer token"],
    ):
        self._target, self._local, self._covered = target, local, covered
        self._bases = bases
        self._error = torch.zeros_like(target[0])
        self._parts = {part: torch.zeros_like(target[0]) for part in PARTS}

    def step(
        self,
        layer: int,
        before: Float[Tensor, "token d_model"],
        after: Float[Tensor, "token d_model"],
    ) -> dict[str, Float[Tensor, " token"]]:
        """`<part, E[layer]>` of every part and token, float64; layers come in ascending order.

        Args:
            layer: The layer.
            before: `P_S`, before the update.
            after: `S`, after it.
        """
        target, local = self._target[layer], self._local[layer]
        own = local_parts(after - before, local, self._bases.get(layer), self._covered[layer])
        own["propagation"] = before - (target - local) - self._error
        self._error = after - target
        for part in PARTS:
            self._parts[part] = self._parts[part] + own[part]
        error = exactly(self._error)
        return {part: (exactly(self._parts[part]) * error).sum(-1) for part in PARTS}
