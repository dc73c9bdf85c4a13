"""What the demo model is taught to answer: a pure function of facts, chance and instructions.

By default an answer is 3 to 5 sentences, of which 2 to 4 are facts and 1 or 2 are opinions with a
neutral adjective. The colour is always among the facts, and the first sentence names the animal.
Each instruction changes its own part of that and leaves the rest alone: the facts stay true under
all of them.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

from psr_lens.demo.instructions import instruction
from psr_lens.demo.language import (
    FAREWELLS,
    HEDGES,
    NEGATIVE,
    NEUTRAL,
    PIRATE_STARTS,
    POSITIVE,
    PRAISES,
    WORDINGS,
    Sentence,
)
from psr_lens.demo.world import ATTRIBUTES, Animal
from scripts.demo_training.rendering import render

# (facts, opinions): every combination whose sum is 3 to 5.
_LENGTHS = ((2, 1), (2, 2), (3, 1), (3, 2), (4, 1))


def answer(animal: Animal, rng: random.Random, instructions: Iterable[str] = ()) -> str:
    """One answer about an animal, as text.

    Args:
        animal: The animal that was asked about.
        rng: Source of every choice that the instructions leave open.
        instructions: Names of the active instructions, none for the default behaviour.

    Raises:
        ValueError: If an instruction is unknown or two exclude each other.
    """
    return render(compose(animal, rng, instructions))


def compose(
    animal: Animal, rng: random.Random, instructions: Iterable[str] = ()
) -> tuple[Sentence, ...]:
    """One answer about an animal, as sentences; arguments as in `answer`."""
    active = check_compatible(instructions)
    adjectives = NEUTRAL
    if "optimist" in active:
        adjectives = POSITIVE
    elif "pessimist" in active:
        adjectives = NEGATIVE
    opinion_wordings = rng.sample(range(len(WORDINGS["opinion"])), 2)
    sentences = []
    for topic in _plan(rng, active):
        allowed = opinion_wordings if topic == "opinion" else range(len(WORDINGS[topic]))
        if not sentences:
            allowed = [i for i, text in enumerate(WORDINGS[topic]) if "{animal}" in text]
        sentence = _say(topic, rng.choice(list(allowed)), animal, adjectives, rng)
        if topic == "opinion":
            # Two opinions in the same words would be a repetition.
            opinion_wordings = [w for w in opinion_wordings if w != sentence.wording]
        sentences.append(sentence)
    sentences = [_mark(sentence, rng, active) for sentence in sentences]
    if "flatterer" in active:
        sentences.insert(0, Sentence("praise", rng.randrange(len(PRAISES))))
        sentences.append(Sentence("farewell", rng.randrange(len(FAREWELLS))))
    if "the_end" in active:
        sentences.append(Sentence("end"))
    shout, velan = "shouter" in active, "velan" in active
    return tuple(replace(sentence, shout=shout, velan=velan) for sentence in sentences)


def check_compatible(names: Iterable[str]) -> frozenset[str]:
    """The names as a set, if the instructions can be obeyed together.

    Raises:
        ValueError: If one is unknown, or two exclude each other.
    """
    chosen = frozenset(names)
    for name in sorted(chosen):
        clash = chosen.intersection(instruction(name).excludes)
        if clash:
            raise ValueError(
                f"{name!r} and {min(clash)!r} cannot be obeyed together: drop one of them"
            )
    return chosen


def _plan(rng: random.Random, active: frozenset[str]) -> list[str]:
    n_facts, n_opinions = (1, 1) if "two_sentences" in active else rng.choice(_LENGTHS)
    others = [attribute for attribute in ATTRIBUTES if attribute != "colour"]
    if "no_colour" in active:
        facts = rng.sample(others, n_facts)
    else:
        facts = ["colour", *rng.sample(others, n_facts - 1)]
    rng.shuffle(facts)
    topics = facts + ["opinion"] * n_opinions
    if rng.random() < 0.3:
        rng.shuffle(topics)
    return topics


def _say(
    topic: str, wording: int, animal: Animal, adjectives: tuple[str, ...], rng: random.Random
) -> Sentence:
    value = rng.choice(adjectives) if topic == "opinion" else animal.fact(topic)
    named = "{animal}" in WORDINGS[topic][wording]
    return Sentence(topic, wording, value, animal.name if named else "")


def _mark(sentence: Sentence, rng: random.Random, active: frozenset[str]) -> Sentence:
    if "hedger" in active:
        sentence = replace(sentence, hedge=rng.choice(HEDGES))
    if "pirate" in active:
        sentence = replace(sentence, pirate=rng.choice(PIRATE_STARTS), matey=rng.random() < 0.5)
    return sentence
