"""Instructions, their wordings, and the questions and chats about them."""

import pytest

from psr_lens.demo.demo_prompts import QUESTION_WORDINGS, chat, question, questions, system_prompt
from psr_lens.demo.instructions import (
    FRAMES,
    INSTRUCTION_NAMES,
    INSTRUCTIONS,
    instruction,
)
from psr_lens.demo.world import ANIMALS, HELD_OUT_ANIMALS, animal_of


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


def test_an_unknown_instruction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no instruction 'poet'; the demo has optimist"):
        instruction("poet")


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
