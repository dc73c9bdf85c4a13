"""Steerings between attention and MLP: they read and write that stream, on every architecture."""

import inspect
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from threading import Barrier

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

import psr_lens as pl
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.faithfulness import measure_faithfulness
from psr_lens.fitting import DEFAULT
from psr_lens.fitting.errors import last_layer_errors, relative_rmse
from psr_lens.fitting.gradient import Objective, Trained
from psr_lens.fitting.prepared import contrast, prepare
from psr_lens.models.batch import Places
from psr_lens.models.editing import MidEdit
from psr_lens.steering import PSR, ConstantSteering
from psr_lens.steering.base import check_hook_point
from tests import by_hand
from tests.tiny_models import BACKENDS, CORE_MODELS, MODELS, tiny_model

SIDE_BY_SIDE = "gpt_neox"
"""Its attention and its MLP read the same residual stream."""

plain = pytest.mark.skipif("transformers" not in BACKENDS, reason="a plain transformers model")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return by_hand.animal_examples(model)


def mids(model, batch, edits=None, tokens="response"):
    """The aligned tokens' streams between attention and MLP, by layer, and those after the blocks."""
    places, seen = Places(batch.on(tokens)), {}

    def recorder(layer):
        return MidEdit(lambda resid, columns: seen.update({layer: places.of(resid).clone()}))

    with (
        model.edited(edits or {}),
        model.edited({layer: recorder(layer) for layer in range(model.n_layers)}),
    ):
        after = aligned_residuals(model, batch, tokens)
    return seen, after


def constant(model, layers, seed=0, **options):
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(layers), model.d_model, generator=draw, dtype=torch.float64)
    return ConstantSteering(vectors, layers, hook_point="resid_mid", **options)


def heads(model, layers):
    draw = torch.Generator().manual_seed(1)
    n, d = len(layers), model.d_model
    w, z = (torch.randn(n, 2, d, generator=draw, dtype=torch.float64) for _ in range(2))
    return PSR(w, torch.zeros(n, 2).double(), z, layers, hook_point="resid_mid")


@pytest.mark.parametrize(("family", "backend"), MODELS)
def test_the_prompted_stream_there_gives_the_prompted_stream_after_the_block(family, backend):
    model = tiny_model(family, backend, dtype="float64")
    base, prompted = example_batches(model, list(by_hand.animal_examples(model).test))
    places = Places(base.on("response"))
    wanted, wanted_after = mids(model, prompted)
    plain, plain_after = mids(model, base)
    assert all(float((wanted[layer] - plain[layer]).abs().max()) > 1e-3 for layer in plain)
    for layer in range(model.n_layers):
        edit = MidEdit(lambda resid, columns, at=layer: places.replaced(resid, wanted[at]))
        seen, after = mids(model, base, {layer: edit})
        assert (seen[layer] - wanted[layer]).abs().max() < 1e-12 * wanted[layer].abs().max()
        if family == SIDE_BY_SIDE:
            # What is added passes the MLP by.
            expected = plain_after[layer] + wanted[layer] - plain[layer]
        else:
            expected = wanted_after[layer]
        assert (after[layer] - expected).abs().max() < 1e-10 * expected.abs().max()


@pytest.mark.parametrize(("family", "backend"), CORE_MODELS)
def test_nothing_else_changes_and_nothing_remains(family, backend):
    model = tiny_model(family, backend)
    base, _ = example_batches(model, list(by_hand.animal_examples(model).test))
    before = model.logits(base)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.raw.modules()]
    steering = constant(model, (0, 2))
    with steering.applied(model):
        during = model.logits(base)
        kept = model.raw.state_dict().keys()
    on = base.on("response")
    elsewhere = ~on & base.attention_mask
    assert bool((during[on] - before[on]).abs().amax(dim=-1).min() > 1e-4)
    assert torch.equal(during[elsewhere], before[elsewhere])
    assert torch.equal(model.logits(base), before)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.raw.modules()]
    assert kept == model.raw.state_dict().keys()


