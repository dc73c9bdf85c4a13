"""The grammar: what is rendered is read back, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.demo.language import (
    FACT_WORDINGS,
    HEDGES,
    NEGATIVE,
    NEUTRAL,
    PIRATE_STARTS,
    POSITIVE,
    WORDINGS,
    Sentence,
    normalise_word,
    parse_sentence,
    split_sentences,
    tokenise,
)
from psr_lens.demo.velan import lexicon, to_english, to_velan
from psr_lens.demo.world import NAMES, VALUES
from scripts.demo_training.rendering import render, render_sentence
from scripts.demo_training.tokenizer import answer_words, vocabulary

CORES = [(topic, i, text) for topic, texts in WORDINGS.items() for i, text in enumerate(texts)]


@st.composite
def sentences(draw) -> Sentence:
    topic, wording, template = draw(st.sampled_from(CORES))
    adjectives = NEUTRAL + POSITIVE + NEGATIVE
    statement = topic in FACT_WORDINGS or topic == "opinion"
    voice = draw(st.sampled_from(["plain", "shout", "velan"]))
    return Sentence(
        topic,
        wording,
        value=draw(st.sampled_from(VALUES.get(topic, adjectives))) if statement else "",
        animal=draw(st.sampled_from(NAMES)) if "{animal}" in template else "",
        hedge=draw(st.sampled_from(["", *HEDGES])) if statement else "",
        pirate=draw(st.sampled_from(["", *PIRATE_STARTS])) if statement else "",
        matey=draw(st.booleans()) if statement else False,
        shout=voice == "shout",
        velan=voice == "velan",
    )


@given(sentences())
def test_a_rendered_sentence_is_read_back(sentence):
    assert parse_sentence(render_sentence(sentence)) == sentence


@given(st.lists(sentences(), min_size=1, max_size=6))
def test_an_answer_splits_into_its_sentences(answer):
    texts = split_sentences(render(answer))
    assert [parse_sentence(text) for text in texts] == answer


@given(sentences(), st.data())
def test_a_sentence_with_a_word_lost_is_another_sentence_or_none(sentence, data):
    words = render_sentence(sentence).split()
    lost = data.draw(st.integers(0, len(words) - 1))
    parsed = parse_sentence(" ".join(words[:lost] + words[lost + 1 :]))
    assert parsed != sentence


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "the otter is green",
        "the otter is forest .",
        "the the otter is green .",
        "the OTTER is green .",
        "THE OTTER IS green !",
        f"the otter is {to_velan('green')} .",
        f"{to_velan('the')} otter is {to_velan('green')} .",
        "arr , arr , its coat is red .",
        "maybe the end .",
        "arr , what a clever question !",
        "maybe arr , its coat is red .",
        "the end ?",
    ],
)
def test_garbage_is_no_sentence(text):
    assert parse_sentence(text) is None


def test_either_mark_ends_a_sentence():
    assert parse_sentence("its coat is red !") == parse_sentence("its coat is red .")


def test_an_unfinished_rest_is_a_sentence_of_its_own():
    assert split_sentences("its coat is red . it feeds") == ["its coat is red .", "it feeds"]
    assert split_sentences("the end .<eos>") == ["the end ."]
    assert split_sentences(" ") == []


def test_velan_has_a_new_word_for_every_word_of_an_answer():
    words = {word for word in answer_words() if word.isalpha()} - set(NAMES)
    assert set(lexicon()) == words
    assert len(set(lexicon().values())) == len(lexicon())
    english = {token for token in vocabulary() if token not in lexicon().values()}
    assert set(lexicon()) <= english
    assert not set(lexicon().values()) & (set(lexicon()) | set(NAMES))


@given(st.sampled_from(sorted(lexicon())))
def test_velan_translates_there_and_back(word):
    assert to_english(to_velan(word)) == word != to_velan(word)
    assert normalise_word(to_velan(word)) == normalise_word(word.upper()) == word


def test_names_and_marks_are_the_same_in_both_languages():
    assert [to_velan(token) for token in ("otter", ",", ".")] == ["otter", ",", "."]


def test_tokens_are_words_and_marks():
    assert tokenise("never change, my bright friend!") == [
        *("never", "change", ",", "my", "bright", "friend", "!")
    ]
