"""Judges of real text, 0 to 100, that work offline: language, pirate talk, fluency.

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
_LOOP_WORDS: Final = 3


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


@cache
def _is_word(word: str, language: str) -> bool:
    try:
        from wordfreq import zipf_frequency
    except ImportError:
        raise ValueError(_missing("wordfreq")) from None
    return any(zipf_frequency(word, own) > 0 for own in {language, "en"})


def _missing(package: str) -> str:
    return (
        f'judging real text needs {package}, which is not installed: pip install "psr-lens[real]"'
    )
