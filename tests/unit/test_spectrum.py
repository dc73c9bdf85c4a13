"""The singular spectrum from second moments is that of the deltas themselves."""

import pytest
import torch

from psr_lens.assumptions.spectrum import spectrum_of
from psr_lens.statistics import RunningMoments


def of(deltas, n_energies=6, n_directions=4):
    n_layers, _, width = deltas.shape
    moments = RunningMoments(n_layers, width, deltas.device, second=True)
    for rows in deltas.split(20, dim=1):
        moments.add(rows)
    return spectrum_of(moments, n_energies, n_directions)


@pytest.fixture
def deltas():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 50, 12, generator=generator, dtype=torch.float64) + 0.3


def test_energies_and_directions_are_those_of_the_svd(deltas):
    found = of(deltas)
    for row, delta in enumerate(deltas):
        _, singular, right = torch.linalg.svd(delta, full_matrices=False)
        assert found.energy[row] == pytest.approx(singular[:6].square(), rel=1e-10)
        cosines = (found.directions[row] * right[:4]).sum(dim=-1).abs()
        assert cosines == pytest.approx(torch.ones(4), rel=1e-8)
        assert found.total[row] == pytest.approx(float(delta.square().sum()), rel=1e-12)
        assert found.mean[row] == pytest.approx(delta.mean(dim=0), rel=1e-12)


def test_the_mean_projection_is_positive(deltas):
    for signed in (deltas, -deltas):
        projected = signed @ of(signed).directions.transpose(1, 2)
        assert bool((projected.mean(dim=1) >= 0).all())
    assert of(-deltas).directions == pytest.approx(-of(deltas).directions)


def test_rank_is_found_and_the_mean_is_not_centred_away():
    """Deltas of rank 2: a constant 3 along one axis, and plus and minus 1 along another."""
    deltas = torch.zeros(1, 40, 8, dtype=torch.float64)
    deltas[0, :, 2] = 3.0
    deltas[0, ::2, 5] = 1.0
    deltas[0, 1::2, 5] = -1.0
    found = of(deltas)
    assert found.energy[0].tolist() == pytest.approx([360.0, 40.0, 0.0, 0.0, 0.0, 0.0], abs=1e-9)
    assert found.directions[0, 0] == pytest.approx(torch.eye(8)[2], abs=1e-9)
    assert found.mean_direction[0] == pytest.approx(torch.eye(8)[2], abs=1e-9)


def test_no_delta_has_no_direction_for_its_mean():
    found = of(torch.zeros(1, 5, 4, dtype=torch.float64), n_energies=4)
    assert found.energy.tolist() == [[0.0] * 4]
    assert found.mean_direction.tolist() == [[0.0] * 4]
