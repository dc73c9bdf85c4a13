"""Fits: closed forms are what they say, stages see what came before, and nothing leaks."""

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from psr_lens import (
    ConstantSteering,
    OracleSteering,
    collect_deltas,
    fit,
    register,
)
from psr_lens.fitting import DEFAULT
from psr_lens.steering.training import LayerData, LayerFit
from tests import by_hand
from tests.tiny_models import BACKENDS, CORE_MODELS, tiny_model
from tests.tiny_steerings import content

ZERO = ConstantSteering(torch.zeros(1, 4), (0,))


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return by_hand.animal_examples(model)


@pytest.fixture(scope="module")
def fitted(model, data):
    """A fit that several tests look at is made once."""
    return cache(lambda **options: fit(model, data, **options))


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


def test_const_adds_the_mean_of_what_is_still_missing(model, data, fitted):
    """After stage `l` the mean difference to the prompted run at layer `l` is zero."""
    steering = fitted(method="const", solver="layerwise")
    missing, plain = (
        by_hand.all_missing(model, data.train, own).mean(dim=1).norm(dim=-1)
        for own in (steering, None)
    )
    assert bool((missing < 1e-6 * plain).all())
    assert [stage.layer for stage in steering.fit_report.stages] == list(range(model.n_layers))


def test_stage_losses_are_those_of_a_run_under_the_steering(model, data, fitted):
    """What a stage reports is what a plain forward pass under the earlier stages leaves."""
    psr = fitted(method="psr", solver="layerwise")
    for stage in psr.fit_report.stages:
        below = psr[: stage.layer] if stage.layer else None
        for part, reported in ((data.train, stage.train_loss), (data.dev, stage.dev_loss)):
            before, after = (
                by_hand.all_missing(model, part, own)[stage.layer].square().sum()
                for own in (below, psr)
            )
            assert float(after / before) == pytest.approx(reported, rel=1e-3)


def test_psr_beats_the_constant_where_it_was_fitted(fitted):
    psr, const = (fitted(method=method, solver="layerwise") for method in ("psr", "const"))
    for a, b in zip(psr.fit_report.stages[:1], const.fit_report.stages[:1], strict=True):
        assert a.train_loss < b.train_loss


def test_batch_size_does_not_matter(model, data):
    one = fit(model, data, method="const", solver="layerwise", batch_size=1)
    many = fit(model, data, method="const", solver="layerwise", batch_size=64)
    assert (one.vectors - many.vectors).abs().max() < 1e-5 * many.vectors.abs().max()


def test_best_layer_is_the_best_on_the_dev_split(model, data):
    options = {"method": "const", "solver": "layerwise"}
    best = fit(model, data, layers="best", **options)
    # Fitted beside the others, each is what it would be alone.
    alone = [fit(model, data, layers=layer, **options) for layer in range(model.n_layers)]
    errors = [by_hand.relative_rmse(model, data.dev, own)[-1] for own in alone]
    assert best.fit_report.candidates == pytest.approx(errors, rel=1e-6)
    chosen = errors.index(min(errors))
    assert best.layers == (chosen,)
    assert torch.allclose(alone[chosen].vectors, best.vectors)


def test_some_layers(llama, its_data):
    steering = fit(llama, its_data, method="psr", solver="layerwise", layers=[2, 0], n_heads=2)
    assert steering.layers == (0, 2)
    assert steering.w.shape == (2, 2, llama.d_model)


@pytest.mark.parametrize(
    "options", [{"solver": "layerwise", "n_heads": 2}, {"solver": "gradient", "epochs": 2}]
)
def test_the_order_of_the_examples_does_not_matter(llama, its_data, options):
    order = torch.randperm(len(its_data), generator=torch.Generator().manual_seed(1)).tolist()
    other = replace(its_data, examples=tuple(its_data.examples[i] for i in order))
    assert other.examples != its_data.examples
    one, two = (
        fit(llama, own, method="psr", layers=[0, 1], **options) for own in (its_data, other)
    )
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    assert one.provenance == two.provenance
    assert one.fit_report.dev_relative_rmse == two.fit_report.dev_relative_rmse


