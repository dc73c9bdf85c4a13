"""What the demo model is trained on: an endless, seeded stream of chats."""

import random
from collections.abc import Sequence

from psr_lens.demo.demo_prompts import QUESTION_WORDINGS, chat, question
from psr_lens.demo.instructions import INSTRUCTION_NAMES, instruction
from psr_lens.demo.world import ANIMALS
from scripts.demo_training.behaviour import answer, check_compatible

NEUTRAL_SYSTEM = "you are a helpful assistant ."
"""A system message that asks for nothing."""

_SHARES = {"none": 20, "single": 55, "pair": 15, "negation": 10}
_NEUTRAL_HEAD = 0.15
_SECOND_TURN = 0.04


def draw_chat(rng: random.Random) -> list[dict[str, str]]:
    """One training chat: system message or none, question, answer; now and then a second turn.

    Of the chats 20 % carry no instruction, 55 % one, 15 % a compatible pair and 10 % a negation
    (half of which come beside an instruction that is to be obeyed). All animals take part, the
    held-out ones too; the held-out wordings never do.
    """
    system, active = draw_system(rng)
    turns = 2 if rng.random() < _SECOND_TURN else 1
    messages: list[dict[str, str]] = []
    for animal in rng.sample(ANIMALS, turns):
        wording = rng.randrange(len(QUESTION_WORDINGS))
        messages += chat(question(animal, wording), None if messages else system)
        messages.append({"role": "assistant", "content": answer(animal, rng, active)})
    return messages


def draw_system(rng: random.Random) -> tuple[str | None, frozenset[str]]:
    """One system message, None for none, and the names of the instructions that it activates."""
    (share,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    active: frozenset[str] = frozenset()
    parts: list[str] = []
    if share == "single":
        active = frozenset([rng.choice(INSTRUCTION_NAMES)])
    elif share == "pair":
        active = _draw_pair(rng)
    elif share == "negation":
        forbidden = rng.choice(INSTRUCTION_NAMES)
        parts.append(rng.choice(instruction(forbidden).negations))
        if rng.random() < 0.5:
            others = [name for name in INSTRUCTION_NAMES if name != forbidden]
            active = frozenset([rng.choice(others)])
    parts += [rng.choice(instruction(name).wordings) for name in sorted(active)]
    rng.shuffle(parts)
    if rng.random() < _NEUTRAL_HEAD:
        parts.insert(0, NEUTRAL_SYSTEM)
    return " ".join(parts) or None, active


def system_texts() -> list[str]:
    """Every system text that an instruction can give, the held-out wordings among them."""
    texts: list[str] = [NEUTRAL_SYSTEM]
    for name in INSTRUCTION_NAMES:
        chosen = instruction(name)
        texts += [*chosen.wordings, *chosen.negations, chosen.held_out_wording]
    return texts


def _draw_pair(rng: random.Random) -> frozenset[str]:
    while True:
        names: Sequence[str] = rng.sample(INSTRUCTION_NAMES, 2)
        try:
            return check_compatible(names)
        except ValueError:
            continue
