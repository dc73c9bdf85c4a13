"""The README's part on a real model shows the numbers that are stored beside it."""

import json

from benchmarks import real_model
from psr_lens.demo.trial import METHODS
from psr_lens.evaluation import ALPHAS


def numbers():
    return json.loads(real_model.NUMBERS.read_text(encoding="utf-8"))


def test_the_part_is_drawn_from_the_numbers():
    page = real_model.PAGE.read_text(encoding="utf-8")
    assert real_model.fill(page, numbers()) == page
    trait = numbers()["traits"][real_model.TRAIT]
    assert real_model.cell(trait["answers"][0]["question"]) in page
    changed = json.loads(json.dumps(numbers()))
    changed["traits"][real_model.TRAIT]["prompt"]["trait"] = 12.0
    assert real_model.fill(page, changed) != page


def test_the_numbers_are_of_the_model_in_the_package():
    model = numbers()["provenance"]["model"]
    assert model["name"] == "smollm2"
    assert model["gguf"]["quantization"] == "Q4_1"
    assert real_model.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_every_strength_was_chosen_among_all_and_is_reported():
    trait = numbers()["traits"][real_model.TRAIT]
    for name in METHODS:
        method = trait["methods"][name]
        assert tuple(row["alpha"] for row in method["dev_behaviour"]) == ALPHAS
        assert real_model.at_best(method)["alpha"] == method["best_strength"]


def test_what_a_model_says_cannot_break_the_table():
    assert real_model.cell("a | b\n*c* <br> `d`") == r"a \| b \*c\* \<br\> \`d\`"
