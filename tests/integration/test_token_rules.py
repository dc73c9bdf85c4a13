"""Which tokens a steering acts on: by name or by rule, the same in every way to run the model."""

from dataclasses import dataclass

import pytest
import torch

import psr_lens as pl
from psr_lens.deltas import aligned_residuals
from psr_lens.models.columns import Columns
from psr_lens.models.token_rules import described_tokens, tokens_from
from psr_lens.steering import PSR, ConstantSteering
from tests.models.cases import PROMPTS, TEXTS, rows_of
from tests.tiny_models import CORE_MODELS, instructed, tiny_model


@dataclass(frozen=True)
class EveryOther(pl.TokenRule):
    """The last prompt token and every second one behind it."""

    reach = "response"

    def chosen(self, columns: Columns):
        after = columns.position - columns.response_start
        return (after >= 0) & (after % 2 == 0)


@dataclass(frozen=True)
class OddPositions(pl.TokenRule):
    """Every second token of the sequence."""

    def chosen(self, columns: Columns):
        return columns.position % 2 == 1


@dataclass(frozen=True)
class Keeps(pl.TokenRule):
    rule: object

    def chosen(self, columns: Columns):
        return columns.position >= 0


# By hand: the row's token ids, where its question and where its response begin.
RULES = {
    "response": ("response", lambda ids, q, r, i: i >= r),
    "question": ("question+response", lambda ids, q, r, i: i >= q),
    "all": ("all", lambda ids, q, r, i: True),
    "last": (pl.LastPromptToken(), lambda ids, q, r, i: i == r),
    "third": (pl.FromResponseToken(3), lambda ids, q, r, i: i >= r + 3),
    "every-other": (EveryOther(), lambda ids, q, r, i: i >= r and (i - r) % 2 == 0),
    "odd": (OddPositions(), lambda ids, q, r, i: i % 2 == 1),
}
every_rule = pytest.mark.parametrize("rule", [*RULES, "ids", "ids-anywhere"])


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


def by_name(model, name):
    """A rule, and by hand what it chooses; of token ids those that the texts have most of."""
    if not name.startswith("ids"):
        return RULES[name]
    counts = torch.bincount(torch.tensor([t for row in rows_of(model) for t in row.tokens]))
    ids = tuple(counts.argsort(descending=True)[:4].tolist())
    if name == "ids":
        return pl.TokenIds(ids), lambda own, q, r, i: i >= r and own[i] in ids
    return pl.TokenIds(list(ids), within="all"), lambda own, q, r, i: own[i] in ids


