"""Vectors of one's own, in memory and in the files of other tools."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psr_lens.steering import PSR, ConstantSteering, SumSteering, load_steering
from tests.tiny_models import BACKENDS, tiny_model

from_file = ConstantSteering.from_file
WIDTH = 32


@pytest.fixture(scope="module")
def model():
    """Three layers, 32 wide."""
    model = tiny_model("llama", BACKENDS[0])
    assert (model.n_layers, model.d_model) == (3, WIDTH)
    return model


def table(rows: int) -> torch.Tensor:
    """Every row says which one it is."""
    return torch.arange(float(rows)).unsqueeze(1).expand(rows, WIDTH).contiguous()


# --- in memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "dtype"),
    [
        (torch.arange(4.0), torch.float32),
        (torch.arange(4.0, requires_grad=True) * 1, torch.float32),
        (torch.arange(4.0, dtype=torch.bfloat16), torch.bfloat16),
        (np.arange(4.0), torch.float64),
        (np.arange(4, dtype=">f4"), torch.float32),
        (np.arange(8.0)[::2] / 2, torch.float64),
        (torch.arange(4), torch.float32),
        ([0, 1, 2, 3], torch.float32),
    ],
)
def test_a_vector_of_ones_own(vector, dtype):
    steering = ConstantSteering.from_vector(vector, layer=5, tokens="question+response")
    assert steering.layers == (5,)
    assert steering.tokens == "question+response"
    assert steering.vectors.dtype == dtype
    assert not steering.vectors.requires_grad
    assert steering.vectors.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_it_is_a_copy(kind):
    vector = kind([1.0, 2.0])
    steering = ConstantSteering.from_vector(vector, layer=0)
    vector[:] = 7.0
    assert steering.vectors.tolist() == [[1.0, 2.0]]


def test_vectors_by_layer():
    steering = ConstantSteering.from_vectors({4: [3.0, 4.0], 1: np.array([1.0, 2.0], "f4")})
    assert steering.layers == (1, 4)
    assert steering.vectors.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({2: torch.ones(1, 4)}, r"layer 2 has shape \[1, 4\]: a steering vector is one row"),
        ({2: torch.tensor(1.0)}, r"layer 2 has shape \[\]"),
        ({2: []}, r"layer 2 has shape \[0\]"),
        ({2: [1.0, float("nan")]}, r"layer 2 has NaN or infinity at 1 of 2 places .*\[1\]"),
        ({2: np.array([np.inf, 1])}, "layer 2 has NaN or infinity"),
        ({2: np.ones(2) * 1j}, "values of type complex128: a steering vector is made of real"),
        ({2: [1.0], 3: [1.0, 2.0]}, "layer 2 has 1 numbers and that of layer 3 2: all vectors"),
        ({-1: [1.0]}, "layer=-1: it must be at least 0"),
        ({}, "vectors is empty"),
    ],
)
def test_what_is_no_vector(vectors, message):
    with pytest.raises(ValueError, match=message):
        ConstantSteering.from_vectors(vectors)


def test_the_constructor_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="vectors has NaN or infinity at 2 of 2 places"):
        ConstantSteering(torch.full((1, 2), float("inf")), (0,))
    one = ConstantSteering(torch.ones(1, 2), (0,))
    for make in (lambda: float("nan") * one, lambda: SumSteering([(float("inf"), one)])):
        with pytest.raises(ValueError, match=r"weight (nan|inf) of ConstantSteering"):
            make()


def test_vectors_fit_the_model_that_they_are_applied_to(model):
    for width in (1, 16):
        psr = PSR(torch.ones(1, 1, width), torch.ones(1, 1), torch.ones(1, 1, width), (1,))
        own = ConstantSteering.from_vector(torch.ones(width), layer=1)
        for steering in (own, psr, SumSteering([(1.0, psr), (1.0, own)])):
            message = f"vectors are {width} wide but the residual stream of llama-0 is 32 wide"
            with pytest.raises(ValueError, match=message), steering.applied(model):
                pass
    beyond = ConstantSteering.from_vector(torch.ones(WIDTH), layer=3)
    with pytest.raises(ValueError, match="covers layer 3 but"), beyond.applied(model):
        pass


# --- files of other tools -----------------------------------------------------------------------


def write(path: Path, contents) -> Path:
    """A file as the tool that its ending names writes it."""
    if path.suffix == ".npy":
        np.save(path, contents)
    elif path.suffix == ".npz":
        np.savez(path, **contents)
    elif path.suffix == ".safetensors":
        save_file(contents, path)
    elif path.suffix == ".gguf":
        gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
        writer = gguf.GGUFWriter(path, "controlvector")
        writer.add_string("controlvector.model_hint", "llama")
        writer.add_uint32("controlvector.layer_count", len(contents))
        for name, vector in contents.items():
            writer.add_tensor(name, vector)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        torch.save(contents, path)
    return path


ROWS = table(4)
NUMPY = ROWS.numpy()
# Contents, arguments, and the row that every block has to get.
READ = {
    "one vector": ("v.pt", ROWS[2].clone(), {"layer": 1}, {1: 2}),
    "one row": ("v.npy", NUMPY[2:3], {"layer": 1}, {1: 2}),
    "an array without a name": ("v.npz", {"arr_0": NUMPY[2]}, {"layer": 1}, {1: 2}),
    "a tensor with a name": ("v.safetensors", {"v": ROWS[2].clone()}, {"layer": 1}, {1: 2}),
    "persona-vectors": ("p.pt", ROWS, {"model": True}, {0: 1, 1: 2, 2: 3}),
    "one block of persona-vectors": ("p.pt", ROWS, {"model": True, "layer": 1}, {1: 2}),
    "said to be hidden states": ("p.pt", ROWS, {"numbering": "hidden_states"}, {0: 1, 1: 2, 2: 3}),
    "a row for each block": ("b.npy", NUMPY[:3], {"model": True}, {0: 0, 1: 1, 2: 2}),
    "a list": ("b.pt", list(ROWS[:3]), {"numbering": "blocks", "layer": 2}, {2: 2}),
    "by layer": ("d.pt", {0: ROWS[3], 2: ROWS[1][None]}, {"model": True}, {0: 3, 2: 1}),
    "by hidden state": ("d.pt", {0: ROWS[0], 2: ROWS[2]}, {"numbering": "hidden_states"}, {1: 2}),
    "by name": ("n.npz", {"layer_1": NUMPY[1], "layer_2": NUMPY[2]}, {"layer": 2}, {2: 2}),
    "by module": ("m.safetensors", {"model.layers.1.z": ROWS[1].clone()}, {}, {1: 1}),
    "an entry": (
        "k.pt",
        {"a": ROWS, "b": ROWS[0]},
        {"key": "a", "model": True, "layer": 0},
        {0: 1},
    ),
    "a control vector": (
        "c.gguf",
        {"direction.1": NUMPY[1], "direction.2": NUMPY[3]},
        {},
        {1: 1, 2: 3},
    ),
}


@pytest.mark.parametrize("case", READ)
def test_files_of_other_tools(case, tmp_path, model):
    name, contents, options, expected = READ[case]
    path = write(tmp_path / name, contents)
    if "model" in options:
        options = {**options, "model": model}
    steering = from_file(path, **options)
    assert {
        layer: int(row[0]) for layer, row in zip(steering.layers, steering.vectors, strict=True)
    } == expected
    assert steering.vectors.shape[1] == WIDTH
    # Never "damaged": what it is, and the line that reads it.
    with pytest.raises(ValueError, match="file, not a steering that psr_lens saved") as caught:
        load_steering(path)
    assert "psr_lens.ConstantSteering.from_file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_line_that_a_message_gives_works(tmp_path, model):
    for name, contents in (("p.pt", ROWS), ("v.npy", NUMPY[0]), ("d.pt", {1: ROWS[1]})):
        path = write(tmp_path / name, contents)
        with pytest.raises(ValueError, match="read it with psr_lens") as caught:
            load_steering(path)
        line = re.search(r"ConstantSteering\.from_file\(.*\)$", str(caught.value))
        assert line
        steering = eval(line[0].replace("layer=...", "layer=1"))
        assert steering.layers == (1,)


TABLE = "c.pt", ROWS
REFUSED = {
    "no layer": ("v.npy", NUMPY[0], {}, "holds one vector and does not say of which layer: pass layer"),
    "rows of nothing": (*TABLE, {}, r"has 4 rows, which does not say which row is which layer: .*model="),
    "of another model": ("t.pt", table(7), {"model": True}, "has 7 rows and the model 3 layers"),
    "the wrong way": (*TABLE, {"numbering": "blocks", "model": True}, "means 3 rows for a model of 3"),
    "not there": (*TABLE, {"model": True, "layer": 3}, r"has vectors for the blocks \[0, 1, 2\]"),
    "too wide": ("w.npy", np.ones(8), {"layer": 0, "model": True}, "vectors are 8 wide but"),
    "no rows to number": ("v.npy", NUMPY[0], {"layer": 0, "numbering": "blocks"}, "no rows to number"),
    "several": ("s.npz", {"a": NUMPY, "b": NUMPY}, {}, r"2 entries \('a', 'b'\), .*pass key="),
    "not this one": ("s.npz", {"a": NUMPY, "b": NUMPY}, {"key": "c"}, "key='c' but .* holds 2 entries"),
    "no tensor": ("w.pt", {"words": "no", "n": 3}, {}, "and no array of numbers"),
    "three axes": ("x.npy", np.ones((2, 2, 2)), {"layer": 0}, r"shape \[2, 2, 2\]"),
    "not finite": ("n.npy", np.full(4, np.nan), {"layer": 0}, "NaN or infinity"),
    "objects": ("o.pt", torch.nn.Linear(2, 2), {}, "objects that are no tensors, and reading those can run"),
    "pickles": ("o.npy", np.array([{}]), {}, "a NumPy file that cannot be read"),
    "shifted": ("c.gguf", {"direction.1": NUMPY[1]}, {"numbering": "hidden_states"}, "leave numbering out"),
    "no directions": ("m.gguf", {"token_embd": NUMPY[1]}, {}, "no tensors called direction.1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_hold_no_vectors_or_do_not_say_where(case, tmp_path, model):
    name, contents, options, message = REFUSED[case]
    path = write(tmp_path / name, contents)
    if "model" in options:
        options = {**options, "model": model}
    with pytest.raises(ValueError, match=message) as caught:
        from_file(path, **options)
    assert "\n" not in str(caught.value)


def test_a_control_vector_says_what_it_needs(tmp_path, monkeypatch):
    path = write(tmp_path / "c.gguf", {"direction.1": NUMPY[1]})
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'psr-lens\[gguf\]'"):
        from_file(path)


def test_what_is_no_file_of_vectors(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    for read in (from_file, load_steering):
        with pytest.raises(ValueError, match=r"is no (torch|steering that psr_lens saved)"):
            read(tmp_path / "text.pt")
        with pytest.raises(ValueError, match="is a folder"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
    whole = write(tmp_path / "whole.pt", ROWS).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a torch file that cannot be read"):
        from_file(tmp_path / "cut.pt")
    saved = ConstantSteering.from_vector(ROWS[0], layer=0).save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"was saved by psr_lens: psr_lens\.load_steering"):
        from_file(saved)
    saved.write_bytes(saved.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_steering(saved)
