"""Fits through the model: they say what whole runs give, stop, go on where they were, and adapt."""

import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import psr_lens as pl
from psr_lens.fitting import DEFAULT, PAPER, PAPER_TOKENS, Recipe
from psr_lens.fitting.gradient import TrainingState
from psr_lens.prompt_effect import measure_prompt_effect
from psr_lens.steering.base import Role
from psr_lens.steering.training import LayerData, LayerFit, Start
from psr_lens.storage import read_container, write_container
from tests import by_hand
from tests.tiny_models import CORE_MODELS, tiny_model
from tests.tiny_steerings import content


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return by_hand.animal_examples(model)


@pytest.fixture(scope="module")
def fitted(model, data):
    """A fit that several tests look at is made once."""
    return cache(lambda **options: pl.fit(model, data, **options))


# --- the objective ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "layers", "tokens"),
    [
        ("psr", {"n_heads": 2}, (0, 1, 2), "response"),
        ("psr", {}, (1,), "question+response"),
        ("const", {}, (2,), "response"),
        ("const", {}, (0, 2), "question+response"),
        ("loreft", {"rank": 2}, (0, 1, 2), "question+response"),
    ],
)
def test_the_dev_objective_is_that_of_whole_runs(model, data, method, options, layers, tokens):
    """Prefixes are kept, no layer below the first is run, and a PSR is trained in units of its own."""
    examples = data.weighted([1.0, 0.25, 0.9, 0.6] * 3, offset=-0.1)
    common = {"method": method, "layers": layers, "tokens": tokens, "solver": "gradient"}
    steering = pl.fit(model, examples, **common, **options, epochs=2, lr=0.02, batch_size=2)
    report = steering.fit_report
    assert len(report.dev_losses) == 3
    reached, without = (
        float(by_hand.mse(model, examples.dev, own, layers[0], tokens)) for own in (steering, None)
    )
    # In units of what the prompt does to the same examples without a steering.
    assert min(report.dev_losses) == pytest.approx(reached / without, rel=1e-6)
    if method != "psr":
        # They begin with no steering.
        assert report.dev_losses[0] == pytest.approx(1, rel=1e-6)
        assert min(report.dev_losses) < 0.9999
    errors = by_hand.relative_rmse(model, examples.dev, steering, tokens)
    assert report.dev_relative_rmse == pytest.approx(errors, rel=1e-6, abs=1e-9)


class Gate(pl.Steering):
    r"""$A + \sigma(w \cdot A)\, z$."""

    method: ClassVar[str] = "gate"
    roles: ClassVar[Mapping[str, Role]] = {"z": "writes", "w": "reads"}
    w: Float[Tensor, "layer d_model"]
    z: Float[Tensor, "layer d_model"]

    def __init__(
        self, w: Float[Tensor, "layer d_model"], z: Float[Tensor, "layer d_model"], layers, **common
    ):
        super().__init__(layers, **common)
        self.hold(w=w, z=z)

    def update(self, layer, resid, columns=None):
        """A share of `z`."""
        w, z = (own[self.row(layer)].to(resid) for own in (self.w, self.z))
        return torch.sigmoid(resid @ w).unsqueeze(-1) * z

    @classmethod
    def start(cls, given: Start, options: Any) -> "Gate":
        """The same at every layer."""
        line = torch.linspace(-0.3, 0.5, given.d_model).expand(len(given.layers), -1)
        return cls(line.flip(-1).clone(), line.clone(), given.layers, tokens=given.tokens)


