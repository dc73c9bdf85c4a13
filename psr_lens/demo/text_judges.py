"""Judges of real text, 0 to 100, that work offline: language, pirate talk, rhyme, cheer, fluency ...

Each reads the surface and counts. What they cannot see: whether an answer is true, or to the point.
"""

import re
from functools import cache
from typing import Any, Final

_LANGUAGES: Final = ("en", "fr", "es", "de", "it", "pt", "nl")
_PIRATE: Final = re.compile(
    r"\b(a+rr+(gh)?|ahoy|avast|aye|ye|yer|yo-ho|cap'n|mateys?|hearties|landlubbers?|scallywags?|scurvy"
    r"|buccaneers?|swashbucklers?|shiver me|bilge|doubloons?|grog)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]+")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_AND_END = re.compile(r"[^.!?\n]+[.!?]*")
_LOOP_WORDS: Final = 3
_COMMON: Final = 5.0
_SHORT_SENTENCE: Final = 15


def judge_language(text: str, language: str) -> float:
    """The share of a text, by its letters, in sentences that py3langid takes for a language.

    Sentences and list items are judged one by one, among seven European languages, so an answer that
    switches in the middle counts half. Empty text scores 0.

    Args:
        text: The answer.
        language: Two-letter code: en, fr, es, de, it, pt or nl.

    Raises:
        ValueError: If the language is none of them, or py3langid is not installed.
    """
    if language not in _LANGUAGES:
        raise ValueError(f"language={language!r}: choose {', '.join(_LANGUAGES)}")
    identifier = _identifier()
    sizes = [
        (len("".join(_WORD.findall(part))), identifier.classify(part.strip())[0] == language)
        for part in _SENTENCE.findall(text)
    ]
    total = sum(size for size, _ in sizes)
    return 100.0 * sum(size for size, right in sizes if right) / total if total else 0.0


def judge_pirate(text: str) -> float:
    """The percentage of sentences with a word that pirates of fiction use. Empty text scores 0.

    Example:
        >>> judge_pirate("Arr, the sea is salty! It rains a lot.")
        50.0
    """
    sentences = [part for part in _SENTENCE.findall(text) if _WORD.search(part)]
    if not sentences:
        return 0.0
    return 100.0 * sum(bool(_PIRATE.search(part)) for part in sentences) / len(sentences)


def judge_rhyme(text: str) -> float:
    """The percentage of lines that rhyme with one of the two lines before or after them.

    Lines rhyme if their last words differ and sound alike from the last stressed vowel on, in one of their
    pronunciations in the CMU dictionary. A word that it lacks rhymes with nothing, and so does, as a rule,
    a last line that was cut off. Text of one line scores 0.

    Args:
        text: The answer, in English.

    Raises:
        ValueError: If pronouncing is not installed.
    """
    ends = [said[-1] for line in text.splitlines() if (said := words(line))]
    sounds = [_rhyming_parts(word) for word in ends]

    def rhyme(i: int, j: int) -> bool:
        return 0 <= j < len(ends) and ends[i] != ends[j] and bool(sounds[i] & sounds[j])

    rhyming = sum(any(rhyme(i, i + away) for away in (-2, -1, 1, 2)) for i in range(len(ends)))
    return 100.0 * rhyming / len(ends) if ends else 0.0


def judge_cheerful(text: str) -> float:
    """The mean over sentences of VADER's compound score, what is negative counted as 0, in percent.

    VADER reads words, capitals and exclamation marks. Empty text scores 0.

    Args:
        text: The answer, in English.

    Raises:
        ValueError: If vaderSentiment is not installed.
    """
    analyser = _sentiment()
    parts = [part for part in _SENTENCE_AND_END.findall(text) if _WORD.search(part)]
    found = [max(0.0, analyser.polarity_scores(part)["compound"]) for part in parts]
    return 100.0 * sum(found) / len(found) if found else 0.0


def judge_simple(text: str) -> float:
    """The percentage of words that are common and stand in short sentences.

    A word is common if wordfreq counts it at least once in ten thousand words of English (Zipf frequency
    5), a sentence short if it has at most fifteen words. Empty text scores 0.

    Args:
        text: The answer, in English.

    Raises:
        ValueError: If wordfreq is not installed.
    """
    sentences = [words(part) for part in _SENTENCE.findall(text)]
    simple = sum(
        _frequency(word, "en") >= _COMMON
        for said in sentences
        if len(said) <= _SHORT_SENTENCE
        for word in said
    )
    total = sum(map(len, sentences))
    return 100.0 * simple / total if total else 0.0


def judge_capitals(text: str) -> float:
    """The percentage of letters that are capitals. Text without letters scores 0.

    Example:
        >>> judge_capitals("THE sea")
        50.0
    """
    letters = [letter for letter in text if letter.isalpha()]
    return 100.0 * sum(letter.isupper() for letter in letters) / len(letters) if letters else 0.0


def judge_fluency(text: str, language: str) -> float:
    """The percentage of words that are real and not said over and over.

    A word is real if wordfreq knows it in the language or in English. It is part of a loop if it ends
    a run of three words that the text already had. Text of fewer than three words scores 0: it is no
    answer.

    Args:
        text: The answer.
        language: Two-letter code.

    Raises:
        ValueError: If wordfreq is not installed.
    """
    said = words(text)
    if len(said) < _LOOP_WORDS:
        _is_word("a", language)
        return 0.0
    seen: set[tuple[str, ...]] = set()
    good = 0
    for i, word in enumerate(said):
        run = tuple(said[max(0, i - _LOOP_WORDS + 1) : i + 1])
        looped = len(run) == _LOOP_WORDS and run in seen
        seen.add(run)
        good += not looped and _is_word(word, language)
    return 100.0 * good / len(said)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and signs."""
    return [word.lower() for word in _WORD.findall(text)]


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise ValueError(_missing("py3langid")) from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(_LANGUAGES))
    return identifier


def _is_word(word: str, language: str) -> bool:
    return any(_frequency(word, own) > 0 for own in {language, "en"})


@cache
def _frequency(word: str, language: str) -> float:
    """Zipf frequency: the logarithm of how often a word is said among a billion."""
    try:
        from wordfreq import zipf_frequency
    except ImportError:
        raise ValueError(_missing("wordfreq")) from None
    return zipf_frequency(word, language)


@cache
def _rhyming_parts(word: str) -> frozenset[str]:
    """The sounds from the last stressed vowel on, of every pronunciation, without the stress."""
    try:
        from pronouncing import phones_for_word, rhyming_part
    except ImportError:
        raise ValueError(_missing("pronouncing")) from None
    parts = (rhyming_part(phones) for phones in phones_for_word(word))
    return frozenset(re.sub(r"\d", "", part) for part in parts)


@cache
def _sentiment() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise ValueError(_missing("vaderSentiment")) from None
    return SentimentIntensityAnalyzer()


def _missing(package: str) -> str:
    return (
        f'judging real text needs {package}, which is not installed: pip install "psr-lens[real]"'
    )
