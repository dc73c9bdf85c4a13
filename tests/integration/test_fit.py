"""Fits: closed forms are what they say, stages see what came before, and nothing leaks."""

from dataclasses import replace

import pytest
import torch

from psr_lens.dataset import SteeringDataset
from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.fitting import fit
from psr_lens.models.batch import TokenRow
from psr_lens.responses import sample_responses
from psr_lens.steering import PSR, ConstantSteering, OracleSteering
from tests.tiny_models import CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import content

ZERO = ConstantSteering(torch.zeros(1, 4), (0,))


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    questions = [f"tell me about animal {i}" for i in range(12)]
    pairs = [instructed(model, q, "always be very kind and short") for q in questions]
    return sample_responses(model, pairs, max_new_tokens=8, seed=0, progress=False)


def stacked(model, data, tokens="response"):
    deltas = collect_deltas(model, data, tokens=tokens)
    return torch.cat([d.accumulated for d in deltas], dim=1)


@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_dim_is_the_mean_accumulated_delta(model, data, tokens):
    steering = fit(model, data, method="dim", tokens=tokens)
    means = stacked(model, data.train, tokens).mean(dim=1)
    assert steering.layers == tuple(range(model.n_layers))
    assert (steering.vectors - means).abs().max() < 1e-6 * means.abs().max()


def test_at_one_layer_dim_and_const_are_the_same(model, data):
    dim = fit(model, data, method="dim", layers=1)
    const = fit(model, data, method="const", solver="layerwise", layers=1)
    assert torch.allclose(dim.vectors, const.vectors, rtol=1e-9)


def test_const_adds_the_mean_of_what_is_still_missing(model, data):
    """After stage `l` the mean difference to the prompted run at layer `l` is zero."""
    steering = fit(model, data, method="const", solver="layerwise")
    base, steered = example_batches(model, list(data.train))
    target = aligned_residuals(model, steered, "response")
    found = aligned_residuals(model, base, "response", steering.edits(model))
    missing = (target - found).mean(dim=1).norm(dim=-1)
    plain = (target - aligned_residuals(model, base, "response")).mean(dim=1).norm(dim=-1)
    assert bool((missing < 1e-6 * plain).all())
    assert [stage.layer for stage in steering.fit_report.stages] == list(range(model.n_layers))


def test_stage_losses_are_those_of_a_run_under_the_steering(model, data):
    """What a stage reports is what a plain forward pass under the earlier stages leaves."""
    psr = fit(model, data, method="psr", solver="layerwise")
    base, steered = example_batches(model, list(data.train))
    target = aligned_residuals(model, steered, "response")
    for stage in psr.fit_report.stages:
        under = [row for row, layer in enumerate(psr.layers) if layer < stage.layer]
        below = PSR(psr.w[under], psr.b[under], psr.z[under], [psr.layers[row] for row in under])
        before = aligned_residuals(model, base, "response", below.edits(model))[stage.layer]
        after = aligned_residuals(model, base, "response", psr.edits(model))[stage.layer]
        goal = target[stage.layer]
        left = (after - goal).square().sum() / (before - goal).square().sum()
        assert float(left) == pytest.approx(stage.train_loss, rel=1e-3)


def test_psr_beats_the_constant_where_it_was_fitted(model, data):
    psr, const = (
        fit(model, data, method="psr", solver="layerwise"),
        fit(model, data, method="const", solver="layerwise"),
    )
    for a, b in zip(psr.fit_report.stages[:1], const.fit_report.stages[:1], strict=True):
        assert a.train_loss < b.train_loss


def test_batch_size_does_not_matter(model, data):
    one = fit(model, data, method="const", solver="layerwise", batch_size=1)
    many = fit(model, data, method="const", solver="layerwise", batch_size=64)
    assert (one.vectors - many.vectors).abs().max() < 1e-5 * many.vectors.abs().max()


def test_best_layer_is_the_best_on_the_dev_split(model, data):
    best = fit(model, data, method="psr", solver="layerwise", layers="best")
    errors = best.fit_report.candidates
    assert len(errors) == model.n_layers
    assert best.layers == (min(range(model.n_layers), key=lambda layer: errors[layer]),)
    # Fitted beside the others, it is what it would be alone.
    alone = fit(model, data, method="psr", solver="layerwise", layers=best.layers)
    assert torch.allclose(alone.w, best.w)
    assert torch.allclose(alone.z, best.z)


def test_some_layers(model, data):
    steering = fit(model, data, method="psr", solver="layerwise", layers=[2, 0], n_heads=2)
    assert steering.layers == (0, 2)
    assert steering.w.shape == (2, 2, model.d_model)


