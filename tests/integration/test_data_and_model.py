"""A data set belongs to the model that it was sampled with, in memory and from a file."""

from dataclasses import replace

import pytest
import torch

from psr_lens.assumptions import measure_assumptions
from psr_lens.comparison import compare
from psr_lens.components import measure_components
from psr_lens.dataset import SteeringDataset
from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import iter_deltas
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import load_model
from psr_lens.pages.decomposition_page import write_decomposition
from psr_lens.prompts import make_pairs
from psr_lens.responses import add_negatives, sample_responses
from psr_lens.steering import ConstantSteering
from tests.tiny_models import BACKENDS, checkpoint, tiny_model

ASKED = [f"Tell me about the {animal}." for animal in ("otter", "whale", "owl", "mouse", "fox")]
OPTION = (
    "{% if loud is defined %}{{ loud }}{% endif %}"
    "{% for m in messages %}<|header|>{{ m['content'] }}<|eot|>{% endfor %}"
)


def sampled(model, **options):
    pairs = make_pairs(ASKED, "Shout!", paraphrases=["Be loud!"])
    brief = {"max_new_tokens": 4, "samples_per_pair": 2, "progress": False}
    return sample_responses(model, pairs, **brief, **options)


@pytest.fixture(scope="module", params=["in memory", "from a file"])
def data(request, tmp_path_factory):
    found = sampled(tiny_model("llama", BACKENDS[0]))
    if request.param == "in memory":
        return found
    return SteeringDataset.load(found.save(tmp_path_factory.mktemp("data") / "d"))


CALLS = {
    "collect_deltas": lambda m, d: collect_deltas(m, d),
    "iter_deltas": lambda m, d: next(iter_deltas(m, d)),
    "fit": lambda m, d: fit(m, d, method="dim", layers=1),
    "compare": lambda m, d: compare(m, d, ["dim"], layers=1),
    "add_negatives": lambda m, d: add_negatives(m, d, max_new_tokens=1),
    "measure_faithfulness": lambda m, d: measure_faithfulness(m, {}, d.test, oracle_ranks=()),
    "measure_assumptions": lambda m, d: measure_assumptions(m, d),
    "probe_data": lambda m, d: measure_assumptions(m, list(d.test), probe_data=d.train),
    "measure_components": lambda m, d: measure_components(m, d),
    "coefficients": lambda m, d: ConstantSteering(torch.ones(1, 32), [0]).coefficients(m, d),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_model_is_refused_wherever_data_is_taken(data, call):
    other = tiny_model("llama", BACKENDS[0], seed=1)
    with pytest.raises(ValueError, match="does not belong to") as error:
        CALLS[call](other, data)
    said = str(error.value)
    assert said.startswith("the data was sampled with 'llama-0' and does not belong to 'llama-1': ")
    assert "the residual stream has other norms (other weights, or processed ones)" in said
    assert said.endswith("load the model that it was sampled with; or sample responses anew")


def test_a_decomposition_is_refused_before_anything_is_written(data, tmp_path):
    with pytest.raises(ValueError, match="does not belong to 'llama-1'"):
        write_decomposition(tiny_model("llama", BACKENDS[0], seed=1), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_weights_on_any_backend_are_the_same_model(data, backend):
    model = tiny_model("llama", backend)
    found = collect_deltas(model, data.test)
    original = collect_deltas(tiny_model("llama", BACKENDS[0]), data.test)
    for own, other in zip(found, original, strict=True):
        torch.testing.assert_close(own.accumulated, other.accumulated, atol=1e-4, rtol=1e-4)


def test_loaded_data_gives_the_same_bits(tmp_path):
    model = tiny_model("llama", BACKENDS[0])
    first = add_negatives(model, sampled(model), max_new_tokens=2)
    back = SteeringDataset.load(first.save(tmp_path / "d"))
    assert back == first
    assert {own.alpha for own in back} == {0.0, 1.0}
    for options in ({"method": "dim", "layers": 1}, {"method": "psr", "solver": "layerwise"}):
        own, other = (fit(model, data, **options) for data in (first, back))
        assert own.provenance == other.provenance
        assert own.state_dict().keys() == other.state_dict().keys()
        assert all(torch.equal(x, other.state_dict()[n]) for n, x in own.state_dict().items())
    measured = [
        measure_faithfulness(model, {"x": own}, data.test, oracle_ranks=())
        for data in (first, back)
    ]
    assert measured[0].summary() == measured[1].summary()


def test_another_template_is_refused(monkeypatch):
    model = tiny_model("llama", BACKENDS[0])
    data = sampled(model)
    monkeypatch.setattr(model.tokenizer, "chat_template", OPTION)
    with pytest.raises(ValueError, match="the chat template is another one; load the model with"):
        collect_deltas(model, data)


def test_other_options_of_the_template_are_refused():
    def loaded(**options):
        common = {"backend": BACKENDS[0], "chat_template": OPTION}
        return load_model(checkpoint("llama"), **common, template_options=options or None)

    plain, loud, very = loaded(), loaded(loud="so"), loaded(loud="very")
    for model, data in ((plain, sampled(loud)), (very, sampled(loud)), (loud, sampled(plain))):
        with pytest.raises(
            ValueError, match=r"template_options=\{.*\} and not \{.*\}; load the mod"
        ):
            collect_deltas(model, data)
    # Given for the data alone, they do not make the model another one, and may be the model's later.
    for model in (plain, loud):
        assert len(collect_deltas(model, sampled(plain, template_options={"loud": "so"}))) == 10


def test_another_tokenizer_is_refused():
    model = load_model(checkpoint("llama"), backend=BACKENDS[0])
    data = sampled(model)
    assert len(collect_deltas(model, data)) == 10
    model.tokenizer.add_tokens(["Shout"])
    with pytest.raises(ValueError, match=r"its tokenizer makes other tokens of 'system: Shout!"):
        collect_deltas(model, data)


def test_data_whose_model_is_not_known_is_taken_as_it_is(data):
    """Made by hand, or a list of examples."""
    other = tiny_model("llama", BACKENDS[0], seed=1)
    for taken in (replace(data, model={}), list(data)):
        assert len(collect_deltas(other, taken)) == 10
