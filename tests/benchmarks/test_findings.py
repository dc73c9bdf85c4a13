"""The page of findings shows the numbers that were measured."""

import re

import pytest

from benchmarks.findings import FITS, MODELS, OBJECTIVES, PAGE, PICTURES, read_numbers
from benchmarks.findings_pictures import picture
from benchmarks.findings_tables import TABLES, fill, spans
from psr_lens.demo.instructions import INSTRUCTION_NAMES


def test_the_tables_are_those_of_the_numbers():
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, read_numbers()) == page
    emptied = re.sub(r"(?m)^\|.*\n", "", page)
    assert emptied != page
    assert fill(emptied, read_numbers()) == page


def test_the_pictures_are_those_of_the_numbers():
    for name, found in read_numbers().items():
        drawn = (PICTURES / f"findings-{name}.svg").read_text(encoding="utf-8")
        assert drawn == picture(found)
        assert drawn.count("<polyline") == 3 * len(found)


def test_everything_was_measured_and_is_shown():
    numbers = read_numbers()
    assert tuple(numbers) == MODELS
    for found in numbers.values():
        assert set(found) == set(INSTRUCTION_NAMES)
        for trait in found.values():
            assert set(FITS) <= set(trait["faithfulness"]["curves"]["relative_rmse"])
            assert set(OBJECTIVES) == set(trait["objectives"]["curves"]["relative_rmse"])
    markers = re.findall(r"<!-- table (\S+) (\S+) -->", PAGE.read_text(encoding="utf-8"))
    assert sorted(markers) == sorted((table, model) for table in TABLES for model in MODELS)


def test_a_marker_that_names_no_table_is_refused():
    with pytest.raises(ValueError, match="no table 'soup': choose one of selectivity"):
        fill("<!-- table soup demo -->\n<!-- end -->", {"demo": {}})


def test_the_best_constant_and_the_psr_of_the_prose_are_those_of_the_numbers():
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for name, found in read_numbers().items():
        own = spans(found)
        assert f"`{name}` the best constant leaves {own['constant']}, the PSR {own['PSR']}" in page
        assert f"the PSR is clearly closer on {own['closer']} of {len(found)}" in page
