"""Measurements, sampled answers and judges on CUDA, against the same ones on the CPU.

In float32 both devices sample the same answers, so that what is made of them is the same too. In bfloat16
answers part sooner or later; means over few of them are then only near each other.
"""

import pytest
import torch

import psr_lens as pl
from psr_lens.demo.exact_judge import ExactJudge
from tests.cuda.placed import DEMO_CASES, DEVICE, ONE, TRAIT, Case, demo_data, needs_device
from tests.tiny_steerings import made_up

pytestmark = needs_device

every_demo_case = pytest.mark.parametrize("case", DEMO_CASES, ids=str)
SAID = {"max_new_tokens": 24, "seed": 3}
MOVED = {"float32": 1e-3, "bfloat16": 0.08}
"""How far a relative RMSE, a cosine or a share of agreement may be apart."""


@pytest.fixture(scope="module")
def steering():
    """Fitted on the CPU; where a model is, it acts there."""
    return pl.fit(ONE.on("cpu"), demo_data(), solver="layerwise")


def on_both(case: Case, measure):
    """The same measurement there and here."""
    return measure(case.on(DEVICE)), measure(case.on("cpu"))


@every_demo_case
def test_faithfulness(case, steering):
    found, wanted = on_both(
        case, lambda model: pl.measure_faithfulness(model, {"mine": steering}, demo_data().test)
    )
    close = MOVED[case.dtype]
    curves = {**wanted.relative_rmse, **wanted.reference}
    assert {"mine", "paraphrase", "random direction", "oracle", "oracle rank 4"} <= curves.keys()
    for name in curves:
        for measure in ("relative_rmse", "cosine", "agreement", "relative_kl"):
            own, other = found.curve(name, measure).values, wanted.curve(name, measure).values
            assert len(own) == len(other) > 0
            # Where nothing moves there is no direction, on either device.
            torch.testing.assert_close(
                torch.tensor(list(own)),
                torch.tensor(list(other)),
                rtol=close,
                atol=close,
                equal_nan=True,
            )
    if case.dtype == "float32":
        assert found.curve("oracle").values[-1] < 1e-4


@every_demo_case
def test_divergence(case, steering):
    found, wanted = on_both(
        case,
        lambda model: pl.measure_divergence(model, {"mine": steering}, demo_data().test, **SAID),
    )
    close = {"float32": 1e-3, "bfloat16": 0.1}[case.dtype]
    for name in ("mine", "no steering"):
        own, other = (report.estimate(name, "agreement").value for report in (found, wanted))
        assert own == pytest.approx(other, abs=close)
        # Along the prompted model's answers; nats of whole answers would be coarser.
        own, other = (report.estimate(name, "kl", "prompt").value for report in (found, wanted))
        assert own == pytest.approx(other, abs=5 * close, rel=5 * close)


@every_demo_case
def test_behaviour(case, steering):
    options = {"start": (1.0,), "most_evaluations": 2, "max_new_tokens": 64, "seed": 3}
    found, wanted = on_both(
        case,
        lambda model: pl.measure_behaviour(
            model, {"mine": steering}, demo_data(), ExactJudge(TRAIT), **options
        ),
    )
    # Six answers: one that parts from the CPU's moves the mean by up to a sixth of 100.
    close = {"float32": 0.01, "bfloat16": 35.0}[case.dtype]
    for name, alpha in (("mine", 1.0), ("the prompt", None), ("no steering", None)):
        own, other = (
            report.estimate(_only(report, name, alpha)).value for report in (found, wanted)
        )
        assert own == pytest.approx(other, abs=close)
    assert found.estimate(_only(found, "the prompt", None)).value > 50
    assert found.estimate(_only(found, "no steering", None)).value < 20


def _only(report, name, alpha):
    return report.run(name) if alpha is None else report.run(name, alpha, "dev")


@every_demo_case
def test_sampled_data_sets(case):
    """Reproducible with the seed; in float32 to the same answers as on the CPU."""
    pairs = [example.pair for example in demo_data()[:8]]

    def sampled(device, seed=3):
        torch.manual_seed(seed + 50)
        options = {"max_new_tokens": 24, "seed": seed, "progress": False}
        data = pl.sample_responses(case.on(device), pairs, **options)
        return [example.response_ids for example in data]

    there = sampled(DEVICE)
    assert sampled(DEVICE) == there
    assert sampled(DEVICE, seed=4) != there
    if case.dtype == "float32":
        assert there == sampled("cpu")


def test_measurements_with_random_parts_are_reproducible(steering):
    model = ONE.on(DEVICE)
    reports = []
    for seed in (0, 0, 1):
        torch.manual_seed(99 + len(reports))
        reports.append(
            pl.measure_faithfulness(model, {"mine": steering}, demo_data().test, seed=seed)
        )
    first, again, other = (own.curve("random direction").values for own in reports)
    torch.testing.assert_close(torch.tensor(list(first)), torch.tensor(list(again)))
    assert list(first) != list(other)


MEASURES = {
    "coefficients": lambda m, s, d: s.coefficients(m, d.test),
    "components": lambda m, s, d: pl.measure_components(m, d.test),
    "assumptions": lambda m, s, d: pl.measure_assumptions(m, d, layers=[1, 3]),
    "lens of a steering": lambda m, s, d: pl.read_steering(m, s),
    "lens of a delta": lambda m, s, d: pl.read_delta(m, pl.collect_deltas(m, d.test)[0], 2, -1),
    "logit lens": lambda m, s, d: pl.logit_lens(m, s.z[0].detach()),
    "oracle ranks": lambda m, s, d: pl.measure_faithfulness(
        m, s, d.test, tokens="question+response", oracle_ranks=(2,)
    ),
    "strength": lambda m, s, d: pl.find_strength(
        m, s, d.dev, ExactJudge(TRAIT), start=(1.0,), most_evaluations=2, **SAID
    ),
    "negatives": lambda m, s, d: pl.fit(
        m, pl.add_negatives(m, d, max_new_tokens=8), method="reft_r1", layers=2, epochs=1
    ),
    "transfer": lambda m, s, d: pl.transfer(s, m, m, [e.base_ids for e in d], penalty=1e-2),
}


@pytest.mark.filterwarnings("ignore:training:UserWarning")
@pytest.mark.parametrize("name", MEASURES)
@every_demo_case
def test_what_else_runs_there(case, steering, name):
    """Their numbers are tested on the CPU; here, that no tensor is elsewhere, wherever the steering is."""
    model = case.on(DEVICE)
    for own in (steering, made_up("psr", model).to(DEVICE)):
        assert MEASURES[name](model, own, demo_data()) is not None
