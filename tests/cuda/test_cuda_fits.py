"""Fits on CUDA: each method's tensors are there, as faithful as the CPU's, and files go both ways."""

import pytest
import torch

import psr_lens as pl
from psr_lens.deltas import example_batches
from psr_lens.fitting.errors import relative_rmse
from psr_lens.steering import ConstantSteering, OracleSteering
from tests.cuda.placed import (
    DEMO_CASES,
    DEVICE,
    ONE,
    Case,
    demo_data,
    needs_device,
    same_place,
)

pytestmark = needs_device

EXACT_DEMO_CASES = tuple(case for case in DEMO_CASES if case.dtype == "float32")
BRIEF = {"epochs": 2}
FITS = {
    "dim": {"method": "dim"},
    "pca": {"method": "pca"},
    "projection": {"method": "projection"},
    "actadd": {"method": "actadd"},
    "ablation": {"method": "ablation"},
    "oracle rank 2": {"method": "oracle", "rank": 2},
    "const layerwise": {"method": "const", "solver": "layerwise"},
    "const mse": {"method": "const", "solver": "gradient", **BRIEF},
    "const ll": {"method": "const", "objective": "ll", "solver": "gradient", **BRIEF},
    "psr layerwise": {"solver": "layerwise"},
    "psr best layer": {"solver": "layerwise", "layers": "best"},
    "psr wide": {"solver": "layerwise", "layers": 3, "n_heads": 24},
    "psr refine": {"solver": "refine", **BRIEF},
    "psr gradient": {"solver": "gradient", **BRIEF},
    "psr auto ll": {"objective": "ll", **BRIEF},
    "psr paper": {"solver": "gradient", "recipe": "paper", **BRIEF},
    "psr question": {"solver": "layerwise", "tokens": "question+response"},
    "psr on disk": {"solver": "layerwise", "max_memory": 0},
    "loreft": {"method": "loreft", **BRIEF},
    "reft_r1 mse": {"method": "reft_r1", "objective": "mse", "layers": 3, **BRIEF},
    "reft_r1 ll": {"method": "reft_r1", "layers": 3, **BRIEF},
}
CLOSE_TO_EACH_OTHER = 0.01
"""How far relative RMSEs may be apart, of two fits that round differently: training and the choice of heads
make more of a difference than the difference was."""

every_fit = pytest.mark.parametrize("name", FITS)
# Training that never got better than its start, on so little, is not what this is about.
quiet = pytest.mark.filterwarnings("ignore:training:UserWarning")


def fitted(case: Case, device: str, name: str):
    return pl.fit(case.on(device), demo_data(), **FITS[name])


def reached(case: Case, device: str, steering) -> float:
    """Relative RMSE at the last layer, on the test examples."""
    data, tokens = demo_data().test, steering.tokens
    aligned = "response" if tokens == "all" else tokens
    return relative_rmse(case.on(device), [steering], data, aligned, 32)[0][-1]


@pytest.fixture(scope="module")
def fits():
    """One case's fits on the device, made once."""
    made = {}

    def get(case, name):
        if (str(case), name) not in made:
            made[str(case), name] = fitted(case, DEVICE, name)
        return made[str(case), name]

    return get


@quiet
@every_fit
def test_a_fit_is_on_the_models_device_and_as_faithful_as_the_cpus(fits, name):
    found, wanted = fits(ONE, name), fitted(ONE, "cpu", name)
    check_tensors(found)
    assert len(found.fit_report.losses) == len(wanted.fit_report.losses)
    # Measured in the same place, so that fits are compared and not measurements.
    errors = [reached(ONE, "cpu", own) for own in (found, wanted)]
    assert errors[0] == pytest.approx(errors[1], rel=CLOSE_TO_EACH_OTHER, abs=CLOSE_TO_EACH_OTHER)
    # And the measurement there says the same.
    assert reached(ONE, DEVICE, found) == pytest.approx(errors[0], rel=1e-4, abs=1e-4)


@quiet
@pytest.mark.parametrize("case", [own for own in DEMO_CASES if own != ONE], ids=str)
@pytest.mark.parametrize("name", ["dim", "psr layerwise", "psr gradient", "const ll", "loreft"])
def test_fits_on_other_backends_and_in_bfloat16(fits, case, name):
    found, exact = fits(case, name), fits(ONE, name)
    check_tensors(found)
    errors = [reached(ONE, "cpu", own) for own in (found, exact)]
    # The residual streams that a fit sees in bfloat16 are rounded at 4e-3.
    close = {"float32": CLOSE_TO_EACH_OTHER, "bfloat16": 0.06}[case.dtype]
    assert abs(errors[0] - errors[1]) < close


def test_every_other_method_in_bfloat16_too(fits):
    case = Case("demo", ONE.backend, "bfloat16")
    for name in ("pca", "projection", "actadd", "ablation", "oracle rank 2", "psr wide"):
        check_tensors(fits(case, name))


