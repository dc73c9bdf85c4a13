"""The steering instructions that the demo model obeys, and how they are put into words.

Every instruction has several *phrases* ("be optimistic"), and a phrase is put into a *frame*
("please ... ."). Training covers every phrase and every frame, and all their combinations but one
per instruction: that one is its held-out wording, a paraphrase that the model never saw.
"""

from dataclasses import dataclass
from typing import Literal

FRAMES = (
    "{} .",
    "please {} .",
    "you must {} .",
    "i want you to {} .",
    "try to {} .",
    "remember to {} .",
    "your job is to {} .",
)
NEGATIVE_FRAMES = (
    "do not {} .",
    "please do not {} .",
    "never {} .",
    "you must not {} .",
    "there is no need to {} .",
)

Kind = Literal["few words", "sentence starts", "opening and closing", "every token", "format"]
"""Where in the text an instruction acts: what kind of steering it calls for."""


@dataclass(frozen=True)
class Instruction:
    """A steering instruction.

    Attributes:
        name: What the rest of the package calls it.
        kind: Where in the text it acts.
        effect: What it does to an answer, in one line.
        phrases: Ways to say it, as imperatives that fit into every frame.
        special: Wordings that are complete as they are; in training they come beside the frames.
        excludes: Names of the instructions that it cannot be combined with.
    """

    name: str
    kind: Kind
    effect: str
    phrases: tuple[str, ...]
    special: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()

    @property
    def held_out_wording(self) -> str:
        """The paraphrase: known words in a combination that training never shows."""
        return FRAMES[-1].format(self.phrases[-1])

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings that training uses; the first ones are plain, without a frame's padding.

        Example:
            >>> instruction("pirate").wordings[0]
            'talk like a pirate .'
        """
        framed = (frame.format(phrase) for frame in FRAMES for phrase in self.phrases)
        return self.special + tuple(text for text in framed if text != self.held_out_wording)

    @property
    def negations(self) -> tuple[str, ...]:
        """Wordings that forbid it; the model then answers as it does by default."""
        return tuple(frame.format(phrase) for frame in NEGATIVE_FRAMES for phrase in self.phrases)


INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction(
        "optimist",
        "few words",
        "opinions use a positive adjective",
        (
            "be optimistic",
            "sound cheerful and hopeful",
            "see the good in everything",
            "look on the bright side",
        ),
        excludes=("pessimist",),
    ),
    Instruction(
        "pessimist",
        "few words",
        "opinions use a negative adjective",
        (
            "be pessimistic",
            "sound sad and bitter",
            "see the bad in everything",
            "look on the dark side",
        ),
        excludes=("optimist",),
    ),
    Instruction(
        "hedger",
        "sentence starts",
        "every statement starts with a hedge",
        (
            "hedge every statement",
            "sound unsure of yourself",
            "speak with caution",
            "show doubt in every sentence",
        ),
    ),
    Instruction(
        "pirate",
        "sentence starts",
        "every statement starts with a pirate's call, and about half end with matey",
        (
            "talk like a pirate",
            "speak as a sailor would",
            "play a pirate",
            "sound like a captain at sea",
        ),
    ),
    Instruction(
        "flatterer",
        "opening and closing",
        "the answer opens with praise and closes with a flattering farewell",
        (
            "flatter the user",
            "praise the person who asks",
            "pay me compliments",
            "butter me up",
        ),
        excludes=("two_sentences",),
    ),
    Instruction(
        "shouter",
        "every token",
        "the whole answer is in upper case, with exclamation marks",
        (
            "shout",
            "write in upper case",
            "use capital letters only",
            "type everything in capitals",
        ),
        excludes=("velan",),
    ),
    Instruction(
        "velan",
        "every token",
        "the whole answer is in Velan, an invented second language",
        (
            "answer in velan",
            "speak velan",
            "write everything in the velan language",
            "translate your answer into velan",
        ),
        excludes=("shouter",),
    ),
    Instruction(
        "two_sentences",
        "format",
        "the answer has exactly two sentences",
        (
            "use exactly two sentences",
            "write two sentences and no more",
            "answer in exactly two sentences",
            "keep it to two sentences",
        ),
        excludes=("flatterer", "the_end"),
    ),
    Instruction(
        "no_colour",
        "format",
        "the answer never mentions the colour",
        (
            "leave out the colour",
            "skip the colour",
            "avoid any mention of the colour",
            "keep quiet about the colour",
        ),
        special=("never mention the colour .", "do not mention the colour ."),
    ),
    Instruction(
        "the_end",
        "format",
        'the answer ends with "the end ."',
        (
            'end with " the end "',
            'finish with the words " the end "',
            'close your answer with " the end "',
            'let " the end " be your last words',
        ),
        excludes=("two_sentences",),
    ),
)
"""All instructions of the demo model."""

INSTRUCTION_NAMES = tuple(instruction.name for instruction in INSTRUCTIONS)

DEFAULT_TRAITS = ("pirate", "optimist", "hedger", "flatterer", "shouter")
"""The instructions that means are taken over: one of every kind but the format rules, and one more."""

FIRST_TRAITS = ("hedger", "optimist", "flatterer")
"""What `psr-lens demo` shows unless told otherwise; the first has the clearest panels."""


def instruction(name: str) -> Instruction:
    """The instruction of that name.

    Raises:
        ValueError: If there is none.
    """
    for candidate in INSTRUCTIONS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"no instruction {name!r}; the demo has {', '.join(INSTRUCTION_NAMES)}")
