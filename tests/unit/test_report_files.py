"""Reports on disk come back as they were, and damage is noticed."""

import json

import pandas as pd
import pytest

from psr_lens.report_files import read_report, write_report

TABLES = {
    "values": pd.DataFrame({"layer": [0, 1], "value": [0.5, float("nan")], "name": ["a", "b"]})
}


def test_a_report_comes_back_as_it_was(tmp_path):
    path = write_report(tmp_path / "sub" / "report", "Thing", {"seed": 3}, TABLES)
    header, tables = read_report(path, "Thing")
    assert header == {"seed": 3}
    pd.testing.assert_frame_equal(tables["values"], TABLES["values"])
    assert [child.name for child in path.parent.iterdir()] == ["report"]


def test_saving_again_replaces_the_report(tmp_path):
    write_report(tmp_path / "report", "Thing", {"seed": 3}, {**TABLES, "more": TABLES["values"]})
    write_report(tmp_path / "report", "Thing", {"seed": 4}, TABLES)
    header, tables = read_report(tmp_path / "report", "Thing")
    assert (header, list(tables)) == ({"seed": 4}, ["values"])
    assert [child.name for child in tmp_path.iterdir()] == ["report"]


def test_a_failed_save_leaves_what_was_there(tmp_path):
    write_report(tmp_path / "report", "Thing", {"seed": 3}, TABLES)
    with pytest.raises(TypeError):
        write_report(tmp_path / "report", "Thing", {"seed": object()}, TABLES)
    assert read_report(tmp_path / "report", "Thing")[0] == {"seed": 3}
    assert [child.name for child in tmp_path.iterdir()] == ["report"]


def test_nothing_but_a_report_is_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="is no report"):
        write_report(tmp_path / "mine", "Thing", {}, TABLES)


def test_files_that_are_not_the_report_s_are_not_deleted(tmp_path):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    (path / "report.html").write_text("its page")
    write_report(path / "more" / "below", "Thing", {}, TABLES)
    write_report(path, "Thing", {}, TABLES)
    (path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'mine\.txt' beside its report"):
        write_report(path, "Thing", {}, TABLES)
    assert (path / "mine.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    for content in ('{"tests": 3}', "[]", "not JSON"):
        (other / "report.json").write_text(content)
        with pytest.raises(ValueError, match="is no report"):
            write_report(other, "Thing", {}, TABLES)
        with pytest.raises(ValueError, match="no report of psr_lens"):
            read_report(other, "Thing")


@pytest.mark.parametrize("file", ["values.parquet", "report.json"])
def test_damage_is_noticed(tmp_path, file):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_report(path, "Thing")


def test_what_is_not_there_and_what_is_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no report"):
        read_report(tmp_path / "none", "Thing")
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    with pytest.raises(ValueError, match="holds a Thing, not a Other"):
        read_report(path, "Other")
    header = json.loads((path / "report.json").read_text())
    (path / "report.json").write_text(json.dumps({**header, "format": 2}))
    with pytest.raises(ValueError, match="format 2"):
        read_report(path, "Thing")