@pytest.mark.usefixtures("own_methods")
def test_training_takes_the_steps_of_adamw_on_the_objective_of_whole_runs(model, data):
    """Every loss, so every gradient, is that of a loop which runs each text as a whole."""
    pl.register(Gate)
    recipe = replace(PAPER["mse"], lr=0.02, weight_decay=0.1, epochs=2, batch_size=3)
    found = pl.fit(model, data, method="gate", layers=[0, 2], solver="gradient", recipe=recipe)
    line = torch.linspace(-0.3, 0.5, model.d_model).expand(2, -1)
    gate = Gate(line.flip(-1).double(), line.double(), [0, 2]).requires_grad_()
    examples, order = data.train.sorted(), torch.Generator().manual_seed(recipe.shuffle_seed)
    optimiser = torch.optim.AdamW(gate.parameters(), lr=1, weight_decay=recipe.weight_decay)
    begins = range(0, len(examples), recipe.batch_size)
    losses, dev_losses, states = [], [], []

    def look():
        with torch.no_grad():
            dev_losses.append(float(by_hand.mse(model, data.dev, gate, 0)))
        states.append({name: own.detach().clone() for name, own in gate.named_parameters()})

    look()
    for _ in range(recipe.epochs):
        shuffled = torch.randperm(len(examples), generator=order).tolist()
        for begin in begins:
            batch = [examples[i] for i in shuffled[begin : begin + recipe.batch_size]]
            done = len(losses) / (recipe.epochs * len(begins))
            optimiser.param_groups[0]["lr"] = recipe.lr * (1 - done)
            optimiser.zero_grad()
            loss = by_hand.mse(model, batch, gate, 0)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        look()
    assert found.fit_report.losses == pytest.approx(losses, rel=1e-5)
    assert found.fit_report.dev_losses == pytest.approx(dev_losses, rel=1e-5)
    # What is kept is what the dev examples liked best.
    best = states[dev_losses.index(min(dev_losses))]
    for name, own in found.state_dict().items():
        assert torch.allclose(own, best[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "tokens"),
    [("psr", "response"), ("const", "question+response"), ("loreft", "response")],
)
def test_the_likelihood_is_that_of_whole_runs(model, data, method, tokens):
    """However many responses a pass takes: every token that is predicted counts alike."""
    halves = {group: ("train", "dev")[i % 2] for i, group in enumerate(data.split_of_group)}
    examples = replace(data, split_of_group=halves)
    assert len({len(example.base_ids) for example in examples.dev}) > 1
    options = {"objective": "ll", "solver": "gradient", "epochs": 2, "lr": 0.03}
    steering = pl.fit(model, examples, method=method, tokens=tokens, batch_size=1, **options)
    report = steering.fit_report
    assert report.objective == "ll"
    assert len(set(report.losses)) == len(report.losses)
    said = by_hand.nll(model, examples.dev, steering)
    assert min(report.dev_losses) == pytest.approx(said, rel=1e-6)


@pytest.mark.parametrize("method", ["psr", "reft_r1"])
def test_the_dev_objective_does_not_depend_on_how_responses_are_batched(llama, its_data, method):
    """Nor on what is padded: penalties are means over responses, one of which has a single token."""
    short = its_data.dev[0]
    cut = replace(short, response_ids=short.response_ids[:1], response_text="")
    examples = replace(
        its_data, examples=tuple(cut if own == short else own for own in its_data.examples)
    )
    if method == "reft_r1":
        examples = pl.add_negatives(llama, examples, progress=False)
    recipe = replace(DEFAULT, epochs=0, regulariser=1.0)
    options = {"method": method, "layers": 1, "solver": "gradient", "recipe": recipe}
    alone, together = (
        pl.fit(llama, examples, **options, batch_size=size).fit_report.dev_losses
        for size in (1, 32)
    )
    assert alone == pytest.approx(together, rel=1e-9)


def test_the_regulariser_is_felt_by_heads_that_hardly_fire(model, data):
    r"""$\sum_l \mathrm{mean\ over\ responses\ of\ ReLU}(1 - \sum_t c_{l, t})$, in the units of the fit."""
    plain, regularised = (
        pl.fit(model, data, solver="gradient", epochs=0, recipe=replace(DEFAULT, regulariser=own))
        for own in (0.0, 0.1)
    )
    train = by_hand.all_missing(model, data.train, None).detach()
    unit = train.norm(dim=-1).square().mean(dim=1).sqrt()
    fired = [own.values.sum(dim=1).to(unit) / unit for own in plain.coefficients(model, data.dev)]
    idle = (1 - torch.stack(fired)).clamp_min(0)
    assert bool((idle > 0).any())
    penalty = regularised.fit_report.dev_losses[0] - plain.fit_report.dev_losses[0]
    assert penalty == pytest.approx(0.1 * float(idle.mean(dim=0).sum()), rel=1e-5)