def check_tensors(steering) -> None:
    """On the device, float32 whatever the model's number type, frozen and finite."""
    for own in steering.parameters():
        assert same_place(own.device)
        assert own.dtype == torch.float32
        assert not own.requires_grad
        assert bool(own.isfinite().all())
        # Not a start that nothing was done to.
        assert bool(own.any()) or steering.method == "loreft"


@quiet
@every_fit
def test_files_go_both_ways(fits, name, tmp_path):
    from_there = fits(ONE, name)
    from_there.save(tmp_path / "there")
    loaded = pl.load_steering(tmp_path / "there")
    assert {own.device.type for own in loaded.parameters()} <= {"cpu"}
    same_numbers(loaded, from_there)
    from_here = fitted(ONE, "cpu", name)
    from_here.save(tmp_path / "here")
    moved = pl.load_steering(tmp_path / "here").to(DEVICE)
    same_numbers(moved, from_here)
    for steering in (loaded, moved):
        errors = [reached(ONE, device, steering) for device in ("cpu", DEVICE)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-4, abs=1e-4)


def same_numbers(first, second) -> None:
    own, other = first.state_dict(), second.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name].cpu(), other[name].cpu()) for name in own)


@quiet
@pytest.mark.parametrize("name", ["psr gradient", "psr wide", "loreft", "reft_r1 ll", "const mse"])
def test_the_same_seed_gives_the_same_fit(fits, name):
    first = fits(ONE, name)
    torch.manual_seed(99)
    again = fitted(ONE, DEVICE, name)
    for key, own in first.state_dict().items():
        # Sums on a GPU need not come in the same order twice.
        torch.testing.assert_close(again.state_dict()[key], own, rtol=1e-3, atol=1e-4)


def test_another_seed_gives_another_start():
    first, other = (
        pl.fit(ONE.on(DEVICE), demo_data(), solver="gradient", epochs=1, seed=seed)
        for seed in (0, 1)
    )
    assert not torch.allclose(first.w, other.w, atol=1e-4)


def test_an_interrupted_fit_goes_on_from_its_checkpoint(tmp_path):
    """Stages, parameters and the optimiser's moments come back to where they were."""
    options = {"solver": "refine", "epochs": 2, "checkpoint": tmp_path}
    first = pl.fit(ONE.on(DEVICE), demo_data(), **options)
    again = pl.fit(ONE.on(DEVICE), demo_data(), **options)
    check_tensors(again)
    same_numbers(first, again)
    assert again.fit_report.losses == first.fit_report.losses


def test_a_checkpoint_of_the_first_epoch_is_resumed(tmp_path, monkeypatch):
    from psr_lens.fitting.fit_checkpoint import FitCheckpoint

    model, data = ONE.on(DEVICE), demo_data()
    options = {"solver": "gradient", "epochs": 2}
    whole = pl.fit(model, data, **options)
    save = FitCheckpoint.save_training

    def stop(self, name, state):
        save(self, name, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FitCheckpoint, "save_training", stop)
        with pytest.raises(KeyboardInterrupt):
            pl.fit(model, data, checkpoint=tmp_path, **options)
    resumed = pl.fit(model, data, checkpoint=tmp_path, **options)
    check_tensors(resumed)
    for key, own in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], own, rtol=1e-3, atol=1e-4)


def test_fits_that_share_runs_are_the_fits_without():
    model, data, runs = ONE.on(DEVICE), demo_data(), pl.FitRuns()
    for options in ({"method": "dim"}, {"solver": "layerwise"}, {"method": "loreft", "epochs": 1}):
        shared, alone = (pl.fit(model, data, runs=own, **options) for own in (runs, None))
        for key, own in alone.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[key], own, rtol=1e-3, atol=1e-4)


def test_an_oracle_along_a_fit(fits):
    for name in ("dim", "psr layerwise"):
        own = fits(ONE, name)
        for steering in (own, own.at(own.layers).cpu()):
            along = OracleSteering.along(steering)
            # With perfect coefficients, the same directions come nearer to the prompt.
            assert reached(ONE, DEVICE, along) < reached(ONE, DEVICE, own)


@pytest.mark.parametrize("case", EXACT_DEMO_CASES, ids=str)
def test_a_vector_of_ones_own_in_any_form(case):
    """From a list, from NumPy and from a tensor on the device: the same steering."""
    model = case.on(DEVICE)
    base, _ = example_batches(model, demo_data()[:3])
    vector = torch.linspace(-1, 1, model.d_model)
    found = []
    for own in (vector.tolist(), vector.numpy(), vector.to(DEVICE)):
        steering = ConstantSteering.from_vector(own, layer=2)
        with torch.no_grad(), steering.applied(model, alpha=0.5):
            found.append(model.logits(base))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
