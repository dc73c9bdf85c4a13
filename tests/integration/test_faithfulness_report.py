"""Measures, reference lines and tokens of a report, recomputed one example at a time."""

import math
import weakref
from dataclasses import replace

import pandas as pd
import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import aligned_residuals, example_batches, local_deltas
from psr_lens.examples import cut_off_words
from psr_lens.faithfulness import FaithfulnessReport, measure_faithfulness
from psr_lens.faithfulness.recording import SharedRuns
from psr_lens.pages.faithfulness_page import write_faithfulness
from psr_lens.responses import make_example, sample_responses
from psr_lens.steering import ConstantSteering, OracleSteering
from tests.tiny_models import CORE_MODELS, instructed, tiny_model
from tests.tiny_steerings import made_up

WORDINGS = ("be short and kind", "kindness above all , and brevity")


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [
        instructed(model, f"tell me about animal {i}", "always be very kind and short", WORDINGS)
        for i in range(4)
    ]
    sampled = list(sample_responses(model, pairs, max_new_tokens=7, seed=0, progress=False))
    # Responses of different lengths, one that ended and some that were cut off.
    return [
        make_example(model, e.pair, e.response_ids[: 3 + i], i == 2) for i, e in enumerate(sampled)
    ]


@pytest.fixture(scope="module")
def steerings(model):
    return {
        "psr": made_up("psr", model, scale=0.1),
        "v": ConstantSteering(torch.linspace(-0.1, 0.2, model.d_model).double()[None], (1,)),
    }


@pytest.fixture(scope="module")
def report(model, data, steerings):
    return measure_faithfulness(model, steerings, data, oracle_ranks=(1, 3), batch_size=3)


def one_by_one(model, data, steering, tokens="response"):
    """Of every example: aligned tokens' streams under the steering, without it, under the prompt."""
    for example in data:
        base, steered = example_batches(model, [example])
        acted = aligned_residuals(model, base, tokens, steering.edits(model, 1.0, [example]))
        plain = aligned_residuals(model, base, tokens)
        yield acted, plain, aligned_residuals(model, steered, tokens)


@pytest.mark.parametrize("name", ["psr", "v"])
def test_cosine_norm_ratio_and_spearman_from_single_examples(model, data, steerings, report, name):
    layer = model.n_layers - 1
    dot = pushed = energy = 0.0
    correlations = []
    for acted, plain, target in one_by_one(model, data, steerings[name]):
        push, delta = acted[layer] - plain[layer], target[layer] - plain[layer]
        dot += float((push * delta).sum())
        pushed += float(push.square().sum())
        energy += float(delta.square().sum())
        ranks = [pd.Series(x.norm(dim=-1).tolist()).rank() for x in (push, delta)]
        correlations.append(ranks[0].corr(ranks[1]))
    found = {m: report.curve(name, m).values[layer] for m in ("cosine", "norm_ratio", "spearman")}
    assert found["cosine"] == pytest.approx(dot / math.sqrt(pushed * energy), rel=1e-9)
    assert found["norm_ratio"] == pytest.approx(math.sqrt(pushed / energy), rel=1e-9)
    assert found["spearman"] == pytest.approx(sum(correlations) / len(correlations), abs=1e-9)


def test_a_constant_vector_has_no_ranks_at_its_own_layer(model, report):
    table = report.to_dataframe()
    rows = table[(table.steering == "v") & (table.measure == "spearman")].set_index("layer")
    assert rows.examples[1] == 0
    assert math.isnan(rows.value[1])
    assert rows.examples[2] == report.examples
    assert math.isnan(report.curve("no steering", "cosine").values[0])


