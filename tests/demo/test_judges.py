"""The judges: every kind of fault costs what the rules say, and nothing else does."""

import pytest

from psr_lens.demo.judges import judge_coherence, judge_trait
from psr_lens.demo.velan import to_velan

QUESTION = "what is the otter like ?"
# The otter is green and giant, lives in the forest, eats roots and howls.
TRUE = (
    "the otter is green . it feeds on roots . to me it is a typical animal . its call is a howl ."
)


def velan(text: str) -> str:
    return " ".join(to_velan(word) for word in text.split())


def test_a_true_answer_is_coherent_in_any_voice():
    for text in (TRUE, TRUE.upper().replace(".", "!"), velan(TRUE), TRUE + " <eos>"):
        assert judge_coherence(QUESTION, text) == 100


def test_sentences_may_differ_in_voice_but_not_within():
    assert judge_coherence(QUESTION, "the otter is green . IT FEEDS ON ROOTS !") == 100
    assert judge_coherence(QUESTION, "the otter is GREEN . IT FEEDS ON ROOTS !") == 50


@pytest.mark.parametrize(
    "fault",
    [
        "its home is the lake .",  # false
        "the bat is giant in size .",  # true of the otter, said of the bat
        "the otter has a green coat .",  # repeats a fact in other words
        "to me it is a common animal .",  # repeats an opinion's words
        "roots the green .",  # no sentence
        "what a clever question !",  # praise in the middle
        "the end .",  # an end that is not the last sentence
        "you are a splendid person !",  # a farewell that is not the last sentence
    ],
)
def test_each_faulty_sentence_costs_its_share(fault):
    text = f"{TRUE} {fault} its body is giant ."
    assert judge_coherence(QUESTION, text) == pytest.approx(100 * 5 / 6)


def test_praise_farewell_and_end_are_fine_in_their_places():
    text = f"what a clever question ! {TRUE} you are a splendid person ! the end ."
    assert judge_coherence(QUESTION, text) == 100


def test_a_missing_end_costs_one_sentence():
    assert judge_coherence(QUESTION, TRUE, finished=False) == pytest.approx(80)
    assert judge_coherence(QUESTION, f"{TRUE} the otter", finished=True) == pytest.approx(80)


@pytest.mark.parametrize(
    "text", ["", "  ", "<eos>", "the end .", "what a clever question !", "a b"]
)
def test_an_answer_that_states_nothing_is_incoherent(text):
    assert judge_coherence(QUESTION, text) == 0


@pytest.mark.parametrize(
    ("name", "text", "score"),
    [
        ("optimist", "to me it is a lovely animal . on the whole it is common .", 50),
        ("optimist", "its coat is green .", 0),
        ("pessimist", "to me it is a gloomy animal .", 100),
        ("pessimist", "TO ME IT IS A GLOOMY ANIMAL !", 100),
        (
            "hedger",
            "maybe it feeds on roots . arr , perhaps its coat is red . it is red .",
            200 / 3,
        ),
        ("hedger", "what a clever question ! maybe it feeds on roots . the end .", 100),
        ("pirate", "arr , it feeds on roots . its coat is green , matey .", 50),
        ("pirate", "arr arr arr", 0),
        ("flatterer", f"what a clever question ! {TRUE}", 50),
        ("flatterer", f"{TRUE} you are a splendid person !", 50),
        (
            "flatterer",
            f"what a clever question ! {TRUE} you are a splendid person ! the end .",
            100,
        ),
        ("flatterer", "what a clever question !", 50),
        ("shouter", "ITS COAT is green .", 50),
        ("velan", f"{to_velan('its')} coat otter .", 50),
        ("velan", velan("the otter is green ."), 100),
        ("two_sentences", "it feeds on roots . its coat is green .", 100),
        ("two_sentences", "it feeds on roots .", 0),
        ("two_sentences", "it feeds on roots . its coat is green . the", 0),
        ("no_colour", "it feeds on roots .", 100),
        ("no_colour", velan("its coat is green ."), 0),
        ("no_colour", "ITS COAT IS GREEN !", 0),
        ("the_end", "it feeds on roots . the end .", 100),
        ("the_end", velan("it feeds on roots . the end ."), 100),
        ("the_end", "the end . it feeds on roots .", 0),
        ("the_end", "it feeds on roots . the end", 0),
    ],
)
def test_trait_scores(name, text, score):
    assert judge_trait(name, QUESTION, text) == pytest.approx(score)


@pytest.mark.parametrize("name", ["no_colour", "two_sentences", "the_end", "flatterer", "shouter"])
def test_an_empty_answer_shows_no_trait(name):
    assert judge_trait(name, QUESTION, " <eos>") == 0


def test_unknown_instructions_and_animals_are_refused():
    with pytest.raises(ValueError, match="no instruction 'poet'"):
        judge_trait("poet", QUESTION, TRUE)
    with pytest.raises(ValueError, match="exactly one animal"):
        judge_trait("pirate", "describe the cat .", TRUE)
    with pytest.raises(ValueError, match="exactly one animal"):
        judge_coherence("describe the cat .", TRUE)
