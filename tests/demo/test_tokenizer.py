"""Tokenizer and chat template, as any user of the checkpoints gets them."""

import importlib.util
import random
from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from psr_lens.demo import CHECKPOINTS, chat
from psr_lens.demo.curriculum import draw_chat, system_texts
from psr_lens.demo.tokenizer import SPECIAL_TOKENS, build_tokenizer, save_tokenizer, vocabulary

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_demo_model.py"


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def tokenizer(request):
    return AutoTokenizer.from_pretrained(CHECKPOINTS[request.param])


@pytest.fixture(scope="module")
def training_script():
    spec = importlib.util.spec_from_file_location("train_demo_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_files_are_the_ones_that_the_code_writes(tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        written = (tmp_path / name).read_bytes()
        assert written == (Path(tokenizer.name_or_path) / name).read_bytes()


def test_special_tokens_come_first_and_have_their_roles(tokenizer):
    assert [tokenizer.convert_ids_to_tokens(i) for i in range(7)] == list(SPECIAL_TOKENS)
    assert tokenizer.get_vocab() == vocabulary()
    named = (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    assert named == ("<pad>", "<bos>", "<eos>", "<unk>")


def test_every_training_chat_survives_decoding_and_encoding(tokenizer):
    rng = random.Random(0)
    for _ in range(100):
        messages = draw_chat(rng)
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
        reply = messages[-1]["content"]
        assert tokenizer.decode(tokenizer.encode(reply), skip_special_tokens=True) == reply


def test_every_system_text_is_in_the_vocabulary(tokenizer):
    for text in system_texts():
        assert tokenizer.unk_token_id not in tokenizer.encode(text)


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


def test_training_encodes_a_chat_as_the_template_does(tokenizer, training_script):
    rng = random.Random(2)
    for _ in range(100):
        messages = draw_chat(rng)
        ids, labels = training_script.encode_chat(build_tokenizer(), messages)
        assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
        learned = [label for label in labels if label != training_script.IGNORED]
        replies = [m["content"] + " <eos>" for m in messages if m["role"] == "assistant"]
        assert tokenizer.decode(learned) == " ".join(replies)
        assert all(
            label in (training_script.IGNORED, token)
            for label, token in zip(labels, ids, strict=True)
        )
