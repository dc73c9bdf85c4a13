"""The tokenizer that training builds: the one of the package, with every word that is needed."""

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from psr_lens.demo import CHECKPOINTS
from scripts.demo_training.curriculum import draw_chat, system_texts
from scripts.demo_training.tokenizer import build_tokenizer, save_tokenizer
from scripts.demo_training.train import IGNORED, encode_chat


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def tokenizer(request):
    return AutoTokenizer.from_pretrained(CHECKPOINTS[request.param])


def test_the_shipped_files_are_the_ones_that_the_code_writes(tokenizer, tmp_path):
    save_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        written = (tmp_path / name).read_bytes()
        assert written == (Path(tokenizer.name_or_path) / name).read_bytes()


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


def test_training_encodes_a_chat_as_the_template_does(tokenizer):
    rng = random.Random(2)
    for _ in range(100):
        messages = draw_chat(rng)
        ids, labels = encode_chat(build_tokenizer(), messages)
        assert ids == tokenizer.apply_chat_template(messages)["input_ids"]
        learned = [label for label in labels if label != IGNORED]
        replies = [m["content"] + " <eos>" for m in messages if m["role"] == "assistant"]
        assert tokenizer.decode(learned) == " ".join(replies)
        assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
