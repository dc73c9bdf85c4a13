"""The demo model on every backend: the same responses, and a steering that replaces the prompt."""

import pytest

from psr_lens.demo import QUESTION_WORDINGS, TRAINING_ANIMALS, chat, judge_trait
from psr_lens.fitting import fit
from psr_lens.models import load_model
from psr_lens.prompts import make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import load_steering
from tests.tiny_models import BACKENDS


@pytest.fixture(scope="module")
def models():
    return {backend: load_model("demo", backend=backend) for backend in BACKENDS}


def test_backends_say_the_same(models):
    prompts = [chat("describe the fox .", "talk like a pirate ."), chat("describe the bat .")]
    said = [
        model.generate(prompts, max_new_tokens=40, temperature=0.0) for model in models.values()
    ]
    assert all(texts == said[0] for texts in said)
    assert judge_trait("pirate", "describe the fox .", said[0][0]) == 100
    assert judge_trait("pirate", "describe the bat .", said[0][1]) == 0


def test_a_psr_fitted_on_one_backend_acts_on_every(models, tmp_path):
    questions = {
        animal.name: [wording.format(animal=animal.name) for wording in QUESTION_WORDINGS[:2]]
        for animal in TRAINING_ANIMALS[:10]
    }
    pairs = make_pairs(questions, "talk like a pirate .")
    first = models[BACKENDS[0]]
    data = sample_responses(first, pairs, max_new_tokens=60, progress=False)
    fit(first, data, method="psr", solver="layerwise").save(tmp_path / "pirate")
    question = chat("describe the crane .")
    said = []
    for model in models.values():
        psr = load_steering(tmp_path / "pirate", model)
        with psr.applied(model):
            said.append(model.generate([question], max_new_tokens=60, temperature=0.0)[0])
    assert len(set(said)) == 1
    assert judge_trait("pirate", "describe the crane .", said[0]) >= 75