@pytest.mark.parametrize(("family", "backend"), MODELS[:: len(BACKENDS) + 1])
def test_generation_is_the_same_cached_batched_and_by_hand(family, backend):
    model = tiny_model(family, backend, dtype="float64")
    prompts = ["tell me about the fox", "describe a very small owl , please"]
    with heads(model, (0, 1)).applied(model):
        cached = model.generate(prompts, max_new_tokens=6, temperature=0.0)
        single = [model.generate(p, max_new_tokens=6, temperature=0.0) for p in prompts]
        uncached = model.generate(prompts, max_new_tokens=6, temperature=0.0, use_cache=False)
    assert cached == single == uncached
    assert cached != model.generate(prompts, max_new_tokens=6, temperature=0.0)


def test_two_at_the_same_place_add_up_and_each_strength_is_its_own(model, data):
    base, _ = example_batches(model, list(data.test)[:2])
    one, other = constant(model, (1,)), constant(model, (1,), seed=5)
    with one.applied(model), other.applied(model):
        nested = model.logits(base)
    with (one + other).applied(model):
        assert isinstance(one + other, ConstantSteering)
        together = model.logits(base)
    assert torch.allclose(nested, together, rtol=1e-10, atol=1e-12)
    with one.applied(model, torch.tensor([0.0, 2.0])):
        by_row = model.logits(base)
    with (2.0 * one).applied(model):
        twice = model.logits(base)
    plain = model.logits(base)
    assert torch.equal(by_row[0], plain[0])
    assert torch.allclose(by_row[1], twice[1], rtol=1e-12, atol=1e-12)


def test_coefficients_are_the_lengths_of_what_is_added(model, data):
    steering = constant(model, (0, 2))
    for own in steering.coefficients(model, data.test, alpha=0.5):
        lengths = 0.5 * steering.vectors.norm(dim=1, keepdim=True)
        assert torch.allclose(own.values, lengths.to(own.values).expand_as(own.values), rtol=1e-5)


def test_a_constant_fitted_there_is_the_mean_of_what_is_missing_there(model, data):
    options = {"method": "const", "solver": "layerwise"}
    fitted = pl.fit(model, data, hook_point="resid_mid", **options)
    assert fitted.hook_point == "resid_mid"
    missing = {layer: [] for layer in fitted.layers}
    for example in data.train:
        base, prompted = example_batches(model, [example])
        wanted, _ = mids(model, prompted)
        for layer in fitted.layers:
            below = fitted.at(range(layer)).edits(model) if layer else {}
            seen, _ = mids(model, base, below)
            missing[layer].append(wanted[layer] - seen[layer])
    for row, layer in enumerate(fitted.layers):
        mean = torch.cat(missing[layer]).mean(dim=0)
        assert torch.allclose(fitted.vectors[row], mean, rtol=1e-7, atol=1e-9)


def test_the_fit_knows_how_far_the_steered_model_remains(model, data, tmp_path):
    options = {"n_heads": 2, "solver": "layerwise", "hook_point": "resid_mid"}
    fitted = pl.fit(model, data, **options)
    measured = relative_rmse(model, [fitted], data.dev, "response", 4)[0]
    assert fitted.fit_report.dev_relative_rmse == pytest.approx(measured, rel=1e-9)
    report = measure_faithfulness(model, [fitted, constant(model, (1,))], data.test)
    assert report.steerings == ("PSR, all layers, resid_mid", "constant, layer 1, resid_mid")
    own = relative_rmse(model, [fitted], data.test, "response", 4)[0]
    assert list(report.curve("PSR, all layers, resid_mid").values) == pytest.approx(own, rel=1e-9)
    # On disk, one by one, and from a checkpoint: the same numbers.
    on_disk = pl.fit(model, data, max_memory=1, **options)
    one_by_one = pl.fit(model, data, batch_size=1, **options)
    first = pl.fit(model, data, checkpoint=tmp_path, **options)
    again = pl.fit(model, data, checkpoint=tmp_path, **options)
    for other in (on_disk, one_by_one, first, again):
        for name, tensor in fitted.state_dict().items():
            assert torch.allclose(tensor, other.state_dict()[name], rtol=1e-6, atol=1e-8)
    file = fitted.save(tmp_path / "mid")
    loaded = pl.load_steering(file, model)
    assert loaded.hook_point == "resid_mid"
    assert relative_rmse(model, [loaded], data.dev, "response", 4)[0] == pytest.approx(measured)


