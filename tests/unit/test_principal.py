"""Principal directions are those of the singular value decomposition, and nothing is centred."""

import pytest
import torch

from psr_lens.statistics import principal_direction, principal_directions


def test_principal_direction_keeps_the_mean_that_centring_deletes():
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    noise = torch.randn(500, 64, generator=generator) * 0.3
    y = 4 * truth + noise
    assert torch.cosine_similarity(principal_direction(y), truth, dim=0) > 0.99
    centred = principal_direction(y - y.mean(dim=0))
    assert torch.cosine_similarity(centred, truth, dim=0).abs() < 0.5


def test_principal_direction_points_where_the_energy_is():
    y = torch.outer(torch.tensor([1.0, 1.0, -5.0]), torch.tensor([0.6, 0.8]))
    assert torch.allclose(principal_direction(y), torch.tensor([-0.6, -0.8]), atol=1e-5)


@pytest.mark.parametrize(
    "gram",
    [
        [[1.0, -1.0], [-1.0, 1.0]],
        # The largest entry of the diagonal, and the largest column, belong to another eigenvector.
        [[3.0, 0.0, 0.0], [0.0, 2.0, -2.0], [0.0, -2.0, 2.0]],
    ],
)
def test_the_leading_direction_is_found_whatever_the_signs(gram):
    gram = torch.tensor(gram)
    energies, (direction,) = principal_directions(gram, 1)
    largest = torch.linalg.eigvalsh(gram)[-1]
    assert energies.tolist() == pytest.approx([float(largest)], rel=1e-4)
    assert direction.norm() == pytest.approx(1, abs=1e-5)
    assert direction @ gram @ direction == pytest.approx(float(largest), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_and_directions_of_several_layers_are_those_of_the_svd(dtype):
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(3, 40, 6, generator=generator, dtype=dtype) + 1
    energies, directions = principal_directions(rows.mT @ rows, 4)
    assert energies.dtype == directions.dtype == dtype
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    assert torch.allclose(energies, singular[:, :4].square(), rtol=1e-4)
    cosines = (directions * right[:, :4]).sum(dim=-1).abs()
    assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-4)


def test_energies_are_never_below_zero():
    """Rank 1: what is left is rounding, of either sign."""
    row = torch.arange(1.0, 9.0)
    energies, _ = principal_directions(torch.outer(row, row), 8)
    assert bool((energies >= 0).all())
    assert energies[0] == pytest.approx(float(row.square().sum()), rel=1e-5)


def test_the_direction_is_found_where_the_next_one_is_almost_as_large():
    """A hundred steps of power iteration end in between here."""
    direction = principal_directions(torch.diag(torch.tensor([0.999, 1.0, 0.998]).double()), 1)[1]
    assert direction.abs().tolist() == [pytest.approx([0.0, 1.0, 0.0], abs=1e-12)]
