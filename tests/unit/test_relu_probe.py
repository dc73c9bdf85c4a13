"""The regression behind a PSR layer, on data whose truth is planted."""

import pytest
import torch

from psr_lens.statistics import fit_heads, fit_one_head, relu_probe
from psr_lens.statistics.relu_probe import PENALTIES


def planted(n_tokens=2000, d_model=24, n_heads=1, seed=0, noise=0.0):
    """Residual streams and what planted ReLU heads push there."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(n_tokens, d_model) * (0.5 + 3 * torch.rand(d_model, generator=generator).double())
    w, z = normal(n_heads, d_model), normal(n_heads, d_model)
    b = torch.linspace(-1.0, 1.0, n_heads, dtype=torch.float64)
    y = torch.relu(x @ w.T + b) @ z + noise * normal(n_tokens, d_model)
    return x, y, w, b, z


def test_recovers_a_planted_head():
    x, y, w, b, z = planted()
    heads = fit_heads(x, y, penalty=0.0)
    assert heads.train_loss < 1e-4
    cosine = torch.cosine_similarity(heads.z[0], z[0], dim=0)
    assert cosine > 0.9999
    fitted = torch.relu(x @ heads.w.T + heads.b) * heads.z.norm()
    truth = torch.relu(x @ w.T + b) * z.norm()
    assert (fitted - truth).square().sum() < 1e-4 * truth.square().sum()


def test_generalises_to_tokens_it_has_not_seen():
    x, y, *_ = planted(n_tokens=3000, noise=0.3)
    heads = fit_heads(x[:2000], y[:2000], dev=(x[2000:2500], y[2000:2500], None))
    left = y[2500:] - torch.relu(x[2500:] @ heads.w.T + heads.b) @ heads.z
    share = left.square().sum() / y[2500:].square().sum()
    # What is left is the noise, 0.3^2 per coordinate, and hardly more.
    noise = 0.3**2 * y[2500:].numel() / y[2500:].square().sum()
    assert heads.dev_loss == pytest.approx(float(share), rel=0.3)
    assert share < 1.2 * noise


def test_more_heads_leave_less():
    x, y, *_ = planted(n_heads=4)
    losses = [fit_heads(x, y, n_heads=n).train_loss for n in (1, 2, 4)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.1 * losses[0]


def test_a_constant_target_is_learnt_as_a_bias():
    x, *_ = planted()
    y = torch.ones_like(x)
    heads = fit_heads(x, y, penalty=1e-4)
    assert heads.train_loss < 1e-4


def test_nothing_to_add_gives_zero_heads():
    x, *_ = planted(n_tokens=50)
    heads = fit_heads(x, torch.zeros_like(x))
    assert not heads.w.any()
    assert not heads.z.any()
    assert heads.train_loss == 0.0


def test_the_same_data_gives_the_same_heads():
    x, y, *_ = planted(noise=0.5)
    first, second = fit_heads(x.float(), y.float()), fit_heads(x.float(), y.float())
    assert torch.equal(first.w, second.w)
    assert torch.equal(first.z, second.z)


def test_scale_of_inputs_does_not_matter():
    x, y, *_ = planted(noise=0.5)
    plain, scaled = fit_heads(x, y), fit_heads(1000 * x + 5, y)
    assert plain.train_loss == pytest.approx(scaled.train_loss, rel=1e-6)


def test_no_token_or_no_head_is_refused():
    with pytest.raises(ValueError, match="n_heads=0"):
        fit_heads(torch.ones(3, 2), torch.ones(3, 2), n_heads=0)
    with pytest.raises(ValueError, match="0 tokens"):
        fit_heads(torch.ones(0, 2), torch.ones(0, 2))


def test_a_good_fit_is_found_to_the_last_digits_in_float32():
    """By its moments the loss has an error near 1e-6, as much as what is left here."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 128, generator=generator) + 3 * torch.randn(128, generator=generator)
    w = torch.randn(2, 128, generator=generator) / 128**0.5
    z = torch.randn(2, 128, generator=generator)
    clean = torch.relu((x - x.mean(dim=0)) @ w.T + 0.3) @ z
    noise = torch.randn(clean.shape, generator=generator)
    y = clean + 1e-3 * noise * clean.norm() / noise.norm()
    fitted = fit_heads(x, y, n_heads=2, penalty=1e-7)
    assert fitted.train_loss**0.5 < 1.01e-3


