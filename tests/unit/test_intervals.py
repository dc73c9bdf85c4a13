"""Estimates and their bootstrap intervals."""

import math
import re
from pathlib import Path

import pytest
import torch

from psr_lens.statistics import Curve, Estimate, bootstrap, estimates, resamples, why_no_interval

ROOT = Path(__file__).parents[2]


def test_an_estimate_shows_the_interval_that_it_has():
    assert f"{Estimate(0.2, -0.001, 0.3):z.0%}" == "20% (0% to 30%)"
    assert f"{Estimate(-0.02, math.nan, math.nan):z.0%}" == "-2%"
    assert f"{Estimate(1.0, 0.5, 1.5):+.1f}" == "+1.0 (+0.5 to +1.5)"
    assert f"{Estimate(0.5, 0.4, math.nan):.1f}" == "0.5"


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (math.nan, math.nan, False)],
)
def test_an_estimate_is_clear_where_its_interval_leaves_out_zero(low, high, clear):
    found = Estimate(0.1, low, high)
    assert found.clear == clear
    assert found.has_interval == (not math.isnan(low))


def test_a_curve_is_its_estimates():
    found = estimates(torch.tensor([[1.0, 2.0], [0.5, 1.5], [1.25, 2.5]]))
    assert found == (Estimate(1.0, 0.5, 1.25), Estimate(2.0, 1.5, 2.5))
    curve = Curve(found, (3, 4))
    assert (curve.values, curve.low, curve.high) == ((1.0, 2.0), (0.5, 1.5), (1.25, 2.5))


def test_one_row_of_numbers_has_no_intervals():
    (found,) = estimates(torch.tensor([[2.0]]))
    assert found.value == 2.0
    assert not found.has_interval
    # Of a single measure, the three ends lie in one column.
    assert estimates(torch.tensor([2.0, 1.0, 3.0])) == (Estimate(2.0, 1.0, 3.0),)


def test_a_resample_without_the_measure_is_left_out():
    # In the first resample only examples that do not have it.
    counts = torch.tensor([[5.0, 0, 0, 0, 0], [0, 5.0, 0, 0, 0], [1.0] * 5]).double()
    sums = (
        torch.tensor([[0.0]] + [[0.5]] * 4).double(),
        torch.tensor([[0.0]] + [[1.0]] * 4).double(),
    )
    assert bootstrap(lambda a, b: a / b, sums, counts).tolist() == [[0.5], [0.5], [0.5]]


@pytest.mark.parametrize(("n", "there"), [(1, False), (4, False), (5, True)])
def test_from_five_examples_on_there_is_an_interval(n, there):
    sums = torch.arange(1.0, n + 1).double()[:, None]
    value, low, high = bootstrap(lambda a: a, (sums,), resamples(n, 200, 0)).flatten().tolist()
    assert value == n * (n + 1) / 2
    assert (low < value < high) == there
    assert math.isnan(low) == math.isnan(high) == (not there)
    assert (why_no_interval(n) == "") == there


@pytest.mark.parametrize(("n", "percent"), [(3, 69), (5, 78), (10, 86), (20, 91), (40, 92)])
def test_how_often_an_interval_holds_the_truth_is_what_the_pages_say(n, percent, monkeypatch):
    monkeypatch.setattr("psr_lens.statistics.intervals.LEAST_EXAMPLES", 1)
    generator = torch.Generator().manual_seed(0)
    drawn = (0.6 * torch.randn(n, 4000, generator=generator, dtype=torch.float64)).exp()
    found = bootstrap(torch.div, (drawn, torch.ones_like(drawn)), resamples(n, 1000, 0))
    truth = math.exp(0.6**2 / 2)
    held = ((found[1] <= truth) & (truth <= found[2])).double().mean()
    assert float(held) == pytest.approx(percent / 100, abs=0.01)
    words = {3: "three", 5: "five", 10: "ten", 20: "twenty", 40: "forty"}
    method = " ".join((ROOT / "docs" / "method.md").read_text(encoding="utf-8").split())
    assert re.search(rf"{percent} with {words[n]}\b", method)
    if n == 10:
        readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
        assert (
            f"from 10 examples holds the truth in {percent} cases of 100, from 20 in 91" in readme
        )
