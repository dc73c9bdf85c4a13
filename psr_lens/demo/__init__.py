"""The embedded demo: a small chat model in a world whose truth is known, with exact judges.

Two checkpoints lie in the package, in Hugging Face format and with the same tokenizer: `demo` (a
Llama) and `demo-gpt2` (a GPT-2), each with 6 layers of width 128. They answer questions about 32
animals and obey ten steering instructions in the system message. Whether an answer shows a trait
and whether it is true are decided by rule:

    >>> from psr_lens import demo
    >>> text = "arr , the bat is blue . it feeds on honey , matey ."
    >>> demo.judge_trait("pirate", "describe the bat .", text)
    50.0
    >>> demo.judge_coherence("describe the bat .", text)
    100.0

Importing this package loads neither torch nor a model.
"""

from pathlib import Path
from types import MappingProxyType

from psr_lens.demo.demo_prompts import QUESTION_WORDINGS, chat, question, questions, system_prompt
from psr_lens.demo.instructions import (
    INSTRUCTION_NAMES,
    INSTRUCTIONS,
    Instruction,
    instruction,
)
from psr_lens.demo.judges import judge_coherence, judge_trait
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

__all__ = [
    "ANIMALS",
    "ATTRIBUTES",
    "CHECKPOINTS",
    "HELD_OUT_ANIMALS",
    "INSTRUCTIONS",
    "INSTRUCTION_NAMES",
    "QUESTION_WORDINGS",
    "TRAINING_ANIMALS",
    "VALUES",
    "Animal",
    "Instruction",
    "animal_named",
    "animal_of",
    "chat",
    "checkpoint_path",
    "instruction",
    "judge_coherence",
    "judge_trait",
    "question",
    "questions",
    "system_prompt",
]

_ROOT = Path(__file__).parent / "checkpoints"

CHECKPOINTS = MappingProxyType({name: _ROOT / name for name in ("demo", "demo-gpt2")})
"""Directory of every checkpoint in the package."""


def checkpoint_path(name: str = "demo") -> Path:
    """Directory of one of the package's checkpoints.

    Raises:
        ValueError: If there is no such checkpoint.

    Example:
        >>> checkpoint_path("demo-gpt2").name
        'demo-gpt2'
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"no demo checkpoint {name!r}; there are {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[name]
