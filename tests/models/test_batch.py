"""Padding, regions and aligned tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.models.batch import Places, TokenRow, left_pad, length_sorted_batches
from psr_lens.models.columns import CONTEXT, QUESTION, RESPONSE, UNKNOWN, Columns


@st.composite
def shapes(draw):
    """Tokens, question start and response start of a row."""
    length = draw(st.integers(1, 12))
    response = draw(st.integers(0, length - 1))
    question = draw(st.integers(0, response))
    tokens = draw(st.lists(st.integers(1, 99), min_size=length, max_size=length))
    return tokens, question, response


@given(st.lists(shapes(), min_size=1, max_size=5))
def test_every_token_keeps_its_region_and_padding_has_none(drawn):
    listed = [TokenRow(tuple(tokens), question, response) for tokens, question, response in drawn]
    batch = left_pad(listed, pad_token_id=0)
    width = max(len(row.tokens) for row in listed)
    assert batch.tokens.shape == batch.attention_mask.shape == batch.columns.position.shape
    for i, row in enumerate(listed):
        offset = width - len(row.tokens)
        assert batch.tokens[i].tolist() == [0] * offset + list(row.tokens)
        assert batch.attention_mask[i].tolist() == [False] * offset + [True] * len(row.tokens)
        regions = [
            RESPONSE
            if j >= row.response_start
            else QUESTION
            if j >= row.question_start
            else CONTEXT
            for j in range(len(row.tokens))
        ]
        assert batch.columns.region[i].tolist() == [CONTEXT] * offset + regions
        # The response is aligned from the right, with and without the question to its last token.
        assert int(batch.on("response")[i].sum()) == len(row.tokens) - row.response_start
        assert int(batch.on("question+response")[i].sum()) == len(row.tokens) - row.question_start
        assert bool(batch.on("response")[i, -1])


def test_a_worked_example():
    batch = left_pad([TokenRow((1, 2, 3, 4), 1, 2), TokenRow((5, 6), 0, 1)], pad_token_id=9)
    assert batch.tokens.tolist() == [[1, 2, 3, 4], [9, 9, 5, 6]]
    assert batch.columns.region.tolist() == [[0, 1, 2, 2], [0, 0, 1, 2]]
    assert batch.on("response").tolist() == [[False, False, True, True], [False] * 3 + [True]]
    assert batch.on("question+response").tolist() == [
        [False, True, True, True],
        [False, False, True, True],
    ]


def test_an_unknown_question_is_asked_for():
    columns = Columns(torch.tensor([[0, 1, 2]]), torch.tensor([[2]]), None)
    assert columns.region.tolist() == [[UNKNOWN, UNKNOWN, RESPONSE]]
    assert columns.on("response").tolist() == [[False, False, True]]
    with pytest.raises(
        ValueError, match="tokens='question\\+response' but this call does not say where the quest"
    ):
        columns.on("question+response")


@pytest.mark.parametrize(
    "listed", [[], [TokenRow((), 0, 0)], [TokenRow((1,), 0, 0), TokenRow((), 0, 0)]]
)
def test_nothing_to_pad(listed):
    with pytest.raises(ValueError, match="at least one row and every row at least one token"):
        left_pad(listed, pad_token_id=0)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 7))
def test_length_sorted_batches_hold_everything_once_longest_first(lengths, size):
    batches = length_sorted_batches(lengths, size)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


def test_no_batches_of_nothing():
    with pytest.raises(ValueError, match="batch_size=0: it must be at least 1"):
        length_sorted_batches([1, 2], 0)


def test_batches_live_on_the_device_that_was_asked_for():
    batch = left_pad([TokenRow((1,), 0, 0)], 0, device="meta")
    assert {batch.tokens.device, batch.attention_mask.device, batch.columns.position.device} == {
        torch.device("meta")
    }


def test_places_take_and_replace_what_a_mask_would():
    values = torch.randn(2, 4, 3)
    mask = torch.tensor([[False, True, False, True], [True, False, False, True]])
    places = Places(mask)
    assert torch.equal(places.of(values), values[mask])
    new = torch.randn(4, 3, dtype=torch.float64)
    expected = values.clone()
    expected[mask] = new.to(values)
    before = values.clone()
    assert torch.equal(places.replaced(values, new), expected)
    assert torch.equal(values, before)
    nowhere = Places(torch.zeros(2, 4, dtype=torch.bool))
    assert nowhere.of(values).shape == (0, 3)
    assert torch.equal(nowhere.replaced(values, new[:0]), values)
