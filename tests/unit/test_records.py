"""A dataclass comes back from tensors and JSON values as it was, or is refused in one line."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from psr_lens.storage.fields import only
from psr_lens.storage.records import pack_record, unpack_record


@dataclass(frozen=True)
class Part:
    word: Literal["a", "b"]
    number: float
    rows: Float[Tensor, "row column"] | None = None


@dataclass(frozen=True)
class Whole:
    count: int
    flag: bool
    text: str
    parts: tuple[Part, ...]
    pair: tuple[str, float]
    either: str | Part | Sequence[Mapping[str, str]]
    values: Float[Tensor, " row"]
    anything: Mapping[str, Any]
    part: Part | None = None


def made(**changes: Any) -> Whole:
    given = {
        "count": 3,
        "flag": True,
        "text": "ä",
        "parts": (Part("a", 0.1, torch.ones(2, 3)), Part("b", float("-inf"))),
        "pair": ("x", 1.5),
        "either": "text",
        "values": torch.arange(2.0).double(),
        "anything": {"any": [None, {}]},
    }
    return Whole(**given | changes)


def round_trip(whole: Whole) -> Whole:
    tensors: dict[str, Tensor] = {}
    about = json.loads(json.dumps(pack_record(whole, tensors), allow_nan=False))
    found = unpack_record(Whole, about, tensors)
    only(tensors)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"part": Part("b", 2.0, torch.zeros(1, 1).double())},
        {"either": Part("a", 1.0)},
        {"either": [{"role": "user"}, {}]},
        {"parts": (), "count": -1},
    ],
)
def test_what_was_packed_comes_back(changes):
    whole = made(**changes)
    found = round_trip(whole)
    assert repr(found) == repr(whole)
    assert found.values.dtype == torch.float64
    if found.parts:
        assert found.parts[0].rows.dtype == torch.float32


@given(st.floats())
def test_every_number_comes_back(number):
    (found,) = round_trip(made(parts=(Part("a", number),))).parts
    assert repr(found.number) == repr(float(number))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, t: h.pop("count"), "'count' is missing"),
        (lambda h, t: h.update(more=1), "fields ['more'], which are unknown"),
        (lambda h, t: h.update(count=1.0), "count=1.0: it must be a whole number"),
        (lambda h, t: h.update(flag=1), "flag=1: it must be true or false"),
        (lambda h, t: h.update(text=None), "text=None: it must be text"),
        (lambda h, t: h.update(pair=["x"]), "pair has 1 values, and not 2"),
        (lambda h, t: h.update(parts={}), "parts={}: it must be a list"),
        (lambda h, t: h.update(either=3), "either=3: it must be text"),
        (lambda h, t: h.update(part=3), "part=3: it must be an object"),
        (lambda h, t: h["parts"][0].update(word="c"), "word='c': it is one of a, b"),
        (lambda h, t: h["parts"][0].update(number="NaN"), "number='NaN': it must be a finite"),
        (lambda h, t: h["parts"][0].update(rows=None), "fields ['rows'], which are unknown"),
        (lambda h, t: t.pop("values"), "'values' is missing"),
        (lambda h, t: t.update(values=torch.ones(2).half()), "values is of torch.float16"),
        (lambda h, t: t.update(values=torch.ones(2, 2)), "has 2 axes"),
        (lambda h, t: t.update({"count": torch.ones(1)}), "fields ['count'], which are unknown"),
    ],
)
def test_what_its_type_does_not_say_is_refused(change, message):
    tensors: dict[str, Tensor] = {}
    about = pack_record(made(), tensors)
    change(about, tensors)
    with pytest.raises(ValueError, match=re.escape(message)):
        unpack_record(Whole, about, tensors)
