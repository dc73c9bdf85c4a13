"""What a comparison is made of, known before anything is fitted."""

import pytest
import torch

from psr_lens.comparison import compare, plan_comparison
from psr_lens.dataset import SteeringDataset
from psr_lens.fitting import best
from psr_lens.fitting.best import fit_best, settings_of
from psr_lens.steering import PSR, register
from psr_lens.steering.registry import fitted_methods

METHODS = tuple(fitted_methods())
EMPTY = SteeringDataset((), {}, {})


def test_every_method_has_its_rows():
    plan = plan_comparison(["dim", "const", "psr"], {"seed": 3, "objective": None})
    assert plan.fits == (
        ("difference in means", {"method": "dim", "seed": 3}),
        ("constant, mse", {"method": "const", "seed": 3, "objective": "mse"}),
        ("constant, ll", {"method": "const", "seed": 3, "objective": "ll"}),
        ("PSR", {"method": "psr", "seed": 3}),
    )
    assert plan.notes == ()


@pytest.mark.usefixtures("own_methods")
def test_rows_of_one_label_are_told_apart():
    for method, label in (("one", "X (2)"), ("two", "X"), ("three", "X"), ("four", "PSR")):
        register(type(method.title(), (PSR,), {"method": method, "label": label}))

    def rows(*methods):
        return [name for name, _ in plan_comparison(methods, {"seed": 0}).fits]

    assert rows("one", "two") == ["X (2)", "X"]
    assert rows("two", "one", "two") == ["X", "X (2)", "X (3)"]
    assert rows("two", "three") == ["X [two]", "X [three]"]
    assert rows("psr", "four", "psr") == ["PSR [psr]", "PSR [four]", "PSR [psr] (2)"]
    with pytest.raises(ValueError, match=r"Five\.label=5: it is a text"):
        register(type("Five", (PSR,), {"method": "five", "label": 5}))


def test_options_are_never_rewritten():
    """They go to a method as they are, or not at all, which is said."""
    options = {"solver": "layerwise", "layers": "best", "n_heads": 4}
    plan = plan_comparison(["dim", "psr"], options)
    assert dict(plan.fits) == {
        "difference in means": {"method": "dim", "layers": "best"},
        "PSR": {"method": "psr", **options},
    }
    assert plan.notes == (
        "solver='layerwise' is not for dim, fitted without it",
        "n_heads=4 is not for dim, fitted without it",
    )


def test_what_is_given_as_it_would_be_anyway_leaves_nothing_out():
    defaults = {"solver": "auto", "n_heads": 1, "recipe": "default", "rank": None, "lr": None}
    assert plan_comparison(METHODS, defaults).notes == ()


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        ([], {}, "methods is empty"),
        (["dim", "magic"], {}, "method='magic': choose one of"),
        (["psr", "loreft"], {"solver": "layerwise"}, "solver='layerwise' with method='loreft'"),
        (["dim", "ablation"], {"layers": "best"}, "layers='best' has no meaning for ablation"),
        (["dim", "pca"], {"objective": "ll"}, "objective='ll' with dim, pca: it is for const"),
        (
            ["psr", "const"],
            {"precision": torch.float64, "solver": "gradient"},
            "only the layerwise solver",
        ),
        (["psr", "dim"], {"checkpoint": "here"}, "a directory keeps one fit"),
        (["psr"], {"batch_size": 0}, "batch_size=0: it must be at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_first_fit(methods, options, message):
    # Neither a model nor data is looked at.
    with pytest.raises(ValueError, match=message):
        compare(None, EMPTY, methods, **options)


def test_an_option_that_fit_does_not_have():
    with pytest.raises(TypeError, match="compare has no option 'epoch'"):
        plan_comparison(["psr"], {"epoch": 3})


def test_fit_best_checks_every_setting_before_it_fits_one(monkeypatch):
    def fit(*args, **options):
        raise AssertionError("a fit was begun")

    monkeypatch.setattr(best, "fit", fit)
    with pytest.raises(ValueError, match="layers='best' has no meaning for loreft"):
        fit_best(None, EMPTY, method="loreft", layers="best")
    with pytest.raises(
        ValueError, match="checkpoint= with 2 settings of psr to try, objective=mse"
    ):
        fit_best(None, EMPTY, method="psr", checkpoint="x")
    for method in METHODS:
        assert len(settings_of(method, {})) == len(fitted_methods()[method].settings)
    assert list(settings_of("psr", {"solver": "layerwise"})) == ["objective=mse"]
