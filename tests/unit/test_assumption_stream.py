"""Planted deltas: known rank, known strength by token class, a strength that can or cannot be read."""

from dataclasses import dataclass, field

import pytest
import torch

from psr_lens.assumptions.decoding import fit_layer_probes, score_layer_probes
from psr_lens.assumptions.spectrum import measure_spectrum
from psr_lens.assumptions.stream import DeltaBatch, DeltaStream
from psr_lens.assumptions.strengths import describe_strengths, measure_strengths
from psr_lens.assumptions.table import MeasureTable
from psr_lens.assumptions.token_classes import TOKEN_CLASSES, classify_tokens
from psr_lens.examples import number_prompts
from psr_lens.responses import make_example
from psr_lens.statistics import resamples
from tests.tiny_models import instructed, tiny_model

WORDS = "the otter eats fish , and the owl ! the fox , the hen , and the mouse ."


@dataclass(frozen=True)
class Planted(DeltaStream):
    """A stream whose deltas were made up: `[layer, token, d_model]` in the data's order."""

    deltas: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    reads: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def batches(self, kinds, description):
        starts = torch.tensor([0, *self.lengths]).cumsum(0)
        # Backwards, as a stream's order is its own affair.
        for last in range(len(self.data), 0, -self.batch_size):
            indices = list(range(max(0, last - self.batch_size), last))[::-1]
            places = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in indices])
            yield DeltaBatch(
                indices,
                [self.lengths[i] for i in indices],
                places,
                dict.fromkeys(kinds, self.deltas[:, places]),
                dict.fromkeys(kinds, self.reads[:, places]),
            )


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", dtype="float64")


@pytest.fixture(scope="module")
def data(model):
    made = []
    for i in range(24):
        pair = instructed(model, f"question {i}", "be kind")
        ids = model.encoder.encode_response(pair.base, WORDS * 4 + WORDS[:i])
        made.append(make_example(model, pair, ids))
    return made


def plant(model, data, deltas, reads=None, batch_size=5):
    reads = torch.zeros_like(deltas) if reads is None else reads
    return Planted(model, data, "response", (0, 2), batch_size, False, deltas=deltas, reads=reads)


def tokens(data):
    return sum(example.aligned_length("response") for example in data)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def measured(stream):
    spectra = measure_spectrum(stream, ("local",), n_energies=64, n_directions=8)
    table = MeasureTable(stream.layers)
    counts = resamples(number_prompts(stream.data), 50, 0)
    strengths = measure_strengths(stream, spectra, "local", counts, table)
    describe_strengths(stream, strengths, "local", counts, table)
    rows = {(row.name, row.token_class, row.at, row.layer): row.estimate for row in table.rows}
    return spectra, rows


def test_rank_two_is_two_directions(model, data):
    n = tokens(data)
    axes = torch.linalg.qr(noise(model.d_model, model.d_model))[0]
    one = 3 * noise(2, n, 1) * axes[0]
    other = noise(2, n, 1, seed=1) * axes[1]
    _, rows = measured(plant(model, data, one + other))
    assert 0.85 < rows["energy_share", "all", 1, 0].value < 0.95
    for layer in (0, 2):
        assert rows["energy_share", "all", 2, layer].value == pytest.approx(1, rel=1e-12)
        assert rows["energy_share", "all", 2, layer].low == pytest.approx(1, rel=1e-12)
        row = rows["energy_share", "all", 1, layer]
        assert row.low < row.value < row.high
        assert rows["singular_energy", "all", 1, layer].value == pytest.approx(row.value)
        assert rows["singular_energy", "all", 3, layer].value == pytest.approx(0, abs=1e-12)


def test_a_constant_delta_is_even_and_all_in_its_mean(model, data):
    deltas = torch.zeros(2, tokens(data), model.d_model).double()
    deltas[..., 4] = -2.0
    spectra, rows = measured(plant(model, data, deltas))
    assert spectra["local"].directions[0, 0, 4] == pytest.approx(-1)
    for layer in (0, 2):
        assert rows["strength_variation", "all", 0, layer].value == pytest.approx(0, abs=1e-6)
        assert rows["mean_energy_share", "all", 0, layer].value == pytest.approx(1)
        assert rows["mean_energy_share", "all", 0, layer].low == pytest.approx(1)
        assert rows["mean_strength", "all", 0, layer].value == pytest.approx(2)
        for at in (1, 50, 99):
            assert rows["norm_quantile", "all", at, layer].value == pytest.approx(2)


