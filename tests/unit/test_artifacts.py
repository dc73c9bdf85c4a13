"""Files: what goes in comes out, and nothing damaged or foreign is taken."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from psr_lens import files
from psr_lens.artifacts import artifact_path, read_artifact, write_artifact

TENSORS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2], dtype=torch.int64)}


def test_round_trip(tmp_path):
    path = write_artifact(tmp_path / "deep" / "name", TENSORS, {"method": "x", "layers": [1, 2]})
    assert path == tmp_path / "deep" / "name.safetensors"
    tensors, header = read_artifact(tmp_path / "deep" / "name")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert header["method"] == "x"
    assert header["layers"] == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_number_type(tmp_path, dtype):
    value = torch.linspace(-3, 3, 7).to(dtype)
    tensors, _ = read_artifact(write_artifact(tmp_path / "t", {"v": value}, {}))
    assert tensors["v"].dtype == dtype
    assert torch.equal(tensors["v"], value)


def test_views_are_stored_whole(tmp_path):
    view = torch.arange(20.0).reshape(4, 5).T[1:]
    tensors, _ = read_artifact(write_artifact(tmp_path / "t", {"v": view}, {}))
    assert torch.equal(tensors["v"], view)


def test_same_content_gives_the_same_bytes(tmp_path):
    one = write_artifact(tmp_path / "one", TENSORS, {"a": 1, "b": {"c": 2}}).read_bytes()
    two = write_artifact(tmp_path / "two", TENSORS, {"b": {"c": 2}, "a": 1}).read_bytes()
    assert one == two


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_changed_byte_is_noticed(tmp_path_factory, place, flip):
    path = write_artifact(tmp_path_factory.mktemp("flip") / "t", TENSORS, {"method": "x"})
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")  # the tensors follow the header
    content[start + int(place * (len(content) - start))] ^= flip
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        read_artifact(path)


def test_a_changed_header_is_noticed(tmp_path):
    path = write_artifact(tmp_path / "t", TENSORS, {"layers": [3]})
    path.write_bytes(path.read_bytes().replace(b"[3]", b"[2]"))
    with pytest.raises(ValueError, match="do not match their checksum"):
        read_artifact(path)


def test_a_name_without_the_suffix_is_not_mixed_up_with_another_file(tmp_path):
    (tmp_path / "mine").write_text("notes")
    write_artifact(tmp_path / "mine", TENSORS, {"method": "x"})
    assert read_artifact(tmp_path / "mine")[1]["method"] == "x"


@pytest.mark.parametrize("path", [".", "", "/"])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(ValueError, match="names no file"):
        write_artifact(path, TENSORS, {})


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_file_is_noticed(tmp_path, keep):
    path = write_artifact(tmp_path / "t", TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        read_artifact(path)


def test_another_programs_file_is_refused(tmp_path):
    save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="was not written by psr_lens"):
        read_artifact(tmp_path / "foreign")


def test_a_newer_format_is_refused(tmp_path):
    header = {"psr_lens": json.dumps({"format": 99})}
    (tmp_path / "new.safetensors").write_bytes(save(TENSORS, header))
    with pytest.raises(ValueError, match=r"format 99 .* upgrade psr_lens"):
        read_artifact(tmp_path / "new")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_artifact(tmp_path / "nothing-here")


@pytest.mark.parametrize("header", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "[]", "{"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path, header):
    (tmp_path / "odd.safetensors").write_bytes(save(TENSORS, {"psr_lens": header}))
    with pytest.raises(ValueError, match="it lacks its header"):
        read_artifact(tmp_path / "odd")


def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_artifact(tmp_path / "t", TENSORS, {})
    monkeypatch.setattr(files, "_memory", lambda: path.stat().st_size)
    read_artifact(path)
    monkeypatch.setattr(files, "_memory", lambda: path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"t\.safetensors would take .* and this machine has"):
        read_artifact(path)


def test_suffix_is_added_once():
    assert artifact_path("a").name == "a.safetensors"
    assert artifact_path("a.safetensors").name == "a.safetensors"
    assert artifact_path("v1.5").name == "v1.5.safetensors"
