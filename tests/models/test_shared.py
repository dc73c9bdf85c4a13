"""What rows begin with together is run once, and every number is what it was."""

from contextlib import nullcontext
from functools import cache

import pytest
import torch

import psr_lens.models.generation as generation
import psr_lens.models.shared as shared_prefixes
from psr_lens.deltas import aligned_residuals, local_deltas
from psr_lens.models import TokenRow, load_model
from psr_lens.models.generation import generate_tokens
from psr_lens.models.shared import SharedPrefixes, aligned_rest
from psr_lens.steering import PSR, ActAdd, ConstantSteering, Steering
from tests.models.cases import core_models, every_backend, every_lens_backend, every_model, pushes
from tests.tiny_models import checkpoint

PREFIX = tuple(5 + i % 11 for i in range(40))
ROWS = tuple(
    TokenRow((*PREFIX, *rest), 40, 40 + question)
    for rest, question in (
        ((7, 9, 4, 6, 11), 2),
        ((4, 3, 9, 2, 8, 7, 5, 12, 6, 3), 4),
        ((13, 6, 8), 1),
        ((13, 9, 9, 10, 12, 3), 3),
    )
)
WINDOWED = {"mistral", "gemma2", "gemma3"}


@cache
def fresh_model(family, backend="auto", dtype="float32"):
    """Of this file alone: a hook that anybody puts on a model by hand ends the sharing."""
    return load_model(checkpoint(family), backend=backend, dtype=dtype)


@pytest.fixture(autouse=True)
def small_savings_are_worth_it(monkeypatch):
    monkeypatch.setattr(shared_prefixes, "WORTH_SHARING", 1)


class Passes:
    """Rows and columns of every pass through block 0."""

    def __init__(self, model):
        self.seen = []
        original = model._running

        def running(columns):
            self.seen.append(tuple(columns.position.shape))
            return original(columns)

        self._patched = model, running

    def __enter__(self):
        model, running = self._patched
        model._running = running
        return self.seen

    def __exit__(self, *error):
        del self._patched[0]._running


def unshared(monkeypatch, run):
    with monkeypatch.context() as inside:
        for module in (shared_prefixes, generation):
            inside.setattr(module, "WORTH_SHARING", 10**9)
        return run()


def psr_on(model, tokens="response", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (model.n_layers, 2, model.d_model)
    w, z = torch.randn(2, *shape, generator=generator)
    return PSR(w, torch.ones(shape[:2]), z / 4, range(model.n_layers), tokens=tokens)


def gap(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@core_models
@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_aligned_tokens_are_those_of_the_whole_run(family, backend, tokens, monkeypatch):
    model = fresh_model(family, backend, dtype="float64")
    batch = model.pad(list(ROWS))
    whole = unshared(monkeypatch, lambda: aligned_residuals(model, batch, tokens))
    with Passes(model) as seen:
        ours = aligned_residuals(model, batch, tokens)
    # The bridge takes attention scores to float32.
    assert gap(ours, whole) < (1e-12 if backend == "hooked" else 1e-6)
    longest = max(len(row.tokens) for row in ROWS)
    if model.can_share:
        assert seen == [(1, 40), (4, longest - 40)]
    else:
        assert seen == [(4, longest)]


@every_model
def test_single_precision_is_as_close_as_rounding(family, backend):
    model = fresh_model(family, backend)
    assert model.can_share == (family not in WINDOWED)
    batch = model.pad(list(ROWS))
    rest = SharedPrefixes(model).rest(batch)
    ours = model.logits(rest.batch, rest.prefix)[rest.batch.attention_mask]
    real = batch.attention_mask
    if model.can_share:
        real = batch.columns.position >= 40
    assert gap(ours, model.logits(batch)[real]) < 1e-5


@every_backend
@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_steerings_act_as_on_the_whole_run(backend, tokens, monkeypatch):
    model = fresh_model("llama", backend, dtype="float64")
    batch = model.pad(list(ROWS))
    strengths = torch.tensor([1.0, 0.5, -1.0, 0.0])
    steering = psr_on(model, tokens) + 0.5 * ConstantSteering(
        torch.ones(1, model.d_model), [1], tokens="response"
    )

    def run():
        with steering.applied(model, strengths):
            return aligned_residuals(model, batch, "response")

    whole = unshared(monkeypatch, run)
    with Passes(model) as seen:
        ours = run()
    assert seen[0] == (1, 40)
    assert gap(ours, whole) < (1e-12 if backend == "hooked" else 1e-6)
    assert gap(ours, aligned_residuals(model, batch, "response")) > 1e-2


@every_backend
def test_the_replay_is_that_of_the_whole_run(backend, monkeypatch):
    model = fresh_model("llama", backend, dtype="float64")
    batch = model.pad(list(ROWS))
    other = aligned_residuals(model, batch, "response").flip(1)
    whole = unshared(monkeypatch, lambda: local_deltas(model, batch, other, "response"))
    assert gap(local_deltas(model, batch, other, "response"), whole) < (
        1e-12 if backend == "hooked" else 1e-6
    )


@every_model
def test_the_same_tokens_are_sampled(family, backend, monkeypatch):
    model = fresh_model(family, backend)
    prompts = ["The otter lives by the river. " * 3 + end for end in ("Why?", "Who is it?", "a")]
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 5}

    def run(**more):
        with psr_on(model).applied(model):
            return generate_tokens(model, prompts, **options, **more)

    whole = unshared(monkeypatch, run)
    with Passes(model) as seen:
        assert run() == whole
    assert (seen[0][0] == 1 and seen[1][0] == 3) == model.can_share
    assert run(use_cache=False) == whole
    assert run(batch_size=2) == whole
    assert len({own.tokens for own in whole}) > 1


@every_model
@pytest.mark.parametrize("edited", [True, False])
def test_a_prompt_is_run_once_for_all_answers_to_it(family, backend, edited, monkeypatch):
    model = fresh_model(family, backend)
    texts = ("The otter lives by the river. Why?", "Who is it?", "Why the river?")
    prompts = [text for _ in range(4) for text in texts]
    strengths = torch.tensor([s for s in (0.0, 0.5, 1.0, 2.0) for _ in texts], dtype=torch.float64)
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 5}

    def run():
        with psr_on(model).applied(model, strengths) if edited else nullcontext():
            return generate_tokens(model, prompts, **options)

    whole = unshared(monkeypatch, run)
    monkeypatch.setattr(generation, "WORTH_SHARING", 1)
    with Passes(model) as seen:
        assert run() == whole
    rows = [own[0] for own in seen]
    assert 3 in rows
    assert rows[rows.index(3) + 1] == 12
    assert len({own.tokens for own in whole}) > 3


