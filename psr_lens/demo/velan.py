"""Velan, the second language: an invented word for every English word of the answers.

Word order and punctuation stay as they are, and the names of the animals are the same in both
languages. The words are drawn from a seed: no Velan word resembles its meaning, so the model has to
know it.
"""

import random
from functools import cache

from psr_lens.demo.world import NAMES, VALUES

_SEED = 11
_ENGLISH = """
    a ahoy animal arr ask are avast aye berries body bright brilliant call can change clever coat
    common creature dreadful eats end familiar feeds find fond friend genius gloomy great
    has home horrible in is it its joy known lives lovely makes many marvellous matey maybe me
    miserable my never normal of on only people perhaps person possibly question questions regular
    seems size smart splendid such talk terrible that the to typical what whole wonderful would you
"""


@cache
def lexicon() -> dict[str, str]:
    """The Velan word for every English word, in alphabetical order of the English ones.

    Example:
        >>> len(set(lexicon().values())) == len(lexicon())
        True
    """
    rng = random.Random(_SEED)
    taken = set(NAMES)
    pairs = {}
    english = set(_ENGLISH.split()) | {value for values in VALUES.values() for value in values}
    for word in sorted(english):
        new = _invent(rng)
        while new in taken or new in english:
            new = _invent(rng)
        taken.add(new)
        pairs[word] = new
    return pairs


def to_velan(word: str) -> str:
    """The Velan for an English word; names, punctuation and unknown words stay as they are."""
    return lexicon().get(word, word)


def to_english(word: str) -> str:
    """The English for a Velan word; anything else stays as it is.

    Example:
        >>> to_english(to_velan("forest")), to_english("forest")
        ('forest', 'forest')
    """
    return _inverse().get(word, word)


@cache
def _inverse() -> dict[str, str]:
    return {velan: english for english, velan in lexicon().items()}


def _invent(rng: random.Random) -> str:
    syllables = ("".join((rng.choice("bdfgklmnprstvz"), rng.choice("aeiou"))) for _ in range(2))
    return "".join(syllables) + rng.choice(("", "l", "n", "r", "sk", "x"))
