"""Rows that stay orthonormal by the same map as torch has, with a gradient that costs next to nothing."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from psr_lens.steering.loreft import _OrthonormalRows


def holding(rows):
    module = nn.Module()
    module.rows = nn.Parameter(rows.clone())
    return module


@pytest.mark.parametrize("rank", [1, 4, 19])
def test_they_are_the_rows_and_the_gradient_of_torchs_parametrisation(rank):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = torch.linalg.qr(normal(5, 20, rank)).Q.mT.contiguous()
    # LAPACK has nothing to reflect here.
    rows[0] = torch.eye(rank, 20)
    ours, theirs = holding(rows), holding(rows)
    parametrize.register_parametrization(ours, "rows", _OrthonormalRows())
    orthogonal(theirs, "rows", orthogonal_map="householder", use_trivialization=False)
    held = [own.parametrizations["rows"].original for own in (ours, theirs)]
    assert torch.equal(*held)
    torch.testing.assert_close(ours.rows.detach(), rows, rtol=0.0, atol=1e-12)
    change, weight = 0.3 * normal(*rows.shape).triu(1), normal(*rows.shape)
    for module, own in zip((ours, theirs), held, strict=True):
        with torch.no_grad():
            own += change
        (module.rows * weight).sum().backward()
    assert not torch.allclose(ours.rows, rows, atol=0.1)
    torch.testing.assert_close(ours.rows, theirs.rows, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(held[0].grad, held[1].grad, rtol=0.0, atol=1e-10)
    kept = ours.rows @ ours.rows.mT
    torch.testing.assert_close(kept, torch.eye(rank).to(kept).expand(5, -1, -1), atol=1e-12, rtol=0)
