"""A data set that was saved and loaded is the one that was saved, or is refused."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psr_lens.dataset import SteeringDataset
from psr_lens.dataset_file import pack_split
from psr_lens.examples import Example
from psr_lens.models.chat import Rendering
from psr_lens.prompts import PromptPair, load_pairs, make_pairs
from psr_lens.seen_prompts import SeenPrompts
from psr_lens.steering import ConstantSteering
from psr_lens.storage import read_container, write_container
from psr_lens.storage.sequences import pack_ids, pack_texts, take_ids, take_texts
from tests.tiny_datasets import made_up_dataset


def same(back, data):
    """Equal in every field, those too that do not count when two examples are compared."""
    assert back == data
    assert list(back.split_of_group) == list(data.split_of_group)
    for own, other in zip(back, data, strict=True):
        assert {f.name: getattr(own, f.name) for f in fields(Example)} == {
            f.name: getattr(other, f.name) for f in fields(Example)
        }
    return True


def test_the_round_trip_is_exact(tmp_path):
    data = made_up_dataset()
    path = data.save(tmp_path / "d.data")
    assert path == tmp_path / "d.data.safetensors"
    back = SteeringDataset.load(tmp_path / "d.data")
    assert same(back, data)
    for part in ("train", "dev", "test"):
        assert same(getattr(back, part), getattr(data, part))
    assert back.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_part_that_is_saved_stays_what_it_is(tmp_path):
    """The test split of a data set is never taken for data to fit on."""
    data = made_up_dataset()
    back = SteeringDataset.load(data.test.save(tmp_path / "test"))
    assert same(back.test, data.test)
    assert len(back.test) > 0
    assert len(back.train) == len(back.dev) == 0


# Plain values, of which the test makes the objects: the type checks of those draw random numbers.
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user"]), "content": st.text()},
        optional={"name": st.text()},
    ),
    min_size=1,
    max_size=2,
)
prompts = st.text(min_size=1) | messages
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
objects = st.dictionaries(st.sampled_from(["question", "page"]), json_values, max_size=2)
ids = st.lists(st.integers(0, 2**31), max_size=5).map(tuple)
prompt_ids = st.lists(st.integers(0, 2**31), min_size=3, max_size=4).map(tuple)
drawn = st.fixed_dictionaries(
    {
        "prompts": st.tuples(prompts, prompts, st.none() | st.text()),
        "paraphrases": st.lists(prompts, max_size=2).map(tuple),
        "group": st.text(max_size=3),
        "metadata": objects,
        "ids": st.tuples(prompt_ids, prompt_ids, ids, st.lists(ids, max_size=2).map(tuple)),
        "finished": st.booleans(),
        "alpha": st.floats(allow_nan=False, allow_infinity=False),
        "rendering": st.tuples(objects, st.none() | st.dates().map(str)),
        "region_length": st.none() | st.integers(1, 3),
        "seen": st.none() | st.tuples(*[st.text()] * 4),
        "text": st.text(),
        "split": st.sampled_from(["train", "dev", "test"]),
    }
)


@settings(max_examples=20)
@given(st.lists(drawn, max_size=3))
def test_any_data_set_comes_back(tmp_path_factory, several):
    examples = tuple(
        Example(
            PromptPair(*own["prompts"], own["paraphrases"], own["group"], own["metadata"]),
            *own["ids"],
            finished=own["finished"],
            alpha=own["alpha"],
            rendering=Rendering(*own["rendering"]),
            region_length=own["region_length"],
            seen=own["seen"] and SeenPrompts(*own["seen"]),
            response_text=own["text"],
        )
        for own in several
    )
    split = {
        example.pair.group: own["split"] for example, own in zip(examples, several, strict=True)
    }
    data = SteeringDataset(examples, split, {"temperature": 0.5})
    path = tmp_path_factory.getbasetemp() / "any"
    assert same(SteeringDataset.load(data.save(path)), data)


@settings(max_examples=20)
@given(st.lists(ids), st.lists(st.text()))
def test_lists_of_different_lengths(sequences, texts):
    tensors = {**pack_ids("ids", sequences), **pack_texts("texts", texts)}
    assert take_ids("ids", tensors) == sequences
    assert take_texts("texts", tensors) == texts
    assert tensors == {}


@pytest.mark.parametrize("ends", [[1, 1], [2, 1, 3], [-1, 3], [4], []])
def test_lists_that_do_not_add_up_are_refused(ends):
    tensors = {"x": torch.tensor([1, 2, 3]), "x.ends": torch.tensor(ends, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"x of 3 numbers is not what x\.ends says"):
        take_ids("x", tensors)


def test_what_many_examples_share_is_kept_once(tmp_path):
    """Ten responses to a long prompt take little more than one."""
    (pair,) = make_pairs(["why? " * 2000], "be brief . " * 2000)
    long = tuple(range(8000))
    answers = [Example(pair, long, long, (i,), response_text=str(i)) for i in range(10)]
    sizes = []
    for several in (answers[:1], answers):
        data = SteeringDataset(tuple(several), {pair.group: "train"})
        sizes.append(data.save(tmp_path / "d").stat().st_size)
    assert sizes[1] < 1.1 * sizes[0]


def test_more_text_than_a_header_takes(tmp_path):
    long = "x" * 200_000
    given = [PromptPair(f"{i}{long}", f"y{i}{long}") for i in range(30)]
    several = tuple(Example(pair, (1, 2), (3, 2), (4,)) for pair in given)
    data = SteeringDataset(several, {pair.group: "dev" for pair in given})
    assert same(SteeringDataset.load(data.save(tmp_path / "long")), data)


def test_the_pairs_in_a_file_are_a_pairs_file(tmp_path):
    data = made_up_dataset()
    tensors, _ = read_container(data.save(tmp_path / "d"), "dataset")
    lines = tmp_path / "pairs.jsonl"
    lines.write_text("\n".join(take_texts("pairs", tensors)))
    distinct = list({id(own.pair): own.pair for own in data}.values())
    assert load_pairs(lines) == distinct


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metadata": {"page": (1, 2)}}, "values that JSON does not keep, a tuple say; use lists"),
        ({"metadata": {"group": 3}}, "its metadata has 'group', which pairs have too: rename it"),
        ({"metadata": {"page": {1}}}, "type set is not JSON serializable"),
        ({"metadata": {"page": float("nan")}}, "not JSON compliant"),
        ({"base": ""}, "neither a non-empty string"),
    ],
)
def test_a_pair_that_json_does_not_keep_is_refused(tmp_path, changed, message):
    pair = replace(PromptPair("q", "p q"), **changed)
    data = SteeringDataset((Example(pair, (1,), (2, 1), (3,)),), {pair.group: "train"})
    with pytest.raises(ValueError, match="cannot be kept in a file: ") as error:
        data.save(tmp_path / "d")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", [{"provenance": {"a": (1,)}}, {"model": {"a": torch.ones(1)}}])
def test_a_provenance_that_json_does_not_keep_is_refused(tmp_path, part):
    with pytest.raises(ValueError, match="JSON does not keep as it is"):
        replace(made_up_dataset(), **part).save(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_not_replaced_and_not_read(tmp_path):
    steering = ConstantSteering.from_vector([1.0], layer=0).save(tmp_path / "s")
    before = steering.read_bytes()
    with pytest.raises(ValueError, match="is a file of psr_lens but no dataset"):
        made_up_dataset().save(steering)
    assert steering.read_bytes() == before
    with pytest.raises(ValueError, match="holds a steering, not a dataset"):
        SteeringDataset.load(steering)
    with pytest.raises(FileNotFoundError, match="no dataset file"):
        SteeringDataset.load(tmp_path / "none")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"base": "a", "prompted": "b"}))
    with pytest.raises(ValueError, match="was not written by psr_lens"):
        SteeringDataset.load(Path(tmp_path / "pairs.jsonl"))


CRAFTED = {
    "tokens": (lambda x: x - 2, "tokens holds -"),
    "tokens.ends": (lambda x: x + 1, "is not what tokens.ends says"),
    "texts": (lambda x: x | 0x80, "invalid"),
    "pairs": (lambda x: x.clamp(max=90), "pair 0: not JSON"),
    "paraphrases": (lambda x: x + 99, "paraphrases points at"),
    "groups.ends": (lambda x: x * 0, "is not what groups.ends says"),
    "splits": (lambda x: x + 3, "splits points at"),
    "example.pair": (lambda x: x + 99, "pair points at"),
    "example.base": (lambda x: x - 1, "base points at -1"),
    "example.rendering": (lambda x: x + 2, "rendering points at"),
    "example.region_length": (lambda x: x * 0 + 7, "region_length=7 of"),
    "example.text": (lambda x: x + 99, "text points at"),
    "example.seen_base": (lambda x: x * 0 - 1, "seen points at -1"),
    "example.alpha": (lambda x: x / 0, "alpha has NaN or infinity"),
    "example.finished": (lambda x: x[1:], "there are \\[5, 6\\] examples"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_tensor_that_says_something_else_is_refused(tmp_path, name):
    """With a right checksum: what somebody wrote who knows the format."""
    tensors, header = read_container(made_up_dataset().save(tmp_path / "d"), "dataset")
    change, message = CRAFTED[name]
    path = write_container(
        tmp_path / "d", "dataset", {**tensors, name: change(tensors[name])}, header
    )
    with pytest.raises(ValueError, match=f"d.safetensors holds no data set .*{message}"):
        SteeringDataset.load(path)
    for left in ({n: x for n, x in tensors.items() if n != name}, {**tensors, "x": tensors[name]}):
        write_container(path, "dataset", left, header)
        with pytest.raises(ValueError, match=r"is missing|fields \['x'\], which are unknown"):
            SteeringDataset.load(path)


HEADERS = {
    "temperature": ({"provenance": {"temperature": "warm"}}, "temperature='warm'"),
    "template_options": ({"provenance": {"template_options": 3}}, "template_options=3"),
    "no model": ({"model": {"name": "x"}}, "'chat_template' is missing"),
    "fingerprint": ({"model": {**made_up_dataset().model, "fingerprint": {}}}, "is missing"),
    "date": ({"renderings": [{"template_options": {}, "date": "soon"}] * 2}, "Invalid isoformat"),
    "more": ({"more": 1}, "which are unknown"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_says_something_else_is_refused(tmp_path, name):
    tensors, header = read_container(made_up_dataset().save(tmp_path / "d"), "dataset")
    changed, message = HEADERS[name]
    path = write_container(tmp_path / "d", "dataset", tensors, {**header, **changed})
    with pytest.raises(ValueError, match=f"d.safetensors holds no data set .*{message}"):
        SteeringDataset.load(path)


def test_an_example_whose_group_is_in_no_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"group '.*' is in no split: name train, dev or test"):
        replace(made_up_dataset(), split_of_group={"sea": "train"}).save(tmp_path / "d")
    tensors, header = read_container(made_up_dataset().save(tmp_path / "d"), "dataset")
    tensors |= pack_split({"sea": "train"})
    path = write_container(tmp_path / "d", "dataset", tensors, header)
    with pytest.raises(ValueError, match=r"group '.*' is in no split"):
        SteeringDataset.load(path)


def test_nothing_is_written_that_cannot_be_read(tmp_path):
    pair = PromptPair("q", "p q")
    for wrong in ({"base_ids": ()}, {"region_length": 9}, {"response_ids": (-1,)}):
        own = replace(Example(pair, (1,), (2, 1), (3,)), **wrong)
        with pytest.raises(ValueError, match=r"without a token|region_length=9|tokens holds -1"):
            SteeringDataset((own,), {"q": "dev"}).save(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
