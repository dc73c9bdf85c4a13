"""The tables of strengths are drawn from the numbers that are kept, and these are what they say."""

import json
import xml.etree.ElementTree as ET

import pytest

import psr_lens as pl
from benchmarks import strength, strength_picture
from benchmarks.strength import (
    BEST_CONSTANT,
    BEST_PSR,
    DEMO,
    FAMILIES,
    FOR_ALL,
    LOOKED_AT,
    PROMPT,
    STRENGTHS,
    STUDIES,
    TARGETS,
    Case,
    Study,
    chosen,
    fill,
    means,
    measured,
)
from psr_lens.demo.instructions import INSTRUCTION_NAMES
from tests.tiny_models import CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import made_up


def numbers():
    return json.loads(strength.NUMBERS.read_text(encoding="utf-8"))


def test_the_tables_are_drawn_from_the_numbers():
    page = strength.PAGE.read_text(encoding="utf-8")
    assert fill(page, numbers()) == page
    for key, study in STUDIES.items():
        assert tuple(numbers()[key]) == tuple(study.names)
    assert page.count("| **TA@Cp** |") == len(STUDIES)
    assert page.count("<!-- table strength demo settings -->") == 1


def test_numbers_are_kept_one_instruction_on_a_line():
    text = strength.as_lines(numbers())
    assert json.loads(text) == numbers()
    assert strength.NUMBERS.read_text(encoding="utf-8") == text
    assert len(text.splitlines()) == 2 + sum(2 + len(study.names) for study in STUDIES.values())


def test_the_picture_is_that_of_the_numbers():
    picture = strength_picture.drawn(numbers()["demo"], strength.DRAWN)
    assert strength.PICTURE.read_text(encoding="utf-8") == picture
    ET.fromstring(picture)


def test_on_the_demo_world_the_psr_shows_the_trait_as_the_prompt_does():
    """Mean over its ten instructions, held-out animals; settings and strengths chosen on dev animals."""
    traits = numbers()["demo"]
    assert set(traits) == set(INSTRUCTION_NAMES)
    others = [name for name in traits if name not in LOOKED_AT]
    assert len(others) == 7
    for names in (list(traits), others):
        psr, constant, prompt = (
            {target: means(traits, column, target, names)[0] for target in TARGETS}
            for column in (BEST_PSR, BEST_CONSTANT, PROMPT)
        )
        for target in ("80", "prompt"):
            assert psr[target] >= prompt[target] - 2, target
        assert all(psr[target] > constant[target] for target in TARGETS)


def test_pages_quote_the_means_that_are_kept():
    traits = numbers()["demo"]

    def quoted(column, names):
        at_80, at_prompt = (means(traits, column, target, names)[0] for target in ("80", "prompt"))
        return f"{at_80:.1f} and {at_prompt:.1f}"

    readme, page = (
        " ".join(file.read_text(encoding="utf-8").split())
        for file in (strength.ROOT / "README.md", strength.PAGE)
    )
    for names in (None, [name for name in traits if name not in LOOKED_AT]):
        psr, constant = quoted(BEST_PSR, names), quoted(BEST_CONSTANT, names)
        prompted = f"{means(traits, PROMPT, '80', names)[0]:.1f}"
        for text in (psr, constant, prompted):
            assert text in readme
        for text in (*psr.split(" and "), *constant.split(" and "), prompted):
            assert text in page


def test_what_is_fitted_for_all_strengths_is_right_from_1_5_on():
    traits = numbers()["demo"]
    curves = {name: own["methods"][FOR_ALL]["dev"] for name, own in traits.items()}
    least = dict.fromkeys(traits, (87, 87, 90))
    least |= {"no_colour": (86, 76, 73), "two_sentences": (56, 72, 46)}
    for name, curve in curves.items():
        beyond = [run for run in curve if run[0] >= 1.5]
        assert beyond[-1][0] == (16 if name == "two_sentences" else STRENGTHS[-1])
        at_one = next(trait for alpha, trait, _ in curve if alpha == 1)
        found = min(run[1] for run in beyond), min(run[2] for run in beyond), at_one
        assert all(own >= bound for own, bound in zip(found, least[name], strict=True)), name


