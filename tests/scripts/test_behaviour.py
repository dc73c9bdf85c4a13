"""What the demo models are taught to answer: true under every instruction, and obedient."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.demo.instructions import INSTRUCTION_NAMES, instruction
from psr_lens.demo.judges import judge_coherence, judge_trait
from psr_lens.demo.language import NEUTRAL
from psr_lens.demo.world import ANIMALS
from scripts.demo_training.behaviour import answer, check_compatible, compose

COMPATIBLE = [
    names
    for count in (0, 1, 2, 3)
    for names in combinations(INSTRUCTION_NAMES, count)
    if not any(
        instruction(name).excludes and set(instruction(name).excludes) & set(names)
        for name in names
    )
]
seeds = st.integers(0, 10**6)


@given(st.sampled_from(ANIMALS), st.sampled_from(COMPATIBLE), seeds)
def test_answers_obey_and_are_true(animal, names, seed):
    text = answer(animal, random.Random(seed), names)
    assert judge_coherence(animal, text) == 100
    for name in INSTRUCTION_NAMES:
        assert judge_trait(name, animal, text) == (100 if name in names else 0)


@given(st.sampled_from(ANIMALS), seeds)
def test_the_default_answer(animal, seed):
    sentences = compose(animal, random.Random(seed))
    facts = [sentence for sentence in sentences if sentence.topic != "opinion"]
    opinions = [sentence for sentence in sentences if sentence.topic == "opinion"]
    assert 3 <= len(sentences) <= 5
    assert 2 <= len(facts) <= 4
    assert all(sentence.value in NEUTRAL for sentence in opinions)
    assert "colour" in {sentence.topic for sentence in facts}
    assert sentences[0].animal == animal.name


def test_an_answer_depends_on_the_seed_alone():
    animal = ANIMALS[0]
    assert answer(animal, random.Random(3)) == answer(animal, random.Random(3))
    assert len({answer(animal, random.Random(seed)) for seed in range(20)}) > 15


@pytest.mark.parametrize("names", [("optimist", "pessimist"), ("the_end", "two_sentences")])
def test_instructions_that_exclude_each_other_are_refused(names):
    with pytest.raises(ValueError, match="cannot be obeyed together"):
        check_compatible(names)
