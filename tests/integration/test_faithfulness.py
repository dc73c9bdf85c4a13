"""The measures read right on cases whose answer is known."""

import math

import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import fit
from psr_lens.models.shared import aligned_rest
from psr_lens.prompts import PromptPair
from psr_lens.responses import sample_responses
from psr_lens.steering import PSR, ConstantSteering, OracleSteering
from tests.tiny_models import CORE_MODELS, instructed, tiny_model


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [
        instructed(
            model,
            f"tell me about animal {i}",
            "always be very kind and short",
            paraphrases=["be short and kind"],
        )
        for i in range(10)
    ]
    return sample_responses(model, pairs, max_new_tokens=8, seed=0, progress=False)


@pytest.fixture(scope="module")
def steerings(model, data):
    return [
        fit(model, data, method="psr", solver="layerwise"),
        fit(model, data, method="dim", layers=1),
    ]


def test_no_steering_is_one_and_the_oracle_is_zero(model, data):
    nothing = ConstantSteering(torch.zeros(1, model.d_model).double(), (0,))
    report = measure_faithfulness(model, {"nothing": nothing}, data.test)
    assert report.relative_rmse["nothing"].values == pytest.approx([1.0] * model.n_layers)
    assert report.reference["no steering"].values == (1.0,) * model.n_layers
    assert max(report.reference["oracle"].values) < 1e-10


def test_half_of_the_oracle_is_half_way_at_the_first_layer(model, data):
    half = measure_faithfulness(model, [OracleSteering([0])], data.test, alpha=0.5)
    assert half.relative_rmse["oracle, layer 0"].values[0] == pytest.approx(0.5)


def test_relative_rmse_is_the_formula_over_all_tokens(model, data):
    """Recomputed from single examples, without the streaming sums."""
    vector = fit(model, data, method="dim", layers=0)
    report = measure_faithfulness(model, {"v": vector}, data.test)
    missed = energy = 0.0
    for deltas in collect_deltas(model, data.test):
        missed += float((deltas.accumulated[0] - vector.vectors[0]).square().sum())
        energy += float(deltas.accumulated[0].square().sum())
    assert report.relative_rmse["v"].values[0] == pytest.approx(math.sqrt(missed / energy))


def test_batch_size_and_company_do_not_matter(model, data, steerings):
    together = measure_faithfulness(model, steerings, data.test, batch_size=1)
    alone = measure_faithfulness(model, steerings[:1], data.test, batch_size=64)
    assert together.relative_rmse["PSR, all layers"].values == pytest.approx(
        alone.relative_rmse["PSR, all layers"].values, rel=1e-5
    )
    assert list(together.relative_rmse) == ["PSR, all layers", "difference in means, layer 1"]


@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_runs_of_the_aligned_tokens_alone_change_no_number(
    model, data, steerings, tokens, monkeypatch
):
    named = {"PSR": steerings[0], "dim": steerings[1]}
    monkeypatch.setattr("psr_lens.models.shared.WORTH_SHARING", 1)
    options = {"tokens": tokens, "oracle_ranks": (2,), "token_examples": 2}
    with monkeypatch.context() as inside:
        inside.setattr(type(model), "can_share", False)
        whole = measure_faithfulness(model, named, data.test, **options)
    seen = []
    monkeypatch.setattr(
        "psr_lens.faithfulness.recording.aligned_rest",
        lambda *own: seen.append(aligned_rest(*own)) or seen[-1],
    )
    short = measure_faithfulness(model, named, data.test, **options)
    assert seen
    assert all((rest.prefix is not None) == model.can_share for rest in seen)
    assert list(short.runs) == list(whole.runs)
    for name, run in whole.runs.items():
        for key, own in run.sums.items():
            torch.testing.assert_close(
                short.runs[name].sums[key], own, rtol=1e-5, atol=1e-7, msg=f"{name}, {key}"
            )


