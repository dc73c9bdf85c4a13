"""Every kind of steering: the same however it is run, gone when it should be, kept in files."""

import pytest
import torch

from psr_lens.models import RawText
from psr_lens.responses import sample_responses
from psr_lens.steering import (
    ActAdd,
    ConstantSteering,
    OracleSteering,
    SumSteering,
    load_steering,
)
from tests.tiny_models import CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import INSIDE, KINDS, made_up

PROMPTS = ["the cat", "what is a dog like today", "tell me about the small old house in the wood"]
every_kind = pytest.mark.parametrize("kind", [*KINDS, INSIDE])
both_kinds = pytest.mark.parametrize("tokens", ["response", "question+response"])


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [instructed(model, f"{q} {i}", "be very kind") for i, q in enumerate(PROMPTS * 2)]
    return sample_responses(model, pairs, max_new_tokens=6, seed=1, progress=False)


def logits_of(model, examples):
    with torch.no_grad():
        return model.logits(model.pad([example.base_row for example in examples]))


@every_kind
@both_kinds
def test_cached_is_uncached_is_batched_is_single(model, kind, tokens):
    steering = made_up(kind, model, tokens)
    options = {"max_new_tokens": 6, "temperature": 0.0}
    with steering.applied(model, alpha=1.5):
        cached = model.generate(PROMPTS, **options)
        assert cached == model.generate(PROMPTS, use_cache=False, **options)
        assert cached == model.generate(PROMPTS, batch_size=1, **options)
        assert cached == [model.generate(prompt, **options) for prompt in PROMPTS]


@every_kind
@both_kinds
def test_it_acts_on_its_columns_alone_and_leaves_no_trace(model, data, kind, tokens):
    steering = made_up(kind, model, tokens)
    batch = model.pad([example.base_row for example in data[:3]])
    before = model.logits(batch)
    seen = {}

    def look(resid, columns):
        seen["layer 1"] = resid.clone()

    with torch.no_grad():
        with model.edited({1: look}):
            model.run(batch)
        plain = seen["layer 1"]
        with steering.applied(model, alpha=1.5), model.edited({1: look}):
            during = model.logits(batch)
    on = steering.acts_on(batch.columns)
    if kind != "actadd-start":
        assert torch.equal(on & ~batch.on(tokens), torch.zeros_like(on))
    assert torch.equal(seen["layer 1"][~on], plain[~on])
    changed = (seen["layer 1"] != plain).any(dim=-1)
    assert bool(
        changed[on & batch.attention_mask].float().mean()
        > (0.2 if kind in ("psr", "sum", INSIDE) else 0.9)
    )
    assert not torch.equal(during, before)
    with steering.applied(model, alpha=0.0):
        assert torch.equal(model.logits(batch), before)
    assert torch.equal(model.logits(batch), before)


@every_kind
def test_batched_left_padded_rows_are_single_rows(model, data, kind):
    steering = made_up(kind, model, "question+response")
    examples = sorted(data, key=lambda e: len(e.base_row.tokens))
    with steering.applied(model):
        together = logits_of(model, examples)
        for i, example in enumerate(examples):
            alone = logits_of(model, [example])[0]
            gap = (together[i, -len(alone) :] - alone).abs().max()
            # The bridge takes attention scores to float32.
            assert gap < 1e-5 * alone.abs().max()


@every_kind
def test_a_file_holds_the_steering(model, data, kind, tmp_path):
    steering = made_up(kind, model, "question+response")
    path = steering.save(tmp_path / "s")
    loaded = load_steering(path)
    assert type(loaded) is type(steering)
    assert (loaded.layers, loaded.tokens) == (steering.layers, steering.tokens)
    with steering.applied(model):
        expected = logits_of(model, data)
    with loaded.applied(model):
        assert torch.equal(logits_of(model, data), expected)
    assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()


@every_kind
def test_coefficients_are_lengths_of_pushes(model, data, kind):
    steering = made_up(kind, model)
    found = steering.coefficients(model, data)
    for one, example in zip(found, data, strict=True):
        assert one.values.shape == (len(steering.layers), 1 + len(example.response_ids))
        assert bool((one.values >= 0).all())
    nothing = steering.coefficients(model, data, alpha=0.0)
    assert all(float(one.values.abs().max()) == 0 for one in nothing)
    if kind == "actadd":
        assert all(bool((one.values[:, 3:] == 0).all()) for one in found)
        assert all(bool((one.values[:, :3] > 0).all()) for one in found)


def test_projection_match_gives_every_aligned_token_the_target(model, data):
    steering = made_up("projection", model, "question+response")
    batch = model.pad([example.base_row for example in data])
    seen = {}
    recorders = {
        layer: (lambda resid, columns, layer=layer: seen.__setitem__(layer, resid.clone()))
        for layer in steering.layers
    }
    with steering.applied(model), model.edited(recorders), torch.no_grad():
        model.run(batch)
    for row, layer in enumerate(steering.layers):
        projections = seen[layer][batch.on("question+response")] @ steering.directions[row]
        assert torch.allclose(projections, steering.targets[row].expand_as(projections), atol=1e-9)


