"""What each steering adds, as a function of tensors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens._types import resolve_layers
from psr_lens.steering import PSR, ConstantSteering

finite = st.floats(-5, 5, allow_nan=False, width=32)


def heads(seed, n_layers=2, n_heads=3, d_model=5):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(n_layers, n_heads, d_model),
        normal(n_layers, n_heads),
        normal(n_layers, n_heads, d_model),
        normal(4, 6, d_model),
    )


@given(seed=st.integers(0, 10_000))
def test_psr_is_the_formula(seed):
    w, b, z, resid = heads(seed)
    psr = PSR(w, b, z, (1, 4))
    for row, layer in enumerate((1, 4)):
        expected = torch.zeros_like(resid)
        for k in range(3):
            c = torch.relu((resid * w[row, k]).sum(-1) + b[row, k])
            expected += c.unsqueeze(-1) * z[row, k]
        assert torch.allclose(psr.update(layer, resid), expected, atol=1e-10)


@given(seed=st.integers(0, 10_000))
def test_directions_are_unit_and_a_coefficient_is_the_length_of_its_update(seed):
    w, b, z, resid = heads(seed, n_heads=1)
    psr = PSR(w, b, z, (0, 1))
    assert torch.allclose(psr.z.norm(dim=-1), torch.ones(2, 1).double())
    lengths = psr.update(0, resid).norm(dim=-1)
    assert torch.allclose(psr.head_coefficients(0, resid)[..., 0], lengths, atol=1e-10)
    assert bool((psr.head_coefficients(0, resid) >= 0).all())


def test_a_zero_direction_adds_nothing():
    psr = PSR(torch.ones(1, 1, 3), torch.ones(1, 1), torch.zeros(1, 1, 3), (0,))
    assert not psr.update(0, torch.randn(2, 3)).any()


def test_a_constant_adds_the_same_everywhere():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    update = ConstantSteering(vectors, (0, 5)).update(5, torch.randn(2, 3, 2))
    assert torch.equal(update, vectors[1].expand(2, 3, 2))


def test_one_set_per_layer():
    with pytest.raises(ValueError, match="vectors for 2 layers but 3 are named"):
        ConstantSteering(torch.ones(2, 4), (0, 1, 2))
    with pytest.raises(ValueError, match="w for 1 layers but 2 are named"):
        PSR(torch.ones(1, 1, 3), torch.ones(1, 1), torch.ones(1, 1, 3), (0, 1))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("all", (0, 1, 2, 3)), (2, (2,)), (-1, (3,)), ([3, 1, 1], (1, 3)), (range(1, 3), (1, 2))],
)
def test_resolve_layers(layers, expected):
    assert resolve_layers(layers, 4) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [([7], r"layers=\[7\] but the model has 4 layers \(0 to 3\)"), ([], "empty"), (4, r"\[4\]")],
)
def test_resolve_layers_refuses(layers, message):
    with pytest.raises(ValueError, match=message):
        resolve_layers(layers, 4)
