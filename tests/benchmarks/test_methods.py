"""The page of methods shows the numbers that are stored beside it."""

import json

from benchmarks import detection, methods


def test_the_page_is_drawn_from_the_numbers():
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(numbers)
    assert set(json.loads(detection.NUMBERS.read_text(encoding="utf-8"))) == set(
        numbers["models"]["demo"]
    )


def test_the_best_constant_of_a_page_is_that_of_the_numbers():
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    own = methods.summary(numbers)["demo"]
    spans = [
        f"{own[f'{name}, least']:.2f} to {own[f'{name}, most']:.2f}"
        for name in ("best constant", "PSR")
    ]
    closer = own["PSR clearly closer than the best constant"]
    readme = " ".join((methods.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"the best constant leaves {spans[0]} of the distance" in readme
    assert f"a PSR with one head per layer {spans[1]}" in readme
    assert f"closer on {closer} of {own['instructions']} instructions" in readme
    findings = (methods.ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert spans[0] in findings


def test_the_best_constant_had_its_best_shot():
    """No constant that was fitted is closer than the one that pages call the best."""
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    for traits in numbers["models"].values():
        for trait in traits.values():
            rows = trait["methods"]
            found = methods.last(rows[methods.best_constant(trait)])
            assert (
                found
                <= min(methods.last(row) for label, row in rows.items() if "constant" in label)
                + 1e-2
            )


def test_the_control_does_not_look_faithful_and_every_instruction_has_its_difference():
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    for traits in numbers["models"].values():
        for trait in traits.values():
            assert methods.last(trait["methods"][methods.CONTROL]) > 0.85
            assert methods.further(trait["methods"][methods.CONTROL])


def test_more_heads_come_nearer_on_every_instruction():
    numbers = json.loads(methods.NUMBERS.read_text(encoding="utf-8"))
    for traits in numbers["models"].values():
        for trait in traits.values():
            fits = ("PSR, layer by layer", "PSR, 4 heads", "PSR, 16 heads")
            one, four, sixteen = (methods.last(trait["methods"][name]) for name in fits)
            assert sixteen < four < one
