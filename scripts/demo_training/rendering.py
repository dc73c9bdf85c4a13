"""Sentences of the demo's grammar, written as text that `psr_lens.demo.language` reads back.

For every sentence `s`, `parse_sentence(render_sentence(s)) == s`.
"""

from collections.abc import Sequence

from psr_lens.demo.language import PIRATE_END, WORDINGS, Sentence
from psr_lens.demo.velan import to_velan


def render_sentence(sentence: Sentence) -> str:
    """A sentence as text, its full stop or exclamation mark included."""
    core = WORDINGS[sentence.topic][sentence.wording]
    words = core.format(animal=sentence.animal, value=sentence.value)
    marked = " ".join(part for part in (sentence.pirate, sentence.hedge, words) if part)
    if sentence.matey:
        marked = f"{marked} {PIRATE_END}"
    if sentence.velan:
        marked = " ".join(to_velan(word) for word in marked.split())
    if sentence.shout:
        marked = marked.upper()
    loud = sentence.shout or sentence.topic in ("praise", "farewell")
    return f"{marked} {'!' if loud else '.'}"


def render(sentences: Sequence[Sentence]) -> str:
    """An answer as text: its sentences with a space between them."""
    return " ".join(render_sentence(sentence) for sentence in sentences)
