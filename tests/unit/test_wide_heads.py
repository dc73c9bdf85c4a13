"""Dozens of heads at once: nearer than a few on new tokens, and never fooled by noise."""

from functools import cache

import pytest
import torch

from psr_lens.statistics import fit_heads, fit_wide_heads, wide_heads


def added(heads, x, strength=1.0):
    return strength * (torch.relu(x @ heads.w.T + heads.b) @ heads.z)


def share_left(heads, x, y):
    return float((y - added(heads, x)).square().sum() / y.square().sum())


@cache
def curved():
    """What fifty ReLUs say, in three parts: to fit on, to choose on, new."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1600, 12, generator=draw)
    w, z = torch.randn(50, 12, generator=draw), torch.randn(50, 8, generator=draw)
    y = torch.relu(x @ w.T) @ z + 0.5 * torch.randn(1600, 8, generator=draw)
    return tuple(
        (x[part], y[part], None) for part in (slice(800), slice(800, 1200), slice(1200, None))
    )


@cache
def wide():
    train, dev, _ = curved()
    return fit_wide_heads(*train[:2], n_heads=64, dev=dev)


def test_many_heads_come_nearer_than_sixteen_on_new_tokens():
    train, dev, new = curved()
    sixteen = fit_heads(*train[:2], n_heads=16, dev=dev)
    assert share_left(wide(), *new[:2]) < 0.8 * share_left(sixteen, *new[:2])


def test_the_losses_are_those_of_the_heads():
    train, dev, _ = curved()
    assert wide().train_loss == pytest.approx(share_left(wide(), *train[:2]), rel=1e-4)
    assert wide().dev_loss == pytest.approx(share_left(wide(), *dev[:2]), rel=1e-4)
    assert wide().used == 64
    assert wide().w.shape == (64, 12)


def test_same_arguments_same_heads():
    train, dev, _ = curved()
    again, other = (fit_wide_heads(*train[:2], n_heads=64, dev=dev, seed=seed) for seed in (0, 1))
    assert torch.equal(again.w, wide().w)
    assert torch.equal(again.z, wide().z)
    assert not torch.equal(other.w, wide().w)


def test_noise_is_not_learned():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 12, generator=draw), torch.randn(300, 8, generator=draw)
    heads = fit_wide_heads(x[:150], y[:150], n_heads=64, dev=(x[150:], y[150:], None))
    assert heads.dev_loss <= 1
    # By heart they would leave nothing of it.
    assert heads.train_loss > 0.8


def test_the_units_of_the_inputs_do_not_matter():
    (x, y, _), (dev_x, dev_y, _), (new_x, _, _) = (
        tuple(own if own is None else own.double() for own in part) for part in curved()
    )
    plain = fit_wide_heads(x, y, n_heads=20, dev=(dev_x, dev_y, None))
    scaled = fit_wide_heads(100 * x + 5, 8 * y, n_heads=20, dev=(100 * dev_x + 5, 8 * dev_y, None))
    torch.testing.assert_close(
        added(scaled, 100 * new_x + 5), 8 * added(plain, new_x), rtol=1e-5, atol=1e-5
    )


def test_the_last_head_is_a_constant():
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8.0).expand(200, 8)
    heads = fit_wide_heads(x, y, n_heads=2, dev=(x, y, None))
    assert heads.train_loss < 1e-3
    assert not heads.w[-1].any()
    torch.testing.assert_close(heads.z[-1], y[0], rtol=0.05, atol=0.05)


def test_a_negative_strength_pushes_the_other_way():
    train, dev, new = curved()
    strength, dev_strength = (
        torch.where(torch.arange(len(part[0])) % 2 == 0, 1.0, -0.5) for part in (train, dev)
    )
    heads = fit_wide_heads(
        train[0],
        strength[:, None] * train[1],
        n_heads=64,
        strength=strength,
        dev=(dev[0], dev_strength[:, None] * dev[1], dev_strength),
    )
    # As if every token had been given with strength 1.
    assert share_left(heads, *new[:2]) < 0.5


def test_nothing_missing_needs_no_head():
    x = torch.randn(40, 12)
    heads = fit_wide_heads(x, torch.zeros(40, 8), n_heads=20, dev=(x, torch.zeros(40, 8), None))
    assert (heads.used, heads.train_loss, heads.dev_loss) == (0, 0.0, 0.0)
    assert not heads.z.any()


def test_too_few_heads_or_tokens_are_refused():
    one = torch.ones(3, 2)
    with pytest.raises(ValueError, match="n_heads=1 and 3 tokens: at least 2 and 1 are needed"):
        fit_wide_heads(one, one, n_heads=1, dev=(one, one, None))
    with pytest.raises(ValueError, match="n_heads=4 and 0 tokens"):
        fit_wide_heads(one[:0], one[:0], n_heads=4, dev=(one, one, None))


@pytest.mark.parametrize("with_strength", [False, True])
def test_the_written_out_gradients_are_those_that_torch_finds(with_strength):
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    weights = [drawn(5, 6), drawn(5, 4), drawn(5), drawn(4)]
    inputs, wanted = drawn(9, 6), drawn(9, 4)
    strength = drawn(9) if with_strength else None
    found = wide_heads._gradients(weights, inputs, wanted, strength)
    for own in weights:
        own.requires_grad_()
    left = wide_heads._added(weights, inputs, strength) - wanted
    left.square().sum(dim=-1).mean().backward()
    for own, gradient in zip(weights, found, strict=True):
        torch.testing.assert_close(gradient, own.grad, rtol=1e-12, atol=1e-12)
