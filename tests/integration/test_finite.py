"""NaN and infinity are refused where they come up: with the place, the reason and the way out."""

import re
from contextlib import contextmanager

import pytest
import torch

import psr_lens as pl
from psr_lens.models.finite import NotFinite
from psr_lens.models.generation import pick_tokens
from psr_lens.models.numerics import Fingerprint, model_fingerprint
from tests.tiny_models import BACKENDS, checkpoint, instructed, tiny_model
from tests.tiny_steerings import KINDS, made_up

PROMPT = "tell me about the otter"
MLP = r"\b1\.\S*mlp"


@pytest.fixture(scope="module", params=BACKENDS)
def model(request):
    return tiny_model("llama", request.param)


@pytest.fixture(scope="module")
def data(model):
    pairs = [instructed(model, f"tell me about animal {i}", "be very kind") for i in range(6)]
    return pl.sample_responses(model, pairs, max_new_tokens=4, progress=False)


def matrix(model, name):
    """The first weight matrix whose name the pattern fits; the backends spell them differently."""
    parameters = model.raw.named_parameters()
    return next(own for key, own in parameters if re.search(name, key) and own.ndim == 2)


@contextmanager
def written(model, name, value, place=()):
    """The model with one number of a weight exchanged."""
    weight = matrix(model, name)
    before = weight[place].clone()
    with torch.no_grad():
        weight[place] = value
    try:
        yield
    finally:
        with torch.no_grad():
            weight[place] = before


USES = {
    "greedy text": lambda m, d: m.generate(PROMPT, max_new_tokens=3, temperature=0.0),
    "sampled text": lambda m, d: m.generate(PROMPT, max_new_tokens=3),
    "text without a cache": lambda m, d: m.generate(PROMPT, max_new_tokens=3, use_cache=False),
    "data": lambda m, d: pl.sample_responses(m, [e.pair for e in d], progress=False),
    "deltas": lambda m, d: pl.collect_deltas(m, d),
    "dim": lambda m, d: pl.fit(m, d, method="dim"),
    "actadd": lambda m, d: pl.fit(m, d, method="actadd"),
    "psr": lambda m, d: pl.fit(m, d, solver="layerwise"),
    "faithfulness": lambda m, d: pl.measure_faithfulness(m, made_up("constant", m), d.test),
    "components": lambda m, d: pl.measure_components(m, d.test),
}


@pytest.fixture(scope="module")
def fitted(model, data):
    return pl.fit(model, data, method="dim")


@pytest.mark.parametrize("use", list(USES))
def test_a_broken_weight_is_named(model, data, use):
    with (
        written(model, MLP, torch.nan, (0, 0)),
        pytest.raises(NotFinite, match=rf"its weight \S*{MLP}\S* holds them: load it from sound"),
    ):
        USES[use](model, data)


def test_a_steering_does_not_take_a_broken_model_for_its_own(model, fitted):
    fitted.check(model)
    with written(model, MLP, torch.nan, (0, 0)), pytest.raises(NotFinite):
        fitted.check(model)
    fitted.check(model)


def test_norms_that_are_not_finite_differ_from_all_others(model):
    own = model_fingerprint(model)
    broken = Fingerprint(**{**vars(own), "norms": (torch.nan, *own.norms[1:])})
    assert own.difference(own) == ""
    assert own.difference(broken) == "the residual stream holds NaN or infinity (broken weights)"


@pytest.mark.parametrize("use", ["greedy text", "deltas", "psr", "faithfulness", "components"])
def test_a_word_that_outgrows_the_number_type_is_named(model, data, use):
    # The weights are finite: it is the norm's square that is not.
    word = model.encoder.encode("animal").ids[-1]
    shown = model.encoder.str_tokens([word])[0]
    known = all(word in e.base_ids for e in data)
    with written(model, "embed", 3e30, (word,)), pytest.raises(NotFinite) as error:
        USES[use](model, data) if use != "greedy text" else model.generate("animal animal")
    assert known
    assert f"NaN or outgrow float32 after layer 0 at the token {shown!r}; load the model" in str(
        error.value
    )


def test_in_float16_the_wider_types_are_the_way_out():
    model = pl.load_model(checkpoint("llama"), backend=BACKENDS[0], dtype="float16")
    with torch.no_grad():
        matrix(model, MLP).mul_(2e4)
    with pytest.raises(NotFinite, match=r"float16 after layer 1 .* dtype='bfloat16' or 'float32'"):
        model.generate(PROMPT, max_new_tokens=2)


def test_a_strength_that_is_too_large_is_named(model, data):
    steering = made_up("constant", model)
    plain = model(PROMPT)
    too_large = "without the steering they do not: choose a smaller strength than 1e\\+30"
    with pytest.raises(NotFinite, match=too_large), steering.applied(model, 1e30):
        model.generate(PROMPT, max_new_tokens=2)
    rows = torch.tensor([1.0, -1e30])
    with pytest.raises(NotFinite, match=too_large), steering.applied(model, rows):
        model.generate([PROMPT, PROMPT], max_new_tokens=2)
    with pytest.raises(NotFinite, match=too_large):
        pl.measure_faithfulness(model, steering, data.test, alpha=1e30)
    with pytest.raises(NotFinite, match=too_large):
        made_up("psr", model, scale=1e3).coefficients(model, data.test, alpha=1e30)
    assert torch.equal(model(PROMPT), plain)
    # Large is not too large.
    with steering.applied(model, 1e6):
        assert isinstance(model.generate(PROMPT, max_new_tokens=2), str)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_without_a_token_to_pick(temperature):
    low = -torch.inf
    logits = torch.tensor(
        [[0.0, low, low], [torch.nan, 0.0, 0.0], [torch.inf, 0.0, 0.0], [low, low, low]]
    )
    picked = pick_tokens(logits, torch.full((4,), 0.5, dtype=torch.float64), temperature)
    assert picked.tolist() == [0, -1, -1, -1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sum", "actadd-start")])
def test_no_steering_is_made_of_numbers_that_are_not_finite(model, tmp_path, kind):
    sound = made_up(kind, model)
    for name, tensor in sound.state_dict().items():
        bad = {**sound.state_dict(), name: tensor.clone()}
        bad[name].flatten()[0] = torch.inf
        with pytest.raises(
            ValueError, match=f"{name} has NaN or infinity at 1 of {tensor.numel()}"
        ):
            sound.with_tensors(bad)
    next(iter(sound.state_dict().values())).flatten()[0] = torch.nan
    with pytest.raises(ValueError, match="has NaN or infinity"):
        sound.save(tmp_path / "steering")
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_is_an_error(model, data):
    alone = data.train.filter(lambda e: e.pair.group == data.train[0].pair.group)
    with pytest.raises(ValueError, match="NaN or infinity after 4 steps with lr=1e"):
        pl.fit(model, alone, method="const", solver="gradient", lr=1e30, epochs=4)
