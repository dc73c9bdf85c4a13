"""The README's table of behaviour shows the numbers that are stored beside it."""

import json

from benchmarks import behaviour
from psr_lens.demo.instructions import DEFAULT_TRAITS
from psr_lens.evaluation import ALPHAS, COHERENT


def numbers():
    return json.loads(behaviour.NUMBERS.read_text(encoding="utf-8"))


def test_the_table_is_drawn_from_the_numbers():
    page = behaviour.PAGE.read_text(encoding="utf-8")
    assert behaviour.fill(page, numbers()) == page
    assert set(numbers()["traits"]) == set(DEFAULT_TRAITS)
    assert page.count("| hedger |") == 1


def test_every_strength_shown_was_the_best_on_the_dev_animals():
    for _, trait in behaviour.traits(numbers()):
        for name in behaviour.SHOWN:
            method = trait["methods"][name]
            curve = {row["alpha"]: row for row in method["dev_behaviour"]}
            assert tuple(curve) == ALPHAS
            allowed = {a: row["trait"] for a, row in curve.items() if row["coherence"] >= COHERENT}
            assert allowed, name
            best = max(allowed.values())
            assert method["best_strength"] == min(a for a in allowed if allowed[a] == best)


def test_the_psr_is_closer_than_the_best_constant():
    found = behaviour.summary(numbers())
    assert found["PSR, most"] < found["best constant, least"]
    for _, trait in behaviour.traits(numbers()):
        for name in behaviour.CONSTANTS:
            assert trait["methods"][name]["further_than_psr"]["low"] > 0
