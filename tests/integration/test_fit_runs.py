"""Fits that share their runs find what they find alone, to the last bit, with fewer runs."""

import sys

import pytest
import torch

from psr_lens import FitRuns, compare, fit, fit_best
from psr_lens.prompt_effect import PromptEffect
from tests import by_hand
from tests.tiny_models import CORE_MODELS, tiny_model

FITS = {
    "dim": {"method": "dim"},
    "pca": {"method": "pca"},
    "projection": {"method": "projection", "layers": "best"},
    "psr": {"method": "psr", "solver": "layerwise"},
    "psr, 2 heads": {"method": "psr", "solver": "layerwise", "n_heads": 2},
    "psr, refined": {"method": "psr", "solver": "refine", "epochs": 2},
    "psr, some layers": {"method": "psr", "solver": "layerwise", "layers": (1, 2)},
    "const": {"method": "const", "solver": "gradient", "epochs": 2},
    "const, ll": {"method": "const", "solver": "gradient", "objective": "ll", "epochs": 2},
    "const, one layer": {"method": "const", "solver": "gradient", "layers": 1, "epochs": 2},
    "psr on questions": {"method": "psr", "solver": "layerwise", "tokens": "question+response"},
}


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return by_hand.animal_examples(model)


@pytest.fixture(scope="module")
def alone(model, data):
    return {name: fit(model, data, **options) for name, options in FITS.items()}


def same(ours, theirs):
    tensors = theirs.state_dict()
    assert ours.layers == theirs.layers
    assert all(torch.equal(own, tensors[name]) for name, own in ours.state_dict().items())
    assert ours.fit_report.dev_relative_rmse == theirs.fit_report.dev_relative_rmse
    return True


@pytest.mark.parametrize("order", [1, -1])
def test_shared_runs_change_no_fit(model, data, alone, order):
    runs = FitRuns()
    for name, options in list(FITS.items())[::order]:
        assert same(fit(model, data, runs=runs, **options), alone[name])


def test_the_prompt_is_run_by_the_first_fit_alone(llama, its_data):
    runs = FitRuns()
    first, second = (
        fit(llama, its_data, runs=runs, **FITS[name]).fit_report for name in ("psr", "psr, 2 heads")
    )
    prompted = len(its_data.train) + len(its_data.dev)
    assert second.forwards == pytest.approx(first.forwards - prompted)
    refined = fit(llama, its_data, runs=runs, **FITS["psr, refined"]).fit_report
    trained = fit(llama, its_data, runs=runs, **FITS["const"]).fit_report
    alone = fit(llama, its_data, **FITS["const"]).fit_report
    # Neither base nor prompted runs, of training and dev examples, nor of dev examples for the distance.
    spared = 2 * prompted + 2 * len(its_data.dev)
    assert trained.forwards == pytest.approx(alone.forwards - spared)
    assert refined.forwards > trained.forwards


def test_a_fit_layer_by_layer_is_what_refining_and_auto_begin_with(llama, its_data):
    runs = FitRuns()
    psr = {"method": "psr", "runs": runs}
    # So that what training needs is there for both that follow.
    fit(llama, its_data, runs=runs, **FITS["const"])
    layerwise = fit(llama, its_data, **psr, solver="layerwise")
    refined = fit(llama, its_data, **psr, solver="refine", epochs=2)
    from_elsewhere = fit(llama, its_data, **psr, solver="refine", epochs=2, n_heads=2)
    spared = from_elsewhere.fit_report.forwards - refined.fit_report.forwards
    assert spared >= len(its_data.train) + len(its_data.dev)
    assert refined.fit_report.stages == layerwise.fit_report.stages
    again = fit(llama, its_data, **psr, solver="layerwise")
    assert again is not layerwise
    assert again.fit_report.forwards == 0
    assert same(again, layerwise)


def test_other_options_examples_and_places_are_fitted_layer_by_layer_anew(llama, its_data):
    runs = FitRuns()
    fit(llama, its_data, runs=runs, **FITS["psr"])
    fewer = its_data.filter(lambda example: example is not its_data.train[0])
    for data, own in (
        (its_data, {"n_heads": 2}),
        (its_data, {"layers": (1, 2)}),
        (its_data, {"layers": "best"}),
        (its_data, {"tokens": "question+response"}),
        (its_data, {"hook_point": "resid_mid"}),
        (its_data, {"precision": torch.float32}),
        (fewer, {}),
    ):
        options = {**FITS["psr"], **own}
        assert same(fit(llama, data, runs=runs, **options), fit(llama, data, **options))


