"""Tokens and other text as a reader can see them, safe in HTML, in circuitsvis and in plotly.

Tokens are arbitrary strings: `<bos>` and `</script>` are markup to a browser, a newline or a
zero-width space has no shape, a byte-level token may hold half a character. Every picture shows
all of them as visible text.
"""

import html
import json
import math
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

from psr_lens.models.token_text import PART_OF_CHARACTER

_MARKS: Final = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\N{NO-BREAK SPACE}": "⍽"}
_WORD_JOINER: Final = "\N{WORD JOINER}"
_IN_EMOJI: Final = "\N{ZERO WIDTH JOINER}"
_DOTTED_CIRCLE: Final = "\N{DOTTED CIRCLE}"


def _visible_character(character: str, alone: bool) -> str:
    if character in _MARKS:
        return _MARKS[character]
    category = unicodedata.category(character)
    joins_emoji = character == _IN_EMOJI and not alone
    # Cc, Cf: controls, direction overrides, zero widths. Cs: half a surrogate pair, which UTF-8
    # refuses. Zs, Zl, Zp: spaces without a mark of their own.
    if category in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp") and not joins_emoji:
        point = ord(character)
        return f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}"
    return character


def visible_token(token: str) -> str:
    r"""A token as text in which nothing is invisible.

    A space becomes `·`, a newline `↵`, a tab `⇥`; other spaces, control and format characters and
    lone surrogates become escapes such as `\u200b`; the empty token becomes `∅`, and a combining
    mark at the start stands on a dotted circle.

    >>> visible_token(" cat"), visible_token("a\n"), visible_token("")
    ('·cat', 'a↵', '∅')
    """
    if not token:
        return "∅"
    shown = "".join(_visible_character(character, len(token) == 1) for character in token)
    starts_with_mark = unicodedata.category(shown[0]) in ("Mn", "Me")
    return _DOTTED_CIRCLE + shown if starts_with_mark else shown


def n_line_breaks(token: str) -> int:
    """How many lines a token ends: the picture breaks its lines where the text does."""
    return token.count("\n")


def circuitsvis_token(token: str) -> str:
    """A token for circuitsvis, which puts it into the page as raw HTML.

    A word joiner (U+2060, no width) after `<` and `&` keeps the browser from reading a tag or an
    entity, while the tooltip, which circuitsvis does escape, shows the same text. Newlines are
    appended as such: circuitsvis turns each into a line break.
    """
    shown = visible_token(token).replace("<", "<" + _WORD_JOINER).replace("&", "&" + _WORD_JOINER)
    return shown + "\n" * n_line_breaks(token)


def parts_of_characters(tokens: Iterable[str]) -> str:
    """What the byte marks in the tokens mean, with the first as the example; empty if there is none.

    >>> parts_of_characters(["caf", "\u27e8C3\u27e9", "\u00e9"])
    '⟨C3⟩: bytes of a character whose last token shows it whole, or that was never completed.'
    """
    marks = (PART_OF_CHARACTER.search(token) for token in tokens)
    first = next((mark for mark in marks if mark), None)
    if first is None:
        return ""
    return f"{first[0]}: bytes of a character whose last token shows it whole, or that was never completed."


def interval_hover(low: Iterable[float], spelt: str) -> str:
    """How a hover text spells an interval; nothing where no number has one.

    Args:
        low: The lower ends, NaN where there is none.
        spelt: The part of the hover text.
    """
    return spelt if any(math.isfinite(end) for end in low) else ""


def escape(text: object) -> str:
    """Any text as HTML: markup and quotes escaped, lone surrogates made visible."""
    encodable = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape(encodable.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def plotly_text(text: str) -> str:
    """Text for a plotly label, which would otherwise read `<b>` as bold and `$a$` as TeX."""
    return escape(text).replace("&#x27;", "'").replace("&quot;", '"').replace("$", "&#36;")


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever strings it holds."""
    written = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
