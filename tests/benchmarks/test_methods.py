"""The page of methods shows the numbers that are stored beside it."""

import json

from benchmarks import detection, methods


def test_the_page_is_drawn_from_the_numbers():
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(numbers)
    assert set(json.loads(detection.NUMBERS.read_text(encoding="utf-8"))) == set(
        numbers["models"]["demo"]
    )
