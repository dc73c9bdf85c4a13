"""The demo's world: enough animals, facts from the allowed values, a fixed held-out part."""

from collections import Counter

import pytest

from psr_lens.demo.world import (
    ANIMALS,
    ATTRIBUTES,
    HELD_OUT_ANIMALS,
    TRAINING_ANIMALS,
    VALUES,
    Animal,
    animal_named,
    animal_of,
)


def test_ten_of_at_least_thirty_animals_are_held_out():
    assert len(ANIMALS) >= 30
    assert len(HELD_OUT_ANIMALS) == 10
    assert set(TRAINING_ANIMALS) | set(HELD_OUT_ANIMALS) == set(ANIMALS)
    assert not set(TRAINING_ANIMALS) & set(HELD_OUT_ANIMALS)


def test_facts_are_allowed_values_and_differ_between_animals():
    facts = [tuple(animal.fact(attribute) for attribute in ATTRIBUTES) for animal in ANIMALS]
    for values in facts:
        assert all(v in VALUES[a] for a, v in zip(ATTRIBUTES, values, strict=True))
    assert len(set(facts)) == len(ANIMALS)


def test_no_value_is_so_frequent_that_it_could_be_guessed():
    for attribute in ATTRIBUTES:
        counts = Counter(animal.fact(attribute) for animal in ANIMALS)
        assert max(counts.values()) <= len(ANIMALS) / 2


def test_a_value_belongs_to_one_attribute():
    values = [value for allowed in VALUES.values() for value in allowed]
    assert len(set(values)) == len(values)


def test_the_world_is_the_one_that_the_checkpoints_know():
    assert animal_named("bat") == Animal("bat", "blue", "large", "cave", "honey", "bark")
    assert [animal.name for animal in HELD_OUT_ANIMALS][:3] == ["bat", "bear", "bison"]


def test_the_animal_of_a_question():
    otter = animal_named("otter")
    assert animal_of("what is the Otter like?") == otter
    assert animal_of(otter) is otter


@pytest.mark.parametrize(
    ("question", "found"), [("describe the cat .", "none"), ("the fox and the bat", "bat, fox")]
)
def test_a_question_without_exactly_one_animal_is_refused(question, found):
    with pytest.raises(ValueError, match=f"exactly one animal of the demo world, not {found}"):
        animal_of(question)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no animal 'cat'.*badger"):
        animal_named("cat")
    with pytest.raises(ValueError, match="'age' is none of colour, size"):
        animal_named("otter").fact("age")
