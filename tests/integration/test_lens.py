"""The logit lens: exact where a residual stream is at hand, the derivative's direction where not."""

from dataclasses import replace

import pytest
import torch

from psr_lens import load_model
from psr_lens.delta_collection import collect_deltas
from psr_lens.demo import questions, system_prompt
from psr_lens.fitting import fit
from psr_lens.lens import LensReading, logit_lens, read_delta, read_steering
from psr_lens.models.float64 import all_float64
from psr_lens.models.norms import linear_logits, norm_map
from psr_lens.prompts import make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import PSR, ConstantSteering, OracleSteering
from tests.tiny_models import CORE_MODELS, MODELS, instructed, tiny_model
from tests.tiny_steerings import KINDS, made_up

every_model = pytest.mark.parametrize(("family", "backend"), MODELS)


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


TOLERANCE = 1e-9


def sampled(model, n=3):
    pairs = [instructed(model, f"tell me about animal {i}", "be very kind") for i in range(n)]
    return sample_responses(model, pairs, max_new_tokens=6, progress=False)


@every_model
def test_the_norm_is_its_map_divided_by_a_scale(family, backend):
    model = tiny_model(family, backend, "float64")
    found = norm_map(model.final_norm(), model.unembedding())
    assert found.centres == (family in ("gpt2", "gpt_neox"))
    assert bool(found.bias.any()) == (family in ("gpt2", "gpt_neox"))
    x = 3 * random(1, 5, model.d_model) + 1
    with torch.no_grad(), all_float64(x.dtype):
        scale = found.linear(x) / (model.final_norm()(x) - found.bias)
    centred = x - x.mean(dim=-1, keepdim=True) if found.centres else x
    expected = centred.square().mean(dim=-1, keepdim=True).sqrt().expand_as(x)
    # The map takes the epsilon of its probe with it, 5e-6 of the whole at most.
    assert torch.allclose(scale, expected, rtol=3e-5)
    assert torch.allclose(scale, scale[..., :1].expand_as(scale), rtol=TOLERANCE)


@pytest.mark.parametrize("width", [2, 3, 7, 8])
def test_the_norm_map_of_known_norms(width):
    layer_norm = torch.nn.LayerNorm(width, dtype=torch.float64)
    rms_norm = torch.nn.RMSNorm(width, eps=1e-6, dtype=torch.float64)
    for seed, weight in enumerate((layer_norm.weight, layer_norm.bias, rms_norm.weight)):
        weight.data.copy_(random(width, seed=seed))
    found = norm_map(layer_norm, layer_norm.weight)
    assert found.centres
    assert torch.allclose(found.weight, layer_norm.weight, rtol=1e-5)
    assert torch.equal(found.bias, layer_norm.bias)
    found = norm_map(rms_norm, rms_norm.weight)
    assert not found.centres
    assert torch.allclose(found.weight, rms_norm.weight, rtol=1e-5)
    assert not found.bias.any()


@every_model
def test_linear_logits_are_the_derivative_up_to_scale(family, backend):
    """At a stream whose normed form is orthogonal to the direction, where the scale stands still."""
    model = tiny_model(family, backend, "float64")
    stream, direction = random(2, model.d_model)
    if family in ("gpt2", "gpt_neox"):
        stream, direction = stream - stream.mean(), direction - direction.mean()
    stream = stream - (stream @ direction) / (direction @ direction) * direction
    logits, slope = torch.autograd.functional.jvp(model.unembed, stream, direction)
    if family == "gemma2":
        # Undo the soft cap of 5, which bends every logit by its own factor.
        slope = slope / (1 - (logits / 5.0).square())
    (found,) = linear_logits(model, direction.unsqueeze(0))
    cosine = torch.nn.functional.cosine_similarity(found, slope, dim=0)
    assert float(1 - cosine) < TOLERANCE
    scale = float(found.norm() / slope.norm())
    assert scale == pytest.approx(float(stream.square().mean().sqrt()), rel=1e-4)


def logits_at(model, rows, position):
    with torch.no_grad():
        return model.logits(model.pad(rows))[0, position]


@pytest.mark.parametrize("name", ["demo", "demo-gpt2"])
def test_the_last_layers_delta_is_the_difference_of_the_logits(name):
    model = load_model(name, dtype="float64")
    pairs = make_pairs(questions()[:2], system_prompt("shouter"))
    data = sample_responses(model, pairs, max_new_tokens=8, progress=False)
    for deltas in collect_deltas(model, data, local=False):
        for position in (0, -2):
            check_exact(model, deltas, position, 1e-8)


