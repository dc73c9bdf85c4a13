"""The assumption tests on models: against plain recomputation, in pieces, and at the edges."""

import gc
from dataclasses import replace

import pandas as pd
import pytest
import torch

import psr_lens as pl
from psr_lens.assumptions import Thresholds, measure_assumptions, stream
from psr_lens.assumptions.probe import fit_probes
from psr_lens.assumptions.token_classes import TOKEN_CLASSES, classify_tokens
from psr_lens.dataset import SteeringDataset, split_examples
from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.fitting.forwards import counting_forwards
from psr_lens.prompts import PromptPair
from psr_lens.responses import sample_responses
from tests.demo_examples import demo_model, fit_data, held_out_data
from tests.tiny_models import CORE_MODELS, instructed, tiny_model

KINDS = ("accumulated", "local")


def sampled(model, count=12, new_tokens=10):
    pairs = [
        instructed(model, f"tell me about animal {i}", "always be very kind and short")
        for i in range(count)
    ]
    return sample_responses(model, pairs, max_new_tokens=new_tokens, seed=0, progress=False)


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return sampled(model)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def report(model, data, kind):
    return measure_assumptions(model, data, kind=kind, n_bootstrap=100)


def deltas_of(model, data, kind, tokens="response"):
    """All deltas at once, `[layer, token, d_model]`, the tokens of each example apart."""
    return [getattr(one, kind) for one in collect_deltas(model, data, tokens=tokens)]


def reads_of(model, data, kind):
    """`A(xy')`, or `A(x'y') - D_loc`, one example at a time."""
    found = []
    for example, local in zip(data, deltas_of(model, data, "local"), strict=True):
        base, steered = example_batches(model, [example])
        read = aligned_residuals(model, base, "response")
        found.append(
            read if kind == "accumulated" else aligned_residuals(model, steered, "response") - local
        )
    return found


def leading(deltas):
    """The leading right singular vector, on the side of the mean."""
    z = torch.linalg.svd(deltas, full_matrices=False)[2][0]
    return z if deltas.sum(dim=0) @ z >= 0 else -z


def test_shares_are_those_of_the_singular_values(model, data, report):
    for kind in KINDS:
        whole = torch.cat(deltas_of(model, data, kind), dim=1)
        for layer in range(model.n_layers):
            energies = torch.linalg.svdvals(whole[layer]).square()
            shares = (energies.cumsum(0) / energies.sum()).tolist()
            for at in (1, 2, 4, 8):
                found = report.curve("energy_share", kind=kind, at=at)
                assert found.values[layer] == pytest.approx(shares[at - 1], rel=1e-9)
                assert found.low[layer] <= found.values[layer] <= found.high[layer]
            third = report.curve("singular_energy", kind=kind, at=3).values[layer]
            assert third == pytest.approx(float(energies[2] / energies.sum()), rel=1e-8)


def test_strengths_are_projections_on_the_leading_direction(model, data, kind, report):
    whole = torch.cat(deltas_of(model, data, kind), dim=1)
    classes = classify_tokens(model.encoder, data, "response")
    energy = whole.square().sum(dim=(1, 2))
    for layer in range(model.n_layers):
        c = whole[layer] @ leading(whole[layer])
        norms = whole[layer].norm(dim=-1)
        mean = whole[layer].mean(dim=0).square().sum() * len(c) / energy[layer]
        expected = {
            ("strength_variation", 0): c.std(correction=0) / c.mean(),
            ("mean_energy_share", 0): mean,
            ("mean_strength", 0): c.mean(),
            ("strength_quantile", 5): c.quantile(0.05),
            ("strength_quantile", 50): c.median() if len(c) % 2 else c.quantile(0.5),
            ("norm_quantile", 1): norms.quantile(0.01),
            ("norm_quantile", 90): norms.quantile(0.9),
        }
        for (name, at), value in expected.items():
            found = report.curve(name, at=at).values[layer]
            assert found == pytest.approx(float(value), rel=1e-7), name
        for number, name in enumerate(TOKEN_CLASSES):
            own = classes == number
            if not own.any():
                assert name not in report.token_classes
                continue
            share = float(norms[own].square().sum() / energy[layer])
            curve = report.curve("class_energy_share", token_class=name)
            assert curve.values[layer] == pytest.approx(share, rel=1e-9)
            strength = report.curve("mean_strength", token_class=name).values[layer]
            assert strength == pytest.approx(float(c[own].mean()), rel=1e-7)
    assert sum(
        report.curve("tokens", token_class=n).values[0] for n in report.token_classes
    ) == len(classes)


