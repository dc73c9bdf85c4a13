"""Probes find a planted strength, and find nothing where there is nothing."""

import pytest
import torch

from psr_lens.assumptions.probe import PENALTIES, fit_probes


def planted(n=3000, width=24, seed=0):
    """Residual streams of very different scales per coordinate, and a planted ReLU strength."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(-2, 2, width, dtype=torch.float64) + 3.0
    w = torch.randn(width, generator=generator, dtype=torch.float64)
    w = w / torch.logspace(-2, 2, width, dtype=torch.float64)
    return x, torch.relu(w @ x.T - w.sum() * 3.0 - 2.0)


def r2(probe, x, c):
    return 1 - float((c - probe(x)).square().sum() / (c - c.mean()).square().sum())


def dev_mask(n):
    return torch.arange(n) % 4 == 0


def test_a_planted_relu_strength_is_found():
    x, c = planted()
    rectified, linear = fit_probes(x[:2000], c[:2000], dev_mask(2000))
    assert (c == 0).double().mean() > 0.5
    assert r2(rectified, x[2000:], c[2000:]) > 0.99
    assert 0.2 < r2(linear, x[2000:], c[2000:]) < 0.9


def test_a_linear_strength_of_both_signs_is_the_linear_probes():
    x, _ = planted()
    c = (x - x.mean(dim=0)) @ torch.linspace(-1, 1, x.shape[1], dtype=torch.float64)
    rectified, linear = fit_probes(x[:2000], c[:2000], dev_mask(2000))
    assert r2(linear, x[2000:], c[2000:]) > 0.999
    assert r2(rectified, x[2000:], c[2000:]) < 0.9


def test_a_random_strength_is_not_found():
    x, _ = planted(n=800)
    c = torch.randn(800, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1
    for probe in fit_probes(x[:400], c[:400], dev_mask(400)):
        assert r2(probe, x[400:], c[400:]) < 0.02
        assert r2(probe, x[400:], c[400:]) > -0.2


def test_units_do_not_matter():
    x, c = planted(n=600)
    dev = dev_mask(600)
    for one, other in zip(fit_probes(x, c, dev), fit_probes(1e4 * x, 1e-3 * c, dev), strict=True):
        assert other(1e4 * x) == pytest.approx(1e-3 * one(x), rel=1e-4, abs=1e-6)
        assert other.penalty == one.penalty


def test_a_constant_coordinate_and_a_constant_strength_do_no_harm():
    x, c = planted(n=400)
    x = torch.cat([x, torch.full((400, 1), 7.0).double()], dim=1)
    for probe in fit_probes(x, c, dev_mask(400)):
        assert probe.w[-1] == 0
    # A head's direction is found by a regression that a millionth is added to.
    constant = torch.full((400,), 2.5).double()
    for probe, rounding in zip(fit_probes(x, constant, dev_mask(400)), (2e-6, 1e-9), strict=True):
        assert probe(x) == pytest.approx(constant, rel=rounding)


@pytest.mark.parametrize("dev", [torch.zeros(50) > 0, torch.ones(50) > 0])
def test_without_dev_tokens_the_penalty_is_fixed(dev):
    x, c = planted(n=50)
    assert {probe.penalty for probe in fit_probes(x, c, dev)} == {0.1}


def test_the_dev_tokens_choose_the_penalty():
    """More coordinates than tokens: what fits the training tokens best is not what is chosen."""
    x, _ = planted(n=60, width=80)
    c = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 1
    _, linear = fit_probes(x, c, dev_mask(60))
    assert linear.penalty == max(PENALTIES)
