r"""How many directions the deltas have: their singular spectrum, from sums over tokens.

With the deltas of one layer as the rows of a matrix $D$ `[token, d_model]`, the right singular vectors are
the eigenvectors of the second moment $D^T D$, and the energy along a vector is its eigenvalue. Nothing
is centred: centring would delete the mean, which is a direction like any other and often the largest.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import sum_device
from psr_lens.assumptions.stream import DeltaStream
from psr_lens.deltas import Kind


@dataclass(frozen=True)
class Spectrum:
    """The singular spectrum of one kind of delta at every layer, float64.

    Attributes:
        energy: Energy along every stored direction, largest first.
        total: `sum |D|^2`.
        directions: Unit right singular vectors, signed such that the mean projection is positive.
        mean: The mean delta.
    """

    energy: Float[Tensor, "layer rank"]
    total: Float[Tensor, " layer"]
    directions: Float[Tensor, "layer direction d_model"]
    mean: Float[Tensor, "layer d_model"]

    @property
    def mean_direction(self) -> Float[Tensor, "layer d_model"]:
        """Unit mean delta; zero where the mean is."""
        return self.mean / self.mean.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def measure_spectrum(
    stream: DeltaStream, kinds: tuple[Kind, ...], *, n_energies: int, n_directions: int
) -> dict[Kind, Spectrum]:
    """One pass over the data: second moments of the deltas, and their eigenvectors.

    Holds `8 * kinds * layers * d_model^2` bytes, whatever the number of examples.

    Args:
        stream: The deltas.
        kinds: Which of them.
        n_energies: How many energies to keep per layer, at most.
        n_directions: How many directions to keep per layer, at most.
    """
    device, width = sum_device(stream.model.device), stream.model.d_model
    shape = (len(stream.layers), width)
    moments = {k: torch.zeros(*shape, width, dtype=torch.float64, device=device) for k in kinds}
    totals = {k: torch.zeros(*shape, dtype=torch.float64, device=device) for k in kinds}
    n_tokens = sum(stream.lengths)
    for batch in stream.batches(kinds, "second moments"):
        for kind in kinds:
            for row, delta in enumerate(batch.deltas[kind]):
                exact = delta.to(device).double()
                moments[kind][row].addmm_(exact.T, exact)
                totals[kind][row] += exact.sum(dim=0)
    return {
        kind: spectrum_of(moments.pop(kind), totals[kind], n_tokens, n_energies, n_directions)
        for kind in kinds
    }


def spectrum_of(
    moments: Float[Tensor, "layer d_model d_model"],
    totals: Float[Tensor, "layer d_model"],
    n_tokens: int,
    n_energies: int,
    n_directions: int,
) -> Spectrum:
    """The spectrum that belongs to the second moments `D^T D` and the sums of `n_tokens` deltas."""
    energies, directions = [], []
    for moment, total in zip(moments, totals, strict=True):
        values, vectors = torch.linalg.eigh(moment)
        energies.append(values.flip(0)[:n_energies].clamp_min(0))
        own = vectors.T.flip(0)[:n_directions]
        directions.append(torch.where((own @ total < 0).unsqueeze(-1), -own, own))
    return Spectrum(
        torch.stack(energies).cpu(),
        moments.diagonal(dim1=-2, dim2=-1).sum(dim=-1).cpu(),
        torch.stack(directions).cpu(),
        totals.cpu() / n_tokens,
    )
