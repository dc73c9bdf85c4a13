"""Reports on disk come back as they were, damage is noticed, and nobody else's file is touched."""

import contextlib
import json
import os
import shutil
import tempfile
import threading
from dataclasses import replace

import pandas as pd
import pytest
import torch

from psr_lens import files, report_files
from psr_lens.assumptions.report import AssumptionReport, Measurement
from psr_lens.components.report import Component, ComponentReport, ComponentTokens, Estimate
from psr_lens.faithfulness.curves import Run
from psr_lens.faithfulness.ledger import TOKEN_COLUMNS
from psr_lens.faithfulness.report import FaithfulnessReport
from psr_lens.lens.reading import DirectionReading, LensReading, TokenLogit
from psr_lens.report_files import read_report, write_report

TABLES = {
    "values": pd.DataFrame({"layer": [0, 1], "value": [0.5, float("nan")], "name": ["a", "b"]})
}
OTHER = pd.DataFrame({"value": [1.5]})


def names(directory):
    return sorted(child.relative_to(directory).as_posix() for child in directory.rglob("*"))


def file_names(directory):
    return [name for name in names(directory) if (directory / name).is_file()]


def error_of(act):
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def reseal(path, change):
    """Change a report's header by hand, with a right checksum."""
    header = json.loads((path / "report.json").read_text())
    del header["sha256"]
    change(header)
    header["sha256"] = report_files._checksum(header)
    (path / "report.json").write_text(json.dumps(header))


def test_a_report_comes_back_as_it_was(tmp_path):
    path = write_report(tmp_path / "sub" / "report", "Thing", {"seed": 3}, TABLES)
    header, tables = read_report(path, "Thing")
    assert header == {"seed": 3}
    pd.testing.assert_frame_equal(tables["values"], TABLES["values"])
    assert names(path.parent) == ["report", "report/report.json", "report/values.parquet"]
    pd.testing.assert_frame_equal(pd.read_parquet(path / "values.parquet"), TABLES["values"])