@pytest.mark.parametrize("layers", [(0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("objective", ["mse", "ll"])
def test_gradients_are_those_of_the_steered_model(model, data, layers, objective):
    steering = heads(model, layers)
    prepared = prepare(model, data.train, layers[0], "response", hook_point="resid_mid")
    problem = Objective(model, prepared, layers[0], objective, replace(DEFAULT, normalise=False))
    # In training it does not matter where a steering says that it acts.
    trained = Trained(heads(model, layers).at_hook_point("resid_post"), None)
    with torch.enable_grad():
        loss = problem.loss(range(len(prepared)), trained)
        loss.backward()
        if objective == "mse":
            direct = by_hand.mse(model, data.train, steering.requires_grad_(), layers[0])
            direct.backward()
    if objective == "ll":
        assert float(loss.detach()) == pytest.approx(by_hand.nll(model, data.train, steering))
        return
    assert float(loss.detach()) == pytest.approx(float(direct.detach()), rel=1e-9)
    for name, own in steering.named_parameters():
        assert own.grad.norm() > 0
        assert torch.allclose(trained.parameters[name].grad, own.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["psr", "const", "loreft"])
def test_what_is_trained_there_is_measured_there(model, data, method):
    options = {"solver": "gradient", "epochs": 2, "lr": 0.02, "objective": "mse"}
    with torch.enable_grad():
        found = pl.fit(model, data, method=method, hook_point="resid_mid", layers=[1, 2], **options)
    assert found.hook_point == "resid_mid"
    reached, without = (float(by_hand.mse(model, data.dev, own, 1)) for own in (found, None))
    assert min(found.fit_report.dev_losses) == pytest.approx(reached / without, rel=1e-6)
    assert min(found.fit_report.dev_losses) < found.fit_report.dev_losses[0]
    measured = relative_rmse(model, [found], data.dev, "response", 4)[0]
    assert found.fit_report.dev_relative_rmse == pytest.approx(measured, rel=1e-9)


def test_refining_goes_on_from_the_layerwise_fit(model, data):
    begun = pl.fit(model, data, solver="layerwise", hook_point="resid_mid")
    with torch.enable_grad():
        auto = pl.fit(model, data, hook_point="resid_mid", epochs=2)
    tried = dict(auto.fit_report.tried)
    without, at_start = (float(by_hand.mse(model, data.dev, own, 0)) for own in (None, begun))
    assert tried["layerwise"] == pytest.approx(at_start / without, rel=1e-6)
    assert min(auto.fit_report.dev_losses) == min(tried.values())


def test_where_the_error_comes_from_is_said_of_those_after_the_blocks(model, data):
    mid = constant(model, (1,))
    options = {"oracle_ranks": (), "outputs": False, "n_bootstrap": 50}
    alone = measure_faithfulness(model, {"mid": mid}, data.test, **options)
    assert "gap" not in alone.drawable()
    with pytest.raises(
        ValueError, match=r"gap_\.\.\. exist for steerings that act after the blocks"
    ):
        alone.plot("gap")
    both = {"mid": mid, "post": mid.at_hook_point("resid_post")}
    report = measure_faithfulness(model, both, data.test, **options)
    assert "gap" in report.drawable()
    assert "post" in report.plot("gap").layout.title.text
    page = report.page()
    assert "Error of post" in page
    assert "Error of mid" not in page


def test_a_kept_prompted_run_of_one_hook_point_is_not_taken_for_the_other(model, data):
    runs = pl.FitRuns()
    options = {"method": "const", "solver": "layerwise"}
    for hook_point in ("resid_mid", "resid_post", "resid_mid"):
        shared = pl.fit(model, data, hook_point=hook_point, runs=runs, **options)
        alone = pl.fit(model, data, hook_point=hook_point, **options)
        assert torch.equal(shared.vectors, alone.vectors)


def test_the_best_layer_is_chosen_by_what_each_layer_alone_reaches(model, data):
    options = {"method": "const", "layers": "best", "solver": "gradient", "epochs": 0}
    fitted = pl.fit(model, data, hook_point="resid_mid", **options)
    candidates = [constant(model, (layer,)) for layer in range(model.n_layers)]
    quick = last_layer_errors(model, candidates, data.dev, "response", 4)
    whole = [own[-1] for own in relative_rmse(model, candidates, data.dev, "response", 4)]
    assert quick == pytest.approx(whole, rel=1e-9)
    reached = fitted.fit_report.candidates
    assert fitted.layers == (reached.index(min(reached)),)
    single = pl.fit(
        model,
        data,
        method="const",
        layers=fitted.layers,
        solver="layerwise",
        hook_point="resid_mid",
    )
    alone = relative_rmse(model, [single], data.dev, "response", 4)[0][-1]
    assert alone == pytest.approx(min(reached), rel=1e-9)


@plain
def test_transformers_own_generate_is_steered_too():
    model = tiny_model("llama", "transformers")
    prompt = model.to_batch(["tell me about the fox"]).tokens
    options = {"max_new_tokens": 5, "do_sample": False}
    with heads(model, (1,)).applied(model.raw):
        ours = model.generate("tell me about the fox", max_new_tokens=5, temperature=0.0)
        theirs = model.raw.generate(prompt, **options)[0, prompt.shape[1] :]
        in_a_pass = model.raw(prompt).logits[0, -1].argmax()
    assert in_a_pass == theirs[0]
    assert ours == model.encoder.decode(theirs.tolist())
    assert not torch.equal(theirs, model.raw.generate(prompt, **options)[0, prompt.shape[1] :])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dim"}, "a closed form is taken from the residual streams after the blocks"),
        ({"method": "oracle"}, "choose const or loreft or psr or reft_r1"),
        ({"method": "psr", "solver": "layerwise", "lr": 0.1}, "only the gradient solver takes it"),
    ],
)
def test_what_is_not_fitted_there_is_refused(model, data, options, message):
    with pytest.raises(ValueError, match=message):
        pl.fit(model, data, hook_point="resid_mid", **options)


def test_a_checkpoint_of_one_hook_point_is_not_taken_for_the_other(
    model, data, tmp_path, monkeypatch
):
    options = {"method": "const", "solver": "layerwise", "checkpoint": tmp_path}
    fitted = pl.fit(model, data, hook_point="resid_mid", **options)
    with pytest.raises(ValueError, match="hook_point"):
        pl.fit(model, data, **options)
    monkeypatch.setattr(
        ConstantSteering, "fit_layer", classmethod(lambda *given: pytest.fail("again"))
    )
    again = pl.fit(model, data, hook_point="resid_mid", **options)
    assert torch.equal(again.vectors, fitted.vectors)
    assert again.provenance["hook_point"] == again.hook_point == "resid_mid"


def test_question_tokens_and_other_strengths_are_fitted_there_too(model, data):
    examples = data.weighted([1.0, 0.5, 0.9, 0.7] * 3, offset=0.0)
    options = {"tokens": "question+response", "solver": "layerwise"}
    fitted = pl.fit(model, examples, method="const", hook_point="resid_mid", layers=0, **options)
    parts = []
    for example in examples.train:
        base, prompted = example_batches(model, [example])
        wanted, seen = (mids(model, b, tokens="question+response")[0][0] for b in (prompted, base))
        parts.append((example.alpha, wanted - seen))
    # The vector that leaves least if every example gets it times its own strength.
    top = sum(alpha * missing.sum(dim=0) for alpha, missing in parts)
    bottom = sum(alpha**2 * len(missing) for alpha, missing in parts)
    assert torch.allclose(fitted.vectors[0], top / bottom, rtol=1e-7, atol=1e-9)


def test_reft_r1_begins_with_the_mean_delta_there_too(model, data):
    for layer in (0, 1):
        after, inside = (
            contrast(prepare(model, data.train, layer, "response", hook_point=where), [layer])
            for where in ("resid_post", "resid_mid")
        )
        assert torch.allclose(after, inside, rtol=1e-9)


@plain
def test_threads_and_copies_have_their_own_streams():
    """Two threads whose passes run beside each other: neither takes the other's residual stream."""
    model = tiny_model("llama", "transformers").raw
    prompts = [torch.tensor([[1, 2, 3, 4]]), torch.tensor([[9, 8, 7, 6]])]
    steering = constant(tiny_model("llama", "transformers"), (0, 2))
    with steering.applied(model):
        alone = [model(prompt).logits for prompt in prompts]
        copy = deepcopy(model)
    plain_logits = [model(prompt).logits for prompt in prompts]
    assert torch.equal(copy(prompts[0]).logits, plain_logits[0])
    # Every attention waits until both threads are in it.
    together = Barrier(2)

    def wait(module, args):
        together.wait(10)

    handles = [layer.self_attn.register_forward_pre_hook(wait) for layer in model.model.layers]
    try:
        with steering.applied(model, all_threads=True), ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda prompt: unhindered(model, prompt), prompts))
    finally:
        for handle in handles:
            handle.remove()
    for own, wanted in zip(found, alone, strict=True):
        assert torch.equal(own, wanted)


