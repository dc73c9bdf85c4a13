"""How many directions the deltas have: their singular spectrum, from sums over tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens.assumptions.stream import DeltaStream
from psr_lens.deltas import Kind
from psr_lens.statistics import RunningMoments, principal_directions


@dataclass(frozen=True)
class Spectrum:
    """The singular spectrum of one kind of delta at every layer, float64.

    Attributes:
        energy: Energy along every stored direction, largest first.
        total: `sum |D|^2`.
        directions: Unit right singular vectors, signed so that the mean projection is positive.
        mean: The mean delta.
    """

    energy: Float[Tensor, "layer rank"]
    total: Float[Tensor, " layer"]
    directions: Float[Tensor, "layer direction d_model"]
    mean: Float[Tensor, "layer d_model"]

    @property
    def mean_direction(self) -> Float[Tensor, "layer d_model"]:
        """Unit mean delta; zero where the mean is zero."""
        return self.mean / self.mean.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def measure_spectrum(
    stream: DeltaStream, kinds: tuple[Kind, ...], *, n_energies: int, n_directions: int
) -> dict[Kind, Spectrum]:
    """One pass over the data: second moments of the deltas, and their eigenvectors.

    Holds `8 * kinds * layers * d_model^2` bytes, whatever the number of examples.

    Args:
        stream: The deltas.
        kinds: Which kinds to measure.
        n_energies: How many energies to keep per layer, at most.
        n_directions: How many directions to keep per layer, at most.
    """
    model, n_layers = stream.model, len(stream.layers)
    moments = {k: RunningMoments(n_layers, model.d_model, model.device, second=True) for k in kinds}
    for batch in stream.batches(kinds, "second moments"):
        for kind in kinds:
            moments[kind].add(batch.deltas[kind])
    return {kind: spectrum_of(moments.pop(kind), n_energies, n_directions) for kind in kinds}


def spectrum_of(moments: RunningMoments, n_energies: int, n_directions: int) -> Spectrum:
    """The spectrum from the moments of the deltas, which must include the second."""
    assert moments.products is not None
    energies, directions = [], []
    for products, total in zip(moments.products, moments.total, strict=True):
        energy, own = principal_directions(products, max(n_energies, n_directions))
        energies.append(energy[:n_energies])
        own = own[:n_directions]
        directions.append(torch.where((own @ total < 0).unsqueeze(-1), -own, own))
    return Spectrum(
        torch.stack(energies).cpu(),
        moments.energy.cpu(),
        torch.stack(directions).cpu(),
        moments.mean,
    )
