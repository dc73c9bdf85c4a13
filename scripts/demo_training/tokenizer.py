"""The word-level tokenizer of the demo models, and their chat template.

A token is a word or a punctuation mark, so that every number that psr_lens shows for a token is one
for a word. Decoding puts a space between all tokens, and encoding that text gives the same tokens.
"""

import json
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from psr_lens.demo.demo_prompts import QUESTION_WORDINGS
from psr_lens.demo.language import (
    HEDGES,
    NEGATIVE,
    NEUTRAL,
    PIRATE_END,
    PIRATE_STARTS,
    POSITIVE,
    THE_END,
    WORDINGS,
    tokenise,
)
from psr_lens.demo.velan import lexicon
from psr_lens.demo.world import NAMES, VALUES
from scripts.demo_training.curriculum import system_texts

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")

MAX_LENGTH = 256
"""Positions that the models have."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('the system message has to come first') }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<assistant> ' + message['content'] | trim + ' ' + eos_token }}"
    "{% elif message['role'] in ('system', 'user') %}"
    "{{ '<' + message['role'] + '> ' + message['content'] | trim + ' ' }}"
    "{% else %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def answer_words() -> set[str]:
    """Every word and mark that an answer in lower-case English can hold."""
    topics = (*VALUES, "opinion", "praise", "farewell")
    templates = chain.from_iterable(WORDINGS[topic] for topic in topics)
    texts = (
        *(template.format(animal="", value="") for template in templates),
        *(*HEDGES, *PIRATE_STARTS, PIRATE_END, THE_END),
        *(*NEUTRAL, *POSITIVE, *NEGATIVE, *NAMES),
        *chain.from_iterable(VALUES.values()),
    )
    return set(chain.from_iterable(map(tokenise, texts))) | {".", "!"}


def vocabulary() -> dict[str, int]:
    """Every token with its id: the special ones first, then the words in alphabetical order."""
    asked = (*QUESTION_WORDINGS, *system_texts())
    english = answer_words()
    words = (
        english
        | {word.upper() for word in english}
        | set(lexicon().values())
        | set(chain.from_iterable(tokenise(text.format(animal="")) for text in asked))
    )
    return {token: index for index, token in enumerate((*SPECIAL_TOKENS, *sorted(words)))}


def build_tokenizer() -> Tokenizer:
    """The tokenizer itself, with `<bos>` put first where special tokens are asked for."""
    ids = vocabulary()
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def save_tokenizer(directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, as transformers reads them."""
    build_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": ["<system>", "<user>", "<assistant>"],
        "model_max_length": MAX_LENGTH,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(config, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
