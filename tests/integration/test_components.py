"""The component split: it adds up, on every family and backend, and is what one computes by hand."""

from dataclasses import astuple, replace

import pytest
import torch

from psr_lens import load_model
from psr_lens.components import ComponentReport, measure_components
from psr_lens.components.component_deltas import component_deltas, head_parts, instruction_span
from psr_lens.delta_collection import collect_deltas
from psr_lens.deltas import example_batches
from psr_lens.demo import questions, system_prompt
from psr_lens.examples import Example
from psr_lens.models.parts import head_matrix, run_with_parts
from psr_lens.prompts import PromptPair, make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import ConstantSteering
from tests.tiny_models import BACKENDS, CORE_MODELS, FAMILIES, MODELS, instructed, tiny_model

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
both_types = pytest.mark.parametrize("dtype", TOLERANCES)


def sampled(model, n=4, **options):
    pairs = [
        instructed(model, f"tell me about animal {'x ' * (i % 3)}{i}", "always be very kind")
        for i in range(n)
    ]
    return sample_responses(model, pairs, max_new_tokens=6, progress=False, **options)


def demo_data(name, dtype="float32", n=4):
    model = load_model(name, dtype=dtype)
    pairs = make_pairs(questions()[:n], system_prompt("shouter"))
    return model, sample_responses(model, pairs, max_new_tokens=8, progress=False)


def check_that_it_adds_up(model, data, tolerance, heads_tolerance):
    examples = list(data)
    found = component_deltas(model, examples, "question+response")
    accumulated = [
        d.accumulated for d in collect_deltas(model, data, tokens="question+response", local=False)
    ]
    accumulated = torch.cat(accumulated, dim=1)
    base, steered = example_batches(model, examples)
    with torch.no_grad():
        embedded = model.embed(steered)[steered.on("question+response")]
        embedded = embedded - model.embed(base)[base.on("question+response")]
    scale = float(accumulated.abs().max())
    assert scale > 0.1
    before = torch.cat([embedded.unsqueeze(0), accumulated[:-1]])
    steps = accumulated - before
    assert float((found.attn + found.mlp - steps).abs().max()) <= tolerance * scale
    assert float((found.embed - embedded).abs().max()) <= tolerance * scale
    assert float((found.last - accumulated[-1]).abs().max()) <= tolerance * scale
    for layer in range(model.n_layers):
        total = torch.stack(list(head_parts(model, found, layer))).sum(dim=0)
        gap = float((total - found.attn[layer]).abs().max())
        assert gap <= heads_tolerance * float(found.attn[layer].abs().max())


@both_types
@pytest.mark.parametrize(("family", "backend"), MODELS)
def test_parts_add_up_on_every_family(family, backend, dtype):
    model = tiny_model(family, backend, dtype)
    check_that_it_adds_up(model, sampled(model), TOLERANCES[dtype], TOLERANCES[dtype])


@both_types
@pytest.mark.parametrize("name", ["demo", "demo-gpt2"])
def test_parts_add_up_on_the_demo_models(name, dtype):
    model, data = demo_data(name, dtype)
    check_that_it_adds_up(model, data, TOLERANCES[dtype], TOLERANCES[dtype])


@pytest.mark.parametrize(("family", "backend"), [*CORE_MODELS, ("gemma3", BACKENDS[0])])
def test_half_precision_adds_up_to_its_rounding(family, backend):
    model = tiny_model(family, backend, "bfloat16")
    data = sampled(model)
    report = measure_components(model, data, tokens="question+response", n_bootstrap=0)
    assert total(report, "share", "embed", "attn", "mlp") == pytest.approx(1, abs=0.05)
    exact = measure_components(
        tiny_model(family, backend, "float32"), data, tokens="question+response", n_bootstrap=0
    )
    for rounded, own in zip(report.components, exact.components, strict=True):
        assert rounded.share.value == pytest.approx(own.share.value, abs=0.05)