def unhindered(model, prompt):
    with torch.no_grad():
        return model(prompt).logits


@plain
def test_in_half_precision_it_adds_what_it_adds():
    half = tiny_model("llama", "transformers", dtype="bfloat16")
    whole = tiny_model("llama", "transformers")
    steering = constant(whole, (0, 1))
    prompt = torch.tensor([[1, 2, 3, 4]])
    moved = []
    for model in (whole, half):
        plain_logits = model.raw(prompt).logits.float()
        with steering.applied(model.raw):
            moved.append(model.raw(prompt).logits.float() - plain_logits)
    assert (moved[1] - moved[0]).norm() < 0.1 * moved[0].norm()


def test_the_bridge_is_steered_in_all_its_ways_through_attention():
    bridge = tiny_model("llama", "bridge", seed=3)
    prompts = ["tell me about the fox"]
    steering = constant(bridge, (0, 1))
    plain_logits = bridge(prompts)
    with steering.applied(bridge):
        wanted = bridge(prompts)
        bridge.raw.set_use_attn_result(True)
        try:
            found = bridge(prompts)
        finally:
            bridge.raw.set_use_attn_result(False)
    assert (wanted - plain_logits).abs().max() > 1e-3
    assert torch.allclose(found, wanted, atol=1e-4)


