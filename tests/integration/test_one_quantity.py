"""What a prompt adds and what steerings add is one quantity, in numbers and in words."""

import pytest
import torch

from psr_lens.delta_collection import collect_deltas
from psr_lens.fitting import fit
from psr_lens.plots import token_heatmaps
from psr_lens.responses import sample_responses
from psr_lens.steering import OracleSteering
from tests.tiny_models import BACKENDS, instructed, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2", BACKENDS[0], dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    pairs = [instructed(model, f"the cat {i}", "always be very kind") for i in range(6)]
    return sample_responses(model, pairs, max_new_tokens=6, seed=1, progress=False)


def test_the_oracle_adds_the_local_deltas_at_their_lengths(model, data):
    deltas = collect_deltas(model, data)
    added = OracleSteering(range(model.n_layers)).coefficients(model, data)
    for own, prompt in zip(added, deltas, strict=True):
        # Coefficients are stored in float32.
        torch.testing.assert_close(own.values.double(), prompt.norms("local"), rtol=1e-5, atol=1e-6)


def test_panels_side_by_side_name_it_alike_and_say_the_unit_once(model, data):
    deltas = collect_deltas(model, data)[0]
    panels = {
        "prompt": deltas.token_values("local"),
        **{
            method: fit(model, data, method=method, layers="all", solver="layerwise")
            .coefficients(model, data)[0]
            .token_values()
            for method in ("const", "psr")
        },
    }
    assert {(own.quantity, own.unit) for own in panels.values()} == {
        ("length of what is added", "the residual stream")
    }
    fragment = token_heatmaps(panels, shared_scale=True).fragment()
    assert fragment.count("Numbers are in units of the residual stream.") == 1
    assert deltas.token_values("accumulated").quantity == "accumulated delta norm"
