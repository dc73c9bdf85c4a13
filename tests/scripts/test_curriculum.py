"""The stream of chats that the demo models are trained on."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psr_lens.demo.instructions import INSTRUCTION_NAMES, INSTRUCTIONS
from psr_lens.demo.judges import judge_trait
from scripts.demo_training.curriculum import NEUTRAL_SYSTEM, draw_chat, draw_system


@given(st.integers(0, 10**6))
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
