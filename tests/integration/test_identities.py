"""The identities of the method, in float64, on every architecture and both backends."""

import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import (
    add_on,
    aligned_residuals,
    example_batches,
    iter_deltas,
    iter_runs,
    local_deltas,
)
from psr_lens.prompts import PromptPair
from psr_lens.responses import sample_responses
from psr_lens.steering import OracleSteering
from tests.tiny_models import CORE_MODELS, MODELS, instructed, tiny_model

EXACT = 1e-10
SURFACES = ("response", "question+response")


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


@pytest.mark.parametrize("tokens", SURFACES)
def test_local_deltas_at_every_layer_reproduce_the_prompted_run(model, data, tokens):
    base, steered = example_batches(model, data)
    target = aligned_residuals(model, steered, tokens)
    local = local_deltas(model, base, target, tokens)
    edits = add_on(tokens, dict(enumerate(local)))
    found = aligned_residuals(model, base, tokens, edits)
    assert scale(found - target) < EXACT * scale(target)
    # The prompt does something, or the identity would say nothing.
    assert scale(aligned_residuals(model, base, tokens) - target) > 1e-3 * scale(target)


def test_local_deltas_reproduce_the_prompted_logits(model, data):
    base, steered = example_batches(model, data)
    with torch.no_grad():
        prompted = model.logits(steered)[steered.on("response")]
        plain = model.logits(base)[base.on("response")]
        with OracleSteering(range(model.n_layers)).applied(model, examples=data):
            oracle = model.logits(base)[base.on("response")]
    assert scale(oracle - prompted) < EXACT * scale(prompted)
    assert scale(plain - prompted) > 1e-3 * scale(prompted)


@pytest.mark.parametrize("tokens", SURFACES)
def test_the_accumulated_delta_at_one_layer_reproduces_that_layer(model, data, tokens):
    base, steered = example_batches(model, data)
    target = aligned_residuals(model, steered, tokens)
    accumulated = target - aligned_residuals(model, base, tokens)
    for layer in range(model.n_layers):
        edits = add_on(tokens, {layer: accumulated[layer]})
        found = aligned_residuals(model, base, tokens, edits)[layer]
        assert scale(found - target[layer]) < EXACT * scale(target[layer])


@on_core_models
def test_equal_prompts_give_zero_deltas(model, data):
    same = [PromptPair(e.pair.prompted, e.pair.prompted, "a b c") for e in data]
    for deltas in collect_deltas(model, sample_responses(model, same, progress=False)):
        assert not deltas.accumulated.any()
        assert not deltas.local.any()


@on_core_models
@pytest.mark.parametrize("tokens", SURFACES)
def test_batches_are_singles(model, data, tokens):
    batched = collect_deltas(model, data, tokens=tokens, batch_size=8)
    for example, together in zip(data, batched, strict=True):
        alone = collect_deltas(model, [example], tokens=tokens)[0]
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
def test_the_aligned_tokens_are_the_right_ones(model, data):
    for example, r, qr in zip(
        data,
        collect_deltas(model, data),
        collect_deltas(model, data, tokens="question+response"),
        strict=True,
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
@pytest.mark.parametrize("tokens", SURFACES)
def test_the_paired_runs_of_all_batches_are_those_of_single_examples(model, data, tokens):
    seen = []
    for runs in iter_runs(model, data, tokens, local=True, batch_size=2):
        assert runs.examples == [data[i] for i in runs.indices]
        parts = zip(runs.indices, runs.split(runs.accumulated), runs.split(runs.local), strict=True)
        for i, accumulated, local in parts:
            (alone,) = collect_deltas(model, [data[i]], tokens=tokens)
            assert (accumulated - alone.accumulated).abs().max() < EXACT * scale(accumulated)
            assert (local - alone.local).abs().max() < EXACT * scale(accumulated)
            seen.append(i)
    assert sorted(seen) == list(range(len(data)))


@on_core_models
def test_runs_that_were_not_asked_for_are_left_out(model, data):
    (runs,) = iter_runs(model, data, "response", base=False)
    assert runs.base is None
    assert runs.local is None
    with pytest.raises(ValueError, match="base=True"):
        _ = runs.accumulated
