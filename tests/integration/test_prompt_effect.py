"""A prompt that did next to nothing is said first, everywhere."""

import warnings
from dataclasses import replace

import pytest
import torch

from psr_lens.assumptions import measure_assumptions
from psr_lens.comparison import compare
from psr_lens.components import measure_components
from psr_lens.faithfulness import FaithfulnessReport, measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models import load_model
from psr_lens.pages.decomposition_page import write_decomposition
from psr_lens.prompt_effect import LEAST_KL, PromptEffect, measure_prompt_effect
from psr_lens.prompts import make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import ConstantSteering
from tests.tiny_models import BACKENDS, instructed, tiny_model

ANIMALS = ("fox", "bat", "crane", "otter", "owl")


def test_the_effect_is_the_mean_divergence_over_the_response():
    model = tiny_model("llama", BACKENDS[0], "float64")
    pairs = [instructed(model, f"Tell me about the {a}.", "Shout all the time!") for a in ANIMALS]
    data = sample_responses(model, pairs, max_new_tokens=4, progress=False)
    ended = [replace(example, finished=i % 2 == 0) for i, example in enumerate(data)]
    data = replace(data, examples=tuple(ended)).weighted([1.0] * 4 + [0.0])
    found = measure_prompt_effect(model, data)
    assert measure_prompt_effect(model, data, batch_size=1).kl == pytest.approx(found.kl)
    terms = []
    for example in data[:4]:
        first, last = len(example.prompted_ids) - 1, len(example.base_ids) - 1
        both = [
            model.logits(model.pad([row]))[0].log_softmax(-1)
            for row in (example.prompted_row, example.base_row)
        ]
        for i in range(len(example.response_ids) + example.finished):
            p, q = both[0][first + i], both[1][last + i]
            terms.append(float((p.exp() * (p - q)).sum()))
    assert found.examples == 4
    assert found.kl == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert found.kl > LEAST_KL
    assert (found.is_weak, found.warning, found.base) == (False, "", "")
    assert not PromptEffect(float("nan"), 0).is_weak


@pytest.fixture(scope="module")
def demo():
    return load_model("demo", backend=BACKENDS[0])


@pytest.fixture(scope="module")
def ignored(demo):
    """Responses to an instruction that the demo model does not know."""
    pairs = make_pairs([f"describe the {own} ." for own in ANIMALS], "Answer in French.")
    return sample_responses(demo, pairs, max_new_tokens=8, temperature=0.0, progress=False)


def test_every_result_says_it_first(demo, ignored, tmp_path):
    effect = measure_prompt_effect(demo, ignored.test)
    line = effect.warning
    assert line.startswith("The prompt hardly changes what the model says:")
    # Decoded greedily, the two responses that it shows are the same.
    said = demo.encoder.decode(ignored.test[0].response_ids)
    assert effect.prompted == said
    assert effect.base.startswith(said)
    assert repr(said) in line
    assert "describe the" in line
    vector = ConstantSteering(torch.ones(1, demo.d_model), [2])
    report = measure_faithfulness(demo, vector, ignored.test, oracle_ranks=(), outputs=False)
    components = measure_components(demo, ignored.test, heads=False)
    assumptions = measure_assumptions(demo, ignored.test, layers=[2])
    for own in (report, components, assumptions):
        assert own.summary().splitlines()[0] == line
        shown = own._repr_mimebundle_()
        assert "application/vnd.plotly.v1+json" not in shown
        assert "hardly changes" in shown["text/html"]
        assert "1 prompt is too few for intervals" in own.summary()
        assert "nan" not in own.summary()
    again = FaithfulnessReport.load(report.save(tmp_path / "report"))
    assert again.summary() == report.summary()
    page = write_decomposition(demo, ignored, tmp_path / "deltas", show=1, progress=False)
    lead = page.read_text().partition('class="psr-lead">')[2]
    assert lead.startswith("The prompt hardly changes")


def test_a_fit_warns_and_a_comparison_begins_with_it(demo, ignored):
    with pytest.warns(UserWarning, match="The prompt hardly changes what the model says") as warned:
        steering = fit(demo, ignored, method="dim", layers=2)
    (text,) = {str(own.message) for own in warned}
    assert steering.fit_report.warning == text
    assert repr(steering.fit_report).startswith(f"{text}\nFitReport(dim")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare(demo, ignored, ["dim"], layers=2)
    assert found.summary().startswith("The prompt hardly changes")
    assert "nan" not in found.summary().lower()
    assert "hardly changes" in found._repr_html_()


def test_a_prompt_that_works_is_not_talked_about(demo):
    pairs = make_pairs([f"describe the {own} ." for own in ANIMALS], "shout .")
    data = sample_responses(demo, pairs, max_new_tokens=8, progress=False)
    steering = fit(demo, data, method="dim", layers=2)
    assert steering.fit_report.warning == ""
    report = measure_faithfulness(demo, steering, data.test, oracle_ranks=())
    assert report.summary().startswith("Faithfulness")
    assert "application/vnd.plotly.v1+json" in report._repr_mimebundle_()
    assert report.provenance["prompt_effect"]["kl_per_token"] > LEAST_KL
