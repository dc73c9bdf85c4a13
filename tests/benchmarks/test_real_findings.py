"""The findings on a real model: the page is that of the numbers, and the command goes the whole way."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
import torch

from benchmarks.real_findings import __main__ as command
from benchmarks.real_findings import (
    agreement,
    answers,
    copies,
    judged,
    methods,
    numbers,
    page,
    sizes,
    toy,
)
from benchmarks.real_findings.distances import by_question
from benchmarks.real_findings.pictures import drawn
from benchmarks.real_findings.tables import TABLES
from psr_lens.demo import animals
from psr_lens.demo.everyday import everyday_pairs
from psr_lens.demo.everyday_instructions import EVERYDAY
from psr_lens.demo.everyday_questions import QUESTIONS
from psr_lens.examples import number_prompts
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from tests.tiny_models import BACKENDS, tiny_model

WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "all")
FEW_HEADS = {label: {**own, "n_heads": 3} for label, own in methods.LAYERWISE.items()}
"""Several heads are fitted one after the other, whether they are three or sixteen."""
FEW_HEADS["PSR"] = methods.LAYERWISE["PSR"]
SHORT_FITS = {
    "LAYERWISE": FEW_HEADS,
    "TRAINED": {label: {**own, "epochs": 1} for label, own in methods.TRAINED.items()},
    "REFT_R1": {**methods.REFT_R1, "epochs": 1},
}


# --- the page ---------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_numbers():
    text = page.PAGE.read_text(encoding="utf-8")
    found = page.all_numbers()
    assert page.fill(text, found) == text
    emptied = re.sub(r"(?m)^\|.*\n", "", text)
    assert emptied != text
    assert page.fill(emptied, found) == text
    markers = re.findall(r"<!-- table (\S+) -->", text)
    # A table stands there as soon as it has numbers.
    assert sorted(markers) == sorted(
        name for name, rows in TABLES.items() if shows_numbers(rows(found))
    )


def shows_numbers(rows):
    return any(any(row[1:]) for row in rows[1:])


def test_the_pictures_are_those_of_the_numbers():
    for name, picture in drawn(page.all_numbers()).items():
        assert (page.PICTURES / f"real-model-{name}.svg").read_text(encoding="utf-8") == picture
        ET.fromstring(picture)


def test_a_table_shows_what_was_measured_and_nothing_else():
    found = page.all_numbers()
    name, own = next((name, own) for name, own in found.items() if "distances" in own)
    line = own["distances"]["relative_rmse"]["PSR"]
    cell = f"{line['values'][-1]:.2f}<br>{line['low'][-1]:.2f}\u2011{line['high'][-1]:.2f}"
    rows = TABLES["distances"]({name: own})
    assert rows[0] == ["", name]
    assert ["PSR", cell] in rows
    assert TABLES["distances"]({})[0] == [""]


def test_what_is_said_is_compared_in_pairs_at_the_strength_that_dev_questions_chose():
    def said(*traits):
        return [
            {"question": f"q{i // 2}", "trait": t, "fluency": 90.0, "likelihood": -2.0}
            for i, t in enumerate(traits)
        ]

    def method(answers, *dev, alpha=1.0):
        curve = [{"alpha": a, "trait": t} for a, t in zip((1.0, 2.0), dev, strict=True)]
        return {"alpha": alpha, "dev": curve, "answers": answers}

    low, high = said(*[10.0] * 12), said(*range(10, 130, 10))
    found = {
        "constant, mse": method(low, 30.0, 99.0),
        "constant, ll": method(high, 20.0, 20.0),
        "PSR": method(low, 50.0, 10.0, alpha=2.0),
        "PSR, refined": method(high, 20.0, 40.0),
        "PSR, 16 heads": method(low, 10.0, 10.0),
    }
    (row,) = TABLES["duel"]({"french": {"behaviour": {"methods": found}}})[1:]
    assert row[:3] == ["french", "constant, mse at 1", "PSR, refined at 1"]
    mean, low_end, high_end = judged.score_difference(high, low, "trait")
    assert mean == pytest.approx(55.0)
    # Six questions, two answers each: their means are 15, 35, ..., 115.
    assert 55 - 45 < low_end < 55 < high_end < 55 + 45
    assert row[3] == f"+55 ({low_end:+.0f} to {high_end:+.0f})"
    assert row[4:] == ["+0 (+0 to +0)", "+0.00 (+0.00 to +0.00)"]
    unknown = [{**one, "likelihood": None} for one in high[:2]] + high[2:]
    assert judged.score_difference(unknown, low, "likelihood")[0] == 0.0


# --- the numbers ------------------------------------------------------------------------------------


def test_what_every_question_contributes_adds_up_to_the_distance():
    for name in EVERYDAY:
        part = numbers.read(name).get("distances")
        if part is not None:
            for label, curve in part["relative_rmse"].items():
                shares = part["questions"]["missed"][label]
                assert len(shares) == 15
                assert sum(shares) ** 0.5 == pytest.approx(curve["values"][-1], abs=2e-3)


def test_test_questions_are_about_topics_that_nothing_was_fitted_to():
    split = answers.everyday_split()
    counts = {part: list(split.values()).count(part) for part in ("train", "dev", "test")}
    assert counts == {"train": 12, "dev": 3, "test": 5}
    asked = {q for topic, qs in QUESTIONS.items() if split[topic] == "test" for q in qs}
    for name in EVERYDAY:
        part = numbers.read(name).get("distances")
        if part is not None:
            assert set(part["questions"]["names"]) == asked


def test_what_the_page_says_of_the_paraphrase_is_what_its_numbers_say():
    rows = TABLES["heights"](page.all_numbers())[1:]
    everywhere = [name for name, *_, count, missed in rows if count == "30 of 30"]
    assert [row[0] for row in rows if row[-1] == "–"] == everywhere
    assert len(everywhere) >= 6
    text = page.PAGE.read_text(encoding="utf-8")
    assert f"at every layer on {WORDS[len(everywhere)]} of the eight" in " ".join(text.split())


# --- the whole way, on a tiny model with random weights -----------------------------------------------


@pytest.fixture
def short(monkeypatch, tmp_path):
    """One question on each topic, few tokens, one epoch, numbers in a folder of their own."""
    monkeypatch.setattr(answers, "everyday_pairs", lambda name: everyday_pairs(name)[::3])
    monkeypatch.setitem(answers.SAMPLING, "max_new_tokens", 3)
    for name, value in SHORT_FITS.items():
        monkeypatch.setattr(methods, name, value)
    monkeypatch.setattr("psr_lens.statistics.wide_heads._ROUNDS", 2)
    monkeypatch.setattr(numbers, "FOLDER", tmp_path / "numbers")
    return tiny_model("llama", BACKENDS[0])


@pytest.mark.filterwarnings("ignore:The prompt hardly changes", "ignore:training ")
def test_every_part_of_an_instruction_is_measured_and_kept(short, tmp_path):
    found: dict = {}
    parts, earlier = command.instruction_parts(short, "pirate", tmp_path / "work", found)
    assert tuple(parts) == command.PARTS
    command.measure("pirate", parts, found)
    kept = json.loads((tmp_path / "numbers" / "pirate.json").read_text(encoding="utf-8"))
    assert tuple(part for part in kept if part != numbers.SECONDS) == command.PARTS
    fits = set(kept["distances"]["fits"])
    assert fits >= {*methods.BEHAVIOUR, "PSR, 4 heads, sample 3"}
    assert methods.EVERYWHERE not in fits
    # In both places on some instructions alone.
    assert not fits & set(map(methods.inside, methods.IN_BOTH))
    assert set(kept["behaviour"]["methods"]) == set(methods.BEHAVIOUR)
    assert tuple(kept[numbers.SECONDS]) == command.PARTS
    for rows in TABLES.values():
        assert len({len(row) for row in rows({"pirate": kept})}) == 1
    for picture in drawn({"pirate": kept}).values():
        ET.fromstring(picture)
    # Once more: nothing is measured again, and what was kept stays.
    before = (tmp_path / "numbers" / "log.txt").read_text(encoding="utf-8")
    assert earlier("distances") == earlier("prompt") == 0
    made = [json.loads(own.read_text()) for own in (tmp_path / "work/pirate").glob("fits*/*.json")]
    _, earlier = command.instruction_parts(short, "pirate", tmp_path / "work", found)
    assert earlier("distances") == pytest.approx(sum(own["seconds"] for own in made))
    assert earlier("prompt") == 0
    again = dict.fromkeys(command.PARTS, pytest.fail)
    command.measure("pirate", again, numbers.read("pirate"))
    assert (tmp_path / "numbers" / "log.txt").read_text(encoding="utf-8") == before


@pytest.mark.filterwarnings("ignore:The prompt hardly changes", "ignore:training ")
def test_what_is_fitted_in_both_places_acts_there(short, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "COMPARED", "pirate")
    data = answers.answers(short, "pirate", tmp_path)
    found = methods.all_fits(short, "pirate", data, tmp_path)
    for label in methods.IN_BOTH:
        after, between = (found[own].steering for own in (label, methods.inside(label)))
        assert (after.hook_point, between.hook_point) == ("resid_post", "resid_mid")
        tensors = between.state_dict()
        assert not any(torch.equal(own, tensors[key]) for key, own in after.state_dict().items())
    distances = command.distances_part(short, data, found)
    rows = TABLES["middle"]({"pirate": {"distances": distances}})
    assert [row[0] for row in rows] == ["", *methods.IN_BOTH]
    assert all(len(row) == 2 and "→" in row[1] for row in rows[1:])


def test_answers_are_judged_together_as_they_are_alone(short, tmp_path):
    data = list(answers.sampled(short, "french", ("test",), 5, 2, tmp_path))
    texts = [short.encoder.decode(one.response_ids) for one in data]
    kinds = {"a": (data[:3], texts[:3]), "none": ([], []), "b": (data[::-1], texts[::-1])}
    found = judged.judged_together(short, "french", kinds)
    assert list(found) == list(kinds)
    for kind, (examples, said) in kinds.items():
        alone = judged.judged(short, "french", examples, said)
        for ours, theirs in zip(found[kind], alone, strict=True):
            assert ours.pop("likelihood") == pytest.approx(theirs.pop("likelihood"), abs=1e-4)
            assert ours == theirs


def test_a_part_that_fails_leaves_the_finished_ones(short):
    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command.measure("pirate", {"one": lambda: {"a": 1}, "two": broken}, {})
    assert numbers.read("pirate") == {"one": {"a": 1}, numbers.SECONDS: {"one": 0}}


def test_each_name_is_measured_in_a_process_of_its_own(short, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(SystemExit, match="not finished: unknown, neither"):
        command.measure_side_by_side(("unknown", "neither"), tmp_path, 2)
    told = capfd.readouterr().err
    assert told.count("argument --only: invalid choice") == 2


def test_differences_over_questions_are_those_of_a_report(short, tmp_path):
    data = answers.answers(short, "french", tmp_path)
    fits = {
        name: fit(short, data.fitted_on[0], method="dim", layers=layer)
        for name, layer in (("low", 0), ("high", 1))
    }
    report = measure_faithfulness(short, fits, data.test, oracle_ranks=(), gap=False)
    found = by_question(report, data.test)
    want = report.difference("low", "high").estimates[-1]
    value, low, high = agreement.difference(found, "low", "high", n_bootstrap=report.n_bootstrap)
    assert (value, low, high) == pytest.approx((want.value, want.low, want.high), rel=1e-9)


def test_likelihood_is_what_the_prompted_model_gives(short, tmp_path):
    data = answers.sampled(short, "french", ("test",), 5, 1, tmp_path)
    texts = [short.encoder.decode(one.response_ids) for one in data]
    found = judged.likelihoods(short, list(data), texts)
    for example, text, own in zip(data, texts, found, strict=True):
        if not text.strip():
            assert own is None
            continue
        said = short.encoder.encode_response(example.pair.prompted, text, example.rendering)
        ids = torch.tensor([example.prompted_ids + said])
        logs = short.raw(ids)[0].double().log_softmax(-1)
        n = len(example.prompted_ids)
        by_hand = [float(logs[n - 1 + i, token]) for i, token in enumerate(said)]
        assert own == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)


def test_fewer_answers_are_spread_over_the_questions(short, tmp_path):
    data = answers.answers(short, "french", tmp_path).all
    few = sizes.some(data, 40)
    assert (len(few.train), len(few.dev)) == (40, 10)
    counts = [number_prompts(few.train).count(i) for i in range(12)]
    assert sorted(counts) == [3] * 8 + [4] * 4
    assert {one.key for one in few} <= {one.key for one in data}


def test_fewer_answers_are_trained_on_as_long():
    steps = {n: sizes.epochs(n) * -(-n // 4) for n in sizes.NUMBERS}
    assert all(72 <= own <= 200 for own in steps.values())


@pytest.mark.filterwarnings("ignore:The prompt hardly changes", "ignore:training ")
def test_the_studies_of_sizes_and_copies_go_the_whole_way(short, tmp_path, monkeypatch):
    few = {
        label: ({**own, "n_heads": 3} if "n_heads" in own else own, (8,))
        for label, (own, _) in sizes.FITS.items()
        if "64" not in label
    }
    few["constant, mse"] = (SHORT_FITS["TRAINED"]["constant, mse"], (8,))
    monkeypatch.setattr(sizes, "FITS", few)
    monkeypatch.setattr(sizes, "NUMBERS", (8,))
    model = tiny_model("llama", "transformers")
    parts, earlier = sizes.sizes_part(model, tmp_path)
    found = {numbers.SIZES: {"8": parts["8"]()}}
    fits = found[numbers.SIZES]["8"]["fits"]
    assert set(fits) == set(few)
    assert earlier("8") == 0
    # Measured again with the fits that are there, it counts the time that these took.
    again, earlier = sizes.sizes_part(model, tmp_path)
    assert again["8"]()["relative_rmse"] == found[numbers.SIZES]["8"]["relative_rmse"]
    assert earlier("8") == sum(own["seconds"] for own in fits.values()) > 0
    made = {"the model itself": lambda own: own, "8 bits": copies.COPIES_OF["8 bits"]}
    monkeypatch.setattr(copies, "COPIES_OF", made)
    parts = copies.copies_part(model, tmp_path)
    found[numbers.COPIES] = {name: parts[name]() for name in made}
    itself, eight = found[numbers.COPIES].values()
    # What was fitted to the model and what is fitted to it again are the same.
    assert itself["carried"] == itself["fitted anew"]
    assert eight["carried"] != eight["fitted anew"]
    for table in ("sizes", "limits", "copies"):
        rows = TABLES[table](found)
        assert len({len(row) for row in rows}) == 1
        assert len(rows) > 1


def test_the_toy_study_goes_the_whole_way(short, tmp_path, monkeypatch):
    def thinned(made):
        return lambda *own: made(*own)[::10]

    for name in ("training_pairs", "held_out_pairs"):
        monkeypatch.setattr(animals, name, thinned(getattr(animals, name)))
    monkeypatch.setattr(toy, "LAYERWISE", FEW_HEADS)
    name, measured = next(iter(toy.toy_part(tmp_path).items()))
    found = {numbers.TOY: {"provenance": {}, name: measured()}}
    own = found[numbers.TOY][name]
    both = [own[label]["values"][-1] for label in (toy.FEW, toy.MANY)]
    assert own["difference"]["values"][-1] == pytest.approx(both[0] - both[1], abs=2e-5)
    (_, row) = TABLES["ideas"](found)
    assert row[:2] == [f"demo world, {name}", str(own["answers"])]


def test_weights_that_are_trained_on_move_with_the_steps():
    model = tiny_model("llama", "transformers")
    one, three = (copies.trained_on(steps, 2e-5, model).raw for steps in (1, 3))
    moved = [
        sum(
            float((a - b).abs().sum())
            for a, b in zip(own.parameters(), model.raw.parameters(), strict=True)
        )
        for own in (one, three)
    ]
    assert 0 < moved[0] < moved[1]


def test_copies_differ_as_they_say(short):
    model = tiny_model("llama", "transformers")
    rounded = [copies.rounded_to(bits, model).raw.parameters() for bits in (8, 4)]
    for (name, own), eight, four in zip(model.raw.named_parameters(), *rounded, strict=True):
        if own.ndim == 2 and "layers" in name:
            step = own.abs().amax(dim=1, keepdim=True)
            assert (own - eight).abs().le(step / 127 / 2 + 1e-7).all()
            assert (own - four).abs().le(step / 7 / 2 + 1e-7).all()
            assert not torch.equal(own, eight)
        else:
            assert torch.equal(own, eight)


def test_rank_correlations_by_hand():
    def instruction(rmse, trait, at_one=(50.0, 40.0, 45.0)):
        methods_ = dict(zip(agreement.EVERY_LAYER, trait, strict=False))
        rows = {
            name: {
                "test": {score: [own, own, own] for score in judged.SCORES},
                "dev": [{"alpha": 0.5, "trait": 0.0}, {"alpha": 1.0, "trait": one}],
            }
            for (name, own), one in zip(methods_.items(), at_one, strict=True)
        }
        curves = {n: {"values": [0.0, r]} for n, r in zip(methods_, rmse, strict=True)}
        scores = {score: [50.0] * 3 for score in judged.SCORES}
        prompt = {"means": {"prompt": scores, "prompt, dev": {"trait": [60.0] * 3}}}
        return {
            "distances": {"relative_rmse": curves},
            "behaviour": {"methods": rows},
            "prompt": prompt,
        }

    found = agreement.rank_correlations(
        {
            "french": instruction([0.9, 0.5, 0.2], [10.0, 20.0, 45.0]),
            "german": instruction([0.2, 0.5, 0.9], [10.0, 20.0, 45.0]),
        }
    )
    mean, each = found["trait"]
    assert each == pytest.approx({"french": 1.0, "german": -1.0})
    assert mean[0] == pytest.approx(0.0)
    assert set(found) == set(agreement.LIKENESS)
    # Nearest to 60 at strength 1: the first, then the third, then the second.
    _, each = found["the same at strength 1, dev questions"]
    assert each == pytest.approx({"french": -0.5, "german": 0.5})


def test_an_instruction_without_any_trait_has_no_rank_correlation():
    alike = {"test": dict.fromkeys(judged.SCORES, [0.0] * 3), "dev": [{"alpha": 1.0, "trait": 0.0}]}
    kinds = ("prompt", "prompt, dev")
    own = {
        "distances": {
            "relative_rmse": {n: {"values": [r]} for n, r in (("PSR", 0.2), ("LoReFT", 0.4))}
        },
        "behaviour": {"methods": {"PSR": alike, "LoReFT": alike}},
        "prompt": {"means": dict.fromkeys(kinds, dict.fromkeys(judged.SCORES, [0.0] * 3))},
    }
    assert agreement.rank_correlations({"poem": own}) == {}
    assert len(TABLES["agreement"]({"poem": own})) == 1
