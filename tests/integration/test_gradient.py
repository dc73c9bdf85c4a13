"""The gradient solver: what it caches is what a whole run gives, and it stops, resumes and adapts."""

from dataclasses import replace

import pytest
import torch

from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.fitting import DEFAULT, PAPER, fit
from psr_lens.fitting.errors import relative_rmse
from psr_lens.fitting.gradient import Objective, Trained
from psr_lens.fitting.prepared import prepare, scale_of
from psr_lens.responses import sample_responses
from psr_lens.steering import PSR, ConstantSteering, LoReFT, ReFTr1
from psr_lens.steering.training import Start
from psr_lens.storage import read_container, write_container
from tests.tiny_models import CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import content

PLAIN = replace(PAPER["mse"], batch_size=4)


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    questions = [f"tell me {'more ' * (i % 3)}about animal {i}" for i in range(12)]
    pairs = [instructed(model, q, "always be very kind and short") for q in questions]
    return sample_responses(model, pairs, max_new_tokens=8, seed=0, progress=False)


def start(method, model, layers, tokens="response", **options):
    given = Start(
        layers=layers,
        d_model=model.d_model,
        tokens=tokens,
        seed=3,
        standardised=False,
        contrast=lambda: torch.ones(len(layers), model.d_model),
    )
    return method.start(given, method.Options(**options)).double()


def trained_psr(model, layers, tokens="response"):
    return Trained(start(PSR, model, layers, tokens, n_heads=2), None)


def nothing_to_read_off(watcher):
    raise AssertionError("these methods read nothing off the examples")


