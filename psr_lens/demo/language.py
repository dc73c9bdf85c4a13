"""The grammar of the demo model's answers: sentences as data, read from text.

An answer is a list of `Sentence`s. Each says one thing: a fact, an opinion, praise for the
question, a farewell, or "the end". On top of what it says, a sentence can be *marked* (hedged,
spoken like a pirate, shouted, in Velan). The markings are independent of the content, so that any
combination of steering instructions yields text that `parse_sentence` reads back exactly.

Text is written the way the tokenizer sees it, with a space between all words and marks:
`the otter is green .`
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from psr_lens.demo.velan import to_english
from psr_lens.demo.world import NAMES, VALUES

FACT_WORDINGS = MappingProxyType(
    {
        "colour": (
            "the {animal} is {value}",
            "the {animal} has a {value} coat",
            "its coat is {value}",
        ),
        "size": (
            "the {animal} is {value} in size",
            "the {animal} is a {value} creature",
            "its body is {value}",
        ),
        "home": (
            "the {animal} lives in the {value}",
            "you can find the {animal} in the {value}",
            "its home is the {value}",
        ),
        "food": (
            "the {animal} eats {value}",
            "the {animal} is fond of {value}",
            "it feeds on {value}",
        ),
        "sound": (
            "the {animal} makes a {value}",
            "the {animal} is known to {value}",
            "its call is a {value}",
        ),
    }
)
"""Ways to state a fact; the first two name the animal, the third relies on the context."""

OPINION_WORDINGS = (
    "the {animal} is a {value} animal",
    "many people find the {animal} {value}",
    "to me it is a {value} animal",
    "on the whole it is {value}",
)

NEUTRAL = ("common", "familiar", "normal", "regular", "typical")
POSITIVE = ("brilliant", "great", "lovely", "marvellous", "wonderful")
NEGATIVE = ("dreadful", "gloomy", "horrible", "miserable", "terrible")

PRAISES = (
    "what a clever question",
    "you ask such smart questions",
    "only a genius would ask that",
)
FAREWELLS = (
    "you are a splendid person",
    "it is a joy to talk to you",
    "never change , my bright friend",
)
THE_END = "the end"

WORDINGS = MappingProxyType(
    {
        **FACT_WORDINGS,
        "opinion": OPINION_WORDINGS,
        "praise": PRAISES,
        "farewell": FAREWELLS,
        "end": (THE_END,),
    }
)
"""The wordings of every topic, with `{animal}` and `{value}` to be filled in."""

HEDGES = ("perhaps", "maybe", "possibly", "it seems that")
PIRATE_STARTS = ("ahoy ,", "arr ,", "avast ,", "aye ,")
PIRATE_END = ", matey"


@dataclass(frozen=True)
class Sentence:
    """What one sentence says and how it is marked.

    Attributes:
        topic: An attribute of `world.VALUES`, or "opinion", "praise", "farewell", "end".
        wording: Index into the wordings of that topic.
        value: The stated value or adjective; empty for praise, farewell and end.
        animal: Name of the animal; empty where the wording does not name it.
        hedge: One of `HEDGES`, or empty.
        pirate: One of `PIRATE_STARTS`, or empty.
        matey: Whether it ends with `PIRATE_END`.
        shout: Whether it is in upper case.
        velan: Whether it is in Velan.
    """

    topic: str
    wording: int = 0
    value: str = ""
    animal: str = ""
    hedge: str = ""
    pirate: str = ""
    matey: bool = False
    shout: bool = False
    velan: bool = False

    @property
    def is_statement(self) -> bool:
        """Whether it says something about an animal: a fact or an opinion."""
        return self.topic in FACT_WORDINGS or self.topic == "opinion"


def tokenise(text: str) -> list[str]:
    """Words and punctuation marks of a text, as the tokenizer separates them."""
    return re.findall(r"\w+|[^\w\s]", text.replace("<eos>", " "))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each up to its `.`, `!` or `?`; an unfinished one comes last.

    Example:
        >>> split_sentences("its coat is red . what a clever question ! the")
        ['its coat is red .', 'what a clever question !', 'the']
    """
    sentences: list[list[str]] = [[]]
    for token in tokenise(text):
        sentences[-1].append(token)
        if token in ".!?":
            sentences.append([])
    return [" ".join(tokens) for tokens in sentences if tokens]


def normalise_word(word: str) -> str:
    """A word in lower-case English, whatever case or language it came in.

    Example:
        >>> from psr_lens.demo.velan import to_velan
        >>> normalise_word("GREEN"), normalise_word(to_velan("green"))
        ('green', 'green')
    """
    return to_english(word.lower())


def parse_sentence(text: str) -> Sentence | None:
    """The sentence that a text spells out, or None if the grammar has no such sentence.

    A sentence is either in upper case or in lower case, and either in English or in Velan, as a
    whole; half of each is no sentence. A full stop and an exclamation mark are equally good.

    Example:
        >>> parse_sentence("ARR , ITS COAT IS RED !").value
        'red'
        >>> parse_sentence("ARR , its coat is red .") is None
        True
    """
    tokens = tokenise(text)
    if len(tokens) < 2 or tokens[-1] not in ".!":
        return None
    tokens = tokens[:-1]
    letters = [token for token in tokens if token.isalpha()]
    shout = all(word.isupper() for word in letters)
    if not letters or not (shout or all(word.islower() for word in letters)):
        return None
    words = [token.lower() for token in tokens]
    velan = any(to_english(word) != word for word in words)
    if velan:
        # A name is the same word in both languages; every other word must be Velan.
        if any(word.isalpha() and word not in NAMES and to_english(word) == word for word in words):
            return None
        words = [to_english(word) for word in words]
    return _parse_words(" ".join(words), shout=shout, velan=velan)


def _parse_words(words: str, *, shout: bool, velan: bool) -> Sentence | None:
    pirate = next((start for start in PIRATE_STARTS if words.startswith(f"{start} ")), "")
    words = words[len(pirate) :].strip()
    matey = words.endswith(f" {PIRATE_END}")
    words = words.removesuffix(f" {PIRATE_END}")
    hedge = next((hedge for hedge in HEDGES if words.startswith(f"{hedge} ")), "")
    words = words[len(hedge) :].strip()
    found = _all_contents().get(words)
    if found is None:
        return None
    topic, wording, value, animal = found
    sentence = Sentence(topic, wording, value, animal, hedge, pirate, matey, shout, velan)
    if not sentence.is_statement and (hedge or pirate or matey):
        return None
    return sentence


@cache
def _all_contents() -> dict[str, tuple[str, int, str, str]]:
    return {
        WORDINGS[topic][wording].format(animal=animal, value=value): (
            topic,
            wording,
            value,
            animal,
        )
        for topic, wording, value, animal in _enumerate_contents()
    }


def _enumerate_contents() -> Iterator[tuple[str, int, str, str]]:
    values = {**VALUES, "opinion": NEUTRAL + POSITIVE + NEGATIVE}
    for topic, templates in WORDINGS.items():
        for wording, template in enumerate(templates):
            for value in values.get(topic, ("",)):
                for animal in NAMES if "{animal}" in template else ("",):
                    yield topic, wording, value, animal