@pytest.mark.parametrize(("family", "backend"), CORE_MODELS)
def test_the_same_on_tiny_models_with_the_soft_cap(family, backend):
    model = tiny_model(family, backend, "float64")
    deltas = collect_deltas(model, sampled(model), tokens="question+response", local=False)[1]
    check_exact(model, deltas, -1, TOLERANCE)


def check_exact(model, deltas, position, gap):
    reading = read_delta(model, deltas, -1, position, top=model.d_vocab)
    (own,) = reading.readings
    assert reading.exact
    assert own.layer == model.n_layers - 1
    place = position % len(deltas.tokens) - len(deltas.tokens)
    steered = logits_at(model, [deltas.example.prompted_row], place)
    difference = steered - logits_at(model, [deltas.example.base_row], place)
    assert float(difference.abs().max()) > 0.1
    found = torch.zeros(model.d_vocab, dtype=torch.float64)
    for token in own.promoted:
        found[token.token_id] = token.value
    assert float((found - difference).abs().max()) < gap


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


def test_tokens_are_the_furthest_of_the_vocabulary(model):
    directions = random(3, model.d_model)
    reading = logit_lens(model, directions, top=4)
    values = linear_logits(model, directions)
    assert [own.name for own in reading.readings] == ["0", "1", "2"]
    for own, row in zip(reading.readings, values, strict=True):
        order = row.sort(descending=True)
        assert [t.token_id for t in own.promoted] == order.indices[:4].tolist()
        assert [t.value for t in own.promoted] == pytest.approx(order.values[:4].tolist())
        assert [t.token_id for t in own.demoted] == order.indices.flip(0)[:4].tolist()
        assert own.spread == pytest.approx(float(row.std(correction=0)))
        standing = (float(order.values[0]) - float(row.mean())) / own.spread
        assert own.standing(own.promoted[0]) == pytest.approx(standing)
        assert [t.token for t in own.promoted] == list(
            model.encoder.str_tokens(order.indices[:4].tolist())
        )
    named = logit_lens(model, {"mine": directions[1]}, top=4)
    assert named.readings[0].name == "mine"
    alone, among = (r.to_dataframe() for r in (named, reading))
    among = among[among.direction == "1"].reset_index()
    assert list(alone.token_id) == list(among.token_id)
    assert list(alone.value) == pytest.approx(list(among.value))


