"""What a steering's file says is checked: every wrong one is a ValueError in one line."""

import json

import pytest
import torch
from safetensors.torch import save_file

from psr_lens.cli import main
from psr_lens.steering import ActAdd, ConstantSteering, OracleSteering, load_steering
from psr_lens.storage import read_container, write_container
from tests.sealed import sealed, taken_apart
from tests.stored_steerings import FOLDER, Shape
from tests.tiny_steerings import KINDS, made_up

ANY_MODEL = {"name": "m", "numerics": "unprocessed"}
FINGERPRINT = {
    "n_layers": 3,
    "d_model": 8,
    "d_vocab": 9,
    "dtype": "float32",
    "norms": [1.0, 2.0, 2.0, 0.5],
    "coordinates": [[0.5]] * 4,
}


def written(tmp_path, kind, change=lambda tensors, header: None):
    """A file that is whole, of what a change makes of a steering's tensors and header."""
    tensors, header = read_container(FOLDER / kind, "steering")
    change(tensors, header)
    return write_container(tmp_path / "s", "steering", tensors, header)


def refused(path):
    with pytest.raises(ValueError, match="holds no steering") as error:
        load_steering(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_checked(tmp_path, kind):
    tensors, _ = read_container(FOLDER / kind, "steering")
    for name, own in tensors.items():
        wrong = {
            "of torch.int64": own.long(),
            "has shape": own[..., None],
            "and not [": own[..., :0],
            "has shape [": own[:1],
            "is not finite": torch.full_like(own, torch.nan),
        }
        for message, tensor in wrong.items():
            path = written(tmp_path, kind, lambda t, _, n=name, v=tensor: t.update({n: v}))
            assert message in refused(path)
        assert "missing" in refused(written(tmp_path, kind, lambda t, _, n=name: t.pop(n)))
    extra = written(tmp_path, kind, lambda t, _: t.update({"extra": torch.ones(2)}))
    assert "tensors" in refused(extra)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_checked(tmp_path, kind):
    _, header = read_container(FOLDER / kind, "steering")
    for name in ("method", "layers", "tokens", "hook_point", "arguments", "provenance"):
        refused(written(tmp_path, kind, lambda _, h, n=name: h.pop(n)))
        more = written(tmp_path, kind, lambda _, h: h.update({"more": 1}))
        assert "unknown" in refused(more)
        for value in ("B", {"no": 1}, [[]], 3, None):
            if (name, value) != ("provenance", {"no": 1}):
                refused(written(tmp_path, kind, lambda _, h, n=name, v=value: h.update({n: v})))
    assert header["layers"] == [1, 2]
    for layers in (
        [1.0, 2],
        [True, 2],
        ["1", 2],
        [2, 1],
        [-1, 2],
        [1],
        "12",
        [1, 2, 3],
        [10**30, 2],
    ):
        refused(written(tmp_path, kind, lambda _, h, v=layers: h.update({"layers": v})))


def test_the_width_is_the_model_s(tmp_path):
    origin = {"model": {**ANY_MODEL, "fingerprint": FINGERPRINT}}
    path = written(tmp_path, "psr", lambda _, h: h.update({"provenance": origin}))
    assert load_steering(path).provenance == origin
    wide = {"model": {**ANY_MODEL, "fingerprint": {**FINGERPRINT, "d_model": 16}}}
    path = written(tmp_path, "psr", lambda _, h: h.update({"provenance": wide}))
    assert "has shape [2, 2, 8], and not [layer=2, head=2, d_model=16]" in refused(path)


@pytest.mark.parametrize(
    "provenance",
    [
        *({"model": {**ANY_MODEL, "fingerprint": own}} for own in ({"n_layers": 3}, [], "x", None)),
        *(
            {"model": {**ANY_MODEL, "fingerprint": {**FINGERPRINT, **own}}}
            for own in (
                {"coordinates": 3},
                {"coordinates": [[0.5]] * 3},
                {"coordinates": [0.5] * 4},
                {"coordinates": [["0.5"]] * 4},
                {"norms": [1.0]},
                {"norms": [True] * 4},
                {"norms": [10**400] * 4},
                {"n_layers": 3.0},
                {"n_layers": 0},
                {"n_layers": 10**30},
                {"dtype": 3},
                {"more": 3},
            )
        ),
        {"model": {"fingerprint": FINGERPRINT}},
        {"model": {**ANY_MODEL, "name": 3}},
        {"model": []},
        {"data": 3},
        {"data": {"sampling": 3}},
        {"data": {"example_keys": "abc"}},
        {"data": {"example_keys": [3]}},
        {"method": 3},
    ],
)
def test_what_anything_reads_in_a_provenance_is_checked(tmp_path, provenance):
    refused(written(tmp_path, "psr", lambda _, h: h.update({"provenance": provenance})))


def test_a_fingerprint_of_nan_is_refused(tmp_path):
    """A comparison with NaN is false, so that it would pass for that of any model."""
    header = json.loads(json.dumps(made_up("psr", Shape()).header()))
    fingerprint = {**FINGERPRINT, "norms": [float("nan")] * 4}
    header["provenance"] = {"model": {**ANY_MODEL, "fingerprint": fingerprint}}
    kind, _, tensors, data = taken_apart((FOLDER / "psr.safetensors").read_bytes())
    path = tmp_path / "s.safetensors"
    for text in (json.dumps(header), json.dumps(header).replace("NaN", "1e999")):
        path.write_bytes(sealed(text, tensors, data, kind))
        with pytest.raises(ValueError, match="is damaged: it is no steering that can be read"):
            load_steering(path)
    path.write_bytes(sealed(json.dumps(header).replace("NaN", "1.0"), tensors, data, kind))
    load_steering(path)


def test_the_parts_of_a_sum_are_checked(tmp_path):
    def of_part(key, value):
        return lambda _, header: header["arguments"]["parts"][0].update({key: value})

    for key, value in (
        *(("weight", 10**400), ("weight", "2"), ("weight", True), ("weight", None)),
        *(("layers", [1]), ("method", "sum"), ("tokens", "B")),
    ):
        refused(written(tmp_path, "sum", of_part(key, value)))
    refused(
        written(tmp_path, "sum", lambda t, h: (t.clear(), h["arguments"].update({"parts": []})))
    )


def test_deep_nesting_and_arguments_of_another_kind(tmp_path):
    def nested(_, header):
        for _ in range(15):
            inner = dict(header)
            header["arguments"] = {"parts": [{**inner, "weight": 1.0}]}

    assert "\n" not in refused(written(tmp_path, "sum", nested))
    for arguments in ({"aligned": "end"}, {"fit_report": "mine"}, {"layers": [1, 2]}):
        refused(written(tmp_path, "actadd", lambda _, h, v=arguments: h.update({"arguments": v})))


def test_what_was_saved_is_loaded(tmp_path):
    for number, steering in enumerate(
        [
            OracleSteering([0, 2]),
            OracleSteering([0], basis=torch.eye(8)[None, :3]),
            ConstantSteering(torch.ones(1, 8).bfloat16(), [2]),
            ActAdd(torch.ones(1, 3, 8).double(), [2], tokens="question+response"),
            made_up("sum", Shape()) + made_up("psr", Shape(), "question+response"),
        ]
    ):
        back = load_steering(steering.save(tmp_path / str(number)))
        assert back.header() == json.loads(json.dumps(steering.header()))
        for name, tensor in steering.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor)


def test_on_the_command_line_each_is_one_line_and_exit_code_2(tmp_path, capsys):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"v": torch.ones(2)}, foreign)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 1000)
    report = write_container(tmp_path / "report", "LensReading", {}, {})
    wrong = written(tmp_path, "psr", lambda _, h: h.update({"layers": [1.5, 2]}))
    for path, message in (
        (foreign, "is a safetensors file, no"),
        (report, "holds a LensReading, not a steering"),
        (garbage, "was not written by psr_lens, or is damaged"),
        (wrong, "layers=1.5: it must be a whole number"),
        (tmp_path, "is a folder: name the steering file in it"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["steer", "--model", "demo", "--steering", str(path), "--prompt", "hi ."])
        printed = capsys.readouterr()
        assert (end.value.code, printed.out) == (2, "")
        assert printed.err.count("\n") == 1
        assert message in printed.err
