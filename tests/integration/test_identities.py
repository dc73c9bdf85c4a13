"""The identities of the method, in float64, on every architecture and both backends."""

import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import (
    add_at,
    example_batches,
    iter_deltas,
    iter_runs,
    local_deltas,
    surface_residuals,
)
from psr_lens.prompts import PromptPair
from psr_lens.responses import sample_responses
from psr_lens.steering import OracleSteering
from tests.tiny_models import CORE_MODELS, MODELS, instructed, tiny_model

EXACT = 1e-10
SURFACES = ("R", "QR")


on_core_models = pytest.mark.parametrize("model", CORE_MODELS, ids="-".join, indirect=True)


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    questions = ["the cat", "what is a dog like today", "tell me about the small old house"]
    pairs = [instructed(model, q, "always be very kind and answer at length") for q in questions]
    return sample_responses(model, pairs, max_new_tokens=6, seed=3, progress=False)


def scale(residuals):
    return float(residuals.abs().max())


@pytest.mark.parametrize("surface", SURFACES)
def test_local_deltas_at_every_layer_reproduce_the_prompted_run(model, data, surface):
    base, steered = example_batches(model, data)
    target = surface_residuals(model, steered, surface)
    local = local_deltas(model, base, target, surface)
    edits = add_at(base.surface(surface), dict(enumerate(local)))
    found = surface_residuals(model, base, surface, edits)
    assert scale(found - target) < EXACT * scale(target)
    # The prompt does something, or the identity would say nothing.
    assert scale(surface_residuals(model, base, surface) - target) > 1e-3 * scale(target)


def test_local_deltas_reproduce_the_prompted_logits(model, data):
    base, steered = example_batches(model, data)
    with torch.no_grad():
        prompted = model.logits(steered)[steered.surface("R")]
        plain = model.logits(base)[base.surface("R")]
        with OracleSteering(range(model.n_layers)).applied(model, examples=data):
            oracle = model.logits(base)[base.surface("R")]
    assert scale(oracle - prompted) < EXACT * scale(prompted)
    assert scale(plain - prompted) > 1e-3 * scale(prompted)


@pytest.mark.parametrize("surface", SURFACES)
def test_the_accumulated_delta_at_one_layer_reproduces_that_layer(model, data, surface):
    base, steered = example_batches(model, data)
    target = surface_residuals(model, steered, surface)
    accumulated = target - surface_residuals(model, base, surface)
    for layer in range(model.n_layers):
        edits = add_at(base.surface(surface), {layer: accumulated[layer]})
        found = surface_residuals(model, base, surface, edits)[layer]
        assert scale(found - target[layer]) < EXACT * scale(target[layer])


@on_core_models
def test_equal_prompts_give_zero_deltas(model, data):
    same = [PromptPair(e.pair.steered, e.pair.steered, "a b c") for e in data]
    for deltas in collect_deltas(model, sample_responses(model, same, progress=False)):
        assert not deltas.accumulated.any()
        assert not deltas.local.any()


@on_core_models
@pytest.mark.parametrize("surface", SURFACES)
def test_batches_are_singles(model, data, surface):
    batched = collect_deltas(model, data, surface=surface, batch_size=8)
    for example, together in zip(data, batched, strict=True):
        alone = collect_deltas(model, [example], surface=surface)[0]
        assert together.tokens == alone.tokens
        assert together.accumulated.shape == alone.accumulated.shape
        assert scale(together.accumulated - alone.accumulated) < 1e-5 * scale(alone.accumulated)
        assert scale(together.local - alone.local) < 1e-5 * scale(alone.accumulated)


@on_core_models
def test_accumulated_and_local_agree_at_the_first_layer(model, data):
    for deltas in collect_deltas(model, data):
        assert torch.equal(deltas.accumulated[0], deltas.local[0])


@on_core_models
def test_streaming_gives_the_same_in_another_order(model, data):
    collected = collect_deltas(model, data, batch_size=2)
    streamed = dict(iter_deltas(model, data, batch_size=2))
    assert sorted(streamed) == list(range(len(data)))
    for i, deltas in enumerate(collected):
        assert torch.equal(streamed[i].accumulated, deltas.accumulated)
        assert deltas.example is data[i]


@on_core_models
def test_surfaces_cover_the_right_tokens(model, data):
    for example, r, qr in zip(
        data, collect_deltas(model, data), collect_deltas(model, data, surface="QR"), strict=True
    ):
        assert len(r.tokens) == len(example.response_ids) + 1
        assert len(qr.tokens) == len(example.response_ids) + example.question_length
        assert qr.tokens[-len(r.tokens) :] == r.tokens
        assert torch.equal(qr.norms().shape and r.norms(), r.accumulated.norm(dim=-1))
        last_prompt_token = model.encoder.str_tokens([example.base_ids[-1]])[0]
        assert r.tokens[0] == last_prompt_token


@on_core_models
def test_without_the_local_deltas_a_batch_costs_two_passes(model, data):
    passes = []
    handle = model.part_points(0).before.module.register_forward_pre_hook(
        lambda *_: passes.append(1)
    )
    try:
        short = collect_deltas(model, data, local=False)
        assert len(passes) == 2
        whole = collect_deltas(model, data)
        assert len(passes) == 2 + 3
    finally:
        handle.remove()
    for one, other in zip(short, whole, strict=True):
        assert torch.equal(one.accumulated, other.accumulated)
        assert one.local is None
        with pytest.raises(ValueError, match="left out: collect them with local=True"):
            one.norms("local")


@on_core_models
@pytest.mark.parametrize("surface", SURFACES)
def test_the_paired_runs_of_all_batches_are_those_of_single_examples(model, data, surface):
    seen = []
    for runs in iter_runs(model, data, surface, local=True, batch_size=2):
        assert runs.examples == [data[i] for i in runs.indices]
        parts = zip(runs.indices, runs.split(runs.accumulated), runs.split(runs.local), strict=True)
        for i, accumulated, local in parts:
            (alone,) = collect_deltas(model, [data[i]], surface=surface)
            assert (accumulated - alone.accumulated).abs().max() < EXACT * scale(accumulated)
            assert (local - alone.local).abs().max() < EXACT * scale(accumulated)
            seen.append(i)
    assert sorted(seen) == list(range(len(data)))


@on_core_models
def test_runs_that_were_not_asked_for_are_left_out(model, data):
    (runs,) = iter_runs(model, data, "R", plain=False)
    assert runs.plain is None
    assert runs.local is None
    with pytest.raises(ValueError, match="plain=True"):
        _ = runs.accumulated