def test_probes_are_fitted_on_one_half_and_tested_on_the_other(model, data, kind, report):
    whole = torch.cat(deltas_of(model, data, kind), dim=1)
    reads = reads_of(model, data, kind)
    deltas = deltas_of(model, data, kind)
    side = split_examples(data, (0.5, 0.0, 0.5), 0)
    sides = [[i for i, e in enumerate(data) if side[e.pair.group] == s] for s in ("train", "test")]
    assert report.probe_examples == len(sides[0])
    assert report.held_out_examples == len(sides[1])
    inner = split_examples([data[i] for i in sides[0]], (0.75, 0.25, 0.0), 0)
    lengths = torch.tensor([data[i].aligned_length("response") for i in sides[0]])
    dev = torch.tensor([inner[data[i].pair.group] == "dev" for i in sides[0]])
    for layer in range(model.n_layers):
        z = leading(whole[layer])
        x, c = (
            [torch.cat([own[i][layer] for i in part]) for part in sides] for own in (reads, deltas)
        )
        probes = fit_probes(x[0], c[0] @ z, dev.repeat_interleave(lengths))
        held_out = c[1] @ z
        spread = (held_out - held_out.mean()).square().sum()
        for name, probe in zip(("relu_r2", "linear_r2"), probes, strict=True):
            expected = 1 - float((held_out - probe(x[1])).square().sum() / spread)
            assert report.curve(name).values[layer] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_batch_size_does_not_matter(model, data, kind, report):
    alone = measure_assumptions(model, data, kind=kind, n_bootstrap=100, batch_size=1)
    for one, other in zip(report.measures, alone.measures, strict=True):
        tolerance = 1e-3 if one.name.endswith("r2") else 1e-5
        for end in ("value", "low", "high"):
            assert getattr(other.estimate, end) == pytest.approx(
                getattr(one.estimate, end), rel=tolerance, abs=tolerance, nan_ok=True
            ), one


