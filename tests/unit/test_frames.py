"""Data frames come back exactly: values, number types and what is missing."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.storage import read_container, write_container
from psr_lens.storage.frames import pack_frame, unpack_frame

FRAME = pd.DataFrame(
    {
        "half": np.array([0.5, np.nan, -0.0, np.inf]),
        "single": np.array([0.1, np.nan, 1, 2], dtype=np.float32),
        "short": np.array([0.1, np.nan, 1, 2], dtype=np.float16),
        "many": np.array([2**62, -1, 0, 3]),
        "few": np.array([255, 0, 1, 2], dtype=np.uint8),
        "little": np.array([-128, 0, 1, 2], dtype=np.int8),
        "yes": [True, False, True, False],
        "some": pd.array([2**62, None, 0, 3], dtype="Int64"),
        "perhaps": pd.array([True, None, False, None], dtype="boolean"),
        "text": ["a", "b", "a", "ä"],
        "gaps": ["a", None, "a", ""],
        "mixed": pd.Series(["\ud800", None, float("nan"), pd.NA], dtype=object),
        "string": pd.Series(["a", None, "b", "b"], dtype="string"),
    }
)


def through_a_file(tmp_path, frame):
    tensors, about = pack_frame("t", frame)
    path = write_container(tmp_path / "f", "thing", tensors, {"t": about})
    tensors, header = read_container(path, "thing")
    found = unpack_frame("t", tensors, header["t"])
    assert tensors == {}
    return found


def test_every_kind_of_column_comes_back(tmp_path):
    found = through_a_file(tmp_path, FRAME)
    pd.testing.assert_frame_equal(found, FRAME, check_exact=True)
    assert found.dtypes.tolist() == FRAME.dtypes.tolist()
    assert [*map(type, found["mixed"])] == [*map(type, FRAME["mixed"])]
    # So that a result can be written to.
    found.loc[0, "half"] = 1.0


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": [], "b": []}),
        FRAME.iloc[:0],
        pd.DataFrame({"a": []}, dtype="float64"),
    ],
)
def test_frames_without_rows_or_columns(tmp_path, frame):
    pd.testing.assert_frame_equal(through_a_file(tmp_path, frame), frame.reset_index(drop=True))


@given(
    st.lists(
        st.tuples(
            st.floats(width=64),
            st.integers(-(2**63), 2**63 - 1),
            st.text() | st.none(),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_any_rows_come_back(tmp_path_factory, rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c", "d"])
    frame["c"] = frame["c"].astype(object)
    found = through_a_file(tmp_path_factory.mktemp("any"), frame)
    pd.testing.assert_frame_equal(found, frame, check_exact=True)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({3: [1]}), "column 3 of t: its name must be a text of its own"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "column 'a' of t: its name"),
        (pd.DataFrame({"a": [["x"]]}), r"\['x'\] in column 'a' of t: store numbers or text"),
        (pd.DataFrame({"a": pd.Series([1], dtype=object)}), "1 in column 'a' of t"),
        (pd.DataFrame({"a": pd.to_datetime(["2026-01-01"])}), "is of datetime64.*: store numbers"),
        (pd.DataFrame({"a": pd.Categorical(["x"])}), "is of category: store numbers"),
        (pd.DataFrame({"a": [1j]}), "is of complex128: store numbers"),
    ],
)
def test_what_is_neither_numbers_nor_text_is_refused(frame, message):
    with pytest.raises(ValueError, match=message):
        pack_frame("t", frame)


SMALL = pd.DataFrame({"n": [1, 2], "x": [0.5, 1.5], "s": ["a", None], "i": [1, 2]}).astype(
    {"i": "Int64"}
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, _: t.pop("t.0"), "'t.0' is missing"),
        (lambda t, _: t.pop("t.3.missing"), "'t.3.missing' is missing"),
        (lambda t, _: t.update({"t.0": t["t.0"].float()}), "t.0 is of torch.float32"),
        (lambda t, _: t.update({"t.0": t["t.0"][None]}), "has 2 axes"),
        (lambda t, _: t.update({"t.0": t["t.0"][:1]}), r"columns of \[1, 2\] rows"),
        (
            lambda t, _: t.update({"t.3.missing": t["t.3.missing"][:1]}),
            "2 rows and 1 marks of missing",
        ),
        (lambda t, _: t.update({"t.2": torch.tensor([0, 1])}), "texts that there are not"),
        (lambda t, _: t.update({"t.2": torch.tensor([0, -4])}), "texts that there are not"),
        (lambda _, a: a["columns"].append(3), "it must be an object"),
        (lambda _, a: a["columns"][0].update(name=3), "name=3: it must be text"),
        (lambda _, a: a["columns"][0].update(name="x"), r"has columns \['x', 'x', 's', 'i'\]"),
        (lambda _, a: a["columns"][0].update(dtype="datetime64[ns]"), "it is one of float64"),
        (lambda _, a: a["columns"][0].update(texts=[]), "unknown"),
        (lambda _, a: a["columns"][2].update(texts=[3]), "it must be text"),
        (lambda _, a: a["columns"][2].pop("texts"), "'texts' is missing"),
        (lambda _, a: a.update(more=1), "unknown"),
        (lambda _, a: a.pop("columns"), "'columns' is missing"),
    ],
)
def test_columns_that_are_not_what_the_header_says_are_refused(change, message):
    tensors, about = pack_frame("t", SMALL)
    change(tensors, about)
    with pytest.raises(ValueError, match=message):
        unpack_frame("t", tensors, about)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"n": int}, r"columns \['n', 'x', 's', 'i'\], and not \['n'\]"),
        ({"n": float, "x": float, "s": str, "i": int}, "n of t is of int64, and not of float"),
    ],
)
def test_columns_are_those_that_are_wanted(types, message):
    with pytest.raises(ValueError, match=message):
        unpack_frame("t", *pack_frame("t", SMALL), types)
    whole = SMALL.drop(columns=["s", "i"])
    for of in (str, float, bool):
        with pytest.raises(ValueError, match=f"n of t is of int64, and not of {of.__name__} alone"):
            unpack_frame("t", *pack_frame("t", whole), {"n": of, "x": float})
    with pytest.raises(ValueError, match=r"s of t is of .*, and not of str alone"):
        unpack_frame("t", *pack_frame("t", SMALL[["s"]]), {"s": str})
    unpack_frame("t", *pack_frame("t", whole), {"n": int, "x": float})
    unpack_frame("t", *pack_frame("t", whole.iloc[:0]), {"n": str, "x": float})