@pytest.mark.parametrize("tokens", ["response", "question+response"])
@pytest.mark.parametrize("layers", [(0, 1, 2), (1,), (2,), (0, 2)])
def test_the_loss_is_that_of_whole_runs(model, data, layers, tokens):
    """Prefixes from the cache, no layer below the first, against a plain pass under the steering."""
    examples = list(data[:5])
    trained = trained_psr(model, layers, tokens)
    prepared = prepare(model, examples, layers[0], tokens)
    problem = Objective(model, prepared, layers[0], "mse", PLAIN)
    found = float(problem.loss(range(5), trained).detach())
    base, steered = example_batches(model, examples)
    target = aligned_residuals(model, steered, tokens)
    acted = aligned_residuals(model, base, tokens, trained.steering.edits(model))
    expected = sum(
        float((acted[k] - target[k]).square().mean()) for k in range(layers[0], model.n_layers)
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_likelihood_is_that_of_whole_runs(model, data):
    examples = list(data[:5])
    trained = trained_psr(model, (0, 1, 2))
    prepared = prepare(model, examples, 0, "response")
    problem = Objective(model, prepared, 0, "ll", PLAIN)
    found = float(problem.loss(range(5), trained).detach())
    ends = sorted(model.encoder.end_token_ids)
    total, count = 0.0, 0
    with trained.steering.applied(model), torch.no_grad():
        for example in examples:
            logp = model.logits(model.pad([example.base_row]))[0].float().log_softmax(-1)
            start = len(example.base_ids) - 1
            for i, token in enumerate(example.response_ids):
                total, count = total - float(logp[start + i, token]), count + 1
            if example.finished:
                total, count = total - float(logp[-1, ends].logsumexp(-1)), count + 1
    assert found == pytest.approx(total / count, rel=1e-5)


def test_the_gradient_is_that_of_the_loss(model, data):
    examples = list(data[:3])
    prepared = prepare(model, examples, 0, "response")
    problem = Objective(model, prepared, 0, "mse", PLAIN)
    trained = trained_psr(model, (0, 1, 2))
    # Alive whatever the token, so that the step of a finite difference crosses no kink.
    with torch.no_grad():
        trained.parameters["b"] += 20
    problem.loss(range(3), trained).backward()
    for value in trained.parameters.values():
        place = tuple(
            int(i) for i in (value.grad == value.grad.abs().max()).nonzero()[:1].flatten()
        )
        if not place:
            place = tuple(int(i) for i in (value.grad == -value.grad.abs().max()).nonzero()[0])
        step = 1e-3 * max(1.0, float(value[place].detach().abs()))
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                value[place] += sign * step
                losses.append(float(problem.loss(range(3), trained)))
                value[place] -= sign * step
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert float(value.grad[place]) == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "options"), [(PSR, {"n_heads": 2}), (ConstantSteering, {}), (LoReFT, {"rank": 2})]
)
def test_units_change_the_coordinates_and_not_the_steering(model, data, method, options):
    layers = (0, 1, 2)
    scale = scale_of(prepare(model, list(data.train), 0, "response"), model, layers)
    plain = start(method, model, layers, **options)
    plain = plain.with_tensors(
        {
            name: own if name == "rotation" else own + torch.randn_like(own)
            for name, own in plain.state_dict().items()
        }
    )
    scaled = plain.rescaled(scale)
    resid = torch.randn(4, model.d_model).double()
    for row, layer in enumerate(layers):
        standardised = (resid - scale.mean[row]) / scale.std[row]
        found = scale.size[row] * scaled.update(layer, standardised)
        assert torch.allclose(found, plain.update(layer, resid), rtol=1e-9, atol=1e-12)
    back = Trained(scaled, scale, model.d_model).finished(nothing_to_read_off)
    for name, tensor in plain.state_dict().items():
        # The start was drawn in float32, in which a rotation is orthonormal to so many digits.
        assert torch.allclose(tensor, back.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_live_learns_and_auto_is_no_worse_than_either(model, data):
    live = fit(model, data, solver="gradient", recipe=replace(DEFAULT, patience=0, epochs=60))
    assert min(live.fit_report.losses) < 0.9 * live.fit_report.losses[0]
    replayed = fit(model, data, solver="layerwise")
    auto = fit(model, data, solver="auto")
    report = auto.fit_report
    # What is kept is the best that the dev split has seen, the replayed start included.
    tried = dict(report.tried)
    assert set(tried) == {"layerwise", "gradient", "layerwise, then gradient"}
    assert min(report.dev_losses) == min(tried.values()) == tried[report.solver]
    alone = fit(model, data, solver="gradient")
    assert tried["gradient"] == min(alone.fit_report.dev_losses)
    assert min(report.dev_losses) <= min(alone.fit_report.dev_losses)
    dev = data.dev
    errors = relative_rmse(model, [auto, replayed], dev, "response", 8)
    tokens = sum(own * own for own in errors[0]), sum(own * own for own in errors[1])
    assert tokens[0] <= tokens[1] * 1.05
    assert report.dev_relative_rmse == pytest.approx(errors[0], rel=1e-6)


@pytest.mark.parametrize("method", ["psr", "const", "loreft", "reft_r1"])
def test_the_likelihood_objective_falls(model, data, method):
    steering = fit(model, data, method=method, objective="ll", solver="gradient", epochs=8)
    report = steering.fit_report
    assert report.objective == "ll"
    assert min(report.dev_losses[1:]) < report.dev_losses[0] or (
        report.losses[-1] < report.losses[0]
    )


def test_loreft_stays_orthonormal_and_reft_keeps_norm_1(model, data):
    loreft = fit(model, data, method="loreft", rank=3, epochs=4)
    assert isinstance(loreft, LoReFT)
    gram = loreft.rotation @ loreft.rotation.mT
    assert float((gram - torch.eye(3)).abs().max()) < 1e-6
    assert loreft.fit_report.losses[-1] < loreft.fit_report.losses[0]
    reft = fit(model, data, method="reft_r1", layers=1, epochs=3)
    assert isinstance(reft, ReFTr1)
    assert torch.allclose(reft.w.norm(dim=-1), torch.ones(1).to(reft.w))
    assert float(reft.strength) >= 0


def test_the_papers_recipe(model, data):
    steering = fit(model, data, solver="gradient", recipe="paper", epochs=3)
    batches = -(-steering.fit_report.examples // PAPER["mse"].batch_size)
    assert len(steering.fit_report.losses) == 3 * batches
    # Trained at any length, kept at 1.
    assert torch.allclose(steering.z.norm(dim=-1), torch.ones(1).to(steering.z))
    assert (PAPER["mse"].epochs, PAPER["ll"].epochs) == (15, 7)
    assert (PAPER["mse"].lr, PAPER["mse"].weight_decay) == (1e-3, 1e-6)
    assert PAPER["mse"].shuffle_seed == 123


def test_dead_relus_are_felt(model, data):
    """A head that never fires gets no gradient, but the objective says so."""
    prepared = prepare(model, list(data[:4]), 0, "response")
    trained = trained_psr(model, (0, 1, 2))
    with torch.no_grad():
        trained.parameters["b"].fill_(-1e4)
    recipe = replace(PLAIN, regulariser=0.1)
    with torch.no_grad():
        with_penalty = float(Objective(model, prepared, 0, "mse", recipe).loss(range(4), trained))
        without = float(Objective(model, prepared, 0, "mse", PLAIN).loss(range(4), trained))
    assert with_penalty - without == pytest.approx(0.1 * 3, rel=1e-9)


def test_normalised_loss_without_steering_is_one(model, data):
    prepared = prepare(model, list(data[:4]), 1, "response")
    nothing = Trained(start(ConstantSteering, model, (1,)), None)
    recipe = replace(PLAIN, normalise=True)
    problem = Objective(model, prepared, 1, "mse", recipe)
    assert float(problem.loss(range(4), nothing).detach()) == pytest.approx(1.0, rel=1e-6)


def test_negatives_push_the_other_way(model, data):
    """Examples at strength -1 of the mirrored problem give the mirrored vector."""
    positive = fit(model, data, method="const", layers=1, solver="layerwise")
    flipped = data.weighted([0.0] * len(data), offset=-1.0)
    negative = fit(model, flipped, method="const", layers=1, solver="layerwise")
    assert torch.allclose(negative.vectors, -positive.vectors, rtol=1e-9)
    live, mirrored = (
        fit(model, own, method="const", layers=1, solver="gradient", epochs=8, lr=0.1)
        for own in (data, flipped)
    )
    assert float(live.vectors.norm()) > 0
    assert torch.allclose(mirrored.vectors, -live.vectors, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="1 scores for"):
        data.weighted([1.0])


# --- interrupted fits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "at"),
    [("gradient", ("gradient", 1)), ("auto", ("refining", 3)), ("auto", ("gradient", 2))],
    ids=str,
)
def test_an_interrupted_fit_goes_on_bit_for_bit(model, data, tmp_path, monkeypatch, solver, at):
    from psr_lens.fitting import fit_checkpoint

    options = {"solver": solver, "epochs": 5, "recipe": replace(DEFAULT, patience=0)}
    whole = fit(model, data, **options)
    saved = fit_checkpoint.FitCheckpoint.save_training

    def interrupted(self, run, state):
        saved(self, run, state)
        if (run, state.epoch) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit_checkpoint.FitCheckpoint, "save_training", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, checkpoint=tmp_path, **options)
    monkeypatch.setattr(fit_checkpoint.FitCheckpoint, "save_training", saved)
    resumed = fit(model, data, checkpoint=tmp_path, **options)
    assert resumed.fit_report.losses == whole.fit_report.losses
    saved = (resumed.save(tmp_path / "r" / "a"), whole.save(tmp_path / "r" / "b"))
    assert content(saved[0]) == content(saved[1])


