"""The measures against numbers worked out by hand, by pandas, or one token at a time."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from psr_lens.faithfulness.curves import Run, curve_of, difference_of
from psr_lens.faithfulness.gap import GapSplit, local_parts
from psr_lens.faithfulness.measures import (
    MEASURES,
    PARTS,
    example_sums,
    output_products,
    profile_sums,
    token_products,
)
from psr_lens.faithfulness.references import pooled
from psr_lens.statistics import average_ranks, bootstrap, resamples, spearman, why_no_interval

ROOT = Path(__file__).parents[2]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rounded(*shape: int, seed: int) -> torch.Tensor:
    """Values with ties."""
    return (2 * random(*shape, seed=seed)).round()


def test_ranks_are_those_of_pandas():
    values = rounded(5, 12, seed=1)
    expected = [pd.Series(row.tolist()).rank().tolist() for row in values]
    assert average_ranks(values, torch.zeros_like(values)).tolist() == expected


def test_values_within_the_noise_are_ties():
    """Two clusters that rounding spreads out: exact ranks of the clusters."""
    spread = torch.tensor([[1.0, 5.0, 1.0 + 1e-9, 5.0 - 1e-9, 1.0 - 1e-9]]).double()
    found = average_ranks(spread, torch.full((1, 5), 1e-6).double())
    assert found.tolist() == [[2.0, 4.5, 2.0, 4.5, 2.0]]


def test_spearman_is_that_of_pandas():
    first, second = rounded(4, 15, seed=2), rounded(4, 15, seed=3)
    expected = [
        pd.Series(a.tolist()).rank().corr(pd.Series(b.tolist()).rank())
        for a, b in zip(first, second, strict=True)
    ]
    assert spearman(first, second, torch.zeros_like(first)).tolist() == pytest.approx(
        expected, abs=1e-12
    )


def test_spearman_does_not_exist_for_a_constant_side_or_one_token():
    varying, constant = random(1, 6), torch.full((1, 6), 3.0).double()
    nothing = torch.zeros(1, 6).double()
    assert spearman(varying, constant, nothing).isnan().all()
    assert spearman(constant + 1e-9 * varying, varying, nothing + 1e-7).isnan().all()
    assert spearman(varying[:, :1], varying[:, :1], nothing[:, :1]).isnan().all()
    assert spearman(varying, -varying, nothing).tolist() == pytest.approx([-1.0])


def test_an_example_without_a_rank_correlation_is_left_out_and_counted():
    """Six examples: half are pushed evenly, which leaves nothing to rank, half perfectly."""
    energy = torch.tensor([[1.0, 4.0, 9.0, 1.0, 4.0, 9.0] * 3]).double()
    pushed = torch.tensor([[4.0, 4.0, 4.0, 2.0, 3.0, 8.0] * 3]).double()
    products = {"pushed": pushed, "energy": energy, "dot": energy, "size": energy}
    sums = profile_sums(products, [3] * 6, 1e-16)
    assert sums["ranked"].tolist() == [[0.0], [1.0]] * 3
    assert sums["rank_correlation"].flatten().tolist() == [0.0, pytest.approx(1.0)] * 3
    measure = MEASURES["spearman"]
    curve = curve_of(Run("steering", (0,), sums), measure, resamples(6, 100, 0))
    assert (*curve.values, *curve.low, *curve.high) == pytest.approx((1.0, 1.0, 1.0))


def test_rounding_of_a_large_residual_stream_is_no_ranking():
    """A constant vector on float32 streams of norm 1000: the differences are noise."""
    plain = 1000 * random(30, 16).float()
    after = plain + torch.ones(16)
    target = plain + random(30, 16, seed=1).float()
    products = {k: v.unsqueeze(0) for k, v in token_products(after, plain, target).items()}
    assert products["pushed"].sqrt().std() > 0
    sums = profile_sums(products, [30], torch.finfo(torch.float32).eps)
    assert sums["ranked"].tolist() == [[0.0]]


def test_the_measures_are_their_formulas():
    after, plain, target = (random(9, 4, seed=i) for i in range(3))
    products = {k: v.unsqueeze(0) for k, v in token_products(after, plain, target).items()}
    sums = example_sums(products, [4, 5]) | profile_sums(products, [4, 5], 0.0)
    run = Run("steering", (0,), sums)
    pushes, deltas = after - plain, target - plain
    missed = float((after - target).square().sum() / deltas.square().sum())
    expected = {
        "relative_rmse": math.sqrt(missed),
        "explained_variance": 1 - missed,
        "cosine": float(torch.cosine_similarity(pushes.flatten(), deltas.flatten(), dim=0)),
        "token_cosine": float(torch.cosine_similarity(pushes, deltas, dim=1).mean()),
        "norm_ratio": float(pushes.norm() / deltas.norm()),
    }
    for name, value in expected.items():
        found = curve_of(run, MEASURES[name], resamples(2, 0, 0))
        assert found.values == pytest.approx((value,), abs=1e-12), name


def test_tokens_that_nothing_moves_have_no_cosine():
    plain = random(3, 4)
    after, target = plain.clone(), plain.clone()
    after[:2] += 1.0
    target[1:] += 2.0
    products = {k: v.unsqueeze(0) for k, v in token_products(after, plain, target).items()}
    sums = profile_sums(products, [3], 0.0)
    assert sums["moved_tokens"].tolist() == [[1.0]]
    assert sums["token_cosine"].tolist() == [[pytest.approx(1.0)]]


@pytest.mark.parametrize("chunk", [1, 20, 1 << 22])
def test_kl_is_that_of_torch(chunk):
    logits, prompted = random(2, 5, 7), random(6, 7, seed=1)
    where = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]).bool()
    found = output_products(logits, where, prompted, chunk)
    expected = torch.nn.functional.kl_div(
        logits[where].log_softmax(-1), prompted.softmax(-1), reduction="none"
    ).sum(-1)
    assert found["kl"].tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    agreed = logits[where].argmax(-1) == prompted.argmax(-1)
    assert found["agreed"].tolist() == agreed.double().tolist()


def test_a_token_that_cannot_come_adds_nothing():
    prompted = torch.tensor([[0.0, 0.0, -math.inf]])
    found = output_products(prompted[None], torch.ones(1, 1).bool(), prompted)
    assert found["kl"].tolist() == [0.0]


def test_logits_of_a_bfloat16_model_are_compared_in_float32():
    prompted = 5 * random(1, 50).bfloat16()
    logits = (prompted + 0.1 * random(1, 50, seed=1).bfloat16()).unsqueeze(0)
    found = float(output_products(logits, torch.ones(1, 1).bool(), prompted)["kl"])
    exact = float(
        output_products(logits.double(), torch.ones(1, 1).bool(), prompted.double())["kl"]
    )
    assert found == pytest.approx(exact, rel=1e-3)


# --- where the error comes from -----------------------------------------------------------------


def test_local_parts_of_a_push_along_known_directions():
    """In the plane of e0 and e1, told to move by (3, 4, 5): strength, direction, or nothing at all."""
    local = torch.tensor([[3.0, 4.0, 5.0]]).double()
    push = torch.tensor([[1.0, 4.0, 0.0]]).double()
    plane = torch.eye(3, dtype=torch.float64)[:2]
    parts = local_parts(push, local, plane, torch.tensor([True]))
    assert parts["coefficient"].tolist() == [[-2.0, 0.0, 0.0]]
    assert parts["direction"].tolist() == [[0.0, 0.0, -5.0]]
    assert parts["uncovered"].tolist() == [[0.0, 0.0, 0.0]]
    none = local_parts(0 * push, local, plane, torch.tensor([False]))
    assert none["uncovered"].tolist() == [[-3.0, -4.0, -5.0]]
    assert none["coefficient"].abs().max() == none["direction"].abs().max() == 0
    own = local_parts(push, local, None, torch.tensor([True]))
    along = push * (19 / 17)
    torch.testing.assert_close(own["coefficient"], push - along)
    torch.testing.assert_close(own["direction"], along - local)


def test_the_parts_of_made_up_runs_add_up():
    """Any residual streams at all: the split is an identity, not a property of models."""
    before, after, target, replayed = (random(4, 6, 5, seed=i) for i in range(4))
    replayed[0] = before[0]
    basis = torch.linalg.qr(random(5, 2, seed=9)).Q.mT.contiguous()
    covered = random(4, 6, seed=5) > 0
    split = GapSplit(target, target - replayed, {1: basis, 3: basis}, covered)
    for layer in range(4):
        parts = split.step(layer, before[layer], after[layer])
        assert set(parts) == set(PARTS)
        total = sum(parts.values())
        expected = (after[layer] - target[layer]).square().sum(-1)
        torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


# --- intervals ----------------------------------------------------------------------------------


def runs():
    generator = torch.Generator().manual_seed(4)
    energy = 1 + torch.rand(40, 2, generator=generator, dtype=torch.float64)
    share = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    return {
        "near": Run("steering", (0,), {"missed": 0.5 * share * energy, "energy": energy}),
        "far": Run("steering", (0,), {"missed": 0.6 * share * energy, "energy": energy}),
    }


def test_a_difference_is_paired():
    """The two differ by a constant factor: paired, that is far beyond chance, unpaired it is not."""
    both, counts, measure = runs(), resamples(40, 500, 1), MEASURES["relative_rmse"]
    near, far = (curve_of(run, measure, counts) for run in both.values())
    gap = difference_of(("far", "near"), both, measure, counts)
    for layer in range(2):
        assert gap.values[layer] == pytest.approx(far.values[layer] - near.values[layer])
        assert near.high[layer] > far.low[layer]
    assert gap.clear == (True, True)
    back = difference_of(("near", "far"), both, measure, counts)
    assert back.values == pytest.approx([-value for value in gap.values])
    assert back.low == pytest.approx([-value for value in gap.high])
    assert "clear" in repr(gap)
    assert difference_of(("far", "far"), both, measure, counts).values == (0.0, 0.0)


def test_the_interval_is_that_of_resampled_examples():
    """Recomputed resample by resample, from the examples themselves."""
    run, measure = runs()["near"], MEASURES["relative_rmse"]
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randint(40, (200, 40), generator=generator)
    values = [
        math.sqrt(run.sums["missed"][rows, 1].sum() / run.sums["energy"][rows, 1].sum())
        for rows in drawn
    ]
    low, high = pd.Series(values).quantile([0.025, 0.975])
    found = curve_of(run, measure, resamples(40, 200, 7))
    assert (found.low[1], found.high[1]) == (pytest.approx(low), pytest.approx(high))


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


def test_pooled_sums_give_the_mean_square():
    both = runs()
    run = Run("reference", (), pooled([both["near"].sums, both["far"].sums]))
    counts, measure = resamples(40, 0, 0), MEASURES["relative_rmse"]
    near, far = (curve_of(own, measure, counts).values[0] for own in both.values())
    mean = curve_of(run, measure, counts).values[0]
    assert mean == pytest.approx(math.sqrt((near**2 + far**2) / 2))