@pytest.mark.parametrize("acts_on", ["response", "question+response", "all"])
def test_where_no_head_fires_the_effect_is_zero_and_no_rounding(model, data, acts_on, monkeypatch):
    monkeypatch.setattr("psr_lens.models.shared.WORTH_SHARING", 1)
    shape = (model.n_layers, 1, model.d_model)
    silent = PSR(
        torch.zeros(shape).double(),
        -torch.ones(shape[:2]).double(),
        torch.ones(shape).double(),
        range(model.n_layers),
        tokens=acts_on,
    )
    report = measure_faithfulness(model, {"silent": silent}, data.test, batch_size=2)
    sums = report.runs["silent"].sums
    assert not sums["pushed"].any()
    assert not sums["moved_tokens"].any()


def test_an_equal_paraphrase_is_at_zero(model, data):
    pairs = [
        PromptPair(e.pair.base, e.pair.prompted, "a kind answer", paraphrases=[e.pair.prompted])
        for e in data
    ]
    same = sample_responses(model, pairs, progress=False)
    report = measure_faithfulness(model, {}, same)
    assert report.reference["paraphrase"].values == (0.0,) * model.n_layers


def test_intervals_hold_the_value_and_follow_the_seed(model, data, steerings):
    lean = {"allow_seen": True, "oracle_ranks": (), "random_direction": False}
    report = measure_faithfulness(model, steerings, data[:5], seed=1, **lean)
    again = measure_faithfulness(model, steerings, data[:5], seed=1, **lean)
    other = measure_faithfulness(model, steerings, data[:5], seed=2, **lean)
    curve = report.relative_rmse["PSR, all layers"]
    for low, value, high in zip(curve.low, curve.values, curve.high, strict=True):
        assert low <= value <= high
    assert again.relative_rmse == report.relative_rmse
    assert other.relative_rmse["PSR, all layers"].values == curve.values


def test_two_prompts_have_no_interval(model, data, steerings):
    """One from so few would look like certainty."""
    report = measure_faithfulness(model, steerings, data.test)
    curve = report.relative_rmse["PSR, all layers"]
    assert all(map(math.isfinite, curve.values))
    assert all(map(math.isnan, (*curve.low, *curve.high)))
    assert not any(report.difference("PSR, all layers", "difference in means, layer 1").clear)
    assert "\n2 prompts are too few for intervals, which need 5: no diff" in report.summary()


def test_examples_of_the_fit_are_refused(model, data, steerings):
    with pytest.raises(
        ValueError, match=r"PSR, all layers was fitted on \d+ of these \d+ examples"
    ):
        measure_faithfulness(model, steerings, data)
    seen = measure_faithfulness(model, steerings, data.train, allow_seen=True)
    assert seen.examples == len(data.train)


def test_nothing_to_measure_is_refused(model, data, steerings):
    with pytest.raises(ValueError, match="no example"):
        measure_faithfulness(model, steerings, data.test[:0])
    same = [PromptPair(e.pair.prompted, e.pair.prompted, "a b") for e in data]
    with pytest.raises(ValueError, match="every example are equal"):
        measure_faithfulness(model, {}, sample_responses(model, same, progress=False))


def test_the_report_shows_itself(model, data, steerings):
    report = measure_faithfulness(model, steerings, data.test)
    frame = report.to_dataframe()
    rmse = frame[frame.measure == "relative_rmse"]
    assert len(rmse) == model.n_layers * 8
    references = {"no steering", "paraphrase", "random direction", "oracle"}
    assert set(frame[frame.reference].steering) == references | {"oracle rank 1", "oracle rank 4"}
    assert set(frame[~frame.reference].steering) == {
        "PSR, all layers",
        "difference in means, layer 1",
    }
    bundle = report._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.plotly.v1+json"} == bundle.keys()
    assert "PSR, all layers" in report.summary()
    assert "PSR, all layers" in bundle["text/html"]
    assert report.plot().data
    assert repr(report) == (
        "FaithfulnessReport(PSR, all layers; difference in means, layer 1; "
        f"{len(data.test)} examples, {model.n_layers} layers, response tokens)"
    )
