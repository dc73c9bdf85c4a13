"""The measures against numbers worked out by hand, by pandas, or one token at a time."""

import math

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
from psr_lens.statistics import resamples


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_example_without_a_rank_correlation_is_left_out_and_counted():
    """Six examples: half are pushed evenly, which leaves nothing to rank, half perfectly."""
    energy = torch.tensor([[1.0, 4.0, 9.0, 1.0, 4.0, 9.0] * 3]).double()
    pushed = torch.tensor([[4.0, 4.0, 4.0, 2.0, 3.0, 8.0] * 3]).double()
    products = {"pushed": pushed, "energy": energy, "dot": energy, "size": energy}
    sums = profile_sums(products, [3] * 6, 1e-16)
    assert sums["ranked"].tolist() == [[0.0], [1.0]] * 3
    assert sums["rank_correlation"].flatten().tolist() == [0.0, pytest.approx(1.0)] * 3
    measure = MEASURES["spearman"]
    curve = curve_of(Run("steering", (0,), sums), measure, resamples(range(6), 100, 0))
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
        found = curve_of(run, MEASURES[name], resamples(range(2), 0, 0))
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
    both, counts, measure = runs(), resamples(range(40), 500, 1), MEASURES["relative_rmse"]
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
    found = curve_of(run, measure, resamples(range(40), 200, 7))
    assert (found.low[1], found.high[1]) == (pytest.approx(low), pytest.approx(high))


def test_pooled_sums_give_the_mean_square():
    both = runs()
    run = Run("reference", (), pooled([both["near"].sums, both["far"].sums]))
    counts, measure = resamples(range(40), 0, 0), MEASURES["relative_rmse"]
    near, far = (curve_of(own, measure, counts).values[0] for own in both.values())
    mean = curve_of(run, measure, counts).values[0]
    assert mean == pytest.approx(math.sqrt((near**2 + far**2) / 2))