def test_strength_by_class_is_what_was_planted(model, data):
    """Strength 6 at the last prompt token, -1 at punctuation, 2 elsewhere."""
    classes = classify_tokens(model.encoder, data, "response")
    strength = torch.full((len(classes),), 2.0, dtype=torch.float64)
    strength[classes == TOKEN_CLASSES.index("last prompt token")] = 6.0
    strength[classes == TOKEN_CLASSES.index("punctuation")] = -1.0
    z = torch.nn.functional.normalize(noise(model.d_model), dim=0)
    _, rows = measured(plant(model, data, (strength[:, None] * z).repeat(2, 1, 1)))
    planted = {
        "last prompt token": 6.0,
        "first response token": 2.0,
        "content": 2.0,
        "punctuation": -1.0,
    }
    present = {name for measure, name, _, _ in rows if measure == "tokens"}
    assert present == {*planted, "all"}
    energy = float(strength.square().sum())
    for name, value in planted.items():
        count = int((classes == TOKEN_CLASSES.index(name)).sum())
        assert rows["tokens", name, 0, 0].value == count > 0
        assert rows["mean_strength", name, 0, 2].value == pytest.approx(value)
        assert rows["strength_quantile", name, 50, 2].value == pytest.approx(value)
        assert rows["norm_quantile", name, 90, 0].value == pytest.approx(abs(value))
        share = rows["class_energy_share", name, 0, 0]
        assert share.value == pytest.approx(count * value**2 / energy)
        assert share.low <= share.value <= share.high
    variation = float(strength.std(correction=0) / strength.mean())
    assert rows["strength_variation", "all", 0, 0].value == pytest.approx(variation)
    mean_share = float(strength.mean() ** 2 / strength.square().mean())
    assert rows["mean_energy_share", "all", 0, 2].value == pytest.approx(mean_share)
    assert rows["class_energy_share", "all", 0, 2].value == pytest.approx(1)


def probed(model, data, strength, reads, max_tokens=8192, batch_size=5):
    """Held-out R^2 of the ReLU probe and the linear one, at both layers."""
    z = torch.nn.functional.normalize(noise(2, model.d_model, seed=5), dim=-1)
    deltas = strength.unsqueeze(-1) * z.unsqueeze(1)
    half = sum(example.aligned_length("response") for example in data[:12])
    fit_on = plant(model, data[:12], deltas[:, :half], reads[:, :half], batch_size)
    test_on = plant(model, data[12:], deltas[:, half:], reads[:, half:], batch_size)
    probes = fit_layer_probes(fit_on, "local", z, max_tokens, 0)
    table = MeasureTable((0, 2))
    score_layer_probes(test_on, "local", z, probes, (50, 0), table)
    return {(row.name, row.layer): row.estimate for row in table.rows}


def test_a_planted_relu_strength_can_be_read(model, data):
    reads = noise(2, tokens(data), model.d_model)
    w = noise(2, model.d_model, 1, seed=3)
    found = probed(model, data, torch.relu((reads @ w).squeeze(-1) - 4.0), reads)
    for layer in (0, 2):
        row = found["relu_r2", layer]
        assert row.value > 0.99
        assert row.low <= row.value <= row.high
        assert found["linear_r2", layer].value < 0.8


def test_a_random_strength_cannot(model, data):
    reads = noise(2, tokens(data), model.d_model)
    found = probed(model, data, 1 + noise(2, tokens(data), seed=3), reads)
    assert all(row.value < 0.05 for row in found.values())
    assert all(row.value > -0.3 for row in found.values())


def test_r2_is_one_minus_the_errors_over_the_spread(model, data):
    """A constant strength of the fit half, tested on another: worse than the best constant."""
    n = tokens(data)
    half = sum(example.aligned_length("response") for example in data[:12])
    strength = torch.full((2, n), 1.0).double()
    strength[:, half:] = 2 + noise(2, n - half)
    found = probed(model, data, strength, noise(2, n, model.d_model, seed=9))
    for row, layer in enumerate((0, 2)):
        tested = strength[row, half:]
        expected = 1 - float((tested - 1).square().mean() / tested.var(correction=0))
        assert found["relu_r2", layer].value == pytest.approx(expected, rel=1e-5)
        assert found["linear_r2", layer].value == pytest.approx(expected, rel=1e-9)


def test_batches_and_the_number_of_probe_tokens(model, data):
    reads = noise(2, tokens(data), model.d_model)
    w = noise(2, model.d_model, 1, seed=3)
    strength = torch.relu((reads @ w).squeeze(-1) - 4.0)
    few = [probed(model, data, strength, reads, 150, size) for size in (1, 7)]
    for key, row in few[0].items():
        assert few[1][key].value == pytest.approx(row.value, rel=1e-9)
    more = probed(model, data, strength, reads)
    assert more["relu_r2", 0].value > few[0]["relu_r2", 0].value
