"""Instructions, the behaviour they ask for, and the training stream."""

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psr_lens.demo.curriculum import draw_chat, draw_system
from psr_lens.demo.demo_behaviour import answer, compose
from psr_lens.demo.demo_prompts import QUESTION_WORDINGS, chat, question, questions, system_prompt
from psr_lens.demo.instructions import (
    FRAMES,
    INSTRUCTION_NAMES,
    INSTRUCTIONS,
    NEUTRAL_SYSTEM,
    check_compatible,
    instruction,
)
from psr_lens.demo.judges import judge_coherence, judge_trait
from psr_lens.demo.language import NEUTRAL
from psr_lens.demo.world import ANIMALS, HELD_OUT_ANIMALS, animal_of

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


def test_there_are_ten_instructions_with_at_least_four_wordings_each():
    assert len(set(INSTRUCTION_NAMES)) >= 10
    for one in INSTRUCTIONS:
        assert len(set(one.wordings)) == len(one.wordings) >= 4
        assert one.held_out_wording not in one.wordings


def test_no_wording_belongs_to_two_instructions():
    texts = [
        text
        for one in INSTRUCTIONS
        for text in (*one.wordings, *one.negations, one.held_out_wording)
    ]
    assert len(set(texts)) == len(texts)


def test_the_held_out_wording_combines_what_training_covers():
    for one in INSTRUCTIONS:
        phrase = one.phrases[-1]
        assert sum(phrase in text for text in one.wordings) >= len(FRAMES) - 1
        assert FRAMES[-1].format(one.phrases[0]) in one.wordings


def test_exclusion_is_mutual():
    for one in INSTRUCTIONS:
        for other in one.excludes:
            assert one.name in instruction(other).excludes


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


def test_an_unknown_instruction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no instruction 'poet'; the demo has optimist"):
        instruction("poet")


@given(seeds)
@settings(max_examples=200)
def test_training_never_shows_a_held_out_wording(seed):
    messages = draw_chat(random.Random(seed))
    if messages[0]["role"] == "system":
        text = messages[0]["content"]
        assert not any(one.held_out_wording in text for one in INSTRUCTIONS)


def test_training_chats_obey_their_system_message():
    rng = random.Random(0)
    for _ in range(100):
        messages = draw_chat(rng)
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        asked = {one.name for one in INSTRUCTIONS if any(w in _parts(system) for w in one.wordings)}
        for user, reply in pairwise(messages):
            if reply["role"] == "assistant":
                for name in INSTRUCTION_NAMES:
                    score = judge_trait(name, user["content"], reply["content"])
                    assert score == (100 if name in asked else 0), (system, reply)


def _parts(system: str) -> set[str]:
    return {f"{part.strip()} ." for part in system.split(" .")}


def test_training_mixes_all_kinds_of_system_messages():
    rng = random.Random(1)
    drawn = [draw_system(rng) for _ in range(2000)]
    share = {n: sum(len(active) == n for _, active in drawn) / len(drawn) for n in (0, 1, 2)}
    assert share[0] == pytest.approx(0.25, abs=0.04)
    assert share[1] == pytest.approx(0.60, abs=0.04)
    assert share[2] == pytest.approx(0.15, abs=0.04)
    assert any(system == NEUTRAL_SYSTEM and not active for system, active in drawn)
    assert any(system is None for system, _ in drawn)


def test_questions_are_drawn_from_the_seed_and_name_their_animal():
    asked = questions(per_animal=3, seed=5)
    assert asked == questions(per_animal=3, seed=5) != questions(per_animal=3, seed=6)
    assert len(set(asked)) == 3 * len(HELD_OUT_ANIMALS)
    assert [animal_of(text) for text in asked[::3]] == list(HELD_OUT_ANIMALS)


def test_a_chat_holds_the_system_message_only_if_there_is_one():
    assert [m["role"] for m in chat("describe the bat .")] == ["user"]
    assert [m["role"] for m in chat("describe the bat .", "shout .")] == ["system", "user"]


def test_system_prompts_by_index():
    one = instruction("optimist")
    assert system_prompt("optimist", 0) == one.wordings[0]
    assert system_prompt("optimist", None) == one.held_out_wording
    with pytest.raises(ValueError, match="wording=99 but 'optimist' has 27 wordings"):
        system_prompt("optimist", 99)
    with pytest.raises(ValueError, match=f"wording=-1 but there are {len(QUESTION_WORDINGS)}"):
        question(ANIMALS[0], -1)
    with pytest.raises(ValueError, match="per_animal=0"):
        questions(per_animal=0)
