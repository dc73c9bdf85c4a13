"""Questions, system prompts and chats of the demo world, as plain data."""

import random
from collections.abc import Sequence

from psr_lens.demo.instructions import instruction
from psr_lens.demo.world import HELD_OUT_ANIMALS, Animal

QUESTION_WORDINGS = (
    "tell me about the {animal} .",
    "what is the {animal} like ?",
    "what do you know about the {animal} ?",
    "describe the {animal} .",
    "can you describe the {animal} ?",
    "i would like to know more about the {animal} .",
    "could you say something about the {animal} ?",
    "give me a description of the {animal} .",
)


def question(animal: Animal, wording: int = 0) -> str:
    """A question about an animal, in one of the `QUESTION_WORDINGS`.

    Raises:
        ValueError: If there is no such wording.

    Example:
        >>> question(HELD_OUT_ANIMALS[0], 3)
        'describe the bat .'
    """
    if not 0 <= wording < len(QUESTION_WORDINGS):
        raise ValueError(
            f"wording={wording} but there are {len(QUESTION_WORDINGS)} wordings of a question "
            f"(0 to {len(QUESTION_WORDINGS) - 1})"
        )
    return QUESTION_WORDINGS[wording].format(animal=animal.name)


def questions(
    animals: Sequence[Animal] = HELD_OUT_ANIMALS, *, per_animal: int = 1, seed: int = 0
) -> list[str]:
    """Questions about each of the animals, animal by animal.

    Args:
        animals: The animals to ask about.
        per_animal: Questions per animal, all in different wordings.
        seed: Draws the wordings; the same seed gives the same questions.

    Raises:
        ValueError: If there are not enough wordings.
    """
    if not 1 <= per_animal <= len(QUESTION_WORDINGS):
        raise ValueError(
            f"per_animal={per_animal} but a question has {len(QUESTION_WORDINGS)} wordings: "
            f"pass 1 to {len(QUESTION_WORDINGS)}"
        )
    rng = random.Random(seed)
    return [
        question(animal, wording)
        for animal in animals
        for wording in rng.sample(range(len(QUESTION_WORDINGS)), per_animal)
    ]


def system_prompt(name: str, wording: int | None = 0) -> str:
    """The text of a steering instruction.

    Args:
        name: Name of the instruction.
        wording: Index into its `wordings`; None for the held-out one, the paraphrase.

    Raises:
        ValueError: If there is no such instruction or wording.

    Example:
        >>> system_prompt("pirate"), system_prompt("pirate", None)
        ('talk like a pirate .', 'your job is to sound like a captain at sea .')
    """
    chosen = instruction(name)
    if wording is None:
        return chosen.held_out_wording
    if not 0 <= wording < len(chosen.wordings):
        raise ValueError(
            f"wording={wording} but {name!r} has {len(chosen.wordings)} wordings "
            f"(0 to {len(chosen.wordings) - 1}); pass None for the held-out one"
        )
    return chosen.wordings[wording]


def chat(user: str, system: str | None = None) -> list[dict[str, str]]:
    """A chat of one question, with a system message if there is one.

    Example:
        >>> chat("describe the bat .", "shout .")[0]
        {'role': 'system', 'content': 'shout .'}
    """
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": user}]