def test_outputs_are_compared_where_the_response_is_predicted(model, data, steerings, report):
    """Next-token distributions from the model itself, one example and one position at a time."""
    kl = plain_kl = agreed = positions = 0.0
    for example in data:
        base, steered = example_batches(model, [example])
        wanted = model.logits(steered)[0].log_softmax(-1)
        without = model.logits(base)[0].log_softmax(-1)
        with steerings["psr"].applied(model):
            own = model.logits(base)[0].log_softmax(-1)
        n_response = len(example.response_ids)
        for back in range(n_response + 1, 0 if example.finished else 1, -1):
            p = wanted[-back]
            kl += float((p.exp() * (p - own[-back])).sum())
            plain_kl += float((p.exp() * (p - without[-back])).sum())
            agreed += float(p.argmax() == own[-back].argmax())
            positions += 1
    assert report.curve("psr", "kl").values == pytest.approx((kl / positions,), rel=1e-9)
    assert report.curve("psr", "relative_kl").values == pytest.approx((kl / plain_kl,), rel=1e-9)
    assert report.curve("psr", "agreement").values == pytest.approx((agreed / positions,))
    assert report.curve("no steering", "relative_kl").values == (1.0,)
    assert report.curve("oracle", "relative_kl").values[0] < 1e-12
    assert report.curve("oracle", "agreement").values == (1.0,)


def test_outputs_do_not_depend_on_the_tokens(model, data, steerings, report):
    wide = measure_faithfulness(model, steerings, data, tokens="question+response", oracle_ranks=())
    narrow = report.curve("psr", "kl")
    assert wide.curve("psr", "kl").values == pytest.approx(narrow.values, rel=1e-9)
    assert wide.relative_rmse["psr"].values != pytest.approx(report.relative_rmse["psr"].values)