@pytest.mark.skipif("hooked" not in BACKENDS, reason="needs HookedTransformer")
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mistral", "gemma3"])
def test_head_parts_are_the_results_that_transformer_lens_computes(family):
    """`hook_result`, times gain over scale of the norm behind attention, run by run."""
    model = tiny_model(family, "hooked", "float64")
    data = sampled(model)
    # Of the question too: on the response nothing local sees the instruction.
    found = component_deltas(model, list(data), "question+response")
    results = []
    model.raw.set_use_attn_result(True)
    try:
        for batch in example_batches(model, list(data)):
            with torch.no_grad():
                _, cache = model.raw.run_with_cache(
                    batch.tokens, attention_mask=batch.attention_mask.long()
                )
            result = cache["blocks.1.attn.hook_result"]
            if family == "gemma3":
                scale = cache["blocks.1.ln1_post.hook_scale"].unsqueeze(-1)
                result = result / scale * model.raw.blocks[1].ln1_post.w
            results.append(result[batch.on("question+response")])
    finally:
        model.raw.set_use_attn_result(False)
    expected = (results[1] - results[0]).transpose(0, 1)
    parts = torch.stack(list(head_parts(model, found, 1)))
    assert float((parts - expected).abs().max()) < 1e-10 * float(expected.abs().max())


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
@pytest.mark.parametrize("family", FAMILIES)
def test_both_backends_find_the_same(family):
    data = sampled(tiny_model(family, "bridge", "float64"), n=3)
    frames = [
        measure_components(
            tiny_model(family, backend, "float64"), data, tokens="question+response", n_bootstrap=0
        )
        .to_dataframe()
        .set_index(["component", "measure"])
        .value
        for backend in BACKENDS
    ]
    assert len(frames[0]) > 3 * 4 * 3
    # The bridge takes attention scores, and Gemma's norms, to float32.
    assert float((frames[0] - frames[1]).abs().max()) < 2e-6


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    return sampled(model, n=6)


@pytest.fixture(scope="module")
def report(model, data):
    return measure_components(model, data, tokens="question+response", n_bootstrap=200, seed=1)


def total(report, measure, *kinds):
    return sum(getattr(c, measure).value for c in report.of_kind(*kinds))


def test_shares_add_up(model, report):
    assert total(report, "share", "embed", "attn", "mlp") == pytest.approx(1, abs=1e-10)
    for layer in range(model.n_layers):
        own = [c for c in report.components if c.layer == layer]
        by_kind = {kind: [c for c in own if c.kind == kind] for kind in ("attn", "mlp", "head")}
        (attn,), (mlp,) = by_kind["attn"], by_kind["mlp"]
        assert attn.step_share.value + mlp.step_share.value == pytest.approx(1, abs=1e-10)
        for measure in ("share", "step_share"):
            heads = sum(getattr(head, measure).value for head in by_kind["head"])
            assert heads == pytest.approx(getattr(attn, measure).value, abs=1e-7)
        assert len(by_kind["head"]) == 4


def test_measures_are_the_formulas_over_all_tokens(model, data, report):
    """Recomputed from single examples, without batches and streaming sums."""
    alone = [component_deltas(model, [example], "question+response") for example in data]
    last = torch.cat([d.last for d in alone])
    attn = torch.cat([d.attn[1] for d in alone])
    step = attn + torch.cat([d.mlp[1] for d in alone])
    head = torch.cat([list(head_parts(model, d, 1))[2] for d in alone])
    assert float(head.norm()) > 0.01
    for part, name in ((attn, "attn 1"), (head, "1.2")):
        (found,) = (c for c in report.components if c.name == name)
        norm = part.square().sum(dim=1).mean().sqrt()
        share = (part * last).sum() / last.square().sum()
        step_share = (part * step).sum() / step.square().sum()
        assert found.norm.value == pytest.approx(float(norm), rel=1e-6)
        assert found.share.value == pytest.approx(float(share), rel=1e-6)
        assert found.step_share.value == pytest.approx(float(step_share), rel=1e-6)


@torch.no_grad()
def pattern_of_block_1(model, tokens):
    """By the backend's own means."""
    if model.backend == "transformers":
        with model.showing_patterns():
            return model.raw(tokens, output_attentions=True).attentions[1][0]
    _, cache = model.raw.run_with_cache(tokens)
    return cache["blocks.1.attn.hook_pattern"][0]