def test_auto_chooses_the_heads_of_every_layer(llama, its_data, tmp_path):
    options = {
        "method": "psr",
        "solver": "layerwise",
        "n_heads": "auto",
        "checkpoint": tmp_path / "c",
    }
    psr = fit(llama, its_data, **options)
    used = [stage.heads for stage in psr.fit_report.stages]
    assert psr.w.shape[1] == max(1, *used) <= 16
    for count, z in zip(used, psr.z, strict=True):
        assert z[:count].norm(dim=-1).all()
        assert not z[count:].any()
    assert all(stage.penalty is not None for stage in psr.fit_report.stages)
    # From the files of the finished stages, the report too.
    again = fit(llama, its_data, **options)
    assert again.fit_report.stages == psr.fit_report.stages
    assert torch.equal(again.z, psr.z)
    const = fit(llama, its_data, method="const", solver="layerwise")
    assert {(stage.heads, stage.penalty) for stage in const.fit_report.stages} == {(None, None)}


def test_auto_heads_are_those_that_the_live_solver_gets(llama, its_data):
    psr = fit(llama, its_data, method="psr", layers=0, n_heads="auto", epochs=1)
    replayed = fit(llama, its_data, method="psr", layers=0, n_heads="auto", solver="layerwise")
    assert psr.w.shape == replayed.w.shape


def test_auto_heads_need_dev_examples(llama, its_data):
    one = its_data.train.filter(lambda example: example.pair.group == its_data.train[0].pair.group)
    with pytest.raises(ValueError, match="n_heads='auto' but there is no dev example"):
        fit(llama, one, method="psr", n_heads="auto")


@pytest.mark.parametrize(
    "options", [{"solver": "layerwise"}, {"solver": "gradient", "epochs": 2}], ids=str
)
def test_same_seed_same_file(llama, its_data, tmp_path, options):
    one, two, other = (
        fit(llama, its_data, seed=seed, **options).save(tmp_path / name)
        for seed, name in ((4, "one"), (4, "two"), (5, "other"))
    )
    assert content(one) == content(two)
    # The layers' regressions have no random start.
    same_tensors = content(one)[0] == content(other)[0]
    assert same_tensors == (options["solver"] == "layerwise")


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends")
@pytest.mark.parametrize("method", ["const", "psr"])
def test_every_backend_gives_the_same_fit(method):
    """From the same examples: those that the first has sampled."""
    models = [tiny_model("llama", backend, dtype="float64") for backend in BACKENDS]
    data = by_hand.animal_examples(models[0])
    for options in ({"solver": "layerwise"}, {"solver": "gradient", "epochs": 2, "lr": 0.03}):
        first, *others = (fit(own, data, method=method, **options) for own in models)
        for other in others:
            # Nothing at all where no step was for the better, and then the losses still tell.
            assert other.fit_report.losses == pytest.approx(first.fit_report.losses, rel=1e-4)
            for name, tensor in first.state_dict().items():
                gap = (tensor - other.state_dict()[name]).abs().max()
                assert gap <= 1e-4 * tensor.abs().max()


def with_other_responses(data, split):
    """The data with the responses of one split turned around and cut."""

    def other(example):
        if data.split_of_group[example.pair.group] != split:
            return example
        return replace(example, response_ids=example.response_ids[:2:-1] or (5, 6))

    return replace(data, examples=tuple(map(other, data.examples)))


@pytest.mark.parametrize(
    "options",
    [
        {"method": "dim"},
        {"method": "const", "solver": "layerwise"},
        {"method": "psr", "layers": "best", "epochs": 2},
    ],
    ids=str,
)
def test_the_test_split_is_never_looked_at(llama, its_data, options):
    """Garbage in the test examples changes nothing."""
    garbage = with_other_responses(its_data, "test")
    assert len(garbage.test) > 0
    assert garbage.test.examples != its_data.test.examples
    steering, expected = (fit(llama, own, **options) for own in (garbage, its_data))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(steering.state_dict()[name], tensor)
    assert steering.fit_report.dev_losses == expected.fit_report.dev_losses
    assert steering.fit_report.dev_relative_rmse == expected.fit_report.dev_relative_rmse
    keys = set(steering.provenance["data"]["example_keys"])
    assert not keys & {e.key for e in its_data.test}
    assert keys == {e.key for e in (*its_data.train, *its_data.dev)}


def test_the_dev_split_chooses_and_is_not_fitted_on(llama, its_data):
    garbage = with_other_responses(its_data, "dev")
    for method in ("dim", "const"):
        options = {"method": method} | ({} if method == "dim" else {"solver": "layerwise"})
        one, two = (fit(llama, own, **options) for own in (its_data, garbage))
        assert torch.equal(one.vectors, two.vectors)
        assert one.fit_report.dev_relative_rmse != two.fit_report.dev_relative_rmse
        train = [[stage.train_loss for stage in own.fit_report.stages] for own in (one, two)]
        assert train[0] == train[1]
    one, two = (
        fit(llama, own, solver="gradient", recipe=replace(DEFAULT, patience=0, epochs=2))
        for own in (its_data, garbage)
    )
    assert one.fit_report.losses == two.fit_report.losses
    assert one.fit_report.dev_losses != two.fit_report.dev_losses


