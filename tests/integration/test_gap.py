"""The parts of a steering's error add up to it, whatever the steering, the model and the tokens."""

import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import aligned_residuals, example_batches, local_deltas
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.faithfulness.measures import PARTS
from psr_lens.responses import make_example, sample_responses
from psr_lens.steering import ConstantSteering, OracleSteering, Steering
from tests.tiny import FAMILIES
from tests.tiny_models import BACKENDS, CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import KINDS, made_up

QUESTIONS = ("tell me a story", "what is a whale", "why")


def examples(model):
    pairs = [instructed(model, q, "always be very kind and short") for q in QUESTIONS]
    return list(sample_responses(model, pairs, max_new_tokens=6, seed=0, progress=False))


def lean(model, steerings, data, **options):
    """The gap split and nothing that it does not need."""
    return measure_faithfulness(
        model,
        steerings,
        data,
        **{"outputs": False, "random_direction": False, "oracle_ranks": (), "n_bootstrap": 0}
        | options,
    )


def check_sum(report):
    for name in report.steerings:
        sums = report.runs[name].sums
        total = sum(sums[part] for part in PARTS)
        torch.testing.assert_close(total, sums["missed"], rtol=1e-10, atol=1e-10)
        parts = [report.curve(name, f"gap_{part}").values for part in PARTS]
        squares = [value**2 for value in report.relative_rmse[name].values]
        assert [sum(layer) for layer in zip(*parts, strict=True)] == pytest.approx(
            squares, rel=1e-10, abs=1e-10
        )


@pytest.mark.parametrize("tokens", ["response", "question+response"])
@pytest.mark.parametrize("model", CORE_MODELS, ids="-".join)
def test_the_parts_add_up_for_every_kind_of_steering(model, tokens):
    model = tiny_model(*model, dtype="float64")
    kinds = {
        f"{kind} {own}": made_up(kind, model, own)
        for kind in KINDS
        for own in ("response", "question+response")
    }
    report = lean(model, kinds, examples(model), tokens=tokens, alpha=0.7)
    assert len(report.steerings) == 2 * len(KINDS)
    check_sum(report)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_add_up_on_every_family(family):
    model = tiny_model(family, BACKENDS[0], dtype="float64")
    check_sum(lean(model, {"psr": made_up("psr", model)}, examples(model)))


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return examples(model)


def part(report, name, cause, layer):
    return report.curve(name, f"gap_{cause}").values[layer]


def test_a_steering_that_does_nothing_is_uncovered_below_and_a_wrong_strength_within(model, data):
    """A constant of 0 at layer 1: at layer 0 nothing acts, so all of the error is uncovered."""
    vector = torch.zeros(1, model.d_model).double()
    report = lean(model, {"none": ConstantSteering(vector, (1,))}, data)
    assert report.relative_rmse["none"].values == pytest.approx([1.0] * model.n_layers)
    assert part(report, "none", "uncovered", 0) == pytest.approx(1.0)
    for cause in ("coefficient", "direction", "propagation"):
        assert part(report, "none", cause, 0) == pytest.approx(0.0, abs=1e-12)


def test_layer_0_is_recomputed_from_the_deltas(model, data):
    """At layer 0 nothing comes from below: the two errors are an orthogonal split of `z - D`."""
    z = torch.ones(1, model.d_model).double()
    z[0, ::3] = -0.5
    report = lean(model, {"v": ConstantSteering(z, (0,))}, data)
    unit = z[0] / z.norm()
    along = outside = energy = 0.0
    for deltas in collect_deltas(model, data):
        delta = deltas.accumulated[0]
        along += float((z.norm() - delta @ unit).square().sum())
        outside += float((delta - (delta @ unit)[:, None] * unit).square().sum())
        energy += float(delta.square().sum())
    assert part(report, "v", "coefficient", 0) == pytest.approx(along / energy, rel=1e-9)
    assert part(report, "v", "direction", 0) == pytest.approx(outside / energy, rel=1e-9)
    assert part(report, "v", "uncovered", 0) == 0.0


