"""The prompts on a page: what the model really saw, folded up under one line."""

from collections.abc import Iterable

from psr_lens.examples import Example
from psr_lens.plots.text import ending_html, escape
from psr_lens.plots.theme import style_sheet
from psr_lens.seen_prompts import SeenPrompts


def seen_prompts_html(seen: SeenPrompts | None, *, note: bool = True) -> str:
    """A fold-out with both rendered prompts, and in front of it what the template wrote by itself.

    Args:
        seen: The prompts; None for nothing.
        note: Whether to say what the template wrote, where the page does not say so for all.
    """
    if seen is None:
        return ""
    words = seen.words() if note else ""
    told = f'<p class="psr-template-note">{escape(words)}</p>' if words else ""
    prompts = "".join(
        f'<p class="psr-prompt-name">{name}</p><pre class="psr-prompt">{escape(text)}</pre>'
        for name, text in (("Base prompt", seen.base), ("Prompted", seen.prompted))
    )
    return (
        f'<div class="psr-prompts">{told}<details><summary>The prompts as the model saw them'
        f"</summary>{prompts}</details></div>"
    )


def notebook_prompts_html(seen: SeenPrompts | None) -> str:
    """The same under a picture in a notebook."""
    return f'<div class="psr-tokens">{seen_prompts_html(seen)}</div>' if seen else ""


def example_html(example: Example) -> str:
    """An example in a notebook: its response, how it ends, and its prompts as the model saw them."""
    text = escape(example.response_text) or f"{len(example.response_ids)} tokens"
    return (
        f"<style>{style_sheet()}</style>"
        '<div class="psr-tokens"><p class="psr-caption">Response to the prompted question</p>'
        f'<pre class="psr-prompt">{text}{ending_html(example.ending)}</pre>'
        f"{seen_prompts_html(example.seen)}</div>"
    )


def common_note(prompts: Iterable[SeenPrompts | None]) -> str:
    """What the template wrote by itself, where that is the same in all prompts of a page; else empty."""
    found = {seen.words() if seen else "" for seen in prompts}
    return found.pop() if len(found) == 1 else ""