def test_ablation_leaves_nothing_along_the_direction(model, data):
    steering = made_up("ablation", model, "question+response")
    batch = model.pad([example.base_row for example in data])
    seen = {}
    recorders = {
        layer: (lambda resid, columns, layer=layer: seen.__setitem__(layer, resid.clone()))
        for layer in steering.layers
    }
    with steering.applied(model), model.edited(recorders), torch.no_grad():
        model.run(batch)
    for row, layer in enumerate(steering.layers):
        left = seen[layer][batch.on("question+response")] @ steering.directions[row]
        assert float(left.abs().max()) < 1e-6


def test_activation_addition_from_texts_adds_at_the_start(model):
    steering = ActAdd.from_texts(model, "the cat is kind", "the dog", 1)
    ids = [model.encoder.encode(RawText(t)).ids for t in ("the cat is kind", "the dog")]
    assert steering.rows.shape == (1, max(map(len, ids)), model.d_model)
    batch = model.to_batch(
        [RawText("the cat is kind"), RawText("tell me about the old house today")]
    )
    assert steering.acts_on(batch.columns)[0].sum() == len(ids[0])
    first = int(batch.attention_mask[0].long().argmax())
    assert bool(steering.acts_on(batch.columns)[0, first])
    assert not bool(steering.acts_on(batch.columns)[0, :first].any())
    # Beginnings are alike, so nothing is added at the first token.
    assert float(steering.rows[0, 0].abs().max()) < 1e-6
    with steering.applied(model):
        once = model.generate(RawText("the cat"), max_new_tokens=5, temperature=0.0)
        again = model.generate(
            RawText("the cat"), max_new_tokens=5, temperature=0.0, use_cache=False
        )
    assert once == again


def test_rows_from_the_start_are_refused_where_padding_is_unknown(model):
    """A direct call does not say where a row begins; a single row has no padding."""
    steering = ActAdd.from_texts(model, "the cat is kind", "the dog", 1)
    tokens = torch.ones(2, 5, dtype=torch.long, device=model.device)
    with steering.applied(model), torch.no_grad():
        model.raw(tokens[:1])
        with pytest.raises(ValueError, match="which columns are padding"):
            model.raw(tokens)


def test_sums_and_multiples_are_what_they_say(model, data):
    psr, constant = made_up("psr", model), made_up("constant", model)

    def under(steering, alpha=1.0):
        with steering.applied(model, alpha=alpha):
            return logits_of(model, data)

    one_layer = made_up("constant", model)
    assert torch.allclose(under(0.5 * psr), under(psr, alpha=0.5), atol=1e-9)
    assert torch.allclose(under(-psr), under(psr, alpha=-1.0), atol=1e-9)
    assert torch.allclose(under(constant + one_layer), under(constant, alpha=2.0), atol=1e-9)
    assert torch.allclose(under(psr + constant - constant), under(psr), atol=1e-9)
    assert not torch.allclose(under(psr + constant), under(psr))
    total = 0.5 * (psr + constant)
    assert isinstance(total, SumSteering)
    assert [weight for weight, _ in total.parts] == [0.5, 0.5]
    # Every part keeps to its own tokens.
    mixed = made_up("constant", model, "question+response") + made_up("psr", model, "response")
    assert mixed.tokens == "question+response"
    batch = model.pad([example.base_row for example in data])
    assert torch.equal(mixed.acts_on(batch.columns), batch.on("question+response"))


def test_the_oracle_ladder_goes_down(model, data):
    """More directions, closer to the prompt; with all of them, there."""
    from psr_lens.fitting import fit
    from psr_lens.fitting.errors import relative_rmse

    full = fit(model, data, method="oracle")
    ladder = [fit(model, data, method="oracle", rank=rank) for rank in (1, 4, model.d_model)]
    errors = relative_rmse(model, [*ladder, full], data.train, "response", 8)
    lasts = [own[-1] for own in errors]
    assert 1 > lasts[0] > lasts[1] > lasts[2] - 1e-6
    assert max(errors[2]) < 1e-4
    assert max(errors[3]) < 1e-6
    psr = fit(model, data, method="psr", solver="layerwise")
    along = fit(model, data, method="oracle", along=psr)
    assert isinstance(along, OracleSteering)
    probed, perfect = relative_rmse(model, [psr, along], data.train, "response", 8)
    # The best coefficients for the same direction cannot be worse where both start alike.
    assert perfect[0] <= probed[0] + 1e-6


@both_kinds
def test_a_run_from_the_first_steered_layer_on_ends_where_the_whole_run_does(model, data, tokens):
    """What `layers="best"` chooses by: every kind, all of its layers and each of them alone."""
    from psr_lens.fitting.errors import last_layer_errors, relative_rmse

    uneven = torch.linspace(-0.5, 0.9, model.d_model).unsqueeze(0)
    whole = [made_up(kind, model, tokens) for kind in KINDS]
    one = [ConstantSteering(uneven, [layer], tokens=tokens) for layer in range(model.n_layers)]
    candidates = [*whole, *one]
    expected = [own[-1] for own in relative_rmse(model, candidates, data, tokens, 4)]
    found = last_layer_errors(model, candidates, data, tokens, 4)
    assert found == pytest.approx(expected, rel=1e-9)
    assert len({round(error, 6) for error in found}) == len(candidates)
