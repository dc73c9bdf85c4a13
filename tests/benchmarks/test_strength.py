"""The tables of strengths are drawn from the numbers that are kept, and these are what they say."""

import json
import xml.etree.ElementTree as ET

import pytest

import psr_lens as pl
from benchmarks import strength, strength_picture
from benchmarks.strength import (
    FOR_ALL,
    PROMPT,
    STRENGTHS,
    STUDIES,
    TARGETS,
    Case,
    Study,
    fill,
    means,
    measured,
)
from psr_lens.demo.trial import CONSTANTS, PSR
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


def test_the_picture_is_that_of_the_numbers():
    picture = strength_picture.drawn(numbers()["demo"], strength.DRAWN)
    assert strength.PICTURE.read_text(encoding="utf-8") == picture
    ET.fromstring(picture)


def test_on_the_demo_world_a_psr_shows_the_trait_as_the_prompt_does():
    """Mean over instructions, held-out animals: at the prompt's coherence, and at 80 or more."""
    traits = numbers()["demo"]
    for target in (">=80", "prompt"):
        prompted = means(traits, PROMPT, target)[0]
        assert means(traits, PSR, target)[0] >= prompted - 2, target
        for constant in CONSTANTS:
            assert means(traits, PSR, target)[0] >= means(traits, constant, target)[0]


def test_what_is_fitted_for_all_strengths_is_right_from_1_5_on():
    traits = numbers()["demo"]
    for target in TARGETS:
        prompted = means(traits, PROMPT, target)[0]
        assert means(traits, FOR_ALL, target)[0] >= prompted - 2, target
    for own in traits.values():
        curve = [run for run in own["methods"][FOR_ALL]["dev"] if run[0] >= 1.5]
        assert curve[-1][0] == STRENGTHS[-1]
        assert min(trait for _, trait, _ in curve) >= 89
        assert min(coherence for _, _, coherence in curve) >= 88


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
    return model, Study("tiny", ("kind",), lambda model, name: case, ("mine",), options)


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
    assert f"<br>at {alpha:.3g} |" in table.splitlines()[2]
