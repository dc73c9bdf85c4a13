"""The prompts on a page: what the model really saw, folded away under one line."""

from collections.abc import Iterable

from markupsafe import Markup

from psr_lens.examples import Example
from psr_lens.plots.markup import render
from psr_lens.plots.theme import style_sheet
from psr_lens.seen_prompts import SeenPrompts


def seen_prompts_html(seen: SeenPrompts | None, *, note: bool = True) -> str:
    """A fold-out with both rendered prompts, after a note on what the template added by itself.

    Args:
        seen: The prompts; None for nothing.
        note: Whether to write the note; False where the page has it once for all.
    """
    if seen is None:
        return ""
    return render("prompts.html", seen=seen, note=seen.words() if note else "")


def notebook_prompts_html(seen: SeenPrompts | None) -> str:
    """The same under a picture in a notebook."""
    return f'<div class="psr-tokens">{seen_prompts_html(seen)}</div>' if seen else ""


def example_html(example: Example) -> str:
    """An example in a notebook: its response, how it ends, and its prompts as the model saw them."""
    return render(
        "example.html",
        style=Markup(style_sheet()),
        text=example.response_text or f"{len(example.response_ids)} tokens",
        ending=example.ending,
        prompts=Markup(seen_prompts_html(example.seen)),
    )


def common_note(prompts: Iterable[SeenPrompts | None]) -> str:
    """What the template added by itself, if that is the same in all prompts of a page; else empty."""
    found = {seen.words() if seen else "" for seen in prompts}
    return found.pop() if len(found) == 1 else ""
