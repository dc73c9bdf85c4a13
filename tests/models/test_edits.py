"""Edits reach their tokens and nothing else, come and go, and follow direct calls."""

from copy import deepcopy

import pytest
import torch

from psr_lens.models import RawText, TokenRow, as_hooked_model
from psr_lens.models.columns import CONTEXT, QUESTION, RESPONSE, UNKNOWN
from psr_lens.models.generation import generate_tokens
from psr_lens.models.numerics import record_residuals
from tests.models.cases import (
    PROMPTS,
    core_models,
    every_backend,
    every_lens_backend,
    push,
    pushes,
    rows_of,
)
from tests.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@core_models
def test_edits_reach_exactly_the_response(family, backend):
    model = tiny_model(family, backend)
    rows = rows_of(model)
    batch = model.pad(rows)
    before = record_residuals(model, rows)
    with model.edited({0: push(0)}):
        during = record_residuals(model, rows)
    on = batch.on("response")
    moved = (during[0] - before[0]).norm(dim=-1)
    assert bool((moved[on] > 1).all())
    assert bool((moved[~on & batch.attention_mask] == 0).all())
    # Nothing before the response can see it, and at the last layer everything in it does.
    later = (during[-1] - before[-1]).norm(dim=-1)
    assert bool((later[~on & batch.attention_mask] == 0).all())
    assert bool((later[on] > 0).all())


@core_models
def test_logits_after_the_edits_are_the_untouched_ones_exactly(family, backend):
    model = tiny_model(family, backend)
    batch = model.pad(rows_of(model))
    before = model.logits(batch)
    with model.edited(pushes(model)):
        assert not torch.equal(model.logits(batch), before)
    assert torch.equal(model.logits(batch), before)


@every_backend
@pytest.mark.parametrize("where", ["inside the context", "inside an edit", "on entering"])
def test_hooks_are_gone_after_an_exception(backend, where):
    model = tiny_model("llama", backend)
    batch = model.pad(rows_of(model))
    before = model.logits(batch)
    hooks = count_hooks(model)

    def fail(resid, columns):
        raise KeyError("in the edit")

    edits = pushes(model)
    if where == "inside an edit":
        edits[1] = fail
    if where == "on entering":
        edits[99] = push(0)

    def broken_run():
        with model.edited(edits):
            assert where != "on entering"
            model.logits(batch)
            raise KeyError("in the context")

    with pytest.raises((KeyError, IndexError)):
        broken_run()
    assert count_hooks(model) == hooks
    assert "generate" not in model.raw.__dict__
    assert torch.equal(model.logits(batch), before)


def count_hooks(model):
    return sum(len(module._forward_hooks) for module in model.raw.modules())


@every_backend
def test_nested_edits_act_one_after_the_other(backend):
    model = tiny_model("llama", backend, "float64")
    batch = model.pad(rows_of(model))
    plain = model.logits(batch)

    def double(resid, columns):
        return 2 * resid

    def both(resid, columns):
        return double(push(1)(resid, columns), columns)

    with model.edited({1: push(1)}):
        outer = model.logits(batch)
        with model.edited({1: double}):
            nested = model.logits(batch)
        assert torch.equal(model.logits(batch), outer)
    with model.edited({1: both}):
        torch.testing.assert_close(model.logits(batch), nested)
    assert torch.equal(model.logits(batch), plain)


@every_backend
def test_an_edit_may_only_look(backend):
    model = tiny_model("llama", backend)
    batch = model.pad(rows_of(model))
    before = model.logits(batch)
    with model.edited({0: lambda resid, columns: None}):
        assert torch.equal(model.logits(batch), before)


@every_lens_backend
def test_transformer_lens_hooks_live_beside_the_edits(backend):
    model = tiny_model("llama", backend)
    batch = model.pad(rows_of(model))
    seen = []
    with model.edited(pushes(model)):
        during = model.logits(batch)
        model.raw.run_with_hooks(
            batch.tokens,
            attention_mask=batch.attention_mask.long(),
            fwd_hooks=[("blocks.0.hook_resid_post", lambda value, hook: seen.append(value))],
        )
        assert torch.equal(model.logits(batch), during)
    assert len(seen) == 1


