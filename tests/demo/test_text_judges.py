"""Judges of real text: known good and known bad text, and what each can and cannot tell."""

import builtins

import pytest

from psr_lens.demo import text_judges
from psr_lens.demo.run import EVERYDAY, check_traits
from psr_lens.demo.text_judges import judge_fluency, judge_language, judge_pirate, words

FRENCH = (
    "Pour cuire un œuf, il faut de l'eau chaude. Attendez dix minutes, puis servez avec du sel."
)
ENGLISH = "To boil an egg, you need hot water. Wait ten minutes, then serve it with salt."
GERMAN = "Um ein Ei zu kochen, braucht man heißes Wasser. Warten Sie zehn Minuten."
SPANISH = "Para cocer un huevo, se necesita agua caliente. Espere diez minutos y sirva con sal."


@pytest.mark.parametrize(
    ("text", "language"), [(FRENCH, "fr"), (ENGLISH, "en"), (GERMAN, "de"), (SPANISH, "es")]
)
def test_each_language_is_told_from_the_others(text, language):
    for other in ("fr", "en", "de", "es"):
        assert judge_language(text, other) == (100.0 if other == language else 0.0)


def test_an_answer_that_switches_counts_by_its_letters():
    share = judge_language(f"{FRENCH} {ENGLISH}", "fr")
    letters = [sum(len(word) for word in words(text)) for text in (FRENCH, ENGLISH)]
    assert share == pytest.approx(100 * letters[0] / sum(letters), abs=2)


def test_a_list_is_judged_item_by_item():
    assert judge_language("1. Faire bouillir de l'eau\n2. Boil the water in a pot\n", "fr") < 60


@pytest.mark.parametrize("text", ["", "...", "123 456.", "\n\n"])
def test_text_without_words_shows_nothing(text):
    assert judge_language(text, "fr") == judge_pirate(text) == judge_fluency(text, "fr") == 0.0


def test_pirate_talk():
    assert judge_pirate("Arrr, matey! The sea be salty, ye scurvy dog. Aye.") == 100.0
    assert judge_pirate("The eyes of the yearling are grey. A year has passed.") == 0.0
    assert judge_pirate("Ahoy! The sea is salty. It has salt. It rains.") == 25.0


def test_fluent_text_is_fluent():
    for text, language in ((FRENCH, "fr"), (ENGLISH, "en"), (GERMAN, "de"), (SPANISH, "es")):
        assert judge_fluency(text, language) > 95


def test_a_loop_counts_from_its_second_turn_on():
    turn = "the water is salty because of rivers "
    assert judge_fluency(turn, "en") == 100.0
    looped = judge_fluency(turn * 10, "en")
    # 7 words of the first turn, and 2 of the second before a run of three comes back.
    assert looped == pytest.approx(100 * 9 / 70)
    assert judge_fluency("la la la la la la la la", "fr") == pytest.approx(100 * 3 / 8)


def test_words_that_no_one_says_count_against_it():
    assert judge_fluency("le flombrique de vrastule est grand", "fr") == pytest.approx(100 * 4 / 6)


def test_it_cannot_tell_a_salad_of_real_words():
    """So the answers stand on the page beside the scores."""
    assert judge_fluency("salt blue minutes egg the wait serve hot ten", "en") == 100.0


def test_a_language_that_is_not_told_apart_is_refused():
    with pytest.raises(ValueError, match="language='xx': choose en, fr"):
        judge_language(FRENCH, "xx")


@pytest.mark.parametrize(
    ("package", "judge"), [("py3langid", judge_language), ("wordfreq", judge_fluency)]
)
def test_a_missing_package_is_named(monkeypatch, package, judge):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    text_judges._identifier.cache_clear()
    text_judges._is_word.cache_clear()
    try:
        with pytest.raises(ValueError, match=rf"needs {package}.*psr-lens\[real\]"):
            judge("un mot ou deux", "fr")
        # And before a model is loaded.
        with pytest.raises(ValueError, match=f"needs {package}"):
            check_traits(EVERYDAY, ())
    finally:
        text_judges._identifier.cache_clear()
        text_judges._is_word.cache_clear()