def test_the_same_seed_gives_the_same_report(model, data):
    small = {"n_bootstrap": 20, "layers": [1], "max_probe_tokens": 40}
    one, again, other = (
        measure_assumptions(model, data, seed=seed, **small).to_dataframe() for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(one, again, check_exact=True)
    assert not one.equals(other)
    shares = one.name == "energy_share"
    assert one[shares].value.tolist() == other[shares].value.tolist()


def test_some_layers_are_the_same_as_in_all(model, data, report):
    last = model.n_layers - 1
    part = measure_assumptions(model, data, kind=report.kind, layers=-1, n_bootstrap=100)
    assert part.layers == (last,)
    whole = report.to_dataframe()
    whole = whole[whole.layer == last].reset_index(drop=True)
    columns = ["value", "low", "high"]
    exact = ~whole.name.str.endswith("r2")
    pd.testing.assert_frame_equal(part.to_dataframe()[exact][columns], whole[exact][columns])


def test_a_report_comes_back_from_disk(report, tmp_path):
    loaded = pl.AssumptionReport.load(report.save(tmp_path / "report"))
    pd.testing.assert_frame_equal(loaded.to_dataframe(), report.to_dataframe(), check_exact=True)
    assert replace(loaded, measures=()) == replace(report, measures=())
    assert loaded.summary() == report.summary()


def test_data_for_the_probes_of_its_own(model, data):
    half = len(data) // 2
    found = measure_assumptions(model, data[half:], probe_data=data[:half], n_bootstrap=20)
    assert (found.probe_examples, found.held_out_examples) == (half, len(data) - half)
    assert found.provenance["probe_data"]["examples"] == half
    assert all(value < 1 for value in found.curve("relu_r2").values)


def test_data_with_room_in_memory_is_run_once(model, data, kind, monkeypatch):
    half = len(data) // 2
    fit_on, test_on = data[:half], data[half:]
    found = []
    # Both kinds, and what the probes are fitted on; without room the examples again, and held out.
    for room, passes in ((None, 3 + 2), (0, 3 + 2 + 3 + 2)):
        if room is not None:
            monkeypatch.setattr(stream, "MOST_KEPT", room)
        with counting_forwards(model) as count:
            own = measure_assumptions(
                model, test_on, probe_data=fit_on, kind=kind, batch_size=4, n_bootstrap=20
            )
        found.append(own.to_dataframe())
        of_prompt_effect = 2 * 4
        assert count.sequences == pytest.approx(passes * half + of_prompt_effect)
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_examples_of_one_prompt_are_resampled_together(model, data):
    """With every example there twice, shares are the same, and so are their intervals."""
    half = len(data) // 2
    once, twice = (
        measure_assumptions(model, own, probe_data=data[:half], n_bootstrap=20)
        for own in (data[half:], [*data[half:], *data[half:]])
    )
    assert (once.examples, once.n_prompts) == (len(data) - half,) * 2
    assert (twice.examples, twice.n_prompts) == (2 * once.examples, once.n_prompts)
    for name, at in (
        ("energy_share", 1),
        ("mean_energy_share", 0),
        ("strength_variation", 0),
        ("relu_r2", 0),
        ("linear_r2", 0),
    ):
        found, expected = twice.curve(name, at=at), once.curve(name, at=at)
        assert found.values == pytest.approx(expected.values, rel=1e-6)
        assert found.low == pytest.approx(expected.low, rel=1e-6)
        assert found.high == pytest.approx(expected.high, rel=1e-6)
        assert all(own.has_interval for own in found.estimates)
    few = measure_assumptions(model, [*data[:3], *data[:3]], layers=[0], n_bootstrap=20)
    assert "\n3 prompts are too few for intervals, which need 5" in few.summary()
    assert not few.curve("energy_share", at=1).estimates[0].has_interval


def test_question_and_response(model, data):
    found = measure_assumptions(
        model, data, tokens="question+response", kind="accumulated", n_bootstrap=0
    )
    whole = torch.cat(deltas_of(model, data, "accumulated", "question+response"), dim=1)
    assert found.token_classes[0] == "question"
    asked = sum(example.question_length - 1 for example in data)
    assert found.curve("tokens", token_class="question").values[0] == asked > 0
    share = float(whole[1].mean(dim=0).square().sum() / whole[1].square().sum(dim=-1).mean())
    assert found.curve("mean_energy_share").values[1] == pytest.approx(share)


def test_one_example(model, data):
    found = measure_assumptions(model, data[:1], n_bootstrap=10)
    curve = found.curve("energy_share", at=1)
    assert all(0 < value <= 1 for value in curve.values)
    assert all(end != end for end in (*curve.low, *curve.high))
    assert found.verdicts("one direction") == ("open",) * model.n_layers
    assert found.held_out_examples == 0
    assert all(value != value for value in found.curve("relu_r2").values)
    assert found.verdicts("decodable") == ("open",) * model.n_layers
    assert "no example could be held out" in found.summary()
    # Three lines, and no bands.
    assert len(found.plot().data) == 3


# --- refusals -----------------------------------------------------------------------------------


def test_bad_input_is_refused(model, data):
    def refused(message, examples=data, **options):
        with pytest.raises(ValueError, match=message) as error:
            measure_assumptions(model, examples, **options)
        assert "\n" not in str(error.value)

    refused("no example to measure on", data[:0])
    refused("seed=-1", seed=-1)
    refused("n_bootstrap=-1", n_bootstrap=-1)
    refused("max_probe_tokens=0", max_probe_tokens=0)
    refused("batch_size=0", batch_size=0)
    refused(r"layers=\[99\] but the model has", layers=[99])
    refused("probe_data is empty", probe_data=data[:0])
    refused(f"3 of the {len(data)} examples are in probe_data too", probe_data=data[:3])
    same = [PromptPair(e.pair.prompted, e.pair.prompted, "a b") for e in data]
    refused("every example are equal", sample_responses(model, same, progress=False))


# --- the demo model, where the answer is known ---------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return demo_model()


@pytest.fixture(scope="module")
def shouting(demo):
    train, test = fit_data(demo, "shouter", 0), held_out_data(demo, "shouter", 1)
    return test, measure_assumptions(demo, test, probe_data=train, n_bootstrap=200)


def test_shouting_is_one_direction_in_the_middle_and_never_even(shouting):
    _, report = shouting
    assert report.verdicts("one direction")[2:4] == ("holds", "holds")
    assert report.verdicts("one direction")[0] == "breaks"
    assert set(report.verdicts("same strength")) == {"breaks"}
    assert report.verdicts("decodable").count("holds") >= 5
    words = report.summary()
    assert "3.2 The same strength at every token" in words
    assert "Layer 3: 1 direction holds 9" in words
    assert repr(report).count("\n") == 0


def test_float32_agrees_with_plain_sums(demo, shouting):
    data, report = shouting
    whole = torch.cat(deltas_of(demo, data, "local"), dim=1).double()
    for layer in range(demo.n_layers):
        energies = torch.linalg.svdvals(whole[layer]).square()
        share = float(energies[0] / energies.sum())
        assert report.curve("energy_share", at=1).values[layer] == pytest.approx(share, rel=1e-5)


def test_verdicts_follow_the_thresholds(shouting):
    _, report = shouting
    easy = replace(report, thresholds=Thresholds(0.1, 10.0, 0.1))
    for assumption in ("one direction", "same strength", "decodable"):
        assert set(easy.verdicts(assumption)) == {"holds"}
    curve = report.curve("energy_share", at=1)
    middle = replace(report, thresholds=Thresholds(one_direction=curve.values[4]))
    assert middle.verdicts("one direction")[4] == "open"
    with pytest.raises(ValueError, match=r"it has \(kind, token class, at\)"):
        report.curve("energy_share", at=3)
    with pytest.raises(ValueError, match="it measures"):
        report.curve("nonsense")


def test_memory_does_not_grow_with_the_data(demo, shouting):
    """At every model run, what is alive in tensors: a few numbers for each layer and token are all.

    Without room for deltas, which are kept where there is some.
    """
    data, _ = shouting
    short = [replace(example, response_ids=example.response_ids[:8]) for example in data]

    def alive(examples):
        peak, run = 0, demo.run

        def counting(*arguments):
            nonlocal peak
            # What was there before is frozen, so this sees the measurement's own tensors only.
            storages = {
                own.untyped_storage().data_ptr(): own.untyped_storage().nbytes()
                for own in gc.get_objects()
                if type(own) is torch.Tensor
            }
            peak = max(peak, sum(storages.values()))
            run(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "run", counting)
            patch.setattr(stream, "MOST_KEPT", 0)
            gc.collect()
            gc.freeze()
            measure_assumptions(
                demo, examples, batch_size=20, n_bootstrap=0, layers=[0, 3], max_probe_tokens=64
            )
        gc.unfreeze()
        assert peak > 500_000
        return peak

    once, sixfold = alive(short), alive(short * 6)
    grown = sum(e.aligned_length("response") for e in short * 5)
    # Norm and strength in float32 at two layers, and indices in int64 for every token.
    assert sixfold - once < grown * (2 * 2 * 4 + 4 * 8) + 300_000
    assert grown * demo.d_model * 4 > 500_000, "one layer's deltas would not be noticed"


def test_the_report_shows_itself(shouting):
    _, report = shouting
    bundle = report._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.plotly.v1+json"} == bundle.keys()
    assert bundle["text/plain"] == report.summary()
    frame = report.to_dataframe()
    assert len(frame) == len(report.measures)
    assert set(frame.kind) == set(KINDS)
    assert not frame.duplicated(["name", "kind", "layer", "token_class", "at"]).any()


def test_a_whole_data_set_is_measured_whatever_its_split(demo, shouting):
    data, _ = shouting
    assert isinstance(data, SteeringDataset)
    assert len(data.test) == len(data)
    found = measure_assumptions(demo, data, layers=0, n_bootstrap=0)
    assert found.examples == len(data)
    assert found.probe_examples + found.held_out_examples == len(data)
