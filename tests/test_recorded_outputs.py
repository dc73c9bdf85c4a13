"""A change of a recorded number is found, whatever kind it is, and named; rounding is let pass."""

import copy

import pytest
import torch

from scripts.recorded.record import (
    FILE,
    TOLERANCES,
    Record,
    compare_records,
    fingerprints,
    read_record,
    write_record,
)


def sample():
    record = Record()
    part = record.within("demo").within("fit")
    part.add_exact("tokens", [[3, 1], [4]])
    part.add("losses", [10.0, 0.5, float("nan")])
    part.add("relative RMSE", [1e-9, 0.3], "share")
    part.add_tensor("vectors", torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    return record


def changed(table, name, change):
    record = sample()
    own = record.exact if table == "exact" else record.numbers[table]
    own[name] = change(copy.deepcopy(own[name]))
    return compare_records(sample(), record)


def test_equal_records_agree_in_every_value():
    found = compare_records(sample(), sample())
    assert found.differences == ()
    assert found.agreeing == sample().count() == 1 + 3 + 2 + 8


@pytest.mark.parametrize(
    ("table", "name", "change", "said"),
    [
        ("exact", "demo / fit / tokens", lambda v: [[3, 2], [4]], "[[3, 1], [4]] -> [[3, 2], [4]]"),
        (
            "rounding",
            "demo / fit / losses",
            lambda v: [[10.0, 0.501, None]],
            "[0, 1]: 0.5 -> 0.501",
        ),
        ("rounding", "demo / fit / losses", lambda v: [[10.0, 0.5, 1.0]], "[0, 2]: None -> 1.0"),
        ("rounding", "demo / fit / losses", lambda v: [[10.0, None, None]], "[0, 1]: 0.5 -> None"),
        ("rounding", "demo / fit / losses", lambda v: [[10.0, 0.5]], "rows of [3] numbers"),
        ("share", "demo / fit / relative RMSE", lambda v: [[2e-5, 0.3]], "off by 2.0e-05"),
    ],
)
def test_a_change_is_named_with_both_values(table, name, change, said):
    (line,) = changed(table, name, change).differences
    assert line.startswith(name)
    assert said in line


def test_rounding_is_no_difference_in_units_of_the_largest_number():
    close = changed("rounding", "demo / fit / losses", lambda v: [[10.0, 0.50005, None]])
    assert close.differences == ()
    assert close.closest_call == pytest.approx(0.5)
    assert close.where == "demo / fit / losses"
    tiny = changed("share", "demo / fit / relative RMSE", lambda v: [[3e-8, 0.3]])
    assert tiny.differences == ()


def test_what_one_record_lacks_is_a_difference():
    more = sample()
    more.add("new", 1.0)
    assert compare_records(sample(), more).differences == ("new: computed now, and not recorded",)
    (line,) = compare_records(more, sample()).differences
    assert line == "new: recorded, and not computed now"


def test_a_name_is_taken_once():
    record = sample()
    with pytest.raises(ValueError, match="'demo / fit / losses' is recorded twice"):
        record.within("demo").within("fit").add_exact("losses", 1)


def test_a_fingerprint_shows_what_a_norm_does_not():
    rows = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    norm, projection = fingerprints(rows).T
    assert torch.allclose(norm, rows.flatten(1).double().norm(dim=1))
    for other in (-rows, rows.flip(1), rows.flip(2), rows.roll(1, dims=2)):
        own_norm, own_projection = fingerprints(other).T
        assert torch.allclose(own_norm, norm)
        assert ((own_projection - projection).abs() > 0.01 * norm).all()


def test_a_record_comes_back_from_its_file(tmp_path):
    path = tmp_path / "record.json"
    write_record(sample(), path, {"torch": "2"})
    again, made_with = read_record(path)
    assert (again.exact, again.numbers, made_with) == (
        sample().exact,
        sample().numbers,
        {"torch": "2"},
    )


def test_the_file_of_the_repository_holds_every_part():
    record, made_with = read_record(FILE)
    assert set(record.numbers) == set(TOLERANCES)
    assert "torch" in made_with
    assert FILE.stat().st_size < 200_000
    names = {*record.exact, *(name for table in record.numbers.values() for name in table)}
    setups = {name.split(" / ")[0] for name in names}
    assert setups == {"demo, hooked", "demo-gpt2, hooked", "demo, bridge", "demo-gpt2, bridge"}
    parts = {name.split(" / ")[1] for name in names if name.startswith("demo, hooked")}
    assert {"fit", "deltas", "faithfulness", "compare", "assumptions", "components"} <= parts
    assert record.only("demo, bridge").count() < record.count()