def test_the_parts_are_those_of_the_unrolled_sum(model, data):
    """One example, with every residual stream kept: the vectors written out as defined."""
    one = data[:1]
    steering = made_up("psr", model)
    report = lean(model, {"psr": steering}, one)
    base, steered = example_batches(model, one)
    plain, target = (aligned_residuals(model, batch, "response") for batch in (base, steered))
    local = local_deltas(model, base, target, "response")
    acted = aligned_residuals(model, base, "response", steering.edits(model))
    # The stream in front of a push is what the same steering gives without its push there.
    fronts = []
    for layer in range(model.n_layers):
        edits = {k: edit for k, edit in steering.edits(model).items() if k != layer}
        fronts.append(aligned_residuals(model, base, "response", edits)[layer])
    sums = {cause: torch.zeros_like(target[0]) for cause in PARTS}
    error = torch.zeros_like(target[0])
    for layer, front in enumerate(fronts):
        push = acted[layer] - front
        if layer in steering.layers:
            basis = torch.linalg.qr(steering.span(layer).mT).Q
            inside = local[layer] @ basis @ basis.mT
            sums["coefficient"] += push - inside
            sums["direction"] -= local[layer] - inside
        else:
            sums["uncovered"] -= local[layer]
        sums["propagation"] += front - (target[layer] - local[layer]) - error
        error = acted[layer] - target[layer]
        energy = float((target[layer] - plain[layer]).square().sum())
        for cause in PARTS:
            expected = float((sums[cause] * error).sum()) / energy
            assert part(report, "psr", cause, layer) == pytest.approx(expected, abs=1e-9)


def test_perfect_coefficients_leave_no_coefficient_error_where_they_are_first_used(model, data):
    psr = made_up("psr", model)
    along = OracleSteering.along(psr)
    report = lean(model, {"psr": psr, "along": along}, data)
    lowest = psr.layers[0]
    assert part(report, "along", "direction", 0) == 0.0
    # The error that is left there is orthogonal to the directions, hence the smallest one can get.
    assert (
        report.relative_rmse["along"].values[lowest] <= report.relative_rmse["psr"].values[lowest]
    )


def test_the_full_oracle_has_no_error_to_split(model, data):
    report = lean(model, {"full": OracleSteering(range(model.n_layers))}, data)
    for cause in PARTS:
        assert report.curve("full", f"gap_{cause}").values == pytest.approx(
            [0.0] * model.n_layers, abs=1e-15
        )


def test_question_tokens_are_uncovered_by_a_steering_of_the_response(model, data):
    z = torch.ones(model.n_layers, model.d_model).double()
    steering = ConstantSteering(z, range(model.n_layers))
    narrow = lean(model, {"v": steering}, data, tokens="response")
    wide = lean(model, {"v": steering}, data, tokens="question+response")
    assert part(narrow, "v", "uncovered", model.n_layers - 1) == 0.0
    assert wide.runs["v"].sums["uncovered"].abs().sum() > 0


class _OnlyTurns(Steering):
    """Pushes along what it reads and names no directions."""

    method = "turns"

    def update(self, layer, resid, columns=None):
        return 0.3 * resid.roll(1, dims=-1)


def test_without_named_directions_the_push_is_the_direction(model, data):
    report = lean(model, {"turns": _OnlyTurns(range(model.n_layers))}, data)
    check_sum(report)
    coefficient = outside = energy = 0.0
    base, steered = example_batches(model, data)
    plain, target = (aligned_residuals(model, batch, "response")[0] for batch in (base, steered))
    for resid, delta in zip(plain, target - plain, strict=True):
        push = 0.3 * resid.roll(1)
        unit = push / push.norm()
        coefficient += float((push.norm() - delta @ unit) ** 2)
        outside += float((delta - (delta @ unit) * unit).square().sum())
        energy += float(delta.square().sum())
    assert part(report, "turns", "coefficient", 0) == pytest.approx(coefficient / energy)
    assert part(report, "turns", "direction", 0) == pytest.approx(outside / energy)


def test_the_batch_size_does_not_matter(model, data):
    steerings = {kind: made_up(kind, model) for kind in ("psr", "actadd", "sum")}
    one, all_ = (lean(model, steerings, data, batch_size=size) for size in (1, 8))
    for name in steerings:
        for cause in PARTS:
            torch.testing.assert_close(
                one.runs[name].sums[cause], all_.runs[name].sums[cause], rtol=1e-6, atol=1e-8
            )


def test_an_empty_response_has_one_token(model):
    pair = instructed(model, "why", "always be very kind")
    data = [make_example(model, pair, (), True), make_example(model, pair, (5, 6, 7), False)]
    report = lean(model, {"psr": made_up("psr", model)}, data, outputs=True)
    check_sum(report)
    assert report.runs["psr"].sums["predicted"].tolist() == [1.0, 3.0]