def test_negatives_push_the_other_way(model, data):
    """Examples at strength -1 of the mirrored problem give the mirrored vector."""
    flipped = data.weighted([0.0] * len(data), offset=-1.0)
    for options in ({"solver": "layerwise"}, {"solver": "gradient", "epochs": 3, "lr": 0.1}):
        positive, negative = (
            pl.fit(model, own, method="const", layers=1, **options) for own in (data, flipped)
        )
        assert float(positive.vectors.norm()) > 0
        assert torch.allclose(negative.vectors, -positive.vectors, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="1 scores for"):
        data.weighted([1.0])


# --- what is kept -------------------------------------------------------------------------------


def test_auto_keeps_the_best_that_the_dev_examples_have_seen(model, data, fitted):
    best, replayed = fitted(epochs=3), fitted(solver="layerwise")
    alone, report = fitted(solver="gradient", epochs=3), best.fit_report
    assert min(alone.fit_report.losses) < alone.fit_report.losses[0]
    tried = dict(report.tried)
    assert set(tried) == {"layerwise", "gradient", "layerwise, then gradient"}
    assert min(report.dev_losses) == min(tried.values()) == tried[report.solver]
    assert tried["gradient"] == min(alone.fit_report.dev_losses)
    without = float(by_hand.mse(model, data.dev, None, 0))
    for steering, reached in ((replayed, tried["layerwise"]), (best, min(report.dev_losses))):
        found = float(by_hand.mse(model, data.dev, steering, 0))
        assert reached == pytest.approx(found / without, rel=1e-6)
    errors = by_hand.relative_rmse(model, data.dev, best)
    assert report.dev_relative_rmse == pytest.approx(errors, rel=1e-6)


class Placed(pl.ConstantSteering):
    """A constant that layers and training begin with at will."""

    method: ClassVar[str] = "placed"

    @dataclass(frozen=True)
    class Options:
        """What `fit` takes for it."""

        layer: float = 1.0
        """Times what is missing at a layer."""
        start: float = 0.0
        """In every coordinate."""

    @classmethod
    def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
        """Off by a factor."""
        vector = options.layer * data.missing.mean(dim=0)
        return LayerFit(cls(vector[None], [data.layer], tokens=data.tokens))

    @classmethod
    def start(cls, given: Start, options: Any) -> "Placed":
        """Off by a constant."""
        vectors = torch.full((len(given.layers), given.d_model), options.start)
        return cls(vectors, given.layers, tokens=given.tokens)


@pytest.mark.usefixtures("own_methods")
@pytest.mark.parametrize(
    ("bad", "kept", "solver"),
    [
        ({"layer": 50.0}, "gradient", "gradient"),
        ({"start": 50.0}, "layerwise, then gradient", "refine"),
    ],
    ids=["layers", "start"],
)
def test_auto_keeps_either_solver_s_where_the_other_begins_far_off(
    llama, its_data, bad, kept, solver
):
    pl.register(Placed)
    options = {"method": "placed", "layers": [0, 1], "epochs": 2, "lr": 0.01, **bad}
    found = pl.fit(llama, its_data, **options)
    alone = pl.fit(llama, its_data, solver=solver, **options)
    assert found.fit_report.solver == alone.fit_report.solver == kept
    assert torch.equal(found.vectors, alone.vectors)
    assert found.fit_report.dev_losses == alone.fit_report.dev_losses
    assert found.fit_report.stages == alone.fit_report.stages
    assert len(found.fit_report.stages) == (0 if kept == "gradient" else 2)


def test_training_that_never_got_better_says_so(llama, its_data):
    options = {"method": "const", "solver": "gradient", "lr": 1e3}
    with pytest.warns(UserWarning, match="never made the dev objective better") as told:
        steering = pl.fit(llama, its_data, epochs=2, **options)
    said = str(told[-1].message)
    assert "lr=1000)" in said
    assert "pass a smaller lr" in said
    assert steering.fit_report.warning.splitlines()[-1] == said
    # What is kept is the start, and that of a constant is no steering.
    assert not steering.vectors.any()
    never_trained = pl.fit(llama, its_data, epochs=0, **options)
    assert said not in never_trained.fit_report.warning


