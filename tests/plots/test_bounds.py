import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psr_lens.plots.bounds import Bounds, resolve_bounds, robust_bounds

NUMBERS = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=60)


def test_an_outlier_does_not_wash_the_scale_out():
    values = torch.linspace(0.5, 3.0, 20)
    with_sink = torch.cat([torch.tensor([80.0]), values])
    bounds = robust_bounds(with_sink)
    assert 2.5 <= bounds.high <= 3.0
    assert bounds.low == 0
    assert bounds.n_clipped(with_sink) <= 2


def test_the_few_tokens_that_a_prompt_moves_most_leave_the_others_their_colours():
    # As over a response on a real model: two tokens lead, by less than three times the 95th percentile.
    values = torch.cat([torch.tensor([560.0, 450.0, 245.0]), torch.linspace(40.0, 100.0, 57)])
    bounds = robust_bounds(values)
    assert float(values.median()) >= bounds.high / 5
    assert bounds.n_clipped(values) == 3


def test_without_an_outlier_nothing_is_clipped():
    values = torch.linspace(0.5, 8.0, 21)
    assert robust_bounds(values) == Bounds(0.0, 8.0)
    assert robust_bounds(values).n_clipped(values) == 0


def test_a_sparse_coefficient_keeps_its_differences():
    # A ReLU that fires on three of sixty tokens: the zeros must not set the scale.
    values = torch.zeros(60)
    values[[5, 20, 40]] = torch.tensor([1.0, 2.0, 2.5])
    assert robust_bounds(values).high == 2.5


def test_signed_values_get_symmetric_bounds():
    bounds = robust_bounds(torch.tensor([-4.0, 1.0, 2.0]))
    assert (bounds.low, bounds.high) == (-4.0, 4.0)
    assert robust_bounds(torch.tensor([1.0, 2.0]), signed=True) == Bounds(-2.0, 2.0)


def test_equal_values_get_a_middling_colour():
    assert robust_bounds(torch.ones(9)) == Bounds(0.0, 2.0)
    assert robust_bounds(torch.tensor([3.0])) == Bounds(0.0, 3.0)


def test_missing_and_zero_values():
    nan = math.nan
    assert robust_bounds(torch.tensor([nan, 1.0, 2.0, nan])) == Bounds(0.0, 2.0)
    assert robust_bounds(torch.tensor([nan, nan])) == Bounds(0.0, 0.0)
    assert robust_bounds(torch.zeros(5)) == Bounds(0.0, 0.0)


@given(NUMBERS)
def test_the_bound_is_one_of_the_magnitudes_or_twice_the_only_one(numbers):
    values = torch.tensor(numbers, dtype=torch.float64)
    bounds = robust_bounds(values)
    magnitudes = {abs(number) for number in numbers}
    if len(set(numbers)) == 1 and len(numbers) > 1:
        assert bounds.high == 2 * abs(numbers[0])
    else:
        assert bounds.high in magnitudes
    assert bounds.n_clipped(values) <= max(1, math.ceil(0.05 * len(numbers)))


@given(NUMBERS, st.floats(0.1, 1000.0))
def test_bounds_scale_with_the_values(numbers, factor):
    values = torch.tensor(numbers, dtype=torch.float64)
    scaled = robust_bounds(values * factor)
    assert scaled.high == pytest.approx(factor * robust_bounds(values).high, rel=1e-9)


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="1 infinite values, which have no colour"):
        robust_bounds(torch.tensor([1.0, math.inf]))
    with pytest.raises(ValueError, match="1 infinite values, which have no colour"):
        resolve_bounds(torch.tensor([1.0, -math.inf]), (0, 1))


def test_bounds_must_contain_zero():
    with pytest.raises(ValueError, match=r"must contain 0, which is drawn white; pass \(0, 8.0\)"):
        resolve_bounds(torch.ones(2), (2, 8))
    with pytest.raises(ValueError, match=r"bounds=\(0, 0\) is empty"):
        resolve_bounds(torch.ones(2), (0, 0))
    with pytest.raises(ValueError, match="both must be finite"):
        resolve_bounds(torch.ones(2), (0, math.inf))
    assert resolve_bounds(torch.ones(2), (-1, 3)) == Bounds(-1.0, 3.0)
