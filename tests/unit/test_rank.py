"""Rank correlation is that of pandas, but for ties within the noise."""

import pandas as pd
import pytest
import torch

from psr_lens.statistics.rank import average_ranks, spearman


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rounded(*shape: int, seed: int) -> torch.Tensor:
    """Values with ties."""
    return (2 * random(*shape, seed=seed)).round()


def test_ranks_are_those_of_pandas():
    values = rounded(5, 12, seed=1)
    expected = [pd.Series(row.tolist()).rank().tolist() for row in values]
    assert average_ranks(values, torch.zeros_like(values)).tolist() == expected


def test_values_within_the_noise_are_ties():
    """Two clusters that rounding spreads out: exact ranks of the clusters."""
    spread = torch.tensor([[1.0, 5.0, 1.0 + 1e-9, 5.0 - 1e-9, 1.0 - 1e-9]]).double()
    found = average_ranks(spread, torch.full((1, 5), 1e-6).double())
    assert found.tolist() == [[2.0, 4.5, 2.0, 4.5, 2.0]]


def test_spearman_is_that_of_pandas():
    first, second = rounded(4, 15, seed=2), rounded(4, 15, seed=3)
    expected = [
        pd.Series(a.tolist()).rank().corr(pd.Series(b.tolist()).rank())
        for a, b in zip(first, second, strict=True)
    ]
    assert spearman(first, second, torch.zeros_like(first)).tolist() == pytest.approx(
        expected, abs=1e-12
    )


def test_spearman_does_not_exist_for_a_constant_side_or_one_token():
    varying, constant = random(1, 6), torch.full((1, 6), 3.0).double()
    nothing = torch.zeros(1, 6).double()
    assert spearman(varying, constant, nothing).isnan().all()
    assert spearman(constant + 1e-9 * varying, varying, nothing + 1e-7).isnan().all()
    assert spearman(varying[:, :1], varying[:, :1], nothing[:, :1]).isnan().all()
    assert spearman(varying, -varying, nothing).tolist() == pytest.approx([-1.0])