@pytest.mark.parametrize("solver", ["gradient", "auto"])
def test_a_step_size_that_is_too_large_is_made_smaller(llama, its_data, monkeypatch, solver):
    monkeypatch.setattr(pl.ConstantSteering, "recipe", classmethod(lambda cls, n: {"lr": 30.0}))
    options = {"method": "const", "layers": [0, 1]}
    found = pl.fit(llama, its_data, solver=solver, **options)
    tried = dict(found.fit_report.tried)
    steps = [float(name.split("lr=")[1]) for name in tried if "lr=" in name]
    assert 2 <= len(steps) <= 4
    assert steps == pytest.approx([30.0 * 0.3**i for i in range(len(steps))])
    reached = [own for name, own in tried.items() if "lr=" in name]
    if solver == "auto":
        assert tried["gradient"] == min(reached)
        return
    # The best of them, and that one as if it had been asked for.
    assert min(reached) < reached[0]
    best = steps[reached.index(min(reached))]
    assert best < 30.0
    asked = pl.fit(llama, its_data, solver=solver, lr=best, **options)
    assert asked.fit_report.tried == ()
    assert torch.allclose(asked.vectors, found.vectors)
    assert min(found.fit_report.dev_losses) == pytest.approx(min(reached))
    # The last one was no better, or there were enough.
    assert len(steps) == 4 or min(reached) < reached[-1]


def test_smaller_steps_are_tried_as_long_as_they_end_better(llama, its_data, monkeypatch):
    ends = {1.0: 5.0, 0.3: 3.0, 0.09: 2.0, 0.027: 2.5, 0.0081: 1.0}
    taken = []

    def train(self, name, start, smaller=1.0):
        taken.append(round(smaller, 6))
        end = ends[taken[-1]]
        # The first is at its best at once; the others get better to the end.
        others = (6.0,) * 200
        losses = (end, *others) if smaller == 1 else (*others, end)
        state = TrainingState(3, (), losses, 0, {})
        return pl.ConstantSteering(torch.full((1, llama.d_model), end), [0]), state

    monkeypatch.setattr("psr_lens.fitting.solve.Training.train", train)
    monkeypatch.setattr("psr_lens.fitting.solve.SMALLER_STEPS", 5)
    found = pl.fit(llama, its_data, method="const", layers=[0], solver="gradient")
    assert taken == [1.0, 0.3, 0.09, 0.027]
    assert float(found.vectors[0, 0]) == 2.0


def test_what_is_fitted_at_several_strengths_is_right_at_all_of_them(llama, its_data):
    strengths = (1.0, 4.0)
    several = its_data.at_strengths(strengths)
    assert [one.alpha for one in several] == [1.0] * len(its_data) + [4.0] * len(its_data)
    assert several.at_strengths([0.5])[-1].alpha == 2.0
    assert [len(several.dev), len(several.train)] == [
        2 * len(its_data.dev),
        2 * len(its_data.train),
    ]
    options = {"method": "psr", "solver": "gradient", "n_heads": 2}
    at_one, at_both = (pl.fit(llama, own, **options) for own in (its_data, several))

    def missed(steering: pl.Steering, strength: float) -> float:
        parts = [
            by_hand.missing(llama, one, steering, "response", strength) for one in its_data.dev
        ]
        return float(torch.cat([part.flatten() for part in parts]).square().mean())

    assert missed(at_both, 4.0) < 0.9 * missed(at_one, 4.0)
    # What it costs where the other one was fitted.
    assert missed(at_both, 1.0) < 1.5 * missed(at_one, 1.0)


@pytest.mark.parametrize("strengths", [(), (1.0, 0.0), (1.0, float("inf")), (2.0, 2.0), (-1.0,)])
def test_strengths_are_numbers_above_zero_each_once(its_data, strengths):
    with pytest.raises(ValueError, match="at least one number above 0, each once"):
        its_data.at_strengths(strengths)


def test_a_fit_says_at_which_strengths_and_goes_on_at_no_others(llama, its_data, tmp_path):
    options = {"method": "const", "solver": "layerwise", "checkpoint": tmp_path / "kept"}
    plain = pl.fit(llama, its_data, method="const", solver="layerwise")
    assert "strengths" not in plain.provenance["data"]
    several = its_data.at_strengths((1.0, 2.0))
    several.save(tmp_path / "several")
    again = pl.SteeringDataset.load(tmp_path / "several")
    assert again.examples == several.examples
    found = pl.fit(llama, again, **options)
    assert found.provenance["data"]["strengths"] == [1.0, 2.0]
    assert found.fit_report.examples == 2 * plain.fit_report.examples
    with pytest.raises(ValueError, match="another fit"):
        pl.fit(llama, its_data.at_strengths((1.0, 4.0)), **options)