def test_each_setting_that_is_compared_was_measured():
    for key, study in STUDIES.items():
        for own in numbers()[key].values():
            assert set(own["methods"]) == {*study.methods, PROMPT}
    for first in FAMILIES.values():
        assert sum(label.startswith(first) for label in DEMO) >= 2


def test_a_setting_is_chosen_by_dev_questions_alone():
    """Each at the strength that was chosen there; test questions say the opposite here."""

    def method(alpha, dev, test):
        cell = {"alpha": alpha, "trait": [test, test, test], "coherence": [90.0, 90.0, 90.0]}
        return {"dev": dev, **dict.fromkeys(TARGETS, cell)}

    own = {
        "methods": {
            "PSR, a": method(1.0, [[1.0, 60.0, 99.0], [2.0, 100.0, 10.0]], 99.0),
            "PSR, b": method(4 / 3, [[1.0, 0.0, 99.0], [1.333, 70.0, 90.0]], 20.0),
            "PSR, c": method(1.0, [[1.0, 70.0, 90.0]], 100.0),
            "constant, a": method(1.0, [[1.0, 90.0, 99.0]], 50.0),
            PROMPT: method(None, [], 97.0),
        }
    }
    assert chosen(own, BEST_PSR, "80") == "PSR, b"
    assert chosen(own, BEST_CONSTANT, "80") == "constant, a"
    assert chosen(own, "PSR, c", "80") == "PSR, c"
    assert means({"one": own}, BEST_PSR, "80") == (20.0, 90.0)


def test_every_strength_says_how_it_was_chosen():
    for own in numbers().values():
        for trait in own.values():
            for label, cells in trait["methods"].items():
                for target in TARGETS:
                    assert (cells[target]["alpha"] is None) == (label == PROMPT)
                    assert bool(cells[target]["how"]) == (label != PROMPT)
                    for aspect in ("trait", "coherence"):
                        value, low, high = cells[target][aspect]
                        assert 0 <= low <= value <= high <= 100


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model(*CORE_MODELS[0], dtype="float64")
    pairs = [instructed(model, f"tell me about animal {i}", "be very kind") for i in range(12)]
    split = {pair.group: "dev" if i < 5 else "test" for i, pair in enumerate(pairs)}
    data = pl.sample_responses(model, pairs, max_new_tokens=2, split=split, progress=False)
    judge = pl.evaluation.FunctionJudge(lambda question, text: (float(len(text)), 90.0), "length")
    case = Case({"mine": made_up("psr", model, scale=0.3)}, data.dev, data.test, judge)
    options = {"max_new_tokens": 3, "start": (1.0, 2.0), "most_evaluations": 3}
    return model, Study("tiny", ("kind",), lambda model, name: case, ("mine",), ("mine",), options)


def test_a_study_is_measured_as_a_user_would(tiny, tmp_path):
    model, study = tiny
    found = measured(study, model, "kind", tmp_path)
    case = study.case(model, "kind")
    report = pl.measure_behaviour(
        model,
        case.steerings,
        case.test,
        case.judge,
        dev=case.dev,
        targets=list(TARGETS),
        **study.options,
    )
    for target in TARGETS:
        cell = found["methods"]["mine"][target]
        estimate = report.estimate(report.at("mine", target))
        assert cell["alpha"] == report.strength("mine", target).alpha
        assert cell["trait"] == [
            round(own, 2) for own in (estimate.value, estimate.low, estimate.high)
        ]
        gap = report.difference("mine", PROMPT, target)
        assert found["against the prompt"]["mine"][target][0] == round(gap.value, 2)
    assert pl.Behaviour.load(tmp_path / "kind") == report
    curve = [[own.alpha, round(own.trait, 2), own.coherence] for own in report.runs("mine", "dev")]
    assert found["methods"]["mine"]["dev"] == curve
    assert found["methods"][PROMPT]["dev"] == []
    table = strength._table(study, {"kind": found})
    alpha = found["methods"]["mine"]["80"]["alpha"]
    assert table.splitlines()[0] == "| **TA@C80** | mine | the prompt |"
    trait, low, high = (round(end) for end in found["methods"]["mine"]["80"]["trait"])
    coherence = round(found["methods"]["mine"]["80"]["coherence"][0])
    shown = f"| {trait}\u00a0/\u00a0{coherence}\u00a0({low}\u2011{high})<br>at {alpha:.3g} |"
    assert shown in table.splitlines()[2]
