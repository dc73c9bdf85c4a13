"""Tokens as text where a token may hold part of a character.

A byte-level vocabulary, or one that falls back to bytes, spells `é` as two tokens when it has no token
for it: `C3` and `A9`. Decoded one by one, both become the replacement character, and nobody can read the
text. Here the whole character is shown on the token that completes it, and every earlier part shows its
bytes: `⟨C3⟩`, `é`. So every token has a text of its own, and joined without the marks they make up the
text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

PART_OF_CHARACTER: Final = re.compile("\u27e8(?:[0-9A-F]{2})+\u27e9")
"""How bytes that are not a whole character are written: `⟨F09F⟩`."""

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE: Final = re.compile("<0x([0-9A-Fa-f]{2})>")


def byte_mark(values: bytes) -> str:
    r"""Bytes that are not a whole character, as they are shown.

    >>> byte_mark(b"\xf0\x9f")
    '⟨F09F⟩'
    """
    return f"\u27e8{values.hex().upper()}\u27e9"


def piece_bytes(piece: str | bytes, alone: str) -> bytes:
    """The bytes that a token stands for.

    Args:
        piece: The token as the vocabulary spells it: `Ã` in a byte-level one, `<0xC3>` where
            SentencePiece falls back to bytes, bytes in some slow tokenizers.
        alone: The token decoded by itself: the answer if nothing was lost.
    """
    if isinstance(piece, bytes):
        return piece
    if _REPLACEMENT in alone:
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte:
            return bytes.fromhex(byte[1])
        table = _byte_of_character()
        if all(character in table for character in piece):
            return bytes(table[character] for character in piece)
    # Half a surrogate pair is not a character either: it passes through as bytes.
    return alone.encode("utf-8", "surrogatepass")


def token_texts(tokens: Sequence[bytes]) -> tuple[str, ...]:
    r"""Every token as text, given its bytes: a character is shown on the token that completes it.

    Bytes that belong to a later token's character, or to none, are written as `byte_mark`, as in a text cut
    off in the middle of a character.

    >>> token_texts([b"caf\xc3", b"\xa9 \xf0\x9f"])
    ('caf⟨C3⟩', 'é ⟨F09F⟩')
    """
    texts = [""] * len(tokens)
    unfinished = [bytearray() for _ in tokens]
    owners = [place for place, token in enumerate(tokens) for _ in token]

    def close(place: int) -> None:
        if unfinished[place]:
            texts[place] += byte_mark(bytes(unfinished[place]))
            unfinished[place].clear()

    start = 0
    for part, text in _characters(b"".join(tokens)):
        ends_in = owners[start + len(part) - 1]
        for offset, value in enumerate(part):
            place = owners[start + offset]
            if text is None or place != ends_in:
                unfinished[place].append(value)
        if text is not None:
            close(ends_in)
            texts[ends_in] += text
        start += len(part)
    for place in range(len(tokens)):
        close(place)
    return tuple(texts)


def _characters(values: bytes) -> Iterator[tuple[bytes, str | None]]:
    """The characters of a byte string in order, with None for each byte that belongs to none."""
    at = 0
    while at < len(values):
        part = values[at : at + _length(values[at])]
        try:
            yield part, part.decode()
        except UnicodeDecodeError:
            part = values[at : at + 1]
            yield part, None
        at += len(part)


def _length(first: int) -> int:
    """How many bytes the UTF-8 character that begins with this one has; 1 if it begins none."""
    if first >= 0xF0:
        return 4
    if first >= 0xE0:
        return 3
    return 2 if first >= 0xC0 else 1


@cache
def _byte_of_character() -> dict[str, int]:
    """How byte-level vocabularies spell bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelt = {chr(byte): byte for byte in printable}
    return spelt | {chr(0x100 + place): byte for place, byte in enumerate(others)}