def short_of_data(width, n_tokens, seed=0):
    """A regression that a fit with a small penalty overfits: noise, correlated inputs, 8 heads.

    Training tokens and a fifth as many dev tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    n = n_tokens + n_tokens // 5
    # A spectrum that falls off, as a residual stream's does.
    x = normal(n, width) / torch.arange(1, width + 1).sqrt() @ normal(width, width)
    inputs = (x - x.mean(dim=0)) / x.std(dim=0)
    w = normal(8, width) / width**0.5
    y = torch.relu(inputs @ w.T) @ (normal(8, width) / torch.arange(1, 9).unsqueeze(-1))
    y = y + 2 * y.std() * normal(*y.shape)
    return x[:n_tokens], y[:n_tokens], (x[n_tokens:], y[n_tokens:], None)


@pytest.mark.parametrize(
    ("width", "n_tokens", "counts"),
    [(64, 300, (1, 2, 3, 8)), (64, 10_000, (1, 2, 3)), (576, 300, (1, 3, 4)), (576, 1600, (1, 2))],
)
def test_more_heads_are_never_worse_on_the_dev_tokens(width, n_tokens, counts):
    x, y, dev = short_of_data(width, n_tokens)
    found = [fit_heads(x, y, n_heads=count, dev=dev) for count in counts]
    losses = [heads.dev_loss for heads in found]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] <= 1.0
    # What is reported is what the heads leave, unused ones and all.
    for count, heads in zip(counts, found, strict=True):
        assert heads.w.shape == (count, width)
        assert not heads.w[heads.used :].any()
        assert not heads.b[heads.used :].any()
        assert not heads.z[heads.used :].any()
        left = dev[1] - torch.relu(dev[0] @ heads.w.T + heads.b) @ heads.z
        share = float(left.square().sum() / dev[1].square().sum())
        assert share == pytest.approx(heads.dev_loss, rel=1e-4)


def test_the_penalty_follows_what_the_data_can_bear():
    """More noise and fewer tokens, more penalty; a given one is kept."""
    x, y, dev = short_of_data(576, 300)
    few = fit_heads(x, y, dev=dev)
    x, y, *_ = planted(noise=0.0)
    many = fit_heads(
        x[:1500].float(), y[:1500].float(), dev=(x[1500:].float(), y[1500:].float(), None)
    )
    assert few.penalty > 10 * many.penalty
    assert many.penalty == min(PENALTIES)
    assert fit_heads(x, y, dev=(x, y, None), penalty=0.3).penalty == 0.3


def test_auto_takes_as_many_heads_as_help():
    x, y, *_ = planted(n_heads=3, noise=0.05)
    train, dev = (x[:1500], y[:1500]), (x[1500:], y[1500:], None)
    heads = fit_heads(*train, n_heads="auto", dev=dev)
    assert 3 <= heads.used <= 16
    assert heads.w.shape == (heads.used, 24)
    assert heads.dev_loss == fit_heads(*train, n_heads=16, dev=dev).dev_loss
    # Noise alone: at most what a head gets of it by chance.
    noise = torch.randn(400, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    none = fit_heads(x[:200], noise[:200], n_heads="auto", dev=(x[200:400], noise[200:], None))
    assert none.used <= 1
    assert none.w.shape == (1, 24)


def test_without_dev_tokens_all_heads_are_fitted_with_one_penalty():
    x, y, *_ = planted(n_heads=4)
    heads = fit_heads(x, y, n_heads=4)
    assert (heads.used, heads.penalty, heads.dev_loss) == (4, 1e-3, None)
    assert heads.z.norm(dim=1).all()
    with pytest.raises(ValueError, match="n_heads='auto' without dev tokens"):
        fit_heads(x, y, n_heads="auto")


def test_strengths_are_the_factors_of_the_coefficients():
    """Tokens at strength -1 are pushed the other way by heads that know nothing of it."""
    x, y, *_ = planted(n_heads=2)
    strength = torch.where(torch.arange(len(x)) % 3 == 0, -1.0, 1.0).double()
    signed = strength.unsqueeze(-1) * y
    heads = fit_heads(
        x[:1500],
        signed[:1500],
        n_heads=2,
        strength=strength[:1500],
        dev=(x[1500:], signed[1500:], strength[1500:]),
    )
    left = y - torch.relu(x @ heads.w.T + heads.b) @ heads.z
    assert left.square().sum() < 0.02 * y.square().sum()


def test_scale_of_targets_does_not_matter():
    """Nor, then, how a head shares its size between `w, b` and `z`: the penalty does not see it."""
    x, y, *_ = planted(noise=0.5)
    plain, scaled = fit_heads(x, y, penalty=0.1), fit_heads(x, 8 * y, penalty=0.1)
    # The optimiser's first step does depend on it.
    assert plain.train_loss == pytest.approx(scaled.train_loss, rel=1e-3)


def test_a_target_of_one_number_is_a_relu_probe():
    """Of either sign: the sign is the direction's."""
    x, _, w, b, _ = planted()
    for sign in (1.0, -1.0):
        heads = fit_heads(x, sign * torch.relu(x @ w.T + b), penalty=0.0)
        assert heads.z.shape == (1, 1)
        assert heads.z[0, 0].sign() == sign
        assert heads.train_loss < 1e-4