# --- the raw object, called by hand -------------------------------------------------------------


def regions_seen(model, call, **options):
    """The regions that an edit is told, one list per pass."""
    seen = []
    with model.edited(
        {0: lambda resid, columns: seen.append(columns.region[0].tolist())}, **options
    ):
        call()
    return seen


@every_backend
def test_regions_of_raw_calls(backend):
    model = tiny_model("llama", backend)
    ids = model.to_batch(RawText("Tell me about")).tokens
    length = ids.shape[1]

    def forward():
        model.raw(ids)

    assert regions_seen(model, forward) == [[UNKNOWN] * (length - 1) + [RESPONSE]]
    assert regions_seen(model, forward, prompt_length=3) == [
        [UNKNOWN] * 2 + [RESPONSE] * (length - 2)
    ]
    assert regions_seen(model, forward, prompt_length=3, question_start=1) == [
        [CONTEXT, QUESTION] + [RESPONSE] * (length - 2)
    ]
    # What the model's own methods run has regions of its own.
    row = TokenRow(tuple(ids[0].tolist()), 2, 3)
    assert regions_seen(model, lambda: model.logits(model.pad([row]))) == [
        [CONTEXT] * 2 + [QUESTION] + [RESPONSE] * (length - 3)
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@every_lens_backend
@pytest.mark.parametrize("use_cache", [True, False])
def test_generate_of_the_raw_object_is_edited_like_ours(family, backend, use_cache):
    model = tiny_model(family, backend)
    assert as_hooked_model(model.raw) is model

    def by_hand(prompt):
        ids = model.to_batch(prompt).tokens
        tokens = model.raw.generate(
            ids,
            max_new_tokens=10,
            do_sample=False,
            use_past_kv_cache=use_cache,
            stop_at_eos=False,
            return_type="tokens",
            verbose=False,
        )
        return tokens[0, ids.shape[1] :].tolist()

    edits = pushes(model, 0.5)
    plain = [by_hand(prompt) for prompt in PROMPTS]
    with model.edited(edits):
        edited = [by_hand(prompt) for prompt in PROMPTS]
        ours = generate_tokens(model, PROMPTS, max_new_tokens=10, temperature=0.0)
    assert edited != plain
    assert [by_hand(prompt) for prompt in PROMPTS] == plain
    for found, expected in zip(edited, ours, strict=True):
        assert found[: len(expected.tokens)] == list(expected.tokens)
    assert max(len(expected.tokens) for expected in ours) > 5


@every_lens_backend
def test_uncached_generate_edits_every_response_token_in_every_pass(backend):
    model = tiny_model("llama", backend)
    ids = model.to_batch(RawText("Tell me about")).tokens
    prompt = ids.shape[1]

    def generate():
        model.raw.generate(
            ids, max_new_tokens=3, use_past_kv_cache=False, stop_at_eos=False, verbose=False
        )

    assert regions_seen(model, generate) == [
        [UNKNOWN] * (prompt - 1) + [RESPONSE] * (1 + drawn) for drawn in range(3)
    ]
    assert regions_seen(model, generate, question_start=1) == [
        [CONTEXT] + [QUESTION] * (prompt - 2) + [RESPONSE] * (1 + drawn) for drawn in range(3)
    ]


@every_lens_backend
def test_cached_generate_edits_the_last_prompt_token_and_what_follows(backend):
    model = tiny_model("llama", backend)
    ids = model.to_batch(RawText("Tell me about")).tokens

    def generate():
        model.raw.generate(ids, max_new_tokens=3, stop_at_eos=False, verbose=False)

    assert regions_seen(model, generate) == [
        [UNKNOWN] * (ids.shape[1] - 1) + [RESPONSE],
        [RESPONSE],
        [RESPONSE],
    ]


@every_backend
def test_a_copy_of_a_model_runs_by_itself(backend):
    model = tiny_model("llama", backend)
    batch = model.pad(rows_of(model))
    twin = deepcopy(model)
    with twin.edited(pushes(twin)):
        assert not torch.equal(twin.logits(batch), model.logits(batch))
    assert torch.equal(twin.logits(batch), model.logits(batch))
