"""Principal directions are those of the singular value decomposition, and nothing is centred."""

import pytest
import torch

from psr_lens.statistics import principal, principal_direction, principal_directions


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
    energies = torch.tensor([0.999, 1.0, 0.998]).double()
    direction = principal_directions(energies.diag(), 1)[1]
    assert direction.abs().tolist() == [pytest.approx([0.0, 1.0, 0.0], abs=1e-12)]
    assert principal_direction(energies.sqrt().diag()).abs().tolist() == pytest.approx(
        [0.0, 1.0, 0.0], abs=1e-9
    )


def test_a_direction_that_stands_out_is_found_to_rounding():
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(700, 200, generator=generator)
    rows[:, 3] *= 3
    wanted = principal_directions(rows.double().T @ rows.double(), 1)[1][0]
    assert float((principal_direction(rows).double() @ wanted).abs()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 7), (3, 40), (400, 40), (900, 300)])
def test_the_direction_of_many_rows_is_that_of_all_eigenvectors(dtype, shape):
    """With energies that fall slowly, where it takes the most steps, at any scale."""
    generator = torch.Generator().manual_seed(3)
    for scale in (1e-9, 1.0, 1e9):
        rows = torch.randn(shape, generator=generator, dtype=torch.float64)
        rows = (scale * rows * torch.linspace(1.2, 1.0, shape[1])).to(dtype)
        ((energy,), (wanted,)) = principal_directions(rows.double().T @ rows.double(), 1)
        found = principal._leading_eigenvector(rows)
        assert found is not None
        # Directions of nearly equal energies are as good as each other.
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        assert float((rows.double() @ found.double()).square().sum() / energy) == pytest.approx(
            1, abs=tolerance
        )
        if dtype == torch.float64:
            assert float((found @ wanted).abs()) == pytest.approx(1, abs=1e-9)
        assert torch.equal(found, principal._leading_eigenvector(rows))


def test_the_direction_may_have_no_part_in_the_largest_row():
    """Two rows along one axis together outweigh the longest, along another."""
    rows = torch.diag(torch.tensor([3.0, 2.5, 0.0]))[[0, 1, 1]]
    assert principal_direction(rows).abs().tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)


def test_rows_of_zeros_have_some_unit_direction():
    assert float(principal_direction(torch.zeros(4, 5)).norm()) == pytest.approx(1)


def test_what_takes_too_many_steps_is_computed_in_full(monkeypatch):
    rows = torch.randn(50, 20, generator=torch.Generator().manual_seed(4)).double()
    wanted = principal_direction(rows)
    monkeypatch.setattr(principal, "_MOST_STEPS", 3)
    assert principal._leading_eigenvector(rows) is None
    assert torch.allclose(principal_direction(rows), wanted, atol=1e-9)