def test_saving_again_replaces_the_report(tmp_path):
    write_report(tmp_path / "report", "Thing", {"seed": 3}, {**TABLES, "more": TABLES["values"]})
    write_report(tmp_path / "report", "Thing", {"seed": 4}, TABLES)
    header, tables = read_report(tmp_path / "report", "Thing")
    assert (header, list(tables)) == ({"seed": 4}, ["values"])
    assert names(tmp_path / "report") == ["report.json", "values.parquet"]


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_report(tmp_path / "report", "Thing", {"seed": 3}, TABLES)
    before = names(tmp_path)
    with pytest.raises(TypeError):
        write_report(path, "Thing", {"seed": object()}, TABLES)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    for place in (path, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            write_report(place, "Thing", {"seed": 4}, {"values": OTHER})
    assert read_report(path, "Thing")[0] == {"seed": 3}
    assert names(tmp_path) == before


def test_nothing_but_a_report_is_overwritten(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in (mine, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="exists and is no report"):
            write_report(path, "Thing", {}, TABLES)
    assert (mine / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_is_as_good_as_none(tmp_path):
    (tmp_path / "mine").mkdir()
    write_report(tmp_path / "mine", "Thing", {"seed": 3}, TABLES)
    assert read_report(tmp_path / "mine", "Thing")[0] == {"seed": 3}


@pytest.mark.parametrize(
    "place",
    [
        "mine.txt",
        ".hidden",
        "lens/notes.txt",
        "more/below/values.parquet.bak",
        "more/notes.txt",
        "other.parquet",
        "lens/other.parquet",
        "more/report.html",
        "replaced.parquet",
    ],
)
def test_files_that_are_not_the_report_s_are_not_deleted(tmp_path, place):
    path = tmp_path / "report"
    write_report(path, "Thing", {}, {**TABLES, "replaced": OTHER})
    write_report(path, "Thing", {}, TABLES)
    (path / "report.html").write_text("its page")
    for below in ("lens", "more/below"):
        write_report(path / below, "Thing", {}, TABLES)
    (path / place).write_text("mine")
    before = names(path)
    with pytest.raises(ValueError, match="beside its report, which no report wrote") as error:
        write_report(path, "Thing", {}, TABLES)
    assert repr(place) in str(error.value)
    assert (path / place).read_text() == "mine"
    assert names(path) == before
    (path / place).unlink()
    write_report(path, "Thing", {}, TABLES)
    assert names(path) == ["report.json", "values.parquet"]


def test_directories_and_links_in_a_file_s_place_are_not_the_report_s(tmp_path):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    mine = tmp_path / "mine"
    write_report(mine, "Thing", {}, TABLES)
    (path / "link").symlink_to(mine, target_is_directory=True)
    with pytest.raises(ValueError, match="holds 'link' beside its report"):
        write_report(path, "Thing", {}, TABLES)
    (path / "link").unlink()
    (path / "report.html").mkdir()
    with pytest.raises(ValueError, match=r"holds 'report\.html' beside its report"):
        write_report(path, "Thing", {}, TABLES)
    (path / "report.html").rmdir()
    (path / "more.parquet").mkdir()
    with pytest.raises(ValueError, match=r"more\.parquet is a directory"):
        write_report(path, "Thing", {}, {**TABLES, "more": OTHER})
    assert (path / "more.parquet").is_dir()
    assert names(mine) == ["report.json", "values.parquet"]


def test_a_directory_with_another_program_s_report_is_refused(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for content in ('{"tests": 3}', "[]", "not JSON", "[" * 100_000):
        (other / "report.json").write_text(content)
        with pytest.raises(ValueError, match="is no report"):
            write_report(other, "Thing", {}, TABLES)
        with pytest.raises(ValueError, match="no report of psr_lens"):
            read_report(other, "Thing")
        assert (other / "report.json").read_text() == content


# --- whenever it ends ---------------------------------------------------------------------------


class _Killed(BaseException):
    pass


def killed_at(patch, moment):
    """Let the process be dead from the given change of the disk on: nothing after it happens."""
    changes = []

    def dying(change):
        def instead(*args, **options):
            if len(changes) >= moment:
                raise _Killed
            changes.append(change.__name__)
            return change(*args, **options)

        return instead

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
        patch.setattr(os, name, dying(getattr(os, name)))
    patch.setattr(tempfile, "mkstemp", dying(tempfile.mkstemp))


def test_a_save_that_is_killed_leaves_the_old_or_the_new(tmp_path):
    """At every change that a save makes on the disk; the next save clears up."""
    was, path = tmp_path / "was", tmp_path / "report"
    write_report(was, "Thing", {"seed": 3}, {**TABLES, "more": TABLES["values"]})
    (was / "report.html").write_text("the old page")
    write_report(was / "lens" / "a", "Thing", {"seed": 5}, TABLES)
    new = {"values": OTHER, "fresh": OTHER}
    found = set()
    for moment in range(100):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(was, path)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, moment)
            try:
                write_report(path, "Thing", {"seed": 4}, new)
                break
            except _Killed:
                pass
        header, tables = read_report(path, "Thing")
        found.add(header["seed"])
        expected = {"seed": 3, "tables": ["more", "values"], "first": 0.5}
        if header["seed"] == 4:
            expected = {"seed": 4, "tables": ["fresh", "values"], "first": 1.5}
        assert header["seed"] == expected["seed"]
        assert sorted(tables) == expected["tables"]
        assert all(table["value"].iloc[0] == expected["first"] for table in tables.values())
        if header["seed"] == 3:
            assert (path / "report.html").read_text() == "the old page"
        try:
            assert read_report(path / "lens" / "a", "Thing")[0] == {"seed": 5}
        except FileNotFoundError:
            assert header["seed"] == 4
        write_report(path, "Thing", {"seed": 6}, new)
        assert read_report(path, "Thing")[0] == {"seed": 6}
        # An empty directory is nobody's file, and may be a user's: it stays.
        assert file_names(path) == ["fresh.parquet", "report.json", "values.parquet"]
    assert found == {3, 4}
    assert 10 < moment < 99
    assert names(path) == ["fresh.parquet", "report.json", "values.parquet"]


def test_a_first_save_that_is_killed_does_not_stand_in_the_way(tmp_path):
    path = tmp_path / "deep" / "report"
    for moment in range(100):
        shutil.rmtree(tmp_path / "deep", ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, moment)
            try:
                write_report(path, "Thing", {"seed": 4}, TABLES)
                break
            except _Killed:
                pass
        with contextlib.suppress(FileNotFoundError):
            assert read_report(path, "Thing")[0] == {"seed": 4}
        write_report(path, "Thing", {"seed": 5}, TABLES)
        assert read_report(path, "Thing")[0] == {"seed": 5}
        assert names(path) == ["report.json", "values.parquet"]
    assert 5 < moment < 99


def test_what_a_killed_write_of_a_page_left_is_no_hindrance(tmp_path):
    path = write_report(tmp_path / "report", "Thing", {"seed": 4}, TABLES)
    write_report(path / "lens" / "a", "Thing", {}, TABLES)
    for place in (path, path / "lens" / "a", path / "components"):
        place.mkdir(exist_ok=True)
        (place / ".psr-lens-abc_1234.tmp").write_text("half a page")
        (place / f".psr-lens-{'0' * 64}-values.parquet").write_text("half a report")
    report_files.refuse_foreign(path)
    write_report(path, "Thing", {"seed": 5}, TABLES)
    assert names(path) == ["report.json", "values.parquet"]


def test_writers_and_a_reader_at_once(tmp_path):
    path = write_report(tmp_path / "report", "Thing", {"seed": 0}, {"values": OTHER})
    errors = []

    def writer(seed):
        try:
            for number in range(8):
                table = pd.DataFrame({"value": [float(seed)] * (number + 1)})
                write_report(path, "Thing", {"seed": seed}, {"values": table})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        header, tables = read_report(path, "Thing")
        assert header["seed"] in (0, *tables["values"]["value"])
    assert errors == []
    assert names(path) == ["report.json", "values.parquet"]


# --- wrong files --------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["values.parquet", "report.json"])
def test_damage_is_noticed(tmp_path, file):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_report(path, "Thing")


@pytest.mark.parametrize(
    ("old", "new"), [('"seed": 3', '"seed": 7'), ('"seed"', '"sead"'), ("Thing", "Thong")]
)
def test_a_changed_header_is_noticed(tmp_path, old, new):
    path = write_report(tmp_path / "report", "Thing", {"seed": 3, 2: {"b": 1, "a": 2}}, TABLES)
    text = (path / "report.json").read_text()
    assert old in text
    (path / "report.json").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=r"report\.json is damaged: .* checksum"):
        read_report(path, "Thing")


def test_what_is_not_there_and_what_is_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no report"):
        read_report(tmp_path / "none", "Thing")
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    with pytest.raises(ValueError, match="holds a Thing, not a Other"):
        read_report(path, "Other")
    header = json.loads((path / "report.json").read_text())
    (path / "report.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        read_report(path, "Thing")


@pytest.mark.parametrize("name", ["../values", "/values", "sub/values", "..", "", "a.b", "ä"])
def test_table_names_do_not_leave_the_directory(tmp_path, name):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    shutil.copy(path / "values.parquet", tmp_path / "values.parquet")
    checksum = json.loads((path / "report.json").read_text())["tables"]["values"]
    for field in ("tables", "replaced"):
        reseal(path, lambda header, field=field: header[field].update({name: checksum}))
        with pytest.raises(ValueError, match="which no report has"):
            read_report(path, "Thing")
        with pytest.raises(ValueError, match="is no report"):
            write_report(path, "Thing", {}, TABLES)
    assert (tmp_path / "values.parquet").exists()


def test_tables_are_not_read_through_links(tmp_path):
    path = write_report(tmp_path / "report", "Thing", {}, TABLES)
    (path / "values.parquet").rename(tmp_path / "elsewhere")
    (path / "values.parquet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"values\.parquet is missing or damaged"):
        read_report(path, "Thing")


def test_sizes_are_looked_at_before_memory_is_taken(tmp_path, monkeypatch):
    """A table of equal rows takes a hundredth of what it declares."""
    path = write_report(
        tmp_path / "report", "Thing", {}, {"values": pd.DataFrame({"v": [1] * 10**5})}
    )
    assert (path / "values.parquet").stat().st_size < 10**4
    monkeypatch.setattr(files, "_memory", lambda: 8 * 10**5 - 1)
    monkeypatch.setattr(pd, "read_parquet", None)
    with pytest.raises(ValueError, match=r"values\.parquet would take"):
        read_report(path, "Thing")
    monkeypatch.setattr(files, "_memory", lambda: 10)
    with pytest.raises(ValueError, match=r"report\.json would take"):
        read_report(path, "Thing")


SUMS = {"energy": torch.ones(3, 2).double(), "missed": torch.ones(3, 2).double() / 2}
HALF = Estimate(0.5, 0.4, 0.6)
REPORTS = {
    "faithfulness": FaithfulnessReport(
        {"no steering": Run("reference", (), SUMS), "v": Run("steering", (1,), SUMS)},
        *(1.0, "R", 10, 0, pd.DataFrame({column: [] for column in TOKEN_COLUMNS})),
    ),
    "assumptions": AssumptionReport(
        (Measurement("x", "local", 0, "all", 1, 0.5),), (0,), "local", "R", 3, 2, 1
    ),
    "components": ComponentReport(
        (Component(-1, "embed", -1, HALF, HALF, None, None),),
        (ComponentTokens(("a", "b"), torch.ones(1, 2).double(), torch.ones(1, 2).double()),),
        *("R", 3),
    ),
    "lens": LensReading(
        (DirectionReading("d", 0, -1, "writes", 1.0, 0.0, 1.0, (TokenLogit(3, "a", 2.0),), ()),),
        True,
    ),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_every_missing_or_wrong_field_is_one_line(tmp_path, kind):
    report = REPORTS[kind]
    was = report.save(tmp_path / "was")
    back = type(report).load(was)
    pd.testing.assert_frame_equal(back.to_dataframe(), report.to_dataframe(), check_exact=True)
    fields = json.loads((was / "report.json").read_text()).keys() - {
        *("kind", "format", "tables", "replaced", "sha256")
    }
    wrong = {
        None: lambda header, name: header.pop(name),
        "a kind": lambda header, name: header.update({name: {"no": [None]}}),
        "text": lambda header, name: header.update({name: "B"}),
    }
    found = {}
    for name in sorted(fields):
        for how, change in wrong.items():
            path = shutil.copytree(was, tmp_path / f"{name}-{how}")
            reseal(path, lambda header, change=change, name=name: change(header, name))
            found[name, how] = error_of(lambda path=path: type(report).load(path))
            assert found[name, how].startswith((f"ValueError: {path} holds no report", "nothing"))
            assert "\n" not in found[name, how]
    loaded = [case for case, error in found.items() if error == "nothing"]
    # A provenance may say anything.
    assert loaded == [("provenance", "a kind")]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("faithfulness", {"alpha": True}, "alpha=True: it must be a finite number"),
        ("faithfulness", {"alpha": float("nan")}, "alpha=nan: it must be a finite number"),
        ("faithfulness", {"n_bootstrap": 10**15}, "n_bootstrap would take"),
        ("faithfulness", {"n_bootstrap": 1.5}, "n_bootstrap=1.5: it must be a whole number"),
        ("faithfulness", {"runs": []}, "'no steering' is missing"),
        ("components", {"token_examples": 10**15}, "token_examples=1000000000000000, but"),
        ("components", {"examples": True}, "examples=True: it must be a whole number"),
        ("assumptions", {"layers": [0.0]}, "layers=0.0: it must be a whole number"),
        ("assumptions", {"thresholds": {"decodable": "1"}}, "decodable='1': it must be a finite"),
        ("lens", {"exact": 1}, "exact=1: it must be true or false"),
    ],
)
def test_fields_are_checked(tmp_path, kind, change, message):
    report = REPORTS[kind]
    path = report.save(tmp_path / "report")
    reseal(path, lambda header: header.update(change))
    with pytest.raises(ValueError, match="holds no report that this version knows") as error:
        type(report).load(path)
    assert message in str(error.value)


def test_sums_of_other_shapes_do_not_load(tmp_path):
    runs = {
        **REPORTS["faithfulness"].runs,
        "v": Run("steering", (1,), {"missed": torch.ones(2, 2)}),
    }
    path = replace(REPORTS["faithfulness"], runs=runs).save(tmp_path / "report")
    with pytest.raises(ValueError, match=r"missed of 'v' has shape \(2, 2\), and not"):
        FaithfulnessReport.load(path)
