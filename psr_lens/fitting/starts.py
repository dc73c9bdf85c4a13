"""Where the live solver starts from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from psr_lens._types import exactly
from psr_lens.fitting.prepared import Prepared
from psr_lens.fitting.trainable import (
    Trainable,
    TrainableConstant,
    TrainableLoReFT,
    TrainablePSR,
    TrainableReFTr1,
    Units,
    random_heads,
)
from psr_lens.steering import PSR, ConstantSteering

# Few and sparse, so that the latent detects: with 10 and 1e-3 the likelihood was content with a push
# that is the same for every response (see the page on the methods).
_TOP_K = 3
_SPARSITY = 1e-2


def make_trainable(
    method: str,
    layers: Sequence[int],
    units: Units,
    *,
    start: PSR | ConstantSteering | None,
    prepared: Sequence[Prepared],
    n_heads: int,
    rank: int,
    seed: int,
    adaptive: bool,
) -> Trainable:
    """The parameters of a method, at a replayed start or at its own.

    Args:
        method: `psr`, `const`, `loreft` or `reft_r1`.
        layers: The layers.
        units: Their scale.
        start: What replay has fitted; None for a small random start (zeros for `const`).
        prepared: The training examples; `reft_r1` starts from their mean delta.
        n_heads: PSR heads per layer.
        rank: Of LoReFT.
        seed: Of random starts.
        adaptive: Whether parameters are in the model's units.
    """
    n, d_model = units.mean.shape
    if method == "psr":
        if isinstance(start, PSR):
            heads = (start.w, start.b, start.z)
        else:
            heads = random_heads(n, n_heads, d_model, seed)
            if adaptive:
                heads = _in_units(heads, units)
        w, b, z = (part.to(units.mean) for part in heads)
        return TrainablePSR(layers, (w, b, z), units, adaptive)
    if method == "const":
        vectors = start.vectors if isinstance(start, ConstantSteering) else torch.zeros(n, d_model)
        return TrainableConstant(layers, vectors.to(units.mean), units, adaptive)
    if method == "loreft":
        return TrainableLoReFT(layers, rank, units, seed)
    means = torch.stack([_contrast(prepared, layer - layers[0]) for layer in layers])
    return TrainableReFTr1(layers, means.to(units.mean), top_k=_TOP_K, sparsity=_SPARSITY)


def _contrast(prepared: Sequence[Prepared], row: int) -> Tensor:
    """What tells responses with the concept from those without; the mean delta without negatives.

    Above the first layer, where base runs are not kept, prompted runs stand in for them.
    """

    def mean(examples: Sequence[Prepared]) -> Tensor:
        parts = [one.start if row == 0 else one.target[row] for one in examples]
        return exactly(torch.cat(parts)).mean(dim=0)

    positives = [one for one in prepared if one.example.alpha > 0]
    negatives = [one for one in prepared if one.example.alpha <= 0]
    if positives and negatives:
        return mean(positives) - mean(negatives)
    prompted = exactly(torch.cat([one.target[row] for one in prepared])).mean(dim=0)
    before = [one.start if row == 0 else one.target[row - 1] for one in prepared]
    return prompted - exactly(torch.cat(before)).mean(dim=0)


def _in_units(heads: tuple[Tensor, Tensor, Tensor], units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """Random heads that read inputs of mean 0 and variance 1 and push by about a tenth of a delta."""
    w, b, z = (part.to(units.mean) for part in heads)
    # Rows of norm 1, whatever the width.
    w = w * w.shape[-1] ** 0.5 * units.out[:, None, None] / units.std[:, None]
    w = 0.1 * w
    b = b * units.out[:, None] - (w * units.mean[:, None]).sum(dim=-1)
    return w, b, z
