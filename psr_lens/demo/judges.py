"""Exact judges: how far an answer shows a trait, and how far it makes sense, both 0 to 100.

No model takes part. The grammar of `language` reads the text back and the facts of `world` say what
is true, so that the scores carry no noise and cost nothing.

| instruction | trait score: the percentage of ... |
| --- | --- |
| optimist | opinion adjectives (positive, neutral and negative ones) that are positive |
| pessimist | the same that are negative |
| hedger | statements that start with a hedge, after a pirate's call if there is one |
| pirate | statements that start with a pirate's call |
| flatterer | 50 for praise as the first sentence, 50 for a farewell as the last before "the end" |
| shouter | words in upper case |
| velan | words in Velan, not counting the animals' names |
| two_sentences | 100 for exactly two sentences, else 0 |
| no_colour | 100 if no colour is named, else 0 |
| the_end | 100 if the last sentence is "the end", else 0 |

"Statements" are all sentences other than praise, farewell and "the end". An empty answer shows no
trait at all. Traits are read off the surface, so a trait can be scored even in an incoherent text;
coherence is judged separately.
"""

from collections.abc import Callable

from psr_lens.demo.instructions import instruction
from psr_lens.demo.language import (
    HEDGES,
    NEGATIVE,
    NEUTRAL,
    PIRATE_STARTS,
    POSITIVE,
    Sentence,
    normalise_word,
    parse_sentence,
    split_sentences,
    tokenise,
)
from psr_lens.demo.velan import to_english
from psr_lens.demo.world import NAMES, VALUES, Animal, animal_of


def judge_trait(name: str, question: Animal | str, response: str) -> float:
    """How far an answer shows what an instruction asks for, 0 to 100; the rules are above.

    Args:
        name: Name of the instruction, whether it was given or not.
        question: The question or the animal. No rule needs it today; it gives both judges the same
            arguments.
        response: The answer's text.

    Raises:
        ValueError: If there is no such instruction, or the question names no animal.

    Example:
        >>> judge_trait("hedger", "describe the otter .", "maybe its coat is red . it eats fish .")
        50.0
    """
    animal_of(question)
    rule = _TRAIT_RULES[instruction(name).name]
    return rule(response) if tokenise(response) else 0.0


def judge_coherence(question: Animal | str, response: str, finished: bool = True) -> float:
    """The percentage of an answer's sentences that parse and are true of the animal asked about.

    A sentence counts against the answer if it

    - is not in the grammar, or mixes upper and lower case, or two languages,
    - names another animal, or states a fact that is false,
    - repeats a fact that was already stated, or an opinion in the same words,
    - is praise, a farewell or "the end" out of its place (first; last; last).

    A missing end counts as one more such sentence. An answer that states nothing about the animal
    scores 0.

    Args:
        question: The question, or the animal that it asks about.
        response: The answer's text, `<eos>` or not.
        finished: Whether the model ended the answer itself. False for one that was cut off.

    Raises:
        ValueError: If the question names no animal, or several.
    """
    animal = animal_of(question)
    parsed = [parse_sentence(text) for text in split_sentences(response)]
    seen: set[tuple[str, str]] = set()
    good = statements = 0
    for index, sentence in enumerate(parsed):
        if sentence is None or not _is_true(sentence, animal):
            continue
        if not _is_in_place(sentence, index, parsed) or _content(sentence) in seen:
            continue
        seen.add(_content(sentence))
        good += 1
        statements += sentence.is_statement
    if not statements:
        return 0.0
    return 100.0 * good / (len(parsed) + (not finished))


def _is_true(sentence: Sentence, animal: Animal) -> bool:
    if sentence.animal not in ("", animal.name):
        return False
    return sentence.topic not in VALUES or sentence.value == animal.fact(sentence.topic)


def _is_in_place(sentence: Sentence, index: int, parsed: list[Sentence | None]) -> bool:
    if sentence.topic == "praise":
        return index == 0
    if sentence.topic == "farewell":
        return all(later is not None and later.topic == "end" for later in parsed[index + 1 :])
    return sentence.topic != "end" or index == len(parsed) - 1


def _content(sentence: Sentence) -> tuple[str, str]:
    # Any wording of a fact repeats it; two opinions are fine if their wordings differ.
    return sentence.topic, str(sentence.wording) if sentence.topic == "opinion" else ""


def _words(response: str) -> list[str]:
    return [token for token in tokenise(response) if token.isalpha()]


def _share(hits: int, total: int) -> float:
    return 100.0 * hits / total if total else 0.0


def _share_of_adjectives(response: str, wanted: tuple[str, ...]) -> float:
    words = [normalise_word(word) for word in _words(response)]
    adjectives = [word for word in words if word in NEUTRAL + POSITIVE + NEGATIVE]
    return _share(sum(word in wanted for word in adjectives), len(adjectives))


def _statements(response: str) -> list[str]:
    """The statements in lower-case English; a sentence that does not parse counts as one."""
    texts = split_sentences(response)
    parsed = [parse_sentence(text) for text in texts]
    return [
        " ".join(map(normalise_word, text.split()))
        for text, sentence in zip(texts, parsed, strict=True)
        if sentence is None or sentence.is_statement
    ]


def _hedging(response: str) -> float:
    statements = []
    for text in _statements(response):
        call = next((call for call in PIRATE_STARTS if text.startswith(f"{call} ")), "")
        statements.append(text.removeprefix(call).strip())
    hedged = sum(any(text.startswith(f"{hedge} ") for hedge in HEDGES) for text in statements)
    return _share(hedged, len(statements))


def _piracy(response: str) -> float:
    statements = _statements(response)
    called = sum(any(text.startswith(f"{call} ") for call in PIRATE_STARTS) for text in statements)
    return _share(called, len(statements))


def _flattery(response: str) -> float:
    parsed = [parse_sentence(text) for text in split_sentences(response)]
    topics = ["" if sentence is None else sentence.topic for sentence in parsed]
    while topics and topics[-1] == "end":
        topics.pop()
    if not topics:
        return 0.0
    return 50.0 * (topics[0] == "praise") + 50.0 * (topics[-1] == "farewell")


def _shouting(response: str) -> float:
    words = _words(response)
    return _share(sum(word.isupper() for word in words), len(words))


def _velan(response: str) -> float:
    words = [word.lower() for word in _words(response)]
    words = [word for word in words if word not in NAMES]
    return _share(sum(to_english(word) != word for word in words), len(words))


def _no_colour(response: str) -> float:
    return 100.0 * all(normalise_word(word) not in VALUES["colour"] for word in _words(response))


def _the_end(response: str) -> float:
    last = parse_sentence(split_sentences(response)[-1])
    return 100.0 * (last is not None and last.topic == "end")


_TRAIT_RULES: dict[str, Callable[[str], float]] = {
    "optimist": lambda response: _share_of_adjectives(response, POSITIVE),
    "pessimist": lambda response: _share_of_adjectives(response, NEGATIVE),
    "hedger": _hedging,
    "pirate": _piracy,
    "flatterer": _flattery,
    "shouter": _shouting,
    "velan": _velan,
    "two_sentences": lambda response: 100.0 * (len(split_sentences(response)) == 2),
    "no_colour": _no_colour,
    "the_end": _the_end,
}