def test_a_checkpoint_holds_the_layers_that_another_fit_had_already(llama, its_data, tmp_path):
    runs = FitRuns()
    first = fit(llama, its_data, runs=runs, **FITS["psr"])
    fit(llama, its_data, runs=runs, checkpoint=tmp_path, **FITS["psr"])
    assert same(fit(llama, its_data, checkpoint=tmp_path, **FITS["psr"]), first)
    assert len(list(tmp_path.glob("*.safetensors"))) == llama.n_layers


def test_what_would_take_too_much_is_not_kept(llama, its_data):
    runs = FitRuns(max_memory=1)
    first, second = (fit(llama, its_data, runs=runs, **FITS["psr"]) for _ in range(2))
    assert same(first, second)
    assert first.fit_report.forwards == second.fit_report.forwards
    with pytest.raises(ValueError, match="max_memory=-1"):
        FitRuns(-1)


def test_all_kinds_together_take_no_more_than_they_may(llama, its_data):
    tokens = sum(e.aligned_length("response") for e in its_data.train)
    room = 8 * tokens * llama.n_layers * llama.d_model
    runs = FitRuns(room)
    for name in ("psr", "const", "dim"):
        fit(llama, its_data, runs=runs, **FITS[name])
    assert 0 < sum(kept.size for kept in runs._kept.values()) <= room
    assert not runs.has_room(room)


def test_a_limit_on_memory_keeps_nothing_of_all_layers(llama, its_data):
    runs = FitRuns()
    fit(llama, its_data, runs=runs, max_memory=10**9, **FITS["psr"])
    assert not any("prompted run" in what for what in runs._kept)


def test_other_examples_and_another_model_are_run_anew(llama, its_data):
    runs = FitRuns()
    fit(llama, its_data, runs=runs, **FITS["psr"])
    fewer = its_data.filter(lambda example: example is not its_data.train[0])
    assert same(fit(llama, fewer, runs=runs, **FITS["psr"]), fit(llama, fewer, **FITS["psr"]))
    other = tiny_model(*CORE_MODELS[0], dtype="float32")
    changed = by_hand.animal_examples(other)
    assert same(fit(other, changed, runs=runs, **FITS["psr"]), fit(other, changed, **FITS["psr"]))


@pytest.mark.parametrize("name", ["psr", "const"])
@pytest.mark.parametrize("passes", [1, 4, 9])
def test_an_interrupted_fit_leaves_nothing_half_done(llama, its_data, name, passes, monkeypatch):
    """Wherever it stops, also between two batches of one block."""
    runs, left = FitRuns(), [passes]
    options = {**FITS[name], "batch_size": 2}
    original = llama._running

    def running(columns):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(columns)

    with monkeypatch.context() as inside:
        # So that all passes are those of the solver.
        inside.setattr(
            sys.modules["psr_lens.fitting.fit"],
            "measure_prompt_effect",
            lambda *own, **options: PromptEffect(1.0, 1),
        )
        inside.setattr(llama, "_running", running)
        with pytest.raises(KeyboardInterrupt):
            fit(llama, its_data, runs=runs, **options)
    assert name == "const" or runs._kept
    assert same(fit(llama, its_data, runs=runs, **options), fit(llama, its_data, **options))


def test_settings_share_theirs_and_methods_that_are_compared_do_not(llama, its_data, monkeypatch):
    seen = []
    once = FitRuns.once

    def watched(runs, *args):
        seen.append(runs)
        return once(runs, *args)

    monkeypatch.setattr(FitRuns, "once", watched)
    fit_best(llama, its_data, method="dim")
    assert len(seen) > 1
    assert len(set(map(id, seen))) == 1
    seen.clear()
    # Or the first would bear the costs of all.
    compare(llama, its_data, ["dim", "projection"])
    assert len(set(map(id, seen))) == 2