@every_backend
def test_what_looks_at_every_token_of_a_prompt_sees_every_prompt(backend, monkeypatch):
    model = fresh_model("llama", backend)
    monkeypatch.setattr(generation, "WORTH_SHARING", 1)
    looked = []
    with (
        model.edited({0: lambda resid, columns: looked.append(resid.shape[:2])}),
        Passes(model) as seen,
    ):
        generate_tokens(model, ["The otter and the whale"] * 3, max_new_tokens=2)
    assert looked[0][0] == seen[0][0] == 3
    assert looked[0][1] > 1


@every_backend
def test_rows_that_end_are_dropped_from_a_shared_beginning_too(backend, monkeypatch):
    model = fresh_model("qwen2", backend)
    prompts = ["the otter and the whale " + end for end in ("a", "eat", "or not")] * 60
    options = {"max_new_tokens": 5, "temperature": 3.0, "batch_size": 180, "seed": 2}
    whole = unshared(monkeypatch, lambda: generate_tokens(model, prompts, **options))
    assert generate_tokens(model, prompts, **options) == whole
    assert {own.finished for own in whole} == {True, False}


@every_backend
def test_what_was_run_for_one_batch_does_for_the_next(backend):
    model = fresh_model("llama", backend)
    shared = SharedPrefixes(model)
    first, second = model.pad(list(ROWS[:2])), model.pad(list(ROWS[2:]))
    single = model.pad([ROWS[0]])
    shared.rest(first)
    with Passes(model) as seen:
        # Both go on with token 13, which the first batch does not.
        assert shared.rest(second).batch.tokens.shape[1] == second.tokens.shape[1] - 40
        assert shared.rest(single).batch.tokens.tolist() == [list(ROWS[0].tokens[40:])]
    assert seen == []
    # Of another instruction nothing of it is left.
    others = model.pad([TokenRow((3, *row.tokens[1:]), 40, 42) for row in ROWS[:2]])
    rest = shared.rest(others)
    own = model.logits(rest.batch, rest.prefix)[rest.batch.attention_mask]
    assert gap(own, model.logits(others)[others.columns.position >= 40]) < 1e-5


# Nothing in common, and prefixes of different lengths.
APART = tuple(
    TokenRow(tuple(5 + (i * step) % 9 for i in range(length)), question, response)
    for step, question, response, length in (
        (1, 3, 9, 14),
        (2, 5, 6, 13),
        (4, 2, 4, 6),
        (5, 9, 20, 22),
    )
)


