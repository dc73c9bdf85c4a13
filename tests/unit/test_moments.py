"""Running moments are those of all rows together, however they come."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.statistics import RunningMoments

CPU = torch.device("cpu")


@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_batches_add_up_to_the_whole(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3, sum(sizes) + 1, 4, generator=generator)
    moments = RunningMoments(3, 4, CPU, second=True)
    for part in rows.split([*sizes, 1], dim=1):
        moments.add(part)
    exact = rows.double()
    assert moments.count == rows.shape[1]
    assert torch.allclose(moments.mean, exact.mean(dim=1))
    assert torch.allclose(moments.energy, exact.square().sum(dim=(1, 2)))
    assert torch.allclose(moments.products, exact.mT @ exact)


def test_small_numbers_beside_large_ones_are_kept():
    """Summed in float32, the ones would be lost."""
    moments = RunningMoments(1, 1, CPU)
    moments.add(torch.tensor([[[1e8], [1.0], [-1e8], [1.0]]]))
    assert moments.total.tolist() == [[2.0]]
    assert moments.products is None