def test_attention_to_the_instruction_is_that_of_the_pattern(model, data, report):
    """Read off single, unpadded rows through TransformerLens' own cache."""
    paid = torch.zeros(4, dtype=torch.float64)
    n_tokens = 0
    for example in data:
        row = example.prompted_row
        start, end = instruction_span(example)
        instruction = model.encoder.decode(example.prompted_ids[start:end])
        assert "always be very kind" in instruction
        pattern = pattern_of_block_1(model, torch.tensor([row.tokens]))
        paid += pattern[:, row.question_start :, start:end].sum(dim=(1, 2))
        n_tokens += len(row.tokens) - row.question_start
    found = [c.instruction_attention.value for c in report.of_kind("head") if c.layer == 1]
    assert found == pytest.approx((paid / n_tokens).tolist(), rel=1e-5)
    assert all(c.instruction_attention is None for c in report.of_kind("embed", "attn", "mlp"))


def test_the_instruction_lies_between_what_the_prompts_share():
    def span(base, steered):
        example = Example(PromptPair("a", "b"), tuple(base), tuple(steered), (9,))
        return instruction_span(example)

    assert span([1, 5, 6], [1, 7, 8, 5, 6]) == (1, 3)
    assert span([1, 2, 5, 6], [1, 7, 8, 5, 6]) == (1, 3)
    assert span([5, 6], [7, 5, 6]) == (0, 1)
    assert span([5, 6], [5, 6]) == (0, 0)
    # A token of the prefix is never counted for the suffix too.
    assert span([1, 1, 5], [1, 1, 1, 5]) == (0, 1)


def test_batch_size_does_not_matter(model, data, report):
    single = measure_components(
        model, data, tokens="question+response", batch_size=1, n_bootstrap=200, seed=1
    )
    left, right = (r.to_dataframe().set_index(["component", "measure"]) for r in (report, single))
    for column in ("value", "low", "high"):
        assert float((left[column] - right[column]).abs().max()) < 1e-6
    for own, other in zip(report.tokens, single.tokens, strict=True):
        assert own.tokens == other.tokens
        assert torch.allclose(own.norms, other.norms, rtol=1e-6, atol=1e-6)


def test_examples_of_one_prompt_are_resampled_together(model, data, report):
    """With every example there twice, shares are the same, and so are their intervals."""
    twice = measure_components(
        model, [*data, *data], tokens="question+response", n_bootstrap=200, seed=1
    )
    assert (twice.examples, twice.n_prompts, report.n_prompts) == (12, 6, 6)
    for own, was in zip(twice.components, report.components, strict=True):
        assert astuple(own.share) == pytest.approx(astuple(was.share), rel=1e-9, abs=1e-12)
        assert astuple(own.norm) == pytest.approx(astuple(was.norm), rel=1e-9, abs=1e-12)
    few = measure_components(model, [*data[:3], *data[:3]], heads=False, n_bootstrap=20)
    assert "\n3 prompts are too few for intervals, which need 5" in few.summary()
    assert not any(own.share.has_interval for own in few.components)


def test_intervals_hold_the_value_and_follow_the_seed(model, data, report):
    again = measure_components(model, data, tokens="question+response", n_bootstrap=200, seed=1)
    other = measure_components(model, data, tokens="question+response", n_bootstrap=200, seed=2)
    assert again.components == report.components
    widths = []
    for component, same in zip(report.components, other.components, strict=True):
        assert component.share.low <= component.share.value <= component.share.high
        assert same.share.value == component.share.value
        widths.append(component.share.high - component.share.low)
    assert max(widths) > 1e-3
    assert other.components != report.components


def test_tokens_of_the_first_examples_are_kept(model, data, report):
    assert len(report.tokens) == 4
    first = report.tokens[0]
    (deltas,) = collect_deltas(model, data[:1], tokens="question+response", local=False)
    assert first.tokens == deltas.tokens
    rows = [i for i, c in enumerate(report.components) if c.kind != "head"]
    assert float(first.shares[rows].sum()) == pytest.approx(1, abs=1e-10)
    alone = component_deltas(model, [data[0]], "question+response")
    drawn = report.token_values(0, kind="mlp")
    assert torch.allclose(drawn.values, alone.mlp.norm(dim=-1), rtol=1e-6)
    assert drawn.layers == tuple(range(model.n_layers))
    with pytest.raises(ValueError, match=r"example=4 but tokens were kept of the first 4"):
        report.token_values(4)


