"""Estimates and their bootstrap intervals."""

import math
import re
from pathlib import Path

import pytest
import torch

from psr_lens.statistics import (
    LEAST_PROMPTS,
    Curve,
    Estimate,
    bootstrap,
    estimates,
    resamples,
    why_no_interval,
)

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
def test_from_five_prompts_on_there_is_an_interval(n, there):
    sums = torch.arange(1.0, n + 1).double()[:, None]
    value, low, high = (
        bootstrap(lambda a: a, (sums,), resamples(range(n), 200, 0)).flatten().tolist()
    )
    assert value == n * (n + 1) / 2
    assert (low < value < high) == there
    assert math.isnan(low) == math.isnan(high) == (not there)
    assert (why_no_interval(n) == "") == there


def test_one_response_per_prompt_draws_examples():
    """The ordinary bootstrap: as many examples as there are, drawn with replacement."""
    drawn = torch.randint(7, (50, 7), generator=torch.Generator().manual_seed(3))
    expected = torch.stack([row.bincount(minlength=7) for row in drawn]).double()
    assert torch.equal(resamples(range(7), 50, 3), expected)


def test_examples_of_one_prompt_are_drawn_together():
    prompt_of = [0, 1, 1, 2, 0, 3, 4, 1, 5]
    counts = resamples(prompt_of, 50, 3)
    assert counts.shape == (50, 9)
    # Six prompts drawn six times, whatever the number of their responses.
    assert torch.equal(counts, resamples(range(6), 50, 3)[:, prompt_of])
    assert torch.equal(counts[:, [0, 1, 1]], counts[:, [4, 2, 7]])
    assert counts[:, [0, 1, 3, 5, 6, 8]].sum(dim=1).tolist() == [6.0] * 50


def test_few_prompts_have_no_interval_however_many_responses():
    few = resamples([0, 1, 2, 3, 0, 1, 2, 3, 0, 1], 200, 0)
    assert (few.shape, LEAST_PROMPTS) == ((0, 10), 5)
    found = bootstrap(torch.sum, (torch.arange(10.0).double(),), few)
    assert found[0] == 45.0
    assert found[1:].isnan().all()
    assert why_no_interval(4).startswith("4 prompts are too few for intervals, which need 5:")
    assert why_no_interval(1).startswith("1 prompt is too few for intervals")


def test_an_interval_over_prompts_holds_the_truth_where_one_over_examples_does_not():
    """Four responses per prompt, which share most of what makes them differ from the mean.

    With variance 1 between prompts and 0.25 within them, the mean of 40 prompts with four responses has
    variance (1 + 0.25 / 4) / 40; over examples it would seem to have 1.25 / 160, a standard deviation of
    0.54 of the true one: 1.96 of these are 1.06, and a normal variable is within 1.06 in 71 of 100 cases.
    """
    n_prompts, n_cases = 40, 2000
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(n_prompts, n_cases, generator=generator, dtype=torch.float64)
    own = torch.randn(4 * n_prompts, n_cases, generator=generator, dtype=torch.float64)
    prompt_of = [i % n_prompts for i in range(4 * n_prompts)]
    values = shared[prompt_of] + 0.5 * own

    def held(drawn_as):
        counts = resamples(drawn_as, 1000, 0)
        _, low, high = bootstrap(torch.div, (values, torch.ones_like(values)), counts)
        return float(((low <= 0) & (high >= 0)).double().mean())

    assert held(prompt_of) == pytest.approx(0.95, abs=0.02)
    assert held(range(4 * n_prompts)) == pytest.approx(0.71, abs=0.03)


@pytest.mark.parametrize(("n", "percent"), [(3, 69), (5, 78), (10, 86), (20, 91), (40, 92)])
def test_how_often_an_interval_holds_the_truth_is_what_the_pages_say(n, percent, monkeypatch):
    monkeypatch.setattr("psr_lens.statistics.intervals.LEAST_PROMPTS", 1)
    generator = torch.Generator().manual_seed(0)
    drawn = (0.6 * torch.randn(n, 4000, generator=generator, dtype=torch.float64)).exp()
    found = bootstrap(torch.div, (drawn, torch.ones_like(drawn)), resamples(range(n), 1000, 0))
    truth = math.exp(0.6**2 / 2)
    held = ((found[1] <= truth) & (truth <= found[2])).double().mean()
    assert float(held) == pytest.approx(percent / 100, abs=0.01)
    words = {3: "three", 5: "five", 10: "ten", 20: "twenty", 40: "forty"}
    method = " ".join((ROOT / "docs" / "method.md").read_text(encoding="utf-8").split())
    assert re.search(rf"{percent} with {words[n]}\b", method)
    if n == 10:
        readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
        assert f"from 10 prompts holds the truth in {percent} cases of 100, from 20 in 91" in readme