ROLES = {
    "ablation": {"removes": 1},
    "actadd": {"writes": 3},
    "actadd-start": {"writes": 3},
    "constant": {"writes": 1},
    "loreft": {"writes": 2, "reads": 2},
    "projection": {"writes": 1},
    "psr": {"writes": 2, "reads": 2},
    "reft_r1": {"writes": 1},
    "sum": {"writes": 3, "reads": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_direction_of_every_steering_is_read(model, kind):
    steering = made_up(kind, model)
    reading = read_steering(model, steering, top=3)
    n_layers = len(steering.layers)
    assert not reading.exact
    for role, count in ROLES[kind].items():
        own = [r for r in reading.readings if r.role == role]
        assert len(own) == count * n_layers
        assert {r.layer for r in own} == set(steering.layers)
    assert len(reading.readings) == sum(ROLES[kind].values()) * n_layers
    assert len({r.name for r in reading.readings}) == len(reading.readings)
    assert all(len(r.promoted) == len(r.demoted) == 3 for r in reading.readings)


def test_a_psr_is_read_head_by_head(model):
    psr = made_up("psr", model)
    reading = read_steering(model, psr, top=1)
    (own,) = (r for r in reading.readings if (r.layer, r.index, r.role) == (2, 1, "writes"))
    (values,) = linear_logits(model, psr.z[1, 1].unsqueeze(0))
    assert own.name == "layer 2, head 1, writes"
    assert own.promoted[0].value == pytest.approx(float(values.max()))
    assert own.norm == pytest.approx(1.0)
    (own,) = (r for r in reading.readings if (r.layer, r.index, r.role) == (1, 0, "reads"))
    (values,) = linear_logits(model, psr.w[0, 0].unsqueeze(0))
    assert own.demoted[0].value == pytest.approx(float(values.min()))


def test_a_weight_turns_what_is_written_round_and_not_what_is_read(model):
    psr = made_up("psr", model)
    plain, turned = (read_steering(model, s, top=2) for s in (psr, -2.0 * psr))
    for own, other in zip(plain.readings, turned.readings, strict=True):
        if own.role == "reads":
            assert replace(other, name=own.name) == own
            continue
        assert [t.token_id for t in other.demoted] == [t.token_id for t in own.promoted]
        assert other.demoted[0].value == pytest.approx(-2 * own.promoted[0].value)


def test_a_zero_direction_says_nothing(model):
    reading = read_steering(model, ConstantSteering(torch.zeros(1, model.d_model), (1,)))
    assert reading.readings[0].promoted == () == reading.readings[0].demoted
    assert "zero, it promotes nothing" in reading.summary()
    assert "nothing" in reading._repr_html_()
    assert reading.plot().data


def test_a_reading_comes_back_from_disk_as_it_was(model, tmp_path):
    silent = PSR(random(1, 1, 32), random(1, 1), torch.zeros(1, 1, 32).double(), (0,))
    for number, steering in enumerate((made_up("sum", model), silent)):
        reading = read_steering(model, steering, top=5)
        back = LensReading.load(reading.save(tmp_path / str(number)))
        assert back == reading


def test_a_reading_shows_itself_with_special_tokens_as_text(model):
    ids = [model.encoder.pad_token_id, model.encoder.encode("a").ids[0]]
    unembedding = model.unembedding().double()
    # Directions that speak for given rows: a least-squares inverse of the map.
    norm = norm_map(model.final_norm(), unembedding)
    rows = torch.linalg.pinv(unembedding * norm.weight)[:, ids].T
    reading = logit_lens(model, dict(zip("ab", rows, strict=True)), top=3)
    special = reading.readings[0].promoted[0].token
    assert special.startswith("<")
    html = reading._repr_html_()
    assert special.replace("<", "&lt;").replace(">", "&gt;") in html
    assert special not in html
    assert repr(special) in reading.summary()
    assert "\n" not in repr(reading)
    frame = reading.to_dataframe()
    assert len(frame) == 2 * 2 * 3
    assert set(frame.side) == {"promoted", "demoted"}
    assert list(frame["rank"][:3]) == [1, 2, 3]


def test_what_cannot_be_read_is_refused(model):
    with pytest.raises(ValueError, match="directions is empty"):
        logit_lens(model, {})
    with pytest.raises(ValueError, match=r"shape \(5,\) but d_model=32"):
        logit_lens(model, torch.ones(2, 5))
    with pytest.raises(ValueError, match="not finite"):
        logit_lens(model, {"bad": torch.full((32,), torch.nan)})
    with pytest.raises(ValueError, match="top=0"):
        logit_lens(model, torch.ones(32), top=0)
    with pytest.raises(ValueError, match="no directions to read"):
        read_steering(model, OracleSteering(range(3)))
    deltas = collect_deltas(model, sampled(model, 1), local=False)[0]
    with pytest.raises(ValueError, match=r"tokens=\[99\]: there are 0"):
        read_delta(model, deltas, 0, 99)
    with pytest.raises(ValueError, match=r"layers=\[3\]: there are 0, 1, 2"):
        read_delta(model, deltas, 3, 0)
    with pytest.raises(ValueError, match="collect them on this model"):
        read_delta(load_model("demo"), deltas, 0, 0)
    with pytest.raises(ValueError, match="covers layer 7"):
        read_steering(model, ConstantSteering(torch.ones(1, 32), (7,)))


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def demo_data(model, trait):
    pairs = [
        make_pairs([question], system_prompt(trait, i % 3))[0]
        for i, question in enumerate(questions(per_animal=2))
    ]
    return sample_responses(model, pairs, max_new_tokens=32, progress=False)


def test_a_shouters_directions_prefer_capitals(demo):
    """Nearly every word of the model's language exists in small letters and in capitals."""
    data = demo_data(demo, "shouter")
    psr = fit(demo, data, method="psr", solver="layerwise")
    dim = fit(demo, data, method="dim", layers=5)
    texts = demo.encoder.str_tokens(range(demo.d_vocab))
    id_of = {text: i for i, text in enumerate(texts)}
    pairs = [(i, id_of[t.upper()]) for t, i in id_of.items() if t.islower() and t.upper() in id_of]
    small, large = (torch.tensor(ids) for ids in zip(*pairs, strict=True))
    assert len(pairs) > 100
    values = linear_logits(demo, torch.stack([psr.z[-1, 0], dim.vectors[0]]))
    preferred = (values[:, large] > values[:, small]).double().mean(dim=1)
    assert float(preferred.min()) > 0.9
    demoted = [t.token for t in read_steering(demo, dim, top=10).readings[0].demoted]
    assert all(token.islower() for token in demoted)


def test_a_pirates_delta_opens_with_a_pirates_word(demo):
    deltas = collect_deltas(demo, demo_data(demo, "pirate")[:1], local=False)[0]
    reading = read_delta(demo, deltas, "all", 0, top=6)
    assert [own.layer for own in reading.readings] == list(range(6))
    promoted = {token.token.lower() for token in reading.readings[-1].promoted}
    assert {"ahoy", "arr", "aye", "avast"} <= promoted
