"""The two prompts of an example as the model saw them: rendered, special tokens and all.

A chat template may add text of its own: a default system message where none is given, the date. The base
prompt is then not the bare question, and a page shows the effect of the instruction *in place of* that
text.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SeenPrompts:
    """What the model read in front of a response.

    Attributes:
        base: The base prompt as its tokens read, special tokens included.
        prompted: The prompt with the instruction, likewise.
        base_template_text: The text that the chat template itself wrote into the base prompt (a default
            system message, the date), without marks and role names; empty if none.
        prompted_template_text: The same for the prompted one.
    """

    base: str
    prompted: str
    base_template_text: str = ""
    prompted_template_text: str = ""

    def words(self) -> str:
        """A few sentences on what the chat template itself wrote; empty if nothing.

        >>> print(SeenPrompts("<s>system Be nice. user Hi", "<s>system Rhyme! user Hi", "Be nice.").words())
        The base prompt has a system text that you did not write: the chat template puts in "Be nice." \
where no system message is given. The prompted one has the instruction in its place, so what is shown \
is the effect of the one instead of the other.
        """
        base, prompted = self.base_template_text, self.prompted_template_text
        if base and base == prompted:
            return (
                "Both prompts have a system text that you did not write: the chat template puts in "
                f'"{base}".'
            )
        parts = []
        if base:
            parts.append(
                "The base prompt has a system text that you did not write: the chat template puts in "
                f'"{base}" where no system message is given.'
            )
        if prompted:
            parts.append(
                "The prompted one has a system text that you did not write: the chat template puts in "
                f'"{prompted}".'
            )
        if base and base not in self.prompted:
            parts.append(
                "The prompted one has the instruction in its place, so what is shown is the effect of "
                "the one instead of the other."
            )
        return " ".join(parts)

    def described(self) -> dict[str, str]:
        """The same as JSON values, for a saved report."""
        return {
            "base": self.base,
            "prompted": self.prompted,
            "base_template_text": self.base_template_text,
            "prompted_template_text": self.prompted_template_text,
        }

    @classmethod
    def from_described(cls, found: Any) -> "SeenPrompts | None":
        """The inverse of `described`; None if `found` is something else."""
        try:
            return cls(**{str(name): str(value) for name, value in found.items()})
        except (AttributeError, TypeError):
            return None