def test_without_a_dev_split_some_training_groups_serve(llama, its_data):
    report = fit(llama, its_data.train, method="dim").fit_report
    assert report.dev_examples > 0
    assert report.examples + report.dev_examples == len(its_data.train)


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


def test_the_oracle_needs_no_fit(llama, its_data):
    oracle = fit(llama, its_data, method="oracle")
    assert isinstance(oracle, OracleSteering)
    assert oracle.layers == tuple(range(llama.n_layers))


def test_bad_arguments_are_one_line(llama, its_data):
    for options, message in [
        ({"method": "magic"}, "method='magic': choose one of ablation, actadd, const, dim"),
        ({"layers": [7]}, f"layers=[7] but the model has {llama.n_layers} layers"),
        ({"method": "oracle", "layers": "best"}, "layers='best' has no meaning for oracle"),
        (
            {"method": "dim", "solver": "gradient"},
            "dim has a closed form: leave objective and solver",
        ),
        ({"method": "dim", "n_heads": 2}, "n_heads=2 with method='dim': only psr takes it"),
        ({"rank": 3}, "rank=3 with method='psr': only loreft and oracle take it"),
        (
            {"solver": "layerwise", "objective": "ll"},
            "the layerwise solver fits mse only, for const and psr",
        ),
        (
            {"method": "loreft", "solver": "layerwise"},
            "the layerwise solver fits mse only, for const and psr",
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
            fit(llama, its_data, **options)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="nothing to fit on"):
        fit(llama, its_data.test, method="dim")


@pytest.mark.parametrize(
    "options",
    [{"method": "const", "solver": "layerwise"}, {"solver": "gradient", "epochs": 1}],
    ids=str,
)
def test_the_batch_size_of_a_fit_is_the_callers(model, data, options):
    sizes = []

    def look(module, arguments):
        # Every part of the model whose input has an entry per example and token.
        sizes.extend(
            len(own)
            for own in arguments
            if isinstance(own, torch.Tensor) and own.ndim == 3 and own.shape[1] > 1
        )

    handle = register_module_forward_pre_hook(look)
    try:
        small = fit(model, data, batch_size=2, **options)
        assert max(sizes) == 2
        sizes.clear()
        large = fit(model, data, batch_size=64, **options)
        assert max(sizes) > 2
    finally:
        handle.remove()
    if options["solver"] == "layerwise":
        for name, tensor in large.state_dict().items():
            assert torch.allclose(tensor, small.state_dict()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("own_methods")
def test_replay_regresses_in_the_precision_asked_for():
    seen = set()

    @register
    class Looking(ConstantSteering):
        """A constant that looks at what it is fitted to."""

        method: ClassVar[str] = "looking"

        @classmethod
        def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
            assert data.dev is not None
            seen.update(own.dtype for own in (data.x, data.missing, *data.dev[:2]))
            return super().fit_layer(data, options)

    narrow = tiny_model("llama", "bridge", dtype="float32")
    data = by_hand.animal_examples(narrow)
    kept = {}
    for precision in (None, torch.float64):
        seen.clear()
        options = {"solver": "layerwise", "precision": precision}
        fit(narrow, data, method="looking", **options)
        assert seen == {precision or torch.float32}
        kept[precision] = fit(narrow, data, method="psr", **options)
    losses = [[stage.train_loss for stage in one.fit_report.stages] for one in kept.values()]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_an_oracle_along_a_steering_keeps_to_the_layers_asked_for(model, data, fitted):
    psr = fitted(method="psr", solver="layerwise")
    whole = fit(model, data, method="oracle", along=psr)
    top = model.n_layers - 1
    one = fit(model, data, method="oracle", along=psr, layers=top)
    assert whole.layers == psr.layers
    assert one.layers == (top,)
    assert torch.equal(one.basis[0], whole.basis[top])


def test_dim_at_a_model_of_one_example(llama, its_data):
    single = its_data.train[:1]
    steering = fit(llama, single, method="dim", layers=0)
    assert isinstance(steering, ConstantSteering)
    assert steering.fit_report.stages[0].dev_loss is None