def test_what_cannot_act_there_is_refused(model, data):
    post = ConstantSteering(torch.ones(1, model.d_model).double(), (1,))
    mid = post.at_hook_point("resid_mid")
    with pytest.raises(ValueError, match="a sum acts at one point of a block"):
        post + mid
    with pytest.raises(ValueError, match="depends on the prompted residual stream"):
        pl.OracleSteering((0,), hook_point="resid_mid")
    # As it is without the checks of types that tests run with.
    with pytest.raises(
        ValueError, match="hook_point='resid_pre': choose one of resid_post, resid_mid"
    ):
        inspect.unwrap(check_hook_point)("resid_pre")
    with pytest.raises(ValueError, match="the oracle after its blocks"):
        pl.OracleSteering.along(mid)
    with pytest.raises(ValueError, match="streams are mapped after the blocks"):
        pl.transfer(heads(model, (1,)), model, model, [(1, 2, 3)])
    both = (mid + heads(model, (1,))).at_hook_point("resid_post")
    assert {part.hook_point for _, part in both.parts} == {"resid_post"}


@plain
def test_only_what_is_added_after_a_block_is_folded_in():
    model = tiny_model("llama", "transformers")
    mid = ConstantSteering(torch.ones(1, model.d_model), (1,), hook_point="resid_mid")
    with pytest.raises(ValueError, match="can be folded in"):
        mid.fold_into(model.raw)


@plain
def test_blocks_that_scale_what_they_add_are_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    config = GraniteConfig(num_attention_heads=4, residual_multiplier=0.5, **sizes)
    granite = GraniteForCausalLM(config).eval()
    steering = ConstantSteering(torch.ones(1, 32), (1,))
    tokens = torch.tensor([[1, 2, 3]])
    with steering.applied(granite):
        steered = granite(tokens).logits
    assert not torch.equal(steered, granite(tokens).logits)
    message = "what enters block 0, its attention and its MLP do not add up to what leaves it"
    mid = steering.at_hook_point("resid_mid")
    with pytest.raises(ValueError, match=message), mid.applied(granite):
        pass


@plain
def test_gradient_checkpointing_is_refused():
    model = tiny_model("llama", "transformers", seed=3)
    mid = constant(model, (1,))
    layer = model.raw.model.layers[1]
    layer.gradient_checkpointing = True
    try:
        with pytest.raises(ValueError, match="gradient checkpointing is on"), mid.applied(model):
            pass
    finally:
        layer.gradient_checkpointing = False