def test_whether_the_prompt_works_is_asked_of_different_answers(llama, its_data):
    several = its_data.at_strengths((1.0, 2.0, 4.0))
    by_strength = replace(several, examples=tuple(several.sorted()))
    plain, repeated = (
        measure_prompt_effect(llama, own) for own in (its_data.sorted(), by_strength)
    )
    assert repeated == plain


def test_loreft_stays_orthonormal_and_reft_keeps_norm_1(model, fitted):
    loreft = fitted(method="loreft", rank=3, epochs=4)
    gram = loreft.rotation @ loreft.rotation.mT
    assert float((gram - torch.eye(3)).abs().max()) < 1e-6
    assert loreft.fit_report.losses[-1] < loreft.fit_report.losses[0]
    reft = fitted(method="reft_r1", epochs=4)
    assert torch.allclose(reft.w.norm(dim=-1), torch.ones(model.n_layers).to(reft.w))
    assert bool((reft.strength >= 0).all())
    assert reft.fit_report.losses[-1] < reft.fit_report.losses[0]


def test_the_papers_recipe(llama, its_data):
    steering = pl.fit(llama, its_data, solver="gradient", recipe="paper", epochs=3)
    batches = -(-steering.fit_report.examples // PAPER["mse"].batch_size)
    assert len(steering.fit_report.losses) == 3 * batches
    # Trained at any length, kept at 1.
    assert torch.allclose(steering.z.norm(dim=-1), torch.ones(1).to(steering.z))
    assert (PAPER["mse"].epochs, PAPER["ll"].epochs) == (15, 7)
    assert (PAPER["mse"].lr, PAPER["mse"].weight_decay) == (1e-3, 1e-6)
    assert PAPER["mse"].shuffle_seed == 123


def test_the_papers_recipes_for_the_benchmarks():
    persona, axbench, ifeval = (Recipe.paper(own) for own in ("persona", "axbench", "ifeval"))
    plain = {"adaptive": False, "probe_bias": False, "weight_decay": 1e-6, "lr": 1e-3}
    assert persona == axbench == replace(PAPER["mse"], regulariser=0.1, normalise=True, **plain)
    assert ifeval == replace(PAPER["mse"], regulariser=0.0, normalise=False, **plain)
    assert [Recipe.paper("persona", own).epochs for own in ("mse", "ll")] == [15, 7]
    assert PAPER_TOKENS["persona"] == "question+response"
    assert PAPER_TOKENS["axbench"] == PAPER_TOKENS["ifeval"] == "response"
    with pytest.raises(ValueError, match="benchmark='caa': choose one of persona, axbench, ifeval"):
        Recipe.paper("caa")
    with pytest.raises(ValueError, match="objective='kl': choose 'mse' or 'll'"):
        Recipe.paper("persona", "kl")


@pytest.mark.parametrize("objective", ["mse", "ll"])
def test_probes_without_a_bias(llama, its_data, objective):
    recipe = replace(Recipe.paper("persona", objective), epochs=3)
    options = {"solver": "gradient", "objective": objective, "layers": [1]}
    group = its_data.train[0].pair.group
    # Of one group there is no dev split, and the last step is kept.
    data = its_data.filter(lambda own: own.pair.group == group)
    free = pl.fit(llama, data, recipe=replace(recipe, probe_bias=True), **options)
    held = pl.fit(llama, data, recipe=recipe, **options)
    begun = pl.fit(llama, data, recipe=replace(recipe, epochs=0), **options)
    assert bool((free.b != 0).all())
    assert torch.equal(held.b, torch.zeros_like(held.b))
    assert torch.equal(begun.b, held.b)
    for name in ("w", "z"):
        assert bool((getattr(held, name) != getattr(begun, name)).all())
    assert held.fit_report.losses != free.fit_report.losses


def test_probes_without_a_bias_only_where_nothing_else_puts_one_in(llama, its_data):
    recipe = Recipe.paper("persona")
    with pytest.raises(ValueError, match=r"probe_bias=False .*'psr', solver='auto': .*'gradient'"):
        pl.fit(llama, its_data, recipe=recipe)
    with pytest.raises(ValueError, match=r"probe_bias=False .*: with adaptive=True"):
        pl.fit(llama, its_data, recipe=replace(recipe, adaptive=True), solver="gradient")
    # A method without probes takes the recipe as it is.
    constant = pl.fit(
        llama, its_data, method="const", recipe=replace(recipe, epochs=1), solver="gradient"
    )
    assert len(constant.fit_report.losses) > 0


def test_what_every_layer_adds_is_stepped_less_the_more_layers_there_are():
    for method, step in ((pl.ConstantSteering, 0.5), (pl.LoReFT, 0.1)):
        assert method.recipe(1)["lr"] == method.recipe(6)["lr"] == step
        assert method.recipe(30)["lr"] == pytest.approx(step / 5)


# --- interrupted fits ---------------------------------------------------------------------------


@contextmanager
def stopped_past(file=None):
    """Ctrl-C after the first step of an optimiser that finds a file; the steps that were taken."""
    steps = []

    def look(*_):
        steps.append(1)
        if file is not None and file.exists():
            raise KeyboardInterrupt

    handle = register_optimizer_step_post_hook(look)
    try:
        yield steps
    finally:
        handle.remove()


def goes_on(model, data, folder, stops, options):
    """Interrupt a fit in every one of its phases, let it end, and compare it to one that was not."""
    options = {**options, "epochs": 3, "recipe": replace(DEFAULT, patience=0, batch_size=4)}
    whole = pl.fit(model, data, **options)
    for stop in stops:
        file = folder / "c" / f"{stop}.safetensors"
        assert not file.exists()
        with stopped_past(file), pytest.raises(KeyboardInterrupt):
            pl.fit(model, data, checkpoint=folder / "c", **options)
    with stopped_past() as steps:
        resumed = pl.fit(model, data, checkpoint=folder / "c", **options)
    # Of three epochs one was done; the step that was taken in the second is taken again.
    assert len(steps) == 2 * -(-whole.fit_report.examples // 4)
    assert content(resumed.save(folder / "a")) == content(whole.save(folder / "b"))


def test_an_interrupted_fit_goes_on_bit_for_bit(model, data, tmp_path):
    """While it refines what the layers gave, and on the way from a start of its own."""
    stops = ("epoch-refining", "epoch-gradient")
    goes_on(model, data, tmp_path, stops, {"method": "const", "solver": "auto"})


def test_so_does_one_among_the_layers(llama, its_data, tmp_path):
    """In the middle of a layer's regression, with other layers finished."""
    stops = ("stage-0001", "epoch-refining", "epoch-gradient")
    goes_on(llama, its_data, tmp_path, stops, {"method": "psr", "solver": "auto"})
    assert len(list((tmp_path / "c").glob("stage-*"))) == llama.n_layers


@pytest.mark.parametrize("method", ["loreft", "reft_r1"])
def test_so_does_one_whose_tensors_are_constrained(llama, its_data, tmp_path, method):
    options = {"method": method, "objective": "mse", "solver": "gradient"}
    goes_on(llama, its_data, tmp_path, ["epoch-gradient"], options)


def test_a_directory_of_another_fit_is_refused(llama, its_data, tmp_path):
    options = {"solver": "layerwise", "layers": [0], "checkpoint": tmp_path}
    pl.fit(llama, its_data, **options)
    with pytest.raises(ValueError, match="of another fit"):
        pl.fit(llama, its_data, n_heads=2, **options)


@pytest.mark.parametrize(
    ("solver", "run"), [("gradient", "epoch-gradient"), ("layerwise", "stage-0001")]
)
def test_a_checkpoint_with_other_tensors_is_refused(llama, its_data, tmp_path, solver, run):
    """With a right checksum: whoever wrote it, it is not what this fit keeps."""
    options = {"method": "const", "layers": 1, "solver": solver, "checkpoint": tmp_path}
    options |= {"epochs": 1} if solver == "gradient" else {}
    pl.fit(llama, its_data, **options)
    was, header = read_container(tmp_path / run, "checkpoint")
    name = next(name for name in was if name == "steering.vectors" or name.startswith("now."))
    for changed in (was[name][..., :-1], was[name][None], was[name].flatten().repeat(2)):
        write_container(tmp_path / run, "checkpoint", {**was, name: changed}, header)
        with pytest.raises(ValueError, match="the checkpoint holds other tensors"):
            pl.fit(llama, its_data, **options)
    write_container(tmp_path / run, "checkpoint", was, header)
    pl.fit(llama, its_data, **options)


# --- layer by layer -----------------------------------------------------------------------------


@pytest.mark.usefixtures("own_methods")
def test_past_the_memory_limit_replay_uses_the_disk_and_gives_the_same(
    model, data, tmp_path, monkeypatch
):
    there = []

    @pl.register
    class Looking(pl.ConstantSteering):
        """A constant that looks at the folder for temporary files while it is fitted."""

        method: ClassVar[str] = "looking"

        @classmethod
        def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
            there.append(len(list(tmp_path.glob("psr-lens-*/*.safetensors"))))
            return super().fit_layer(data, options)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    common = {"method": "looking", "solver": "layerwise", "batch_size": 5}
    free = pl.fit(model, data, **common)
    assert not any(there)
    there.clear()
    tight = pl.fit(model, data, max_memory=1000, **common)
    assert len(there) == model.n_layers
    assert all(there)
    assert not list(Path(tmp_path).iterdir())
    assert torch.equal(free.vectors, tight.vectors)
    assert tight.fit_report.dev_relative_rmse == free.fit_report.dev_relative_rmse


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": (1,), "tokens": "question+response"},
        {"method": "const", "layers": (0, 2), "max_memory": 1000},
    ],
    ids=str,
)
def test_the_dev_errors_that_replay_comes_by_are_those_of_the_steering(
    model, data, fitted, options
):
    steering = fitted(solver="layerwise", **options)
    expected = by_hand.relative_rmse(model, data.dev, steering, options.get("tokens", "response"))
    found = steering.fit_report.dev_relative_rmse
    assert len(found) == model.n_layers
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert found[max(steering.layers)] != pytest.approx(1, abs=1e-3)


