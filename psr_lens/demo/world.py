"""The world that the demo model knows: animals with facts, drawn from a seed.

Every fact is true by decree: the names are those of real animals but the facts are drawn at random,
so nothing can be guessed from the name and every sentence of the model can be checked.

Ten of the animals are held out. Held out means that nothing which is *fitted* sees them: no
steering vector, no probe, no search for a strength. The demo *model* has to know their facts and so
is trained on all animals, under all instructions; a method that was fitted on the training animals
is then judged on animals that are new to the method, not to the model.
"""

import random
import re
from dataclasses import dataclass
from types import MappingProxyType

WORLD_SEED = 7

NAMES = (
    *("badger", "bat", "bear", "beaver", "bison", "camel", "crane", "deer", "donkey", "duck"),
    *("eagle", "ferret", "fox", "frog", "goat", "hare", "hedgehog", "heron", "horse", "jackal"),
    *("lizard", "lynx", "mole", "moose", "newt", "otter", "owl", "panda", "rabbit", "raven"),
    *("seal", "tortoise"),
)

VALUES = MappingProxyType(
    {
        "colour": ("black", "blue", "brown", "golden", "green", "grey", "red", "white"),
        "size": ("giant", "huge", "large", "small", "tiny"),
        "home": ("cave", "desert", "forest", "lake", "meadow", "mountains", "river", "swamp"),
        "food": ("berries", "fish", "grass", "honey", "leaves", "nuts", "roots", "seeds"),
        "sound": ("bark", "chirp", "growl", "grunt", "hiss", "howl", "squeak", "whistle"),
    }
)
"""What each attribute of an animal can be."""

ATTRIBUTES = tuple(VALUES)


@dataclass(frozen=True)
class Animal:
    """An animal and its facts, one value of `VALUES` per attribute.

    Attributes:
        name: Its name, one lower-case word.
        colour: Colour of its coat.
        size: Its size.
        home: Where it lives.
        food: What it eats.
        sound: The sound it makes.
    """

    name: str
    colour: str
    size: str
    home: str
    food: str
    sound: str

    def fact(self, attribute: str) -> str:
        """The value of one attribute.

        Raises:
            ValueError: If there is no such attribute.

        Example:
            >>> animal_named("otter").fact("home") in VALUES["home"]
            True
        """
        if attribute not in VALUES:
            raise ValueError(f"attribute={attribute!r} is none of {', '.join(ATTRIBUTES)}")
        return getattr(self, attribute)


def _draw_world(seed: int) -> tuple[Animal, ...]:
    rng = random.Random(seed)
    return tuple(
        Animal(name, **{attribute: rng.choice(VALUES[attribute]) for attribute in ATTRIBUTES})
        for name in NAMES
    )


def _draw_held_out(seed: int, count: int) -> frozenset[str]:
    return frozenset(random.Random(seed + 1).sample(NAMES, count))


_HELD_OUT_NAMES = _draw_held_out(WORLD_SEED, 10)

ANIMALS: tuple[Animal, ...] = _draw_world(WORLD_SEED)
"""All 32 animals, by name."""

TRAINING_ANIMALS: tuple[Animal, ...] = tuple(a for a in ANIMALS if a.name not in _HELD_OUT_NAMES)
"""The 22 animals that fits and searches may use."""

HELD_OUT_ANIMALS: tuple[Animal, ...] = tuple(a for a in ANIMALS if a.name in _HELD_OUT_NAMES)
"""The 10 animals that results are reported on."""

_BY_NAME = MappingProxyType({animal.name: animal for animal in ANIMALS})


def animal_named(name: str) -> Animal:
    """The animal of that name.

    Raises:
        ValueError: If the world has no such animal.
    """
    if name not in _BY_NAME:
        raise ValueError(f"no animal {name!r} in the demo world; it has {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def animal_of(question: Animal | str) -> Animal:
    """The animal that a question asks about.

    Args:
        question: A question that names one animal, the bare name, or the animal itself.

    Raises:
        ValueError: If the text names no animal, or more than one.

    Example:
        >>> animal_of("what is the otter like ?").name
        'otter'
    """
    if isinstance(question, Animal):
        return question
    named = {word for word in re.findall(r"\w+", question.lower()) if word in _BY_NAME}
    if len(named) != 1:
        found = ", ".join(sorted(named)) or "none"
        raise ValueError(
            f"{question!r} must name exactly one animal of the demo world, not {found}"
        )
    return _BY_NAME[named.pop()]
