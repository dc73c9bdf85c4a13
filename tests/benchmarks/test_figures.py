"""Figures, their bounds, their JSON and their table; and the clock's arithmetic."""

import json
from pathlib import Path

import pytest

from benchmarks import figures, speed
from benchmarks.figures import BEGIN, END, Figure, Results, Skipped, fill, render
from benchmarks.timing import Timings, alternate, exponent

ROOT = Path(__file__).parents[2]
KEPT = Figure("extraction", "demo", "hooked", "a", "x / y", 1.049, 1.05, seconds={"x": 2.0})
MISSED = Figure("generation", "demo", "bridge", "b", "rate", 0.5, 0.9, "higher", note="7 a second")
SEEN = Figure("peers", "demo", "repeng", "c", "repeng / forwards", 0.000123)
RESULTS = Results(
    {"threads": 2}, (MISSED, KEPT, SEEN), (Skipped("gradient", "there is no solver"),)
)
FIELDS = {
    "benchmark": str,
    "model": str,
    "backend": str,
    "case": str,
    "what": str,
    "value": float,
    "bound": float | None,
    "better": str,
    "seconds": dict,
    "note": str,
    "met": bool | None,
}


def test_a_bound_is_kept_from_its_own_side():
    assert [one.met for one in (KEPT, MISSED, SEEN)] == [True, False, None]


def test_the_json_holds_every_figure_with_its_bound_and_comes_back():
    written = json.loads(RESULTS.to_json())
    assert set(written) == {"settings", "figures", "skipped"}
    for figure in written["figures"]:
        assert set(figure) == set(FIELDS)
        assert all(isinstance(figure[name], kind) for name, kind in FIELDS.items())
    assert Results.from_json(RESULTS.to_json()) == RESULTS


def test_the_table_shows_a_missed_bound_in_bold_and_what_is_missing():
    table = render(RESULTS)
    assert "| demo | hooked | a | x / y | 1.05 | ≤ 1.05 | yes |" in table
    assert "| demo | bridge | b | rate (7 a second) | 0.5 | ≥ 0.9 | **no** |" in table
    assert "| demo | repeng | c | repeng / forwards | 1.23e-04 |  |  |" in table
    assert "Not measured: there is no solver." in table
    titles = [line for line in table.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Delta extraction",
        "## Fitting through the model against a plain loop",
        "## Steered generation",
        "## Difference in means against other packages",
    ]


def test_a_value_never_rounds_onto_its_bound():
    missed = Figure("extraction", "demo", "hooked", "a", "x / y", 1.0504, 1.05)
    assert "| 1.0504 | ≤ 1.05 | **no** |" in render(Results({}, (missed,)))


def test_a_page_is_filled_between_its_marks_again_and_again():
    page = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    once = fill(page, "new")
    assert once == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert fill(once, "newer") == once.replace("new", "newer")
    with pytest.raises(ValueError, match="needs one"):
        fill("no marks", "table")


def test_the_page_in_the_documentation_has_its_marks():
    assert "| x / y |" in fill((ROOT / "docs" / "speed.md").read_text(), render(RESULTS))


def test_measuring_one_benchmark_again_keeps_the_others():
    fresh = Results({"threads": 1}, (Figure("gradient", "demo", "hooked", "d", "ratio", 3.0),))
    merged = fresh.replacing(RESULTS)
    assert merged.figures == (MISSED, KEPT, SEEN, *fresh.figures)
    assert merged.skipped == ()
    assert merged.settings == fresh.settings


def test_the_command_writes_json_and_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speed.BENCHMARKS, "extraction", lambda bench: iter([KEPT]))
    monkeypatch.setitem(speed.BENCHMARKS, "gradient", lambda bench: iter(RESULTS.skipped))
    out, page = tmp_path / "results.json", tmp_path / "speed.md"
    page.write_text(f"{BEGIN}{END}")
    command = ["--json", str(out), "--page", str(page), "--only"]
    speed.main([*command, "extraction"])
    speed.main([*command, "gradient"])
    results = Results.from_json(out.read_text())
    assert results.figures == (KEPT,)
    assert results.skipped == RESULTS.skipped
    assert fill(page.read_text(), render(results)) == page.read_text()
    assert "x / y = 1.049 (<= 1.05)" in capsys.readouterr().out
    assert speed.line(MISSED).endswith("rate = 0.5 MISSED >= 0.9")


def test_contenders_take_turns_in_going_first():
    ran = []
    timings = alternate({name: lambda name=name: ran.append(name) for name in "abc"}, 3)
    assert "".join(ran) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in timings.seconds.items()} == dict.fromkeys("abc", 3)


def test_a_ratio_pairs_the_times_of_a_round():
    # The machine is ten times slower in the second round; the ratio does not care.
    timings = Timings({"ours": (1.0, 10.0, 2.0), "theirs": (2.0, 20.0, 4.0)})
    assert timings.ratio("theirs", "ours") == 2
    assert timings.medians() == {"ours": 2.0, "theirs": 4.0}


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_that_power(power):
    sizes = (1, 2, 4, 8)
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_every_benchmark_has_a_title():
    assert list(figures._TITLES) == list(speed.BENCHMARKS)
