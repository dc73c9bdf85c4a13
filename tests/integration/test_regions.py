"""A `question+response` steering is fitted and measured where it acts in generation, or refused."""

import pytest
import torch

from psr_lens.components import measure_components
from psr_lens.delta_collection import collect_deltas
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import RawText
from psr_lens.prompts import PromptPair, make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import ConstantSteering
from tests.tiny_models import BACKENDS, tiny_model

ASKED = [f"Tell me about the {animal}." for animal in ("otter", "whale", "owl", "mouse", "fox")]


def sampled(model, pairs):
    return sample_responses(model, pairs, max_new_tokens=3, progress=False)


def pushed_places(model, prompt, steering):
    """Where in a prompt a steering acts when the model generates from it, by what it changes."""
    seen = []

    def record(resid, columns):
        seen.append(resid.clone())

    for own in (0.0, 1.0):
        with steering.applied(model, own), model.edited({steering.layers[0]: record}):
            model.generate(prompt, max_new_tokens=1)
    return (seen[0] != seen[1]).any(dim=-1)[0]


@pytest.mark.parametrize(
    ("family", "make"),
    [
        ("llama", lambda q: make_pairs([q], "Shout all the time!")[0]),
        # The end of this instruction is that of the template's own system message.
        ("qwen2", lambda q: make_pairs([q], "You are a rude assistant.")[0]),
        ("gpt2", lambda q: PromptPair(q, f"Shout! {q}")),
        ("gpt2", lambda q: PromptPair(RawText(q), RawText(f"Shout!\n{q}"))),
    ],
)
def test_the_same_tokens_in_fitting_and_in_generation(family, make):
    model = tiny_model(family, BACKENDS[0])
    data = sampled(model, [make(question) for question in ASKED])
    vector = fit(model, data, method="dim", layers=0, tokens="question+response")
    assert isinstance(vector, ConstantSteering)
    for example in data:
        acts = pushed_places(model, example.pair.base, vector)
        assert int(acts.sum()) == example.question_length > 1
        assert acts[-example.question_length :].all()
        deltas = collect_deltas(model, [example], tokens="question+response")[0]
        fitted_on = example.base_ids[-example.question_length :] + example.response_ids
        assert deltas.tokens == model.encoder.str_tokens(fitted_on)


BEHIND = [PromptPair(q, f"{q} You are a pirate.", response="It eats.") for q in ASKED]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_instruction_behind_the_question_is_refused_on_qr_and_taken_on_r(family):
    model = tiny_model(family, BACKENDS[0])
    data = sampled(model, BEHIND)
    vector = ConstantSteering(torch.ones(1, model.d_model), [1], tokens="question+response")
    words = (
        r"tokens='question\+response' but the steering prompt of 'Tell me about .*: put "
        "the instruction in front"
    )
    for refused in (
        lambda: fit(model, data, method="dim", layers=1, tokens="question+response"),
        lambda: fit(model, data, layers=1, solver="layerwise", tokens="question+response"),
        lambda: measure_faithfulness(model, vector, data, tokens="question+response"),
        lambda: collect_deltas(model, data, tokens="question+response"),
        lambda: measure_components(model, data, tokens="question+response"),
        lambda: vector.coefficients(model, data),
    ):
        with pytest.raises(ValueError, match=words):
            refused()
    assert fit(model, data, method="dim", layers=1).tokens == "response"
    assert len(collect_deltas(model, data)) == 5


def test_measured_on_r_it_acts_where_it_acts_in_generation():
    model = tiny_model("llama", BACKENDS[0])
    example = sampled(model, BEHIND)[0]
    generating, measuring = model.to_batch(example.pair.base), model.pad([example.base_row])
    acts = measuring.on("question+response")[:, : len(example.base_ids)]
    assert torch.equal(acts, generating.on("question+response"))
    assert example.question_length < int(acts.sum())
