"""Whoever adds a method writes one class: here one that no file of the package knows."""

import inspect
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import psr_lens as pl
from psr_lens.cli import main
from psr_lens.cli.commands import Compare, Fit
from psr_lens.deploy.card import model_card
from psr_lens.fitting.plan import plan_fit
from psr_lens.steering import ConstantSteering, Steering, registry
from psr_lens.steering.base import Role
from psr_lens.steering.training import LayerData, LayerFit, Start
from tests.tiny_models import instructed, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "own-method.md"


class Pull(Steering):
    """$A + r (c - A)$: every token moves a share of the way to one point."""

    method: ClassVar[str] = "pull"
    roles: ClassVar[Mapping[str, Role]] = {"centre": "writes"}
    settings: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": "all"}, {"layers": "best"})
    centre: Float[Tensor, "layer d_model"]
    rate: Float[Tensor, " layer"]

    @dataclass(frozen=True)
    class Options:
        """What `fit` takes for it."""

        rate: float = 0.05
        """Share of the way."""

        def __post_init__(self):
            if not 0 < self.rate <= 1:
                raise ValueError(f"rate={self.rate}: it must be above 0 and at most 1")

    def __init__(
        self,
        centre: Float[Tensor, "layer d_model"],
        rate: Float[Tensor, " layer"],
        layers,
        **common,
    ):
        super().__init__(layers, **common)
        self.hold(centre=centre, rate=rate)

    def update(self, layer, resid, columns=None):
        """A share of the way."""
        row = self.row(layer)
        return self.rate[row].to(resid) * (self.centre[row].to(resid) - resid)

    @classmethod
    def fit_layer(cls, data: LayerData, options: Any) -> LayerFit:
        """The least-squares centre."""
        centre = data.x.mean(dim=0) + data.missing.mean(dim=0) / options.rate
        rate = torch.full((1,), options.rate).to(centre)
        return LayerFit(cls(centre[None], rate, [data.layer], tokens=data.tokens))

    @classmethod
    def start(cls, given: Start, options: Any) -> "Pull":
        """From the origin."""
        n = len(given.layers)
        centre = torch.zeros(n, given.d_model)
        return cls(centre, torch.full((n,), options.rate), given.layers, tokens=given.tokens)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Registered for one test."""
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    pl.register(Pull)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "bridge")


@pytest.fixture(scope="module")
def data(model):
    questions = [f"tell me about animal {i}" for i in range(10)]
    pairs = [instructed(model, question, "always be very kind") for question in questions]
    return pl.sample_responses(model, pairs, max_new_tokens=8, progress=False)


def test_it_is_fitted_layer_by_layer_and_through_the_model(model, data):
    replayed = pl.fit(model, data, method="pull", solver="layerwise", rate=0.01)
    assert isinstance(replayed, Pull)
    assert torch.equal(replayed.rate, torch.full((model.n_layers,), 0.01))
    report = replayed.fit_report
    assert (report.method, report.solver, len(report.stages)) == (
        "pull",
        "layerwise",
        model.n_layers,
    )
    # It has the mean that least squares wants, so it leaves less than nothing does.
    assert report.stages[0].train_loss < 1
    assert report.dev_relative_rmse[-1] < 1
    trained = pl.fit(model, data, method=Pull, solver="gradient", layers=2, epochs=3)
    assert trained.fit_report.losses[-1] < trained.fit_report.losses[0]
    assert trained.layers == (2,)
    # Both, and one layer of all.
    best = pl.fit(model, data, method="pull", layers="best", epochs=1)
    assert len(best.fit_report.candidates) == model.n_layers
    assert set(dict(best.fit_report.tried)) == {"layerwise", "gradient", "layerwise, then gradient"}


def test_what_it_does_not_take_is_refused_by_name(model, data):
    with pytest.raises(ValueError, match="rate=2: it must be above 0"):
        pl.fit(model, data, method="pull", rate=2)
    with pytest.raises(ValueError, match=r"rate=0\.1 with method='dim': only pull takes it"):
        pl.fit(model, data, method="dim", rate=0.1)
    with pytest.raises(ValueError, match="n_heads=2 with method='pull': only psr takes it"):
        pl.fit(model, data, method="pull", n_heads=2)
    with pytest.raises(TypeError, match="fit has no option 'rat'"):
        pl.fit(model, data, method="pull", rat=0.1)


def test_it_is_compared_measured_read_and_shown(model, data):
    found = pl.compare(model, data, ["dim", "pull"], epochs=1)
    assert list(found.steerings) == ["difference in means", "pull"]
    assert "epochs=1 is not for dim, fitted without it" in found.summary()
    psr = pl.fit(model, data, solver="layerwise")
    own = pl.fit(model, data, method="pull", solver="layerwise")
    report = pl.measure_faithfulness(model, {"own": own, "psr": psr}, data.test, oracle_ranks=())
    assert report.relative_rmse["own"].values[-1] != report.relative_rmse["psr"].values[-1]
    reading = pl.read_steering(model, own)
    assert [one.role for one in reading.readings] == ["writes"] * model.n_layers
    (coefficients, *_) = own.coefficients(model, data.test)
    # The length of what is added, whatever the method.
    assert coefficients.values.shape[0] == model.n_layers
    assert bool((coefficients.values > 0).all())


def test_it_is_saved_loaded_and_steers(model, data, tmp_path):
    own = pl.fit(model, data, method="pull", solver="layerwise", rate=0.3)
    back = pl.load_steering(own.save(tmp_path / "own"), model)
    assert isinstance(back, Pull)
    assert back.provenance == own.provenance
    for name, tensor in own.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    said = []
    for steering in (own, back):
        with steering.applied(model, 2.0):
            said.append(model.generate("tell me about the fox", max_new_tokens=8, temperature=0.0))
    plain = model.generate("tell me about the fox", max_new_tokens=8, temperature=0.0)
    assert said[0] == said[1] != plain
    both = pl.load_steering((own - 0.5 * own).save(tmp_path / "sum"))
    resid = torch.randn(3, model.d_model)
    assert torch.allclose(both.update(1, resid), 0.5 * own.update(1, resid), atol=1e-5)
    card = model_card(own, "me/pull")
    assert "every token moves a share of the way to one point" in card
    assert "fitted by `pull`" in card
    # In another process that was told nothing of it.
    registry._CLASSES.pop("pull")
    with pytest.raises(ValueError, match="'pull'"):
        pl.load_steering(tmp_path / "own")


def test_on_the_command_line(tmp_path, capsys):
    registry._CLASSES.pop("pull")
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"base": f"describe the {own} .", "prompted": f"shout . describe the {own} ."}
        for own in ("fox", "owl", "whale", "mouse", "otter")
    ]
    pairs.write_text("\n".join(json.dumps(line) for line in lines))
    file = tmp_path / "mine.py"
    # The class as the page about it has it.
    file.write_text(PAGE.read_text().split("```python\n")[1].split("```")[0])
    of_all = ["--model", "demo", "--pairs", str(pairs), "--max-new-tokens", "6"]
    out = tmp_path / "own.safetensors"
    command = ["--import", str(file), "fit", "pull", *of_all, "--solver", "layerwise"]
    main([*command, "--rate", "0.2", "--out", str(out)])
    assert "FitReport(pull by layerwise" in capsys.readouterr().out
    assert torch.equal(pl.load_steering(out).state_dict()["rate"], torch.full((6,), 0.2))
    main(
        [
            "--import",
            str(file),
            "steer",
            "--model",
            "demo",
            "--steering",
            str(out),
            "--prompt",
            "hi .",
        ]
    )
    for wrong, message in (
        ([*command, "--rate", "7"], "rate=7.0: it must be above 0 and at most 1"),
        ([*command, "--n-heads", "2"], "--n-heads"),
        (["--import", str(tmp_path / "no.py"), *command[2:]], "there is no such file"),
        (["--import"], "--import names no file"),
    ):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        printed = capsys.readouterr().err
        assert end.value.code == 2
        assert message in printed
        assert printed.count("\n") == 1
    file.write_text("1 / 0")
    with pytest.raises(SystemExit):
        main(command)
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


def test_names_are_taken_once():
    class Other(Pull):
        """Another class."""

    with pytest.raises(ValueError, match=r"method='pull' is .*Pull already: choose another name"):
        pl.register(Other)
    # The same class again, as where a notebook's cell is run twice.
    assert pl.register(Pull) is Pull
    Other.method = "not a name"
    with pytest.raises(ValueError, match="a method is called by a name"):
        pl.register(Other)


def test_what_would_break_later_is_refused_when_it_is_registered():
    def made(**body):
        return type("Own", (Pull,), {"method": "own", "__module__": __name__, **body})

    @dataclass
    class Clash:
        seed: int = 3

    @dataclass
    class Needs:
        rate: float

    for body, message in (
        ({"Options": dict}, "Own.Options is no dataclass"),
        ({"Options": Clash}, "Own.Options.seed: fit has an option of that name"),
        ({"Options": Needs}, "Own.Options.rate has no default"),
        ({"fit_layer": lambda data, options: None}, "Own.fit_layer is no class method"),
        ({"start": staticmethod(lambda given, options: None)}, "Own.start is no class method"),
        (
            {"acts_on": lambda self, columns: None},
            "Own overrides acts_on, but layerwise and gradient fit",
        ),
        ({"method": "sum"}, "Own.method='sum': a method is called by a name of its own"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            pl.register(made(**body))
    assert "own" not in registry._CLASSES


def test_the_names_that_fit_has_are_known():
    commands = {field.name for command in (Fit, Compare) for field in fields(command)}
    arguments = {name for own in (pl.fit, plan_fit) for name in inspect.signature(own).parameters}
    assert commands | arguments == registry.TAKEN


def test_what_could_not_be_loaded_is_not_saved(model, data, tmp_path):
    class Half(ConstantSteering):
        """A constant that acts in a way of its own."""

        method = "half"

        def update(self, layer, resid, columns=None):
            return 0.5 * super().update(layer, resid, columns)

    half = Half(torch.ones(1, model.d_model), [0])
    for unknown in (half, half + half):
        with pytest.raises(ValueError, match="Half is not registered, so its file could not be"):
            unknown.save(tmp_path / "half")
    with pytest.raises(ValueError, match="Half is not registered: put @register above it"):
        pl.fit(model, data, method=Half)
    pl.register(Half)
    resid = torch.zeros(2, model.d_model)
    # It is no constant that adds up to a constant.
    both = pl.load_steering((half + half).save(tmp_path / "half"))
    assert torch.equal(both.update(0, resid), torch.ones_like(resid))

    @pl.register
    class Unnamed(Pull):
        """Its constructor says nothing of its tensors."""

        method = "unnamed"

        def __init__(self, centre, rate, layers, **common):
            super().__init__(centre, rate, layers, **common)

    unnamed = Unnamed(torch.ones(1, 4), torch.ones(1), [0])
    with pytest.raises(ValueError, match="does not name the axes of centre, rate"):
        unnamed.save(tmp_path / "unnamed")
    assert not (tmp_path / "unnamed.safetensors").exists()


class Loud(Pull):
    """A pull with an argument beside its tensors."""

    method: ClassVar[str] = "loud"

    def __init__(
        self,
        centre: Float[Tensor, "layer d_model"],
        rate: Float[Tensor, " layer"],
        layers,
        *,
        gain=1.0,
        **common,
    ):
        super().__init__(centre, rate, layers, **common)
        self.gain = gain

    def arguments(self):
        return {"gain": self.gain}

    def update(self, layer, resid, columns=None):
        return self.gain * super().update(layer, resid)

    @classmethod
    def fit_layer(cls, data, options):
        found = super().fit_layer(data, options).steering
        return LayerFit(
            cls(**found.state_dict(), layers=[data.layer], tokens=data.tokens, gain=3.0)
        )


def test_a_resumed_fit_has_the_arguments_that_are_no_tensors(model, data, tmp_path):
    pl.register(Loud)
    options = {"method": "loud", "solver": "layerwise", "checkpoint": tmp_path / "c"}
    first, again = (pl.fit(model, data, **options) for _ in range(2))
    assert first.gain == again.gain == 3.0
    assert first.fit_report.dev_relative_rmse == again.fit_report.dev_relative_rmse
    assert pl.load_steering(again.save(tmp_path / "loud")).gain == 3.0


def test_a_tensor_without_a_part_in_the_update_is_named(model, data):
    class Idle(Pull):
        """`rate` is never read."""

        method = "idle"

        def update(self, layer, resid, columns=None):
            return (self.centre[self.row(layer)] - resid) * 0.1

    pl.register(Idle)
    with pytest.raises(ValueError, match="rate of 'idle' takes no part in what it adds"):
        pl.fit(model, data, method="idle", solver="gradient", epochs=1)


def test_two_threads_fit_what_is_constrained(data):
    """What torch works out once for a constrained tensor it keeps for the whole process."""
    models = [tiny_model("llama", "bridge"), tiny_model("llama", "hooked")]
    alone = [pl.fit(own, data, method="loreft", epochs=3) for own in models]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda own: pl.fit(own, data, method="loreft", epochs=3), models))
    for one, other in zip(alone, together, strict=True):
        assert one.fit_report.losses == other.fit_report.losses
