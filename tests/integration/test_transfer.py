"""A PSR carried to another model reads and writes what it did in its own."""

import pytest
import torch

from psr_lens.deltas import aligned_residuals
from psr_lens.fitting import fit, transfer
from psr_lens.fitting.transfer import fit_activation_maps
from psr_lens.models import TokenRow
from psr_lens.responses import sample_responses
from tests.tiny_models import CORE_MODELS, instructed, tiny_model


@pytest.fixture(scope="module", params=CORE_MODELS, ids="-".join)
def model(request):
    return tiny_model(*request.param, dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [instructed(model, f"tell me about animal {i}", "be very kind") for i in range(12)]
    return sample_responses(model, pairs, max_new_tokens=8, seed=0, progress=False)


@pytest.fixture(scope="module")
def texts(data):
    return [example.base_row.tokens for example in data]


def test_from_a_model_to_itself_nothing_changes(model, data, texts):
    psr = fit(model, data, method="psr", solver="layerwise")
    carried = transfer(psr, model, model, texts, penalty=1e-13)
    resid = aligned_residuals(model, model.pad([data[0].base_row]), "response")
    for layer in psr.layers:
        expected = psr.update(layer, resid[layer])
        assert float(expected.norm()) > 0
        assert float((carried.update(layer, resid[layer]) - expected).norm()) < 1e-4 * float(
            expected.norm()
        )
    assert carried.provenance["transferred_from"]["method"] == "psr"
    carried.check(model)


def test_the_maps_are_ridge_regressions_over_all_tokens(model, texts):
    """Recomputed on the whole token matrix, in place of the streamed sums."""
    there, back = fit_activation_maps(model, model, texts, penalty=1e-2, batch_size=5)
    layer = 1
    tokens = torch.cat(
        [
            aligned_residuals(model, model.pad([row]), "question+response")[layer]
            for row in (TokenRow(tuple(text), 0, len(text) - 1) for text in texts)
        ]
    ).double()
    assert len(tokens) == sum(map(len, texts))
    centred = tokens - tokens.mean(dim=0)
    gram = centred.T @ centred / len(tokens)
    eye = torch.eye(model.d_model).double()
    weight = torch.linalg.solve(gram + 1e-2 * gram.diagonal().mean() * eye, gram)
    assert torch.allclose(there.weight[layer], weight, atol=1e-8)
    assert torch.allclose(back.weight[layer], weight, atol=1e-8)
    left = (centred - centred @ weight).square().sum() / centred.square().sum()
    assert float(there.explained[layer]) == pytest.approx(1 - float(left), abs=1e-8)
    assert torch.allclose(there.bias[layer], tokens.mean(0) - tokens.mean(0) @ weight, atol=1e-8)


def test_what_does_not_go_together_is_refused(model, data, texts):
    psr = fit(model, data, method="psr", solver="layerwise")
    other = tiny_model("gpt2" if "gpt2" not in model.name else "llama", "bridge", dtype="float64")
    with pytest.raises(ValueError, match=r"read different tokens|layers but"):
        transfer(psr, model, other, texts)
    with pytest.raises(ValueError, match="no text to map on"):
        transfer(psr, model, model, [])