def steering_of(model, tokens, kind="psr", size=3.0):
    """A made-up steering at the lower two layers."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d = model.d_model
    if kind == "constant":
        return ConstantSteering(size * draw(2, d), [0, 1], tokens=tokens)
    return PSR(draw(2, 1, d) / 3, draw(2, 1).abs(), size * draw(2, 1, d), [0, 1], tokens=tokens)


@every_rule
def test_what_is_chosen_is_what_the_rule_says_by_hand(model, rule):
    tokens, by_hand = by_name(model, rule)
    rows = rows_of(model)
    batch = model.pad(rows)
    chosen = steering_of(model, tokens).acts_on(batch.columns) & batch.attention_mask
    width = batch.tokens.shape[1]
    for own, row in zip(chosen.tolist(), rows, strict=True):
        expected = [
            by_hand(row.tokens, row.question_start, row.response_start, i)
            for i in range(len(row.tokens))
        ]
        assert own == [False] * (width - len(expected)) + expected
    assert chosen.any()


@every_rule
def test_the_update_lies_there_and_nowhere_else(model, rule):
    """Layer 0 after the pass: the plain residual stream, and what is added at the chosen columns."""
    tokens, _ = by_name(model, rule)
    steering = steering_of(model, tokens)
    batch = model.pad(rows_of(model))
    seen = {}
    with torch.no_grad():
        for name, edits in (("plain", {}), ("prompted", steering.edits(model))):

            def look(resid, columns, name=name):
                seen[name] = resid.clone()

            with model.edited(edits), model.edited({0: look}):
                model.run(batch)
    real = batch.attention_mask
    expected = steering.update(0, seen["plain"]) * steering.acts_on(batch.columns).unsqueeze(-1)
    difference = (seen["prompted"] - seen["plain"])[real]
    assert (difference - expected[real]).abs().max() < 1e-12
    assert torch.equal(difference != 0, expected[real] != 0)


@every_rule
@pytest.mark.parametrize("kind", ["psr", "constant"])
def test_cached_is_uncached_is_batched_is_single(model, rule, kind):
    tokens, _ = by_name(model, rule)
    options = {"max_new_tokens": 6, "temperature": 0.0}
    plain = model.generate(PROMPTS, **options)
    with steering_of(model, tokens, kind, size=8.0).applied(model):
        batched = model.generate(PROMPTS, **options)
        single = [model.generate(prompt, **options) for prompt in PROMPTS]
        uncached = model.generate(PROMPTS, use_cache=False, **options)
    assert batched == single == uncached
    if rule in ("all", "response", "question", "last", "odd"):
        assert batched != plain


@every_rule
def test_direct_calls_follow_it_too(model, rule):
    """`generate` of the object underneath."""
    if rule == "question":
        pytest.skip("nothing says where the question starts there: a test of its own")
    tokens, _ = by_name(model, rule)
    steering = steering_of(model, tokens, size=8.0)
    batch = model.to_batch([PROMPTS[0]])
    options = {"max_new_tokens": 5, "do_sample": False}
    if model.backend != "transformers":
        options["verbose"] = False
    with torch.no_grad(), steering.applied(model):
        ours = model.generate(PROMPTS[0], max_new_tokens=5, temperature=0.0)
        if model.backend == "hooked" and rule.startswith("ids"):
            # It embeds the tokens itself and runs the model on embeddings.
            with pytest.raises(
                ValueError, match="goes by token ids and this call does not show any"
            ):
                model.raw.generate(batch.tokens, **options)
            return
        direct = model.raw.generate(batch.tokens, **options)
    new = direct[0, batch.tokens.shape[1] :].tolist()
    kept = [token for token in new if token not in model.encoder.end_token_ids]
    text = model.encoder.decode(kept)
    assert text.startswith(ours) or ours.startswith(text)


def test_what_rows_share_is_not_run_without_a_steering_that_acts_there(model):
    """A long beginning that all rows have: run once for `response`, with every row for `all`."""
    prompts = [pl.RawText(f"{TEXTS[0] * 4} {end}") for end in ("one", "two", "three", "four")]
    for tokens in ("all", OddPositions(), pl.LastPromptToken(), "response"):
        steering = steering_of(model, tokens, size=8.0)
        with steering.applied(model), torch.no_grad():
            assert model.generate(prompts, max_new_tokens=3, temperature=0.0) == [
                model.generate(prompt, max_new_tokens=3, temperature=0.0) for prompt in prompts
            ]


def test_another_choice_for_one_context(model):
    steering = steering_of(model, "response", size=8.0)
    batch = model.to_batch([PROMPTS[0]])
    with torch.no_grad():
        with steering.applied(model, tokens="all") as steered:
            given = steered.logits(batch)
        with steering.on("all").applied(model) as steered:
            assert torch.equal(steered.logits(batch), given)
        with steering.applied(model) as steered:
            assert not torch.equal(steered.logits(batch), given)


@pytest.fixture(scope="module")
def data(model):
    questions = [f"tell me about animal {i}" for i in range(6)]
    pairs = [instructed(model, q, "always be very kind") for q in questions]
    return pl.sample_responses(model, pairs, max_new_tokens=5, seed=0, progress=False)


@pytest.mark.parametrize("rule", ["all", "last", "odd"])
def test_faithfulness_is_measured_where_it_really_acts(model, data, rule):
    """Against forward passes of single examples with the vector added by hand."""
    tokens, by_hand = by_name(model, rule)
    mine = steering_of(model, tokens, "constant", size=0.3)
    vectors = mine.vectors.detach()
    missed = energy = 0.0
    for example in data:
        base, prompted = model.pad([example.base_row]), model.pad([example.prompted_row])
        row = example.base_row
        places = [
            i
            for i in range(len(row.tokens))
            if by_hand(row.tokens, row.question_start, row.response_start, i)
        ]

        def add(layer, places=places):
            def edit(resid, columns):
                changed = resid.clone()
                changed[:, places] += vectors[layer]
                return changed

            return edit

        steered = aligned_residuals(model, base, "response", {0: add(0), 1: add(1)})
        target = aligned_residuals(model, prompted, "response")
        plain = aligned_residuals(model, base, "response")
        missed += (steered - target).square().sum(dim=(1, 2))
        energy += (plain - target).square().sum(dim=(1, 2))
    report = pl.measure_faithfulness(
        model, {"mine": mine}, list(data), random_direction=False, oracle_ranks=(), n_bootstrap=0
    )
    expected = (missed / energy).sqrt()
    assert report.relative_rmse["mine"].values == pytest.approx(expected.tolist(), rel=1e-9)
    words = f"{tokens} tokens" if isinstance(tokens, str) else f"what {tokens!r} chooses"
    assert f"It acts on {words}, and its effect is measured on the response" in report.summary()


def test_coefficients_show_every_token_that_it_acts_on(model, data):
    mine = steering_of(model, "all", "constant")
    found = mine.coefficients(model, list(data))
    for own, example in zip(found, data, strict=True):
        assert len(own.tokens) == len(example.base_row.tokens)
        lengths = mine.vectors.norm(dim=-1)[:, None].expand_as(own.values)
        torch.testing.assert_close(own.values, lengths)
        regions = own.to_dataframe().region
        assert list(dict.fromkeys(regions))[-2:] == ["last prompt token", "response"]
    last = steering_of(model, pl.LastPromptToken(), "constant").coefficients(model, list(data))
    for own in last:
        assert bool((own.values[:, 0] > 0).all())
        assert bool((own.values[:, 1:] == 0).all())


def test_fits_take_place_on_the_aligned_tokens(model, data):
    everywhere = pl.fit(model, data, method="dim").on("all")
    assert everywhere.fit_report is not None
    assert everywhere.tokens == "all"
    with pytest.raises(ValueError, match=r"tokens=LastPromptToken\(\): the rows of ActAdd"):
        pl.fit(model, data, method="actadd").on(pl.LastPromptToken())
    with pytest.raises(ValueError, match="tokens='all': fits and measures"):
        pl.fit(model, data, method="oracle").on("all")


@pytest.mark.parametrize(
    "tokens",
    [
        "all",
        pl.LastPromptToken(),
        pl.FromResponseToken(2),
        pl.TokenIds([5, 3], "all"),
        EveryOther(),
        Keeps("x"),
    ],
    ids=str,
)
def test_it_is_kept_in_the_file(tmp_path, tokens):
    vector = ConstantSteering(torch.ones(1, 4), [2], tokens=tokens)
    kept = pl.load_steering(vector.save(tmp_path / "vector"))
    assert kept.tokens == tokens
    assert kept.header() == vector.header()
    assert torch.equal(kept.vectors, vector.vectors)
    assert str(tokens) in repr(kept)
    both = vector + PSR(torch.ones(1, 1, 4), torch.ones(1, 1), torch.ones(1, 1, 4), [1])
    again = pl.load_steering(both.save(tmp_path / "both"))
    assert [part.tokens for _, part in again.parts] == [tokens, "response"]
    assert again.on("all").tokens == "all"


def test_a_sum_keeps_every_part_to_its_own_tokens(model):
    one, two = (steering_of(model, own) for own in (pl.LastPromptToken(), "all"))
    columns = model.pad(rows_of(model)).columns
    resid = torch.randn(*columns.position.shape, model.d_model, dtype=torch.float64)
    parts = [
        torch.where(own.acts_on(columns).unsqueeze(-1), own.update(0, resid), 0.0)
        for own in (one, two)
    ]
    assert torch.equal((one + two).update(0, resid, columns), sum(parts))
    assert (one + two).tokens == "all"
    assert (one + one).tokens == pl.LastPromptToken()
    options = {"max_new_tokens": 4, "temperature": 0.0}
    with (one + two).applied(model):
        assert model.generate(PROMPTS, **options) == model.generate(
            PROMPTS, use_cache=False, **options
        )


@pytest.mark.parametrize("tokens", ["all", pl.LastPromptToken()], ids=str)
def test_gradients_reach_the_steering_that_was_put_elsewhere(model, tokens):
    steering = steering_of(model, "response", "constant").requires_grad_()
    twice = steering + 0.5 * steering_of(model, "all") + steering_of(model, "response")
    for own in (steering, twice):
        steering.zero_grad()
        with own.applied(model, tokens=tokens) as steered:
            steered.logits(model.to_batch([PROMPTS[0]])).sum().backward()
        assert float(steering.vectors.grad.norm()) > 0
        assert [p.requires_grad for p in own.on(tokens).parameters()] == [
            p.requires_grad for p in own.parameters()
        ]
    elsewhere = steering.on(tokens).double()
    assert elsewhere.vectors is not steering.vectors


def test_a_sum_says_where_its_parts_act(model, data):
    """Together they reach `response`, which is what is measured, and yet neither acts on all of that."""
    parts = [steering_of(model, own) for own in (pl.LastPromptToken(), pl.FromResponseToken(3))]
    both = parts[0] + parts[1]
    assert both.tokens == "response"
    options = {"random_direction": False, "oracle_ranks": (), "n_bootstrap": 0}
    report = pl.measure_faithfulness(model, {"both": both}, list(data), **options)
    assert (
        "what LastPromptToken() chooses and what FromResponseToken(n=3) chooses" in report.summary()
    )


@dataclass(frozen=True)
class TooFar(pl.TokenRule):
    """What it chooses in front of the response is left out, as its reach says."""

    reach = "response"

    def chosen(self, columns: Columns):
        return columns.position % 2 == 1


def test_a_rule_does_not_act_beyond_its_reach(model):
    prompts = [pl.RawText(f"{TEXTS[0] * 4} {end}") for end in ("one", "two", "three", "four")]
    with steering_of(model, TooFar(), size=8.0).applied(model):
        batched = model.generate(prompts, max_new_tokens=3, temperature=0.0)
        assert batched == [model.generate(p, max_new_tokens=3, temperature=0.0) for p in prompts]


@dataclass(frozen=True)
class OneRow(pl.TokenRule):
    def chosen(self, columns: Columns):
        return columns.position[0] >= 0


@dataclass(frozen=True)
class Numbers(pl.TokenRule):
    def chosen(self, columns: Columns):
        return (columns.position >= 0).long()


@pytest.mark.parametrize("rule", [OneRow(), Numbers()], ids=str)
def test_a_rule_that_gives_no_mask_is_refused(model, rule):
    with steering_of(model, rule).applied(model), pytest.raises(ValueError, match=r"\(\) chose \["):
        model.generate(PROMPTS, max_new_tokens=2)


def test_a_name_of_the_package_is_not_taken():
    with pytest.raises(ValueError, match="psr_lens has a rule LastPromptToken already"):
        type("LastPromptToken", (pl.TokenRule,), {"chosen": OneRow.chosen})


class NotADataclass(pl.TokenRule):
    def chosen(self, columns):
        return columns.position >= 0


@dataclass(frozen=True)
class WrongReach(pl.TokenRule):
    reach = "prompt"  # type: ignore[assignment]

    def chosen(self, columns):
        return columns.position >= 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NotADataclass(), "NotADataclass must be a frozen dataclass"),
        (lambda: WrongReach(), r"reach='prompt' of WrongReach\(\): choose one of response"),
        (lambda: Keeps([1]), r"Keeps\(rule=\[1\]\) would not come back from a file"),
        (lambda: Keeps(((1, 2),)), "would not come back from a file"),
        (lambda: Keeps(frozenset([1])), "would not come back from a file"),
        (lambda: pl.FromResponseToken(0), "n=0: it must be at least 1"),
        (lambda: pl.TokenIds([]), r"ids=\[\]: name at least one token id"),
        (lambda: pl.TokenIds([-1]), r"ids=\[-1\]: name at least one token id"),
    ],
)
def test_what_is_no_rule_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        ConstantSteering(torch.ones(1, 4), [2], tokens=make())


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"rule": "Elsewhere"}, "a rule 'Elsewhere': import the module that defines it first"),
        ({"rule": "FromResponseToken", "fields": {"m": 1}}, "and it has others"),
        ("surface", "tokens='surface': choose"),
        (3, "tokens=3: choose"),
    ],
)
def test_a_file_with_another_rule_is_refused(described, words):
    with pytest.raises(ValueError, match=words):
        tokens_from(described)


def test_rules_are_described_by_name_and_fields():
    assert described_tokens("all") == "all"
    assert tokens_from(
        {"rule": "TokenIds", "fields": {"ids": [4], "within": "all"}}
    ) == pl.TokenIds([4], "all")


def test_ids_of_what_shows_none_are_asked_for(model):
    if model.backend != "transformers":
        pytest.skip("embeddings go into a transformers model")
    steering = steering_of(model, pl.TokenIds([5]))
    embeddings = model.raw.get_input_embeddings()(torch.tensor([[5, 6]]))
    with (
        steering.applied(model),
        pytest.raises(ValueError, match="goes by token ids and this call"),
    ):
        model.raw(inputs_embeds=embeddings)