def test_penalties_share_all_that_does_not_depend_on_them(monkeypatch):
    x, _, w, b, _ = planted(n_tokens=300)
    y = torch.relu(x @ w.T + b)
    apart = [fit_heads(x, y, penalty=penalty, max_steps=20) for penalty in PENALTIES]
    prepared = []
    standardise = relu_probe.standardisation
    monkeypatch.setattr(
        relu_probe, "standardisation", lambda own: prepared.append(own) or standardise(own)
    )
    together = fit_one_head(x, y, PENALTIES, max_steps=20)
    assert len(prepared) == 1
    for one, other in zip(apart, together, strict=True):
        assert (one.penalty, one.train_loss) == (other.penalty, other.train_loss)
        assert torch.equal(one.w, other.w)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("with_strength", [False, True])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_slope_is_the_gradient_at_the_best_directions(small, with_strength, penalty):
    x, y, w, b, _ = planted(n_tokens=120, d_model=6, n_heads=3, noise=0.5)
    strength = torch.linspace(-1.0, 2.0, len(x), dtype=torch.float64) if with_strength else None
    problem = relu_probe._Regression(x, y, strength, None)
    x, scale = problem.train.inputs, problem.train.energy
    w, b = (0.3 * w).requires_grad_(), b.clone().requires_grad_()
    c = torch.relu(x @ w.T + b)
    c = c if strength is None else strength.unsqueeze(-1) * c
    weight = len(c) * penalty * w.square().sum(dim=1)
    with torch.no_grad():
        z = relu_probe._solve(c.T @ c + weight.diag(), c.T @ y)
    want = ((y - c @ z).square().sum() + (weight * z.square().sum(dim=1)).sum()) / scale
    want.backward()
    value, by_w, by_b = problem.slope(w.detach(), b.detach(), penalty, small)
    for ours, theirs in ((value, want.detach()), (by_w, w.grad), (by_b, b.grad)):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