@every_model
@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_aligned_tokens_alone_say_what_they_say_in_the_whole_batch(family, backend, tokens):
    model = fresh_model(family, backend, dtype="float64")
    batch = model.pad(list(APART))
    rest = aligned_rest(model, APART, batch, tokens)
    steering = psr_on(model, tokens)

    def run(own, prefix=None):
        with model.edited(steering.edits(model)):
            return model.logits(own, prefix)[own.on(tokens)]

    with Passes(model) as seen:
        ours = run(rest.batch, rest.prefix)
    start = [row.response_start if tokens == "response" else row.question_start for row in APART]
    longest = max(len(row.tokens) - own for row, own in zip(APART, start, strict=True))
    assert seen == [(4, longest if model.can_share else 22)]
    whole = run(batch)
    assert gap(ours, whole) < (1e-12 if backend == "hooked" else 1e-5)
    assert gap(ours, model.logits(batch)[batch.on(tokens)]) > 1e-2


@every_backend
def test_rows_without_a_prefix_are_run_whole(backend):
    model = fresh_model("llama", backend)
    rows = (*APART, TokenRow((5, 6, 7), 0, 0))
    batch = model.pad(list(rows))
    assert aligned_rest(model, rows, batch, "response").batch is batch


@every_backend
def test_rows_are_run_whole_where_somebody_may_look_at_all_of_them(backend):
    model = fresh_model("llama", backend)
    batch = model.pad(list(APART))
    with model.edited(pushes(model)):
        assert aligned_rest(model, APART, batch, "response").batch is batch
    with model.edited(pushes(model), only_on="question+response"):
        assert aligned_rest(model, APART, batch, "response").batch is batch
        assert aligned_rest(model, APART, batch, "question+response").batch is not batch


def whole_batch(model, batch):
    return SharedPrefixes(model).rest(batch).batch.tokens.shape == batch.tokens.shape


@every_backend
def test_nothing_is_kept_from_who_may_look_at_it(backend):
    model = fresh_model("llama", backend)
    batch = model.pad(list(ROWS))
    assert not whole_batch(model, batch)
    with model.edited(pushes(model)):
        assert whole_batch(model, batch)
    with model.edited(pushes(model), only_on="response"):
        assert not whole_batch(model, batch)
    for module in (model.hook_point(1), model.final_norm(), model.raw):
        handle = module.register_forward_hook(lambda *args: None)
        assert whole_batch(model, batch)
        handle.remove()
    handle = model.part_points(0).before.module.register_forward_pre_hook(lambda *args: None)
    assert whole_batch(model, batch)
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *args: None)
    assert whole_batch(model, batch)
    handle.remove()
    if backend != "transformers":
        with model.raw.hooks([("blocks.0.hook_resid_pre", lambda resid, hook: None)]):
            assert whole_batch(model, batch)
    # From the first token on: more than the aligned tokens.
    rows = torch.ones(1, 3, model.d_model)
    with ActAdd(rows, [0], tokens="all").applied(model):
        assert whole_batch(model, batch)
    with ActAdd(rows, [0]).applied(model):
        assert not whole_batch(model, batch)
    assert not whole_batch(model, batch)


def test_a_steering_of_ones_own_is_asked_where_it_acts():
    model = fresh_model("llama")

    class Everywhere(Steering):
        method = "everywhere"

        def update(self, layer, resid, columns=None):
            return torch.ones_like(resid)

        def acts_on(self, columns):
            return torch.ones_like(columns.position, dtype=torch.bool)

    everywhere = Everywhere([0])
    batch = model.pad(list(ROWS))
    assert everywhere.only_on is None
    assert (everywhere + psr_on(model)).only_on is None
    with everywhere.applied(model):
        assert whole_batch(model, batch)


@every_backend
def test_only_what_lies_in_front_of_the_aligned_tokens_is_shared(backend):
    model = fresh_model("llama", backend)
    same = [TokenRow((*PREFIX, 4, 5, 6, 7), 40, 42)] * 3
    batch = model.pad(same)
    left = {
        tokens: SharedPrefixes(model).rest(batch, tokens).batch.tokens.shape[1]
        for tokens in ("response", "question+response")
    }
    assert left == {"response": 2, "question+response": 4}
    with psr_on(model, "question+response").applied(model):
        assert SharedPrefixes(model).rest(batch, "response").batch.tokens.shape[1] == 4


def test_a_pass_more_has_to_be_worth_it(monkeypatch):
    monkeypatch.undo()
    model = fresh_model("llama")
    assert whole_batch(model, model.pad(list(ROWS)))
    assert not whole_batch(model, model.pad(list(ROWS) * 4))


@every_lens_backend
def test_asking_for_a_cache_does_not_end_the_sharing(backend):
    """Transformers leaves hooks behind that look at nothing until they are asked to."""
    model = load_model(checkpoint("llama", 1), backend=backend)
    batch = model.pad(list(ROWS))
    assert not whole_batch(model, batch)
    model.run_with_cache("a question")
    assert not whole_batch(model, batch)
