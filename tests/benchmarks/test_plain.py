"""The plain loop against closed forms and finite differences, in float64."""

from itertools import chain

import pytest
import torch

from benchmarks import plain
from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.responses import sample_responses
from tests.models.cases import LENS_BACKENDS
from tests.tiny_models import instructed, tiny_model

QUESTIONS = ("the cat", "what is a dog like today", "tell me about the small old house")


@pytest.fixture(scope="module", params=LENS_BACKENDS)
def model(request):
    return tiny_model("llama", request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [instructed(model, q, "always be very kind and answer at length") for q in QUESTIONS]
    return list(sample_responses(model, pairs, max_new_tokens=5, seed=3, progress=False))


def heads(model, layers, n_heads=2, seed=0):
    """Heads whose ReLUs are open at some tokens and closed at others."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (len(layers), n_heads, model.d_model)
    return plain.Heads(draw(*shape) / 4, draw(*shape[:2]) / 4, draw(*shape) / 4).copy()


def test_unsteered_residuals_are_those_of_the_package(model, data):
    base, _ = example_batches(model, data)
    with torch.no_grad():
        found = plain.residuals(model, base, None, ())
    # The package's attention on the bridge is fused, where nobody listens to its parts.
    torch.testing.assert_close(
        found, aligned_residuals(model, base, "response"), rtol=1e-12, atol=1e-12
    )


def test_without_a_push_the_loss_is_the_energy_of_the_accumulated_deltas(model, data):
    layers = range(model.n_layers)
    zero = plain.Heads(*(torch.zeros_like(part) for part in heads(model, layers).parts))
    deltas = torch.cat([one.accumulated for one in collect_deltas(model, data)], dim=1)
    expected = deltas.square().mean(dim=(1, 2))
    for first in layers:
        loss = plain.mse_loss(model, data, zero, range(first, model.n_layers))
        torch.testing.assert_close(loss, expected[first:].sum())


def test_the_gradient_at_the_last_layer_is_the_closed_form(model, data):
    last = model.n_layers - 1
    own = heads(model, [last])
    plain.mse_loss(model, data, own, [last]).backward()
    base, steered = example_batches(model, data)
    x = aligned_residuals(model, base, "response")[last]
    w, b, z = (part.detach()[0] for part in own.parts)
    inner = x @ w.T + b
    c = inner.relu()
    # d/dS of the mean of (S - A(x'y'))^2, and from there by hand.
    outer = 2 * (x + c @ z - aligned_residuals(model, steered, "response")[last]) / x.numel()
    through = (outer @ z.T) * (inner > 0)
    assert (inner > 0).any()
    assert (inner < 0).any()
    torch.testing.assert_close(own.z.grad[0], c.T @ outer)
    torch.testing.assert_close(own.b.grad[0], through.sum(dim=0))
    torch.testing.assert_close(own.w.grad[0], through.T @ x)


def test_the_gradient_through_all_layers_is_that_of_finite_differences(model, data):
    layers = range(model.n_layers)
    own = heads(model, layers)
    plain.mse_loss(model, data, own, layers).backward()
    step, rtol = 1e-6, 1e-5
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        along = torch.randn(own.parts[i].shape, generator=generator, dtype=torch.float64)

        def shifted(sign, i=i, along=along):
            moved = [part.detach().clone() for part in own.parts]
            moved[i] += sign * step * along
            return plain.mse_loss(model, data, plain.Heads(*moved), layers)

        slope = (shifted(1) - shifted(-1)) / (2 * step)
        torch.testing.assert_close(
            (own.parts[i].grad * along).sum(), slope.detach(), rtol=rtol, atol=1e-8
        )


def test_every_epoch_is_a_permutation_from_one_stream():
    steps = plain.batch_order(5, 2, epochs=2)
    generator = torch.Generator().manual_seed(123)
    orders = [torch.randperm(5, generator=generator).tolist() for _ in range(2)]
    assert [len(step) for step in steps] == [2, 2, 1] * 2
    assert list(chain(*steps[:3])) == orders[0]
    assert list(chain(*steps[3:])) == orders[1]


def test_a_fit_is_adamw_with_a_rate_that_falls_to_zero(model, data):
    layers = range(model.n_layers)
    start = heads(model, layers)
    kept = [part.detach().clone() for part in start.parts]
    base, _ = example_batches(model, data)
    with torch.no_grad():
        before = model.logits(base)
    found, losses = plain.fit_psr(model, data, start, layers, epochs=3, batch_size=3)
    with torch.no_grad():
        assert torch.equal(model.logits(base), before)
    assert all(torch.equal(a, b) for a, b in zip(start.parts, kept, strict=True))
    # One batch holds all, so that the three steps can be taken by hand.
    own = start.copy()
    optimiser = torch.optim.AdamW(own.parts, weight_decay=1e-6)
    for taken, fraction in zip(losses, (1, 2 / 3, 1 / 3), strict=True):
        optimiser.param_groups[0]["lr"] = 1e-3 * fraction
        loss = plain.mse_loss(model, data, own, layers)
        assert taken == pytest.approx(float(loss.detach()), rel=1e-9)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for ours, by_hand in zip(found.parts, own.parts, strict=True):
        torch.testing.assert_close(ours, by_hand)
