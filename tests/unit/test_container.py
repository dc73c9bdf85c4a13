"""Files: what goes in comes out, and nothing damaged, foreign or ill-meant is taken."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from psr_lens.storage import (
    atomic,
    container_bytes,
    container_path,
    read_container,
    refuse_foreign,
    write_container,
)
from tests.sealed import front, seal, sealed, taken_apart
from tests.steps import at_most

TENSORS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2], dtype=torch.int64)}
ONE = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def refused(path, content):
    """Why a file is refused: in one line that names it, and at once."""
    path.write_bytes(content)
    with at_most(100_000), pytest.raises(ValueError, match=r"\w") as error:
        read_container(path, "thing")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_round_trip(tmp_path):
    header = {"method": "x", "layers": [1, 2], "text": 'ä "\\\n', "none": None, "half": 0.5}
    path = write_container(tmp_path / "deep" / "name", "thing", TENSORS, header)
    assert path == tmp_path / "deep" / "name.safetensors"
    tensors, found = read_container(tmp_path / "deep" / "name", "thing")
    assert found == header
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_other_tools_can_look_into_it(tmp_path):
    path = write_container(tmp_path / "t", "thing", TENSORS, {"a": 1})
    with safe_open(path, framework="pt") as file:
        assert {*file.keys()} == TENSORS.keys()
        assert torch.equal(file.get_tensor("w"), TENSORS["w"])
        assert file.metadata()["psr_lens"].startswith("thing 2 ")


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    ],
)
def test_every_number_type_and_shape(tmp_path, dtype):
    values = {
        "many": torch.linspace(-3, 3, 7).to(dtype),
        "one": torch.ones((), dtype=dtype),
        "none": torch.ones(0, 3, dtype=dtype),
        # A view is stored whole.
        "view": torch.arange(20).reshape(4, 5).T[1:].to(dtype),
    }
    values["the same"] = values["many"]
    found, _ = read_container(write_container(tmp_path / "t", "thing", values, {}), "thing")
    for name, value in values.items():
        assert (found[name].dtype, found[name].shape) == (dtype, value.shape)
        assert torch.equal(found[name], value)


def test_numbers_that_are_none_are_kept_in_tensors(tmp_path):
    value = torch.tensor([torch.nan, torch.inf, -0.0])
    found, _ = read_container(write_container(tmp_path / "t", "thing", {"v": value}, {}), "thing")
    assert torch.equal(found["v"].view(torch.int32), value.view(torch.int32))


def test_same_content_gives_the_same_bytes():
    one = container_bytes("thing", TENSORS, {"a": 1, "b": {"c": 2}})
    assert one == container_bytes("thing", TENSORS, {"b": {"c": 2}, "a": 1})


@pytest.mark.parametrize(
    "header", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": {1: 1, "1": 2}}]
)
def test_what_json_cannot_hold_is_refused_before_anything_is_touched(tmp_path, header):
    path = write_container(tmp_path / "t", "thing", TENSORS, {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="the header of a thing cannot be kept as JSON"):
        write_container(path, "thing", TENSORS, header)
    assert path.read_bytes() == before


def test_a_tensor_that_could_not_be_read_is_not_written():
    with pytest.raises(ValueError, match=r"v of a thing is of torch\.complex64, which is not kept"):
        container_bytes("thing", {"v": torch.ones(1, dtype=torch.complex64)}, {})


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory, place, flip):
    path = tmp_path_factory.mktemp("flip") / "t.safetensors"
    content = bytearray(container_bytes("thing", TENSORS, {"method": "x"}))
    content[int(place * len(content))] ^= flip
    refused(path, bytes(content))


@pytest.mark.parametrize("keep", [0, 5, 30, 100, 150, 200, -1])
def test_a_cut_or_longer_file_is_noticed(tmp_path, keep):
    content = container_bytes("thing", TENSORS, {})
    assert "damaged" in refused(tmp_path / "t", content[:keep])
    assert "do not match their checksum" in refused(tmp_path / "t", content + b"\0")


def test_what_is_there_decides_how_a_name_is_completed(tmp_path):
    (tmp_path / "mine").write_text("notes")
    write_container(tmp_path / "mine", "thing", TENSORS, {"method": "x"})
    assert read_container(tmp_path / "mine", "thing")[1] == {"method": "x"}
    assert (tmp_path / "mine").read_text() == "notes"
    (tmp_path / "mine.safetensors").rename(tmp_path / "other")
    assert read_container(tmp_path / "other", "thing")[1] == {"method": "x"}
    for name, suffixed in (("a", "a"), ("a.safetensors", "a"), ("v1.5", "v1.5")):
        assert container_path(name).name == f"{suffixed}.safetensors"


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(ValueError, match="names no file"):
        write_container(path, "thing", TENSORS, {})
    with pytest.raises(ValueError, match="is a folder: name the thing file in it"):
        read_container(path, "thing")


def test_what_is_not_there_or_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no thing file .*nothing-here"):
        read_container(tmp_path / "nothing-here", "thing")
    path = write_container(tmp_path / "t", "thing", TENSORS, {})
    with pytest.raises(ValueError, match=r"t\.safetensors holds a thing, not a steering"):
        read_container(path, "steering")
    save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="was not written by psr_lens"):
        read_container(tmp_path / "foreign", "thing")
    early = save(TENSORS, {"psr_lens": json.dumps({"format": 1})})
    assert "of an early version of psr_lens" in refused(tmp_path / "early", early)
    newer = sealed("{}", number=99)
    assert "format 99 but this version of psr_lens reads 2" in refused(tmp_path / "new", newer)


def test_only_a_file_of_the_same_kind_is_replaced(tmp_path):
    (tmp_path / "notes.safetensors").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    save_file(TENSORS, tmp_path / "model.safetensors")
    write_container(tmp_path / "steering", "steering", TENSORS, {})
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    for name, message in {
        "notes": "psr_lens did not write it",
        "model": "psr_lens did not write it",
        "nowhere": "psr_lens did not write it",
        "folder": "is a directory, and a file is to be written there",
        "steering": "is a file of psr_lens but no thing: choose another name",
    }.items():
        for act in (
            lambda name=name: write_container(tmp_path / name, "thing", TENSORS, {}),
            lambda name=name: refuse_foreign(tmp_path / name, "thing"),
        ):
            with pytest.raises(ValueError, match=message) as error:
                act()
            assert name in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    write_container(tmp_path / "t", "thing", TENSORS, {"a": 1})
    write_container(tmp_path / "t", "thing", {}, {"a": 2})
    assert read_container(tmp_path / "t", "thing") == ({}, {"a": 2})
    # One that was damaged since is ours still.
    content = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(content[:-1] + b"x")
    write_container(tmp_path / "t", "thing", {}, {"a": 3})


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_container(tmp_path / "t", "thing", TENSORS, {"a": 1})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", full)
    with pytest.raises(OSError, match="No space left"):
        write_container(path, "thing", TENSORS, {"a": 2})
    assert read_container(path, "thing")[1] == {"a": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["t.safetensors"]


# --- files with a right checksum, and something wrong in them -----------------------------------


@pytest.mark.parametrize(
    "header",
    [
        *("", "{", "[]", "3", "null", '"text"', "{} {}"),
        *('{"a": NaN}', '{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": -1e999}'),
        *('{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', '{"a": ' + "9" * 5000 + "}"),
        *("[" * 100_000, '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        '{"a": [' + "[]," * 600_000 + "[]]}",
        *('{"a":' * 500 + "1" + "}" * 500, '{"a":' + "[" * 70 + "]" * 70 + "}"),
    ],
)
def test_a_header_that_is_no_plain_object_is_refused(tmp_path, header):
    assert "is damaged: it is no thing that can be read" in refused(tmp_path / "t", sealed(header))


def test_a_header_of_a_long_list_is_read_in_steps_that_grow_as_it_does(tmp_path):
    for lists in (3_000, 300_000):
        (tmp_path / "t").write_bytes(sealed('{"a": [' + "[]," * (lists - 1) + "[]]}"))
        with at_most(10_000 + 3 * lists):
            _, header = read_container(tmp_path / "t", "thing")
        assert len(header["a"]) == lists


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        (ONE, 7),
        (ONE, 9),
        (ONE, 0),
        ("", 8),
        (ONE.replace("[2]", "[3]"), 8),
        (ONE.replace("[2]", "[2.0]"), 8),
        (ONE.replace("[2]", "[true,2]"), 8),
        (ONE.replace("[2]", "[-1,-2]"), 8),
        (ONE.replace("[2]", '["2"]'), 8),
        (ONE.replace("[2]", "2"), 8),
        (ONE.replace("[2]", "null"), 8),
        (ONE.replace("[2]", f"[2{',1' * 100}]"), 8),
        (ONE.replace("[2]", f"[{2**62}]"), 8),
        (ONE.replace("[2]", f"[{2**70}]"), 8),
        (ONE.replace("[2]", f"[0,{2**40},{2**40}]").replace("[0,8]", "[0,0]"), 0),
        (ONE.replace("[0,8]", "[8,16]"), 16),
        (ONE.replace("[0,8]", "[0,8,8]"), 8),
        (ONE.replace("[0,8]", "[8,0]"), 8),
        (ONE.replace("[0,8]", "[0.0,8]"), 8),
        (ONE.replace("F32", "F64"), 8),
        (ONE.replace("F32", "I128"), 8),
        (ONE.replace('"F32"', "[]"), 8),
        (ONE.replace('"shape":[2],', ""), 8),
        (ONE.replace("}", ',"more":1}'), 8),
        (ONE.replace("}", ',"shape":[2]}'), 8),
        ('"w":3', 8),
        ('"w":[]', 8),
        (f"{ONE},{ONE}", 8),
        (f"{ONE},{ONE}", 16),
        (f"{ONE},{ONE.replace('w', 'v')}", 8),
        ('"b":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}', 1),
        (
            '"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},' + ONE.replace("[0,8]", "[1,9]"),
            9,
        ),
        ('"__metadata__":{"psr_lens":"thing 2 {}"}', 0),
    ],
)
def test_tensors_that_are_not_what_the_file_says_are_refused(tmp_path, tensors, size):
    assert "is damaged: it is no" in refused(tmp_path / "t", sealed("{}", tensors, b"\2" * size))


@pytest.mark.parametrize(
    "head",
    [
        f'{{"__metadata__":{{"psr_lens":"{front()}{{}}","more":"a"}}}}'.encode(),
        f'{{"__metadata__":{{"psr_lens":"{front()}{{}}"}}'.encode(),
        f'{{"__metadata__":{{"psr_lens":"{front()}{{}}"}},'.encode() + b'"\xff":3}',
        f'{{"__metadata__":{{"psr_lens":"{front()}'.encode() + b"[" * 50_000,
    ],
)
def test_a_frame_that_is_not_safetensors_is_refused(tmp_path, head):
    assert "is damaged: it is no thing" in refused(tmp_path / "t", seal(head))


def test_what_the_tests_write_by_hand_is_read(tmp_path):
    """Or else they would not test what they say."""
    (tmp_path / "t").write_bytes(sealed('{"a": 1}', ONE, b"\0" * 8))
    tensors, header = read_container(tmp_path / "t", "thing")
    assert (header, tensors["w"].tolist()) == ({"a": 1}, [0, 0])
    content = container_bytes("thing", TENSORS, {"a": [1, "ä"]})
    kind, *parts = taken_apart(content)
    (tmp_path / "t").write_bytes(sealed(*parts, kind=kind))
    assert read_container(tmp_path / "t", "thing")[1] == {"a": [1, "ä"]}


# --- sizes --------------------------------------------------------------------------------------


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_container(tmp_path / "t", "thing", TENSORS, {})
    monkeypatch.setattr(atomic, "_memory", lambda: path.stat().st_size)
    read_container(path, "thing")
    monkeypatch.setattr(atomic, "_memory", lambda: path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"t\.safetensors would take .* and this machine has"):
        read_container(path, "thing")


def test_a_hole_of_a_terabyte_is_refused_at_once(tmp_path):
    path = write_container(tmp_path / "t", "thing", TENSORS, {})
    with path.open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(ValueError, match="would take"):
        read_container(path, "thing")
    (tmp_path / "foreign.safetensors").write_bytes(b"")
    with (tmp_path / "foreign.safetensors").open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(ValueError, match="was not written by psr_lens"):
        read_container(tmp_path / "foreign", "thing")


def test_a_header_longer_than_any_is_neither_read_nor_written(tmp_path, monkeypatch):
    path = write_container(tmp_path / "t", "thing", {}, {"a": "b" * 1000})
    monkeypatch.setattr("psr_lens.storage.container._MOST_HEADER", 1000)
    with pytest.raises(ValueError, match=r"is damaged: .*a header of 1"):
        read_container(path, "thing")
    with pytest.raises(ValueError, match=r"takes \d+ bytes and at most 1000 are read: keep less"):
        write_container(path, "thing", {}, {"a": "b" * 1000})