def test_the_random_direction_has_the_strengths_of_the_local_deltas(model, data, report):
    """At layer 0, where nothing lies below: pushes of length `|D_loc|` along one direction."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(model.n_layers, model.d_model, generator=generator, dtype=torch.float64)
    unit = drawn[0] / drawn[0].norm()
    missed = energy = 0.0
    for example in data:
        base, steered = example_batches(model, [example])
        target = aligned_residuals(model, steered, "response")
        local = local_deltas(model, base, target, "response")[0]
        missed += float((local.norm(dim=1, keepdim=True) * unit - local).square().sum())
        energy += float(local.square().sum())
    found = report.reference["random direction"].values[0]
    assert found == pytest.approx(math.sqrt(missed / energy), rel=1e-9)


def test_oracles_of_higher_rank_leave_less_at_the_first_layer(model, data, report):
    """Rank k leaves there what lies outside of the k largest singular values of the local deltas."""
    deltas = torch.cat([own.local[0] for own in collect_deltas(model, data)])
    energies = torch.linalg.svdvals(deltas).square()
    for rank in (1, 3):
        expected = math.sqrt(energies[rank:].sum() / energies.sum())
        found = report.reference[f"oracle rank {rank}"].values[0]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_every_wording_is_measured_and_their_mean_square_is_the_line(model, data, report):
    assert list(report.paraphrases) == ["paraphrase 1", "paraphrase 2"]
    for number, curve in enumerate(report.paraphrases.values()):
        missed = energy = 0.0
        for example in data:
            base, steered = example_batches(model, [example])
            target = aligned_residuals(model, steered, "response")[-1]
            own = aligned_residuals(
                model, model.pad([example.paraphrase_rows[number]]), "response"
            )[-1]
            missed += float((own - target).square().sum())
            energy += float(
                (aligned_residuals(model, base, "response")[-1] - target).square().sum()
            )
        assert curve.values[-1] == pytest.approx(math.sqrt(missed / energy), rel=1e-9)
    first, second = (curve.values[-1] for curve in report.paraphrases.values())
    line = report.reference["paraphrase"].values[-1]
    assert line == pytest.approx(math.sqrt((first**2 + second**2) / 2), rel=1e-9)


def test_examples_with_fewer_wordings_set_the_number(model, data, steerings):
    poorer = [make_example(model, instructed(model, "why", "be kind", WORDINGS[:1]), (5, 6))]
    mixed = measure_faithfulness(model, {}, data + poorer, oracle_ranks=())
    assert "paraphrase" in mixed.reference
    assert mixed.paraphrases == {}
    without = [make_example(model, instructed(model, "why", "be kind"), (5, 6))]
    none = measure_faithfulness(model, {}, data + without, oracle_ranks=())
    assert "paraphrase" not in none.reference


def test_a_paraphrase_that_changes_the_question_is_refused_on_the_question(model):
    pair = instructed(model, "why is that", "be kind")
    other = instructed(model, "why is that so", "be kind", ())
    example = make_example(model, pair, (5, 6))
    wrong = type(example)(
        pair, example.base_ids, example.prompted_ids, (5, 6), (other.prompted and (9, 8, 7),)
    )
    measure_faithfulness(model, {}, [wrong], oracle_ranks=())
    with pytest.raises(ValueError, match=r"end both with the same question, or measure on tokens"):
        measure_faithfulness(model, {}, [wrong], tokens="question+response", oracle_ranks=())


@pytest.mark.parametrize("tokens", ["response", "question+response"])
def test_the_batch_size_does_not_matter_for_any_measure(model, data, steerings, tokens):
    one, all_ = (
        measure_faithfulness(model, steerings, data, batch_size=size, tokens=tokens)
        for size in (1, 8)
    )
    for name, run in one.runs.items():
        for key, sums in run.sums.items():
            other = all_.runs[name].sums[key]
            torch.testing.assert_close(sums, other, rtol=1e-6, atol=1e-8, msg=f"{name} {key}")


def test_a_batch_is_gone_before_the_next_one_is_run(model, data, steerings, monkeypatch):
    """Of every batch so far, nothing of the size of a residual stream is left."""
    made = []
    of = SharedRuns.of.__func__

    def watched(cls, *args, **options):
        assert [one() for one in made] == [None] * len(made)
        shared = of(cls, *args, **options)
        made.extend(weakref.ref(own) for own in (shared.base, shared.target, shared.local))
        made.append(weakref.ref(shared.prompted))
        return shared

    monkeypatch.setattr(SharedRuns, "of", classmethod(watched))
    report = measure_faithfulness(model, steerings, data, batch_size=1)
    assert len(made) == 4 * len(data)
    kept = [own for run in report.runs.values() for own in run.sums.values()]
    assert max(own.numel() for own in kept) == len(data) * model.n_layers


def test_the_oracle_of_the_user_s_takes_the_place_of_the_reference(model, data):
    oracle = OracleSteering(range(model.n_layers))
    found = measure_faithfulness(model, {"oracle": oracle}, data, oracle_ranks=())
    assert max(found.relative_rmse["oracle"].values) < 1e-10
    assert "oracle" not in found.reference


def test_what_is_left_out_costs_nothing_and_is_refused(model, data, steerings):
    lean = measure_faithfulness(
        model,
        steerings,
        data,
        outputs=False,
        gap=False,
        random_direction=False,
        oracle_ranks=(),
        token_examples=0,
    )
    assert set(lean.reference) == {"no steering", "paraphrase", "oracle"}
    assert lean.tokens.empty
    for measure in ("kl", "gap_direction"):
        with pytest.raises(ValueError, match=f"{measure} of 'psr' was not measured"):
            lean.curve("psr", measure)
    with pytest.raises(ValueError, match="was not measured"):
        lean.plot("relative_kl")
    with pytest.raises(ValueError, match="what='beauty': choose one of relative_rmse"):
        lean.plot("beauty")
    with pytest.raises(ValueError, match="no run 'x' in this report"):
        lean.difference("psr", "x")
    with pytest.raises(ValueError, match=r"oracle_ranks=.* dimensions"):
        measure_faithfulness(model, steerings, data, oracle_ranks=(model.d_model + 1,))
    with pytest.raises(ValueError, match=r"oracle_ranks=0: it must be at least 1"):
        measure_faithfulness(model, steerings, data, oracle_ranks=(0,))
    with pytest.raises(ValueError, match="'paraphrase 2', which is a reference line"):
        measure_faithfulness(model, {"paraphrase 2": steerings["v"]}, data)


def test_tokens_say_what_the_steering_does_to_each(model, data, steerings, report):
    assert set(report.tokens.example) == {0, 1, 2, 3}
    streams = list(one_by_one(model, data, steerings["psr"]))
    for i, (example, (acted, plain, target)) in enumerate(zip(data, streams, strict=True)):
        expected = {
            "delta": (target - plain).norm(dim=-1),
            "effect": (acted - plain).norm(dim=-1),
            "error": (acted - target).norm(dim=-1),
            "cosine": torch.cosine_similarity(acted - plain, target - plain, dim=-1),
        }
        for quantity, values in expected.items():
            found = report.token_values("psr", i, quantity)
            present = ~found.values.isnan()
            torch.testing.assert_close(found.values[present], values[present])
            assert found.tokens == model.encoder.str_tokens(
                example.base_row.tokens[-len(found.tokens) :]
            )
        kl = report.token_values("psr", i, "kl").values
        assert kl.shape[0] == 1
        assert bool(kl[0, -1].isnan()) is not example.finished
        assert not kl[0, :-1].isnan().any()
    total = report.tokens.query("steering == 'psr'").kl.sum()
    assert total == pytest.approx(float(report.runs["psr"].sums["kl"].sum()))


def test_tokens_of_the_question_have_no_kl(model, data, steerings):
    wide = measure_faithfulness(
        model, steerings, data[:1], tokens="question+response", token_examples=1
    )
    kl = wide.token_values("psr", 0, "kl").values[0]
    question = data[0].question_length - 1
    assert question > 0
    assert kl[:question].isnan().all()
    assert not kl[question:-1].isnan().any()


def test_tokens_that_were_not_kept_are_refused(model, data, steerings):
    first = measure_faithfulness(model, steerings, data, token_examples=1, batch_size=1)
    assert set(first.tokens.example) == {0}
    with pytest.raises(ValueError, match=r"no tokens of example 2 .* examples 0 to 0"):
        first.token_values("psr", 2)
    with pytest.raises(ValueError, match="quantity='x': choose one of delta"):
        first.token_values("psr", 0, "x")


def test_a_report_comes_back_as_it_was(report, tmp_path):
    path = report.save(tmp_path / "report")
    back = FaithfulnessReport.load(path)
    pd.testing.assert_frame_equal(back.to_dataframe(), report.to_dataframe(), check_exact=True)
    pd.testing.assert_frame_equal(back.tokens, report.tokens, check_exact=True)
    assert list(back.runs) == list(report.runs)
    for name, run in report.runs.items():
        assert (back.runs[name].kind, back.runs[name].layers) == (run.kind, run.layers)
        assert set(back.runs[name].sums) == set(run.sums)
        for key, sums in run.sums.items():
            assert torch.equal(back.runs[name].sums[key], sums)
    assert back.provenance == report.provenance
    assert back.summary() == report.summary()
    assert repr(back) == repr(report)
    assert back.difference("psr", "v").values == report.difference("psr", "v").values


def test_a_lean_report_comes_back_too(model, data, tmp_path):
    lean = measure_faithfulness(model, {}, data, outputs=False, oracle_ranks=())
    back = FaithfulnessReport.load(lean.save(tmp_path / "lean"))
    pd.testing.assert_frame_equal(back.to_dataframe(), lean.to_dataframe(), check_exact=True)
    assert back.steerings == ()
    with pytest.raises(ValueError, match="the report has no steering"):
        back.plot("gap")
    assert "To compare: paraphrase" in back.summary()


def test_the_table_is_tidy(model, report):
    table = report.to_dataframe()
    assert not table.duplicated(["steering", "measure", "layer"]).any()
    outputs = table[table.layer.isna()]
    assert set(outputs.measure) == {"relative_kl", "kl", "agreement"}
    assert len(outputs) == 3 * len(report.runs)
    assert set(table[table.measure == "gap_direction"].steering) == {"psr", "v"}
    # Of four examples.
    assert table[["low", "high"]].isna().all(axis=None)


def test_the_pictures_show_the_numbers(model, report):
    for measure in ("relative_rmse", "cosine", "spearman", "gap_direction", "kl"):
        figure = report.plot(measure)
        drawn = {trace.name: list(trace.y) for trace in figure.data if trace.name == "psr"}
        if measure == "kl":
            points = {trace.name: trace.x[0] for trace in figure.data}
            assert points["psr"] == report.curve("psr", "kl").values[0]
        else:
            assert drawn["psr"] == pytest.approx(report.curve("psr", measure).values, nan_ok=True)
    band = next(t for t in report.plot().data if t.legendgroup == "wordings")
    ends = [curve.values for curve in report.paraphrases.values()]
    assert list(band.y[: model.n_layers]) == [max(pair) for pair in zip(*ends, strict=True)]
    bars = report.plot("gap", name="psr").data
    heights = [sum(bar.y[layer] for bar in bars[:4]) for layer in range(model.n_layers)]
    assert heights == pytest.approx(list(bars[4].y))


def test_the_page_holds_the_words_and_the_tokens(report, data, tmp_path):
    page = write_faithfulness(report, tmp_path / "out")
    text = page.read_text()
    assert page == tmp_path / "out" / "report.html"
    assert FaithfulnessReport.load(tmp_path / "out" / "report").steerings == ("psr", "v")
    assert text.count('class="psr-figure"') == 7
    assert "what is wrong under psr" in text
    assert "To compare: paraphrase" in text
    assert "Response 2, token by token" in text
    # What the base prompt really was, and how the responses ended: said in the kept report too.
    for own in (report, FaithfulnessReport.load(tmp_path / "out" / "report")):
        assert own.prompts(0) == data[0].seen is not None
        assert own.ending(0) == "cut off at 3 tokens"
        assert (own.ending(2), own.prompts(99)) == ("", None)
        assert own.token_values("psr", 3).ending == "cut off at 6 tokens"
        assert cut_off_words(data) in own.summary()
    assert text.count("The prompts as the model saw them") == 3
    assert "3 of 4 responses were cut off at 3 to 6 tokens" in text
    again = write_faithfulness(report, tmp_path / "out").read_text()
    assert again == text


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_bfloat16_keeps_two_digits(family):
    """The oracle restores bfloat16 streams exactly; other measures keep what the weights keep."""
    exact, coarse = (tiny_model(family, dtype=dtype) for dtype in ("float64", "bfloat16"))
    pair = instructed(exact, "tell me about animal 3", "always be very kind", WORDINGS[:1])
    reports = {}
    for model in (exact, coarse):
        data = [make_example(model, pair, tuple(range(20, 20 + n))) for n in (6, 9, 12)]
        psr = made_up("psr", exact, scale=0.1)
        reports[model] = measure_faithfulness(model, {"psr": psr}, data)
    fine, rough = reports[exact], reports[coarse]
    assert max(rough.reference["oracle"].values) < 1e-2
    assert rough.curve("oracle", "agreement").values == (1.0,)
    sums = rough.runs["psr"].sums
    total = sum(sums[part] for part in ("coefficient", "direction", "uncovered", "propagation"))
    torch.testing.assert_close(total, sums["missed"], rtol=1e-4, atol=1e-6)
    for measure in ("relative_rmse", "cosine", "norm_ratio"):
        assert rough.curve("psr", measure).values[-1] == pytest.approx(
            fine.curve("psr", measure).values[-1], abs=0.05
        )


def test_the_worst_tokens_are_those_with_the_largest_error(
    model, data, steerings, report, tmp_path
):
    back = FaithfulnessReport.load(report.save(tmp_path / "worst"))
    for name, steering in steerings.items():
        streams = list(one_by_one(model, data, steering))
        delta = torch.cat([(target - plain).norm(dim=-1) for _, plain, target in streams], dim=1)
        error = torch.cat([(acted - target).norm(dim=-1) for acted, _, target in streams], dim=1)
        relative = error / delta.square().mean(dim=1, keepdim=True).sqrt()
        # Their root mean square is the relative RMSE.
        rmse = torch.tensor(report.relative_rmse[name].values).double()
        torch.testing.assert_close(relative.square().mean(dim=1).sqrt(), rmse)
        places = [(i, pos) for i, own in enumerate(streams) for pos in range(own[0].shape[1])]
        for layer in range(model.n_layers):
            found = report.worst_tokens(name, layer, n=5)
            values, order = relative[layer].topk(5)
            assert list(zip(found.example, found.pos, strict=True)) == [places[i] for i in order]
            assert found.relative_error.tolist() == pytest.approx(values.tolist())
            assert found.error.tolist() == pytest.approx(error[layer, order].tolist())
            assert found.delta.tolist() == pytest.approx(delta[layer, order].tolist())
        everywhere = report.worst_tokens(name, n=5)
        assert everywhere.relative_error.tolist() == pytest.approx(
            relative.flatten().topk(5)[0].tolist()
        )
        pd.testing.assert_frame_equal(back.worst_tokens(name, n=5), everywhere, check_exact=True)
    row = report.worst_tokens("psr", 1, n=1).iloc[0]
    texts = model.encoder.str_tokens(data[row.example].base_row.tokens)
    at = len(texts) - data[row.example].aligned_length("response") + row["pos"]
    assert row.token == texts[at]
    assert (
        f"{''.join(texts[at - 4 : at])}[{texts[at]}]{''.join(texts[at + 1 : at + 5])}"
        == row.context
    )


def test_as_many_of_the_worst_are_kept_as_is_asked_for(model, data, steerings):
    lean = {"outputs": False, "gap": False, "random_direction": False, "oracle_ranks": ()}
    few = measure_faithfulness(model, steerings, data, **lean, worst_tokens=2, batch_size=1)
    many = measure_faithfulness(model, steerings, data, **lean)
    assert len(few.worst) == 2 * 2 * model.n_layers
    for layer in range(model.n_layers):
        pd.testing.assert_frame_equal(
            few.worst_tokens("psr", layer, 2), many.worst_tokens("psr", layer, 2)
        )
    with pytest.raises(ValueError, match="n=3, but the report keeps 2 tokens"):
        few.worst_tokens("psr", n=3)
    none = measure_faithfulness(model, steerings, data, **lean, worst_tokens=0)
    assert none.worst.empty
    assert "Where it fails most" not in none.page()
    assert "Where it fails most" in many.page()


# --- several responses to a prompt -----------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(model, steerings):
    """Two responses to each of six prompts, and the report on them."""
    pairs = [
        instructed(model, f"tell me about animal {i}", "always be very kind and short", WORDINGS)
        for i in range(6)
    ]
    sampled = list(
        sample_responses(model, pairs, samples_per_pair=2, max_new_tokens=5, seed=0, progress=False)
    )
    # Shuffled, so that responses to a prompt do not lie side by side.
    data = sampled[::2] + sampled[:6:-2] + sampled[1:6:2]
    return data, measure_faithfulness(model, steerings, data, oracle_ranks=(1,), n_bootstrap=100)


def test_prompts_are_resampled_with_all_of_their_responses(twice):
    """As if the sums of each prompt's examples had been one example."""
    data, report = twice
    assert report.prompt_of == (0, 1, 2, 3, 4, 5, 5, 4, 3, 0, 1, 2)
    assert [data[i].key for i in report.prompt_of] == [example.key for example in data]
    assert (report.examples, report.n_prompts, report.has_intervals) == (12, 6, True)
    places = torch.tensor(report.prompt_of)

    def by_prompt(sums):
        return sums.new_zeros(6, *sums.shape[1:]).index_add_(0, places, sums)

    runs = {
        name: replace(run, sums={key: by_prompt(own) for key, own in run.sums.items()})
        for name, run in report.runs.items()
    }
    added = replace(report, runs=runs, prompt_of=tuple(range(6)))
    columns = ["value", "low", "high"]
    found, expected = (own.to_dataframe()[columns].to_numpy() for own in (report, added))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
    gaps = [own.difference("psr", "v").estimates[-1] for own in (report, added)]
    assert gaps[0].low == pytest.approx(gaps[1].low, abs=1e-12)
    assert gaps[0].high == pytest.approx(gaps[1].high, abs=1e-12)
    as_if = replace(report, prompt_of=tuple(range(12)))
    assert as_if.relative_rmse["psr"].values == report.relative_rmse["psr"].values
    assert as_if.relative_rmse["psr"].low != report.relative_rmse["psr"].low


def test_the_prompts_are_kept_in_a_file(twice, tmp_path):
    _, report = twice
    back = FaithfulnessReport.load(report.save(tmp_path / "report"))
    assert back.prompt_of == report.prompt_of
    assert back.relative_rmse == report.relative_rmse
    assert back.summary() == report.summary()


def test_ten_responses_to_four_prompts_have_no_interval(twice):
    _, report = twice
    few = replace(report, prompt_of=(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3))
    assert not few.has_intervals
    assert "\n4 prompts are too few for intervals, which need 5" in few.summary()
    assert "12 examples" in few.summary()
    assert "95 %" not in few.summary()
    assert all(map(math.isnan, few.relative_rmse["psr"].low))