def test_a_report_comes_back_from_disk_as_it_was(report, model, data, tmp_path):
    back = ComponentReport.load(report.save(tmp_path / "report"))
    assert back.components == report.components
    assert (back.measured_on, back.examples) == (report.measured_on, report.examples)
    assert back.provenance == report.provenance
    for own, other in zip(back.tokens, report.tokens, strict=True):
        assert own.tokens == other.tokens
        assert torch.equal(own.norms, other.norms)
        assert torch.equal(own.shares, other.shares)
    bare = measure_components(model, data[:1], heads=False, token_examples=0, n_bootstrap=0)
    assert bare.of_kind("head") == () == bare.tokens
    back = ComponentReport.load(bare.save(tmp_path / "bare"))
    # Without an interval its ends are NaN, which equals nothing.
    assert repr(back.components) == repr(bare.components)
    share = next(c.share for c in bare.components if c.name == "mlp 0")
    assert share.low != share.low
    assert share.high != share.high


def test_the_report_shows_itself(report):
    assert "attention" in report.summary()
    assert "heads that read the instruction most" in report.summary()
    assert "\n" not in repr(report)
    bundle = replace(report, provenance={})._repr_mimebundle_()
    assert {"text/html", "text/plain", "application/vnd.plotly.v1+json"} == bundle.keys()
    for view in ("layers", "heads", "tokens"):
        assert report.plot(view).data
    with pytest.raises(ValueError, match="what='all': choose one of layers, heads, tokens"):
        report.plot("all")
    assert "-0%" not in report.summary()


def test_only_learned_positions_move_the_embeddings():
    norms = {}
    for name in ("demo", "demo-gpt2"):
        model, data = demo_data(name)
        report = measure_components(model, data, n_bootstrap=0)
        norms[name] = report.of_kind("embed")[0].norm.value
        assert total(report, "share", "embed", "attn", "mlp") == pytest.approx(1, abs=1e-4)
    assert norms["demo"] == 0
    assert norms["demo-gpt2"] > 0.1


def test_a_head_without_an_output_contributes_nothing():
    model = tiny_model("llama", BACKENDS[-1], "float64", seed=3)
    data = sampled(model)
    matrix = head_matrix(model, 1)
    saved = matrix[2].clone()
    try:
        matrix[2].zero_()
        # As a data set they are of the model that had the head.
        report = measure_components(model, list(data), n_bootstrap=0)
    finally:
        matrix[2].copy_(saved)
    norms = {c.name: c.norm.value for c in report.of_kind("head")}
    assert norms.pop("1.2") == 0
    assert min(norms.values()) > 0


def test_what_cannot_be_measured_is_refused(model, data):
    with pytest.raises(ValueError, match="no example"):
        measure_components(model, data[:0])
    with pytest.raises(ValueError, match="token_examples=-1"):
        measure_components(model, data, token_examples=-1)
    same = [replace(example, base_ids=example.prompted_ids) for example in data]
    with pytest.raises(ValueError, match="every example are equal"):
        measure_components(model, same)
    steering = ConstantSteering(torch.ones(1, model.d_model).double(), (1,))
    with steering.applied(model), pytest.raises(ValueError, match="is applied to it: leave"):
        measure_components(model, data)
    with (
        model.edited({1: lambda resid, columns: resid + 1}),
        pytest.raises(ValueError, match="do not add up to what block 1"),
    ):
        measure_components(model, data)


def test_no_hook_is_left_after_an_exception(model, data):
    batch, _ = example_batches(model, list(data[:2]))
    with torch.no_grad():
        before = model.logits(batch)

    def fail(parts):
        raise RuntimeError("stop")

    def hooks():
        modules = list(model.raw.modules())
        return [(len(own._forward_hooks), len(own._forward_pre_hooks)) for own in modules]

    # transformers may have left some of its own.
    hooks_before = hooks()
    with pytest.raises(RuntimeError, match="stop"):
        run_with_parts(model, batch, fail)
    assert hooks() == hooks_before
    with torch.no_grad():
        assert torch.equal(model.logits(batch), before)