def test_forwards_are_counted(model, fitted):
    report = fitted(method="dim").fit_report
    # Base and prompted run of the training examples; base, prompted and steered of the dev ones.
    assert report.forwards == pytest.approx(2 * report.examples + 3 * report.dev_examples)
    report = fitted(method="const", solver="layerwise").fit_report
    both = report.examples + report.dev_examples
    # The dev examples' run without pushes leaves the other one behind after the first block.
    plain = report.dev_examples * (1 - 1 / model.n_layers)
    assert report.forwards == pytest.approx(2 * both + plain)


def test_few_examples_are_gone_over_more_often(llama, its_data):
    """Ten are two steps: what is given up after three such epochs has not begun to learn."""
    report = pl.fit(llama, its_data, method="const", solver="gradient").fit_report
    steps = -(-report.examples // DEFAULT.batch_size)
    assert steps < 8
    epochs = DEFAULT.for_few(report.examples).epochs
    assert epochs * steps >= 8 * DEFAULT.epochs
    assert len(report.losses) > steps * DEFAULT.patience
    # A number of epochs that is asked for is kept to, and so is a recipe.
    asked = pl.fit(llama, its_data, method="const", solver="gradient", epochs=2).fit_report
    assert len(asked.losses) == 2 * steps
    given = pl.fit(
        llama, its_data, method="const", solver="gradient", recipe=replace(DEFAULT, epochs=2)
    ).fit_report
    assert len(given.losses) == 2 * steps


@pytest.mark.parametrize(("examples", "times"), [(1, 8), (10, 4), (40, 2), (57, 1), (1000, 1)])
def test_an_epoch_has_at_least_eight_steps_or_several_count_as_one(examples, times):
    found = DEFAULT.for_few(examples)
    assert (found.epochs, found.patience) == (times * DEFAULT.epochs, times * DEFAULT.patience)
    assert replace(found, epochs=0, patience=0) == replace(DEFAULT, epochs=0, patience=0)
