"""Splits never tear a group apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.dataset import split_examples, split_groups
from psr_lens.examples import Example
from psr_lens.prompts import PromptPair


@given(
    groups=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=40),
    seed=st.integers(0, 2**31),
)
def test_every_group_is_in_exactly_one_split(groups, seed):
    split = split_groups(groups, (0.6, 0.2, 0.2), seed)
    assert set(split) == set(groups)
    counts = {name: list(split.values()).count(name) for name in ("train", "dev", "test")}
    n = len(set(groups))
    assert sum(counts.values()) == n
    assert counts["train"] >= 1
    if n >= 3:
        assert min(counts.values()) >= 1
    assert counts["train"] >= int(0.6 * n)


def test_order_of_groups_does_not_matter_and_the_seed_does():
    groups = [f"g{i}" for i in range(30)]
    assert split_groups(groups, (0.5, 0.25, 0.25), 1) == split_groups(
        groups[::-1], (0.5, 0.25, 0.25), 1
    )
    assert split_groups(groups, (0.5, 0.25, 0.25), 1) != split_groups(groups, (0.5, 0.25, 0.25), 2)


def test_shares_must_be_shares():
    with pytest.raises(ValueError, match="sum to 1"):
        split_groups(["a"], (0.6, 0.6, 0.2), 0)
    with pytest.raises(ValueError, match="must be >= 0"):
        split_groups(["a"], (1.2, -0.2, 0.0), 0)


def test_groups_that_share_an_example_stay_together():
    """Questions that differ in unknown words alone are one example to the model."""

    def example(group, ids):
        return Example(PromptPair(group, f"y {group}", group=group), ids, (9, *ids), (1,))

    examples = [example(f"g{i}", (i // 2, 1)) for i in range(20)]
    part = split_examples(examples, (0.5, 0.25, 0.25), seed=0)
    assert set(part) == {f"g{i}" for i in range(20)}
    assert all(part[f"g{i}"] == part[f"g{i + 1}"] for i in range(0, 20, 2))
    assert set(part.values()) == {"train", "dev", "test"}
    assert split_examples(examples[::-1], (0.5, 0.25, 0.25), seed=0) == part


def test_the_key_of_an_example_is_that_of_its_words():
    """Whatever a template made of them: with the date it makes other tokens every day."""
    message = [{"role": "user", "content": "x"}]
    told = [{"role": "system", "content": "be kind"}, *message]

    def key(base, steered, ids=(1,)):
        return Example(PromptPair(base, steered), ids, (9, *ids), (1,)).key

    assert key(message, told) == key(message, told, (2, 3)) == key("x", told)
    assert (
        len({key(message, told), key("y", told), key("x", "be kind x"), key(message, message)}) == 4
    )


def test_pairs_of_the_same_words_stay_together():
    pairs = [PromptPair(f"q{i // 2}", f"be kind q{i // 2}", group=f"g{i}") for i in range(20)]
    examples = [Example(pair, (i,), (9, i), (1,)) for i, pair in enumerate(pairs)]
    part = split_examples(examples, (0.5, 0.25, 0.25), seed=0)
    assert all(part[f"g{i}"] == part[f"g{i + 1}"] for i in range(0, 20, 2))
    assert set(part.values()) == {"train", "dev", "test"}