@pytest.mark.parametrize(
    ("solver", "run"), [("gradient", "epoch-gradient"), ("layerwise", "stage-0001")]
)
def test_a_checkpoint_with_other_tensors_is_refused(model, data, tmp_path, solver, run):
    """With a right checksum: whoever wrote it, it is not what this fit keeps."""
    options = {"method": "const", "layers": 1, "solver": solver, "checkpoint": tmp_path}
    options |= {"epochs": 1} if solver == "gradient" else {}
    fit(model, data, **options)
    was, header = read_container(tmp_path / run, "checkpoint")
    name = next(name for name in was if name == "steering.vectors" or name.startswith("now."))
    for changed in (was[name][..., :-1], was[name][None], was[name].flatten().repeat(2)):
        write_container(tmp_path / run, "checkpoint", {**was, name: changed}, header)
        with pytest.raises(ValueError, match="the checkpoint holds other tensors"):
            fit(model, data, **options)
    write_container(tmp_path / run, "checkpoint", was, header)
    fit(model, data, **options)


def test_replay_resumes_at_its_stage(model, data, tmp_path, monkeypatch):
    from psr_lens.steering import psr

    whole = fit(model, data, solver="layerwise")
    solve, solved = psr.fit_heads, []

    def once(*args, **options):
        if solved:
            raise KeyboardInterrupt
        solved.append(1)
        return solve(*args, **options)

    monkeypatch.setattr(psr, "fit_heads", once)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, solver="layerwise", checkpoint=tmp_path / "c")
    monkeypatch.setattr(psr, "fit_heads", solve)
    resumed = fit(model, data, solver="layerwise", checkpoint=tmp_path / "c")
    assert content(resumed.save(tmp_path / "a")) == content(whole.save(tmp_path / "b"))
    with pytest.raises(ValueError, match="of another fit"):
        fit(model, data, solver="layerwise", n_heads=2, checkpoint=tmp_path / "c")