@pytest.mark.parametrize(
    "options", [{"solver": "layerwise", "n_heads": 2}, {"solver": "gradient", "epochs": 2}]
)
def test_the_order_of_the_examples_does_not_matter(model, data, options):
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1)).tolist()
    other = replace(data, examples=tuple(data.examples[i] for i in order))
    assert other.examples != data.examples
    one, two = (fit(model, own, method="psr", layers=[0, 1], **options) for own in (data, other))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    assert one.provenance == two.provenance
    assert one.fit_report.dev_relative_rmse == two.fit_report.dev_relative_rmse


def test_auto_chooses_the_heads_of_every_layer(model, data, tmp_path):
    options = {
        "method": "psr",
        "solver": "layerwise",
        "n_heads": "auto",
        "checkpoint": tmp_path / "c",
    }
    psr = fit(model, data, **options)
    used = [stage.heads for stage in psr.fit_report.stages]
    assert psr.w.shape[1] == max(1, *used) <= 16
    for count, z in zip(used, psr.z, strict=True):
        assert z[:count].norm(dim=-1).all()
        assert not z[count:].any()
    assert all(stage.penalty is not None for stage in psr.fit_report.stages)
    # From the files of the finished stages, the report too.
    again = fit(model, data, **options)
    assert again.fit_report.stages == psr.fit_report.stages
    assert torch.equal(again.z, psr.z)
    const = fit(model, data, method="const", solver="layerwise")
    assert {(stage.heads, stage.penalty) for stage in const.fit_report.stages} == {(None, None)}


def test_auto_heads_are_those_that_the_live_solver_gets(model, data):
    psr = fit(model, data, method="psr", layers=[0, 1], n_heads="auto", epochs=1)
    replayed = fit(model, data, method="psr", layers=[0, 1], n_heads="auto", solver="layerwise")
    assert psr.w.shape == replayed.w.shape


def test_auto_heads_need_dev_examples(model, data):
    one = data.train.filter(lambda example: example.pair.group == data.train[0].pair.group)
    with pytest.raises(ValueError, match="n_heads='auto' but there is no dev example"):
        fit(model, one, method="psr", n_heads="auto")


def test_same_seed_same_file(model, data, tmp_path):
    one, two = (
        fit(model, data, method="psr", solver="layerwise", seed=4).save(tmp_path / name)
        for name in ("one", "two")
    )
    assert content(one) == content(two)


def test_the_test_split_is_never_looked_at(model, data):
    """Garbage in the test examples changes nothing."""

    class Poisoned(type(data[0])):
        @property
        def base_row(self) -> TokenRow:
            raise AssertionError("a fit looked at a test example")

    poisoned = tuple(
        Poisoned(e.pair, e.base_ids, e.prompted_ids, e.response_ids)
        if data.split_of_group[e.pair.group] == "test"
        else e
        for e in data
    )
    steering = fit(
        model, SteeringDataset(poisoned, data.split_of_group, data.provenance), method="dim"
    )
    assert torch.equal(steering.vectors, fit(model, data, method="dim").vectors)
    keys = set(steering.provenance["data"]["example_keys"])
    assert not keys & {e.key for e in data.test}
    assert keys == {e.key for e in (*data.train, *data.dev)}


def test_without_a_dev_split_some_training_groups_serve(model, data):
    report = fit(model, data.train, method="dim").fit_report
    assert report.dev_examples > 0
    assert report.examples + report.dev_examples == len(data.train)


def test_provenance_names_everything(model, data):
    origin = fit(model, data, method="psr", solver="layerwise", seed=3).provenance
    assert origin["model"]["name"] == model.name
    assert origin["model"]["backend"] == model.backend
    assert origin["model"]["numerics"] == "unprocessed"
    assert origin["model"]["hook_point"] == "blocks.{layer}.hook_resid_post"
    assert origin["model"]["chat_template"] == model.encoder.template_hash
    assert origin["tokens"] == "response"
    assert origin["seed"] == 3
    assert origin["method"] == "psr"
    assert origin["data"]["sampling"]["responses_from"] == model.name
    assert {"psr_lens"} <= origin.keys()
    assert {"transformer_lens", "torch", "transformers", "revision"} <= origin["model"].keys()


def test_the_oracle_needs_no_fit(model, data):
    oracle = fit(model, data, method="oracle")
    assert isinstance(oracle, OracleSteering)
    assert oracle.layers == tuple(range(model.n_layers))


