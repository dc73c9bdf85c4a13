"""One protocol, two backends: padded batches, single blocks, cached steps."""

import pytest
import torch

from psr_lens.models import TokenRow
from psr_lens.models.numerics import record_residuals
from tests.models.cases import (
    PROMPTS,
    core_models,
    every_lens_backend,
    every_model,
    push,
    pushes,
    rows_of,
)
from tests.tiny_models import tiny_model


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@every_model
def test_dimensions(family, backend):
    model = tiny_model(family, backend)
    assert (model.n_layers, model.d_model, model.n_ctx) == (3, 32, 256)
    assert model.d_vocab == model.logits(model.to_batch("Hi")).shape[-1]
    assert model.device == torch.device("cpu")
    assert (
        repr(model) == f"{type(model).__name__}('{family}-0', 3 layers, d_model=32, float32 on cpu)"
    )


@core_models
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_residuals_of_a_padded_batch_equal_the_singles(family, backend, dtype):
    model = tiny_model(family, backend, dtype)
    rows = rows_of(model)
    together = record_residuals(model, rows)
    # The bridge takes the softmax of attention in float32.
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]
    for i, row in enumerate(rows):
        alone = record_residuals(model, [row])[:, 0]
        gap = together[:, i, -len(row.tokens) :] - alone
        assert float(gap.abs().max() / alone.abs().max()) < tolerance
        assert bool(together[:, i].isfinite().all())


@every_model
def test_walking_the_blocks_is_the_forward_pass(family, backend):
    model = tiny_model(family, backend)
    rows = rows_of(model)
    batch = model.pad(rows)
    expected = record_residuals(model, rows)
    resid = model.embed(batch)
    for layer in range(model.n_layers):
        resid = model.run_block(layer, resid, batch)
        gap = (resid - expected[layer])[batch.attention_mask].abs().max()
        assert float(gap / expected[layer].abs().max()) < 1e-5


@core_models
def test_a_block_runs_on_any_residual_and_under_edits(family, backend):
    model = tiny_model(family, backend, "float64")
    batch = model.pad(rows_of(model))
    resid = model.embed(batch)
    other = resid + 0.5
    plain = model.run_block(1, other, batch)
    assert not torch.allclose(plain, model.run_block(1, resid, batch))
    with model.edited({1: push(1)}):
        pushed = model.run_block(1, other, batch)
    mask = batch.attention_mask
    expected = push(1)(plain, batch.columns)
    torch.testing.assert_close(pushed[mask], expected[mask])
    torch.testing.assert_close(model.run_block(1, other, batch)[mask], plain[mask])


@core_models
def test_run_feeds_the_edits_what_logits_would(family, backend):
    model = tiny_model(family, backend)
    batch = model.pad(rows_of(model))
    seen = {}

    def record(resid, columns):
        seen.setdefault("resid", []).append(resid.clone())
        seen.setdefault("region", []).append(columns.region.clone())

    with model.edited({model.n_layers - 1: record}):
        model.run(batch)
        model.logits(batch)
    mask = batch.attention_mask
    torch.testing.assert_close(seen["resid"][0][mask], seen["resid"][1][mask])
    assert all(torch.equal(region, batch.columns.region) for region in seen["region"])


@core_models
def test_cached_steps_are_the_whole_pass(family, backend):
    model = tiny_model(family, backend)
    batch = model.pad(rows_of(model))
    whole = model.logits(batch)
    start = batch.tokens.shape[1] - 4
    cache, pieces = None, []
    for begin, end in (
        (0, start),
        (start, start + 1),
        (start + 1, start + 3),
        (start + 3, start + 4),
    ):
        logits, cache = model.step(
            batch.tokens[:, begin:end],
            batch.attention_mask[:, :end],
            batch.columns[begin:end],
            cache,
        )
        pieces.append(logits)
    gap = (torch.cat(pieces, dim=1) - whole)[batch.attention_mask].abs().max()
    assert float(gap / whole.abs().max()) < 1e-4


@every_lens_backend
def test_calling_the_model_and_reading_its_cache(backend):
    model = tiny_model("llama", backend)
    real = model.to_batch(PROMPTS).attention_mask
    logits, cache = model.run_with_cache(PROMPTS)
    # With hooks the bridge computes its attention step by step, without them fused.
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(logits[real], model(PROMPTS)[real], **near)
    residuals = record_residuals(
        model, [TokenRow(model.encoder.encode(p).ids, 0, 0) for p in PROMPTS]
    )
    for layer in range(model.n_layers):
        cached = cache[f"blocks.{layer}.hook_resid_post"]
        torch.testing.assert_close(cached[real], residuals[layer][real], **near)
    with model.edited(pushes(model)):
        edited, cache = model.run_with_cache(PROMPTS)
        torch.testing.assert_close(edited[real], model(PROMPTS)[real], **near)
        last = cache[f"blocks.{model.n_layers - 1}.hook_resid_post"]
    assert not torch.allclose(edited, logits)
    # What is cached is what the edits have made.
    assert not torch.allclose(last, residuals[-1])
