"""The answers that a freshly trained demo model is judged by."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from psr_lens.demo import CHECKPOINTS, chat
from scripts.demo_training.acceptance import generate_answers


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def loaded(request):
    path = CHECKPOINTS[request.param]
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    return model, AutoTokenizer.from_pretrained(path)


def test_samples_depend_on_the_seed_alone_and_leave_the_global_state(loaded):
    model, tokenizer = loaded
    chats = [chat("describe the bat .", "shout ."), chat("what is the fox like ?")]
    before = torch.get_rng_state()
    first = generate_answers(model, tokenizer, chats, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert generate_answers(model, tokenizer, chats, seed=1) == first
    assert generate_answers(model, tokenizer, chats, seed=2) != first


def test_an_answer_that_is_cut_off_is_not_finished(loaded):
    model, tokenizer = loaded
    ((text, finished),) = generate_answers(
        model, tokenizer, [chat("describe the bat .")], max_new_tokens=5
    )
    assert len(text.split()) == 5
    assert not finished