def test_live_alone_is_kept_where_it_is_better(model, data):
    """A replayed start that has no steps left loses against a long live run."""
    from psr_lens.fitting import solve

    class Idle(solve.Training):
        def train(self, name, start):
            steering, state = super().train(name, start)
            if name == "refining":
                worse = tuple(10 + loss for loss in state.dev_losses)
                state = replace(state, dev_losses=worse)
            return steering, state

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(solve, "Training", Idle)
        found = fit(model, data, solver="auto", epochs=3)
    alone = fit(model, data, solver="gradient", epochs=3)
    assert found.fit_report.solver == "gradient"
    assert torch.equal(found.z, alone.z)
    assert torch.equal(found.w, alone.w)


# --- replay on disk -----------------------------------------------------------------------------


def test_past_the_memory_limit_replay_uses_the_disk_and_gives_the_same(model, data):
    free = fit(model, data, solver="layerwise")
    tight = fit(model, data, solver="layerwise", max_memory=1000)
    for name, tensor in free.state_dict().items():
        assert torch.equal(tensor, tight.state_dict()[name])


@pytest.mark.parametrize(
    ("method", "layers", "tokens", "max_memory"),
    [
        ("psr", "all", "response", None),
        ("psr", [1], "question+response", None),
        ("const", [0, 2], "response", 1000),
    ],
)
def test_the_dev_errors_that_replay_comes_by_are_those_of_the_steering(
    model, data, method, layers, tokens, max_memory
):
    steering = fit(
        model,
        data,
        method=method,
        layers=layers,
        tokens=tokens,
        solver="layerwise",
        max_memory=max_memory,
    )
    found = relative_rmse(model, [steering], data.dev, tokens, 3)[0]
    assert len(found) == model.n_layers
    assert steering.fit_report.dev_relative_rmse == pytest.approx(found, rel=1e-5, abs=1e-6)
    assert found[max(steering.layers)] != pytest.approx(1, abs=1e-3)


def test_forwards_are_counted(model, data):
    report = fit(model, data, method="dim").fit_report
    # Base and prompted run of the training examples; base, prompted and steered of the dev ones.
    assert report.forwards == pytest.approx(2 * report.examples + 3 * report.dev_examples)
    report = fit(model, data, method="const", solver="layerwise").fit_report
    both = report.examples + report.dev_examples
    # The dev examples' run without pushes leaves the other one behind after the first block.
    plain = report.dev_examples * (1 - 1 / model.n_layers)
    assert report.forwards == pytest.approx(2 * both + plain)


def test_training_that_never_got_better_says_so(model, data):
    with pytest.warns(UserWarning, match="never made the dev objective better") as told:
        steering = fit(model, data, method="const", solver="gradient", lr=1e3, epochs=2)
    said = str(told[-1].message)
    assert "lr=1000)" in said
    assert "pass a smaller lr" in said
    assert steering.fit_report.warning.splitlines()[-1] == said
    # What is kept is the start, and that of a constant is no steering.
    assert not steering.vectors.any()
    never_trained = fit(model, data, method="const", solver="gradient", lr=1e3, epochs=0)
    assert said not in never_trained.fit_report.warning
