"""Running what follows a prefix, from any layer on, equals running the whole."""

import torch

from psr_lens.models import TokenRow
from psr_lens.models.batch import right_pad
from psr_lens.models.prefix import KeyValues, RowKeyValues
from tests.models.cases import every_backend, every_model
from tests.tiny_models import tiny_model

ROWS = (
    TokenRow((5, 6, 7, 8, 9, 10, 11), 1, 3),
    TokenRow((4, 3, 9, 2, 8, 7, 5, 12, 6, 3), 2, 4),
    TokenRow((7, 9, 4, 6), 1, 2),
)
CUTS = (3, 4, 2)


def residuals_of_single_rows(model):
    """The residual stream after every block, row by row, without padding."""
    found = []
    for row in ROWS:
        seen = {}

        def record(layer, seen=seen):
            def edit(resid, columns):
                seen[layer] = resid[0]

            return edit

        batch = model.pad([row])
        with model.edited({layer: record(layer) for layer in range(model.n_layers)}):
            logits = model.logits(batch)[0]
        found.append(([model.embed(batch)[0], *seen.values()], logits))
    return found


@every_model
@torch.no_grad()
def test_the_suffix_equals_the_whole_run(family, backend):
    model = tiny_model(family, backend, dtype="float64")
    rows = model.prefill(
        model.pad(
            [TokenRow(row.tokens[:cut], 0, cut - 1) for row, cut in zip(ROWS, CUTS, strict=True)]
        )
    ).rows()
    # In another order than they were computed in, so with other padding.
    order = [2, 0, 1]
    prefix = KeyValues.of([rows[i] for i in order])
    suffix = right_pad([ROWS[i] for i in order], [CUTS[i] for i in order], 0, model.device)
    expected = residuals_of_single_rows(model)
    for layer in range(model.n_layers + 1):
        resid = torch.zeros(3, suffix.tokens.shape[1], model.d_model, dtype=torch.float64)
        for at, i in enumerate(order):
            own = expected[i][0][layer][CUTS[i] :]
            resid[at, : len(own)] = own
        last = model.run_suffix(layer, resid, suffix, prefix)
        logits = model.run_suffix(layer, resid, suffix, prefix, unembed=True)
        for at, i in enumerate(order):
            length = len(ROWS[i].tokens) - CUTS[i]
            whole, whole_logits = expected[i][0][-1][CUTS[i] :], expected[i][1][CUTS[i] :]
            # The bridge takes attention scores to float32.
            assert (last[at, :length] - whole).abs().max() < 1e-5 * whole.abs().max()
            gap = (logits[at, :length] - whole_logits).abs().max()
            assert gap < 1e-5 * whole_logits.abs().max()


@every_model
def test_gradients_flow_through_the_suffix_and_nothing_is_left(family, backend):
    model = tiny_model(family, backend)
    batch = model.pad(list(ROWS))
    before = model.logits(batch)
    with torch.no_grad():
        prefix = model.prefill(model.pad([TokenRow(row.tokens[:2], 0, 1) for row in ROWS]))
    suffix = right_pad(ROWS, [2, 2, 2], 0, model.device)
    resid = torch.randn(3, suffix.tokens.shape[1], model.d_model, requires_grad=True)
    model.run_suffix(1, resid, suffix, prefix).square().sum().backward()
    assert float(resid.grad.abs().sum()) > 0
    assert torch.equal(model.logits(batch), before)


@every_backend
def test_a_prefix_may_be_empty(backend):
    model = tiny_model("llama", backend)
    row = TokenRow((5, 6, 7), 0, 0)
    whole = model.logits(model.pad([row]))
    one = model.prefill(model.pad([TokenRow((5,), 0, 0)])).rows()[0]
    prefix = KeyValues.of([RowKeyValues(one.keys[:, :0], one.values[:, :0])])
    suffix = right_pad([row], [0], 0)
    logits = model.run_suffix(0, model.embed(model.pad([row])), suffix, prefix, unembed=True)
    assert (logits - whole).abs().max() < 1e-5 * whole.abs().max()
