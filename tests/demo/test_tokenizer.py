"""Tokenizer and chat template, as any user of the checkpoints gets them."""

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from psr_lens.demo import CHECKPOINTS, chat


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def tokenizer(request):
    return AutoTokenizer.from_pretrained(CHECKPOINTS[request.param])


def test_special_tokens_come_first_and_have_their_roles(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(7)) == [
        *("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>"),
    ]
    named = (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    assert named == ("<pad>", "<bos>", "<eos>", "<unk>")


def test_punctuation_needs_no_space(tokenizer):
    tight, loose = "arr, its coat is red.", "arr , its coat is red ."
    assert tokenizer.encode(tight) == tokenizer.encode(loose)


def test_a_chat_has_one_bos_and_stops_where_the_answer_starts(tokenizer):
    messages = chat("describe the bat .", "shout .")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        *("<bos>", "<system>", "shout", "."),
        *("<user>", "describe", "the", "bat", ".", "<assistant>"),
    ]
    bare = tokenizer.apply_chat_template(messages[1:], add_generation_prompt=True)["input_ids"]
    assert bare == ids[:1] + ids[4:]


def test_templated_text_with_special_tokens_again_would_have_two_bos(tokenizer):
    # The trap that every caller of a chat template has to avoid is a real one here.
    text = tokenizer.apply_chat_template(chat("describe the bat ."), tokenize=False)
    assert tokenizer.encode(text).count(tokenizer.bos_token_id) == 2
    assert tokenizer.encode(text, add_special_tokens=False).count(tokenizer.bos_token_id) == 1


def test_a_finished_turn_and_a_next_one(tokenizer):
    messages = [
        *chat("describe the bat ."),
        {"role": "assistant", "content": "the bat is blue ."},
        *chat("describe the fox ."),
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = (
        "<bos> <user> describe the bat . <assistant> the bat is blue . <eos> "
        "<user> describe the fox . <assistant>"
    )
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == expected.split()


def test_the_template_refuses_what_it_cannot_express(tokenizer):
    late = [*chat("describe the bat ."), {"role": "system", "content": "shout ."}]
    with pytest.raises(TemplateError, match="system message has to come first"):
        tokenizer.apply_chat_template(late)
    with pytest.raises(TemplateError, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])
