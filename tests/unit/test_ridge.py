"""Ridge regression is at its minimum, from rows or from moments."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.statistics import ridge, solve_ridge, standardisation


@given(seed=st.integers(0, 1000), penalty=st.floats(1e-6, 1.0))
def test_ridge_is_at_a_minimum(seed, penalty):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    t = torch.randn(40, generator=generator, dtype=torch.float64)
    _, (w, b) = ridge(x, t, [1.0, penalty])
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    loss = (x @ w + b - t).square().mean() + penalty * w.square().sum()
    gw, gb = torch.autograd.grad(loss, (w, b))
    assert gw.abs().max() < 1e-9
    assert gb.abs() < 1e-9


def test_every_layer_has_its_own_penalty():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 30, 3, generator=generator, dtype=torch.float64)
    penalties = torch.tensor([0.1, 10.0], dtype=torch.float64)
    found = solve_ridge(x.mT @ x, x.mT @ y, penalties)
    for layer, penalty in enumerate(penalties):
        gradient = x[layer].T @ (x[layer] @ found[layer] - y[layer]) + penalty * found[layer]
        assert gradient.abs().max() < 1e-12
        alone = solve_ridge(x[layer].T @ x[layer], x[layer].T @ y[layer], float(penalty))
        assert torch.allclose(alone, found[layer], rtol=1e-12)


def test_a_matrix_that_rounding_made_indefinite_is_solved_all_the_same():
    gram = torch.tensor([[1.0, 0.0], [0.0, -1e-9]], dtype=torch.float64)
    found = solve_ridge(gram, torch.tensor([[2.0], [1e-9]], dtype=torch.float64), 0.0)
    assert found.flatten().tolist() == pytest.approx([2.0, -1.0])


def test_gradients_pass_through_the_solution():
    gram = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    moment = torch.tensor([[1.0], [3.0]], dtype=torch.float64, requires_grad=True)

    def solved(gram, moment):
        return solve_ridge(gram + gram.mT, moment, 1e-3 * gram.diagonal().mean())

    assert torch.autograd.gradcheck(solved, (gram, moment))


def test_a_coordinate_that_never_moves_is_not_blown_up():
    x = torch.tensor([[1.0, 7.0], [3.0, 7.0 + 1e-12]], dtype=torch.float64)
    mean, scale = standardisation(x)
    assert ((x - mean) / scale).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