def test_bad_arguments_are_one_line(model, data):
    for options, message in [
        ({"method": "magic"}, "method='magic': choose one of ablation, actadd, const, dim"),
        ({"layers": [7]}, f"layers=[7] but the model has {model.n_layers} layers"),
        ({"method": "oracle", "layers": "best"}, "layers='best' has no meaning for oracle"),
        (
            {"method": "dim", "solver": "gradient"},
            "dim has a closed form: leave objective and solver",
        ),
        ({"method": "dim", "n_heads": 2}, "n_heads=2 with method='dim': only psr takes it"),
        ({"rank": 3}, "rank=3 with method='psr': only loreft and oracle take it"),
        (
            {"solver": "layerwise", "objective": "ll"},
            "the layerwise solver knows mse, for const and psr",
        ),
        (
            {"method": "loreft", "solver": "layerwise"},
            "the layerwise solver knows mse, for const and psr",
        ),
        ({"objective": "mae"}, "objective='mae': choose 'mse' or 'll'"),
        ({"solver": "magic"}, "solver='magic': choose 'auto', 'layerwise', 'refine' or 'gradient'"),
        ({"recipe": "soup"}, "recipe='soup': choose 'default', 'paper'"),
        (
            {"method": "psr", "n_heads": "auto", "solver": "gradient"},
            "n_heads='auto' with solver='gradient': the layerwise solver chooses the number",
        ),
        ({"method": "dim", "n_heads": "auto"}, "n_heads='auto' with method='dim': only psr"),
        ({"n_heads": 0}, "n_heads=0: pass a whole number of at least 1, or 'auto'"),
        ({"method": "dim", "epochs": 3}, "epochs=3 with method='dim'"),
        ({"solver": "layerwise", "lr": 0.1}, "only the gradient solver takes it"),
        ({"method": "pca", "recipe": "paper"}, "recipe='paper' with method='pca'"),
        ({"solver": "gradient", "precision": torch.float64}, "only the layerwise solver takes it"),
        ({"method": "oracle", "rank": 2, "along": ZERO}, "rank=2 and along="),
        (
            {"method": "oracle", "along": ZERO, "tokens": "question+response"},
            "tokens='question+response' but the steering",
        ),
        ({"method": "oracle", "along": ZERO, "layers": 1}, "layers=[1] but OracleSteering"),
    ]:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            fit(model, data, **options)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="nothing to fit on"):
        fit(model, data.test, method="dim")


def test_the_batch_size_of_a_fit_is_the_callers(model, data, monkeypatch):
    sizes = []
    pad = type(model).pad

    def counted(self, rows):
        # Single positions that are unembedded are no examples.
        if max(len(row.tokens) for row in rows) > 1:
            sizes.append(len(rows))
        return pad(self, rows)

    monkeypatch.setattr(type(model), "pad", counted)
    small = fit(model, data, method="psr", solver="layerwise", batch_size=2)
    assert max(sizes) == 2
    monkeypatch.undo()
    large = fit(model, data, method="psr", solver="layerwise", batch_size=64)
    for name, tensor in large.state_dict().items():
        assert torch.allclose(tensor, small.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_replay_regresses_in_the_precision_asked_for(monkeypatch):
    from psr_lens.steering import psr

    seen = set()
    solve = psr.fit_heads

    def watched(x, *args, **options):
        seen.add(x.dtype)
        return solve(x, *args, **options)

    monkeypatch.setattr(psr, "fit_heads", watched)
    narrow = tiny_model("llama", "bridge", dtype="float32")
    pairs = [instructed(narrow, f"tell me about animal {i}", "be very kind") for i in range(12)]
    data = sample_responses(narrow, pairs, max_new_tokens=8, seed=0, progress=False)
    kept = {}
    for precision in (None, torch.float64):
        seen.clear()
        steering = fit(narrow, data, method="psr", solver="layerwise", precision=precision)
        assert seen == {precision or torch.float32}
        kept[precision] = steering
    losses = [[stage.train_loss for stage in one.fit_report.stages] for one in kept.values()]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_an_oracle_along_a_steering_keeps_to_the_layers_asked_for(model, data):
    psr = fit(model, data, method="psr", solver="layerwise")
    whole = fit(model, data, method="oracle", along=psr)
    top = model.n_layers - 1
    one = fit(model, data, method="oracle", along=psr, layers=top)
    assert whole.layers == psr.layers
    assert one.layers == (top,)
    assert torch.equal(one.basis[0], whole.basis[top])


def test_dim_at_a_model_of_one_example(model, data):
    single = data.train[:1]
    steering = fit(model, single, method="dim", layers=0)
    assert isinstance(steering, ConstantSteering)
    assert steering.fit_report.stages[0].dev_loss is None
