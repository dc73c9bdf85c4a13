"""Examples and their split as tensors and JSON values, and back: what the file of a data set holds.

| tensor | what it is |
| --- | --- |
| `pairs` | one text for every pair, as a line of a pairs file |
| `texts` | the responses, and the prompts as the model saw them |
| `tokens` | the distinct sequences of token ids |
| `example.*` | per example, indices into the lists above, and numbers |
| `paraphrases` | per example, indices of its paraphrases in `tokens` |
| `groups`, `splits` | the groups of pairs, and the index of each one's split in `SPLITS` |

A list of items of different lengths is two tensors: the contents end to end, and `*.ends`.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from datetime import date as Date
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from psr_lens._types import check_finite
from psr_lens.examples import SPLITS, Example, Split
from psr_lens.models.chat import Rendering
from psr_lens.prompts import pair_line, parse_line
from psr_lens.seen_prompts import SeenPrompts
from psr_lens.storage.fields import mapping, only, take, text
from psr_lens.storage.sequences import pack_ids, pack_texts, take_ids, take_texts

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_TOKENS: Final = ("base", "prompted", "response")
_SEEN: Final = ("base", "prompted", "base_template_text", "prompted_template_text")
_COLUMNS: Final = (
    *("pair", "rendering", "region_length", "text", *_TOKENS),
    *(f"seen_{part}" for part in _SEEN),
)
_NONE: Final = -1


class _Places(dict[Key, int]):
    """Distinct values in order of first appearance."""

    def of(self, value: Key) -> int:
        """The index of a value, which is added if new."""
        return self.setdefault(value, len(self))


def pack_examples(
    examples: Sequence[Example],
) -> tuple[dict[str, Shaped[Tensor, "..."]], list[dict[str, Any]]]:
    """Examples as tensors, and what chat templates were given.

    Returns:
        The tensors, and the renderings as JSON values.

    Raises:
        ValueError: If a pair holds something that JSON cannot represent, or a strength is not finite.
    """
    lines: _Places[str] = _Places()
    texts: _Places[str] = _Places()
    tokens: _Places[tuple[int, ...]] = _Places()
    renderings: _Places[str] = _Places()
    pairs = {id(own.pair): own.pair for own in examples}
    line_of = {own: pair_line(pair) for own, pair in pairs.items()}

    def row(own: Example) -> dict[str, int]:
        seen = (_NONE,) * len(_SEEN)
        if own.seen is not None:
            seen = tuple(texts.of(getattr(own.seen, part)) for part in _SEEN)
        return {
            "pair": lines.of(line_of[id(own.pair)]),
            "rendering": renderings.of(json.dumps(_described(own.rendering))),
            "region_length": _NONE if own.region_length is None else own.region_length,
            "text": texts.of(own.response_text),
            **{name: tokens.of(tuple(getattr(own, f"{name}_ids"))) for name in _TOKENS},
            **{f"seen_{part}": place for part, place in zip(_SEEN, seen, strict=True)},
        }

    rows = [row(own) for own in examples]
    paraphrases = [[tokens.of(tuple(ids)) for ids in own.paraphrase_ids] for own in examples]
    columns = {
        f"example.{name}": torch.tensor([own[name] for own in rows], dtype=torch.int64)
        for name in _COLUMNS
    }
    finished = torch.tensor([own.finished for own in examples], dtype=torch.bool)
    alphas = torch.tensor([own.alpha for own in examples], dtype=torch.float64)
    tensors = {
        **pack_texts("pairs", list(lines)),
        **pack_texts("texts", list(texts)),
        **pack_ids("tokens", list(tokens)),
        **pack_ids("paraphrases", paraphrases),
        **columns,
        "example.finished": finished,
        "example.alpha": check_finite("alpha", alphas),
    }
    return tensors, [json.loads(own) for own in renderings]


def take_examples(
    tensors: dict[str, Shaped[Tensor, "..."]], renderings: Sequence[Mapping[str, Any]]
) -> tuple[Example, ...]:
    """The inverse of `pack_examples`: removes its tensors from those given.

    Raises:
        ValueError: If one is missing or wrong, or they do not fit together.
    """
    lines = take_texts("pairs", tensors)
    pairs = [parse_line(line, f"pair {place}") for place, line in enumerate(lines)]
    texts, tokens = take_texts("texts", tensors), take_ids("tokens", tensors)
    given = [_rendering(own) for own in renderings]
    others = take_ids("paraphrases", tensors)
    alphas = check_finite("alpha", take(tensors, "example.alpha", torch.float64, 1)).tolist()
    finished = take(tensors, "example.finished", torch.bool, 1).tolist()
    columns = {name: take(tensors, f"example.{name}", torch.int64, 1).tolist() for name in _COLUMNS}
    lengths = {len(own) for own in (others, alphas, finished, *columns.values())}
    if len(lengths) > 1:
        raise ValueError(f"there are {sorted(lengths)} examples")

    def at(values: Sequence[Value], name: str, i: int) -> Value:
        return _at(values, columns[name][i], name)

    def example(i: int) -> Example:
        base, prompted, response = (at(tokens, name, i) for name in _TOKENS)
        if not base or not prompted:
            raise ValueError(f"example {i} has a prompt without a token")
        length = columns["region_length"][i]
        if length != _NONE and not 1 <= length <= len(base):
            raise ValueError(f"region_length={length} of {len(base)} tokens")
        seen = [columns[f"seen_{part}"][i] for part in _SEEN]
        return Example(
            pair=at(pairs, "pair", i),
            base_ids=base,
            prompted_ids=prompted,
            response_ids=response,
            paraphrase_ids=tuple(_at(tokens, place, "paraphrases") for place in others[i]),
            finished=finished[i],
            alpha=alphas[i],
            rendering=at(given, "rendering", i),
            region_length=None if length == _NONE else length,
            seen=None
            if set(seen) == {_NONE}
            else SeenPrompts(*(_at(texts, place, "seen") for place in seen)),
            response_text=at(texts, "text", i),
        )

    return tuple(example(i) for i in range(len(alphas)))


def pack_split(split_of_group: Mapping[str, Split]) -> dict[str, Shaped[Tensor, "..."]]:
    """A split as tensors."""
    places = [SPLITS.index(split) for split in split_of_group.values()]
    return {
        **pack_texts("groups", list(split_of_group)),
        "splits": torch.tensor(places, dtype=torch.int64),
    }


def take_split(tensors: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Split]:
    """The inverse of `pack_split`: removes its tensors from those given.

    Raises:
        ValueError: If one is missing or wrong, or a group appears twice.
    """
    groups = take_texts("groups", tensors)
    places = take(tensors, "splits", torch.int64, 1).tolist()
    found: dict[str, Split] = {
        group: _at(SPLITS, place, "splits") for group, place in zip(groups, places, strict=True)
    }
    if len(found) < len(groups):
        raise ValueError("a group appears twice")
    return found


def _at(values: Sequence[Value], place: int, name: str) -> Value:
    if not 0 <= place < len(values):
        raise ValueError(f"{name} points at {place} of {len(values)}")
    return values[place]


def _described(rendering: Rendering) -> dict[str, Any]:
    return {"template_options": dict(rendering.options), "date": rendering.date}


def _rendering(described: Mapping[str, Any]) -> Rendering:
    """The inverse of `_described`."""
    only(described, "template_options", "date")
    date = None if described["date"] is None else text(described, "date")
    if date is not None:
        Date.fromisoformat(date)
    return Rendering(mapping(described, "template_options"), date)
