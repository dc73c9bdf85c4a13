"""What kind of token every aligned token is: the classes by which strengths are reported.

Position decides first, then text:

| class | which aligned tokens |
| --- | --- |
| `question` | prompt tokens before the last one; only with `question+response` |
| `last prompt token` | it decides the first response token, and in chats it is part of the template |
| `first response token` | whatever its text: it decides the second |
| `special` | later response tokens that the tokenizer or the model counts as special or end tokens |
| `punctuation` | later response tokens without a letter or digit: marks, symbols, white space |
| `content` | every other response token, fragments of a character included |
"""

import unicodedata
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from psr_lens._types import AlignedTokens
from psr_lens.examples import Example
from psr_lens.models.chat import PromptEncoder
from psr_lens.models.token_text import PART_OF_CHARACTER

TOKEN_CLASSES: Final = (
    "question",
    "last prompt token",
    "first response token",
    "content",
    "punctuation",
    "special",
)
"""Names of the classes; a class is stored as its place in this tuple."""

_QUESTION, _LAST, _FIRST, _CONTENT, _PUNCTUATION, _SPECIAL = range(len(TOKEN_CLASSES))
_FRAGMENT: Final = "\N{REPLACEMENT CHARACTER}"


def is_punctuation(text: str) -> bool:
    r"""Whether a token's text has no letter, digit or part of a character.

    >>> is_punctuation(" ,"), is_punctuation("!\n"), is_punctuation(" it's"), is_punctuation("7")
    (True, True, False, False)
    """
    # Part of a character is not punctuation, whether its bytes are shown or unknown.
    if _FRAGMENT in text or PART_OF_CHARACTER.search(text):
        return False
    return not any(unicodedata.category(char)[0] in "LNM" for char in text)


def classify_tokens(
    encoder: PromptEncoder, data: Sequence[Example], tokens: AlignedTokens
) -> Int[Tensor, " token"]:
    """The class of every aligned token of all examples, end to end in the data's order.

    Args:
        encoder: The model's, which knows the special tokens.
        data: The examples.
        tokens: `response` or `question+response`.

    Returns:
        Places in `TOKEN_CLASSES`, int64.
    """
    special = encoder.special_ids | encoder.end_token_ids
    by_text: dict[int, int] = {}

    def by_token(token_id: int) -> int:
        if token_id not in by_text:
            mark = is_punctuation(encoder.str_token(token_id))
            by_text[token_id] = _PUNCTUATION if mark else _CONTENT
        return _SPECIAL if token_id in special else by_text[token_id]

    classes: list[int] = []
    for example in data:
        response = example.response_ids
        classes += [_QUESTION] * (example.aligned_length(tokens) - 1 - len(response))
        classes.append(_LAST)
        classes += [_FIRST] * min(1, len(response))
        classes += [by_token(token_id) for token_id in response[1:]]
    return torch.tensor(classes)
