"""Deltas of many examples: sliced by example, layer and token, tabulated, kept."""

from dataclasses import replace

import pytest
import torch

from psr_lens import DeltaCollection, collect_deltas, load_steering
from psr_lens.fitting import fit
from psr_lens.lens import read_delta
from psr_lens.responses import sample_responses
from psr_lens.steering import ConstantSteering
from tests.tiny_models import BACKENDS, instructed, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", BACKENDS[0])


@pytest.fixture(scope="module")
def data(model):
    questions = ("the cat", "what is a dog like", "tell me about a house", "birds")
    pairs = [instructed(model, own, "always be very kind") for own in questions]
    return sample_responses(model, pairs, max_new_tokens=5, seed=3, progress=False)


@pytest.fixture(scope="module")
def deltas(model, data):
    return collect_deltas(model, data, tokens="question+response")


def test_it_is_a_sequence(deltas, data):
    assert len(deltas) == 4
    assert [own.example for own in deltas] == list(data)
    assert deltas[-1] is not None
    assert deltas[1].example is data[1]
    assert isinstance(deltas[1:], DeltaCollection)
    assert [own.example for own in deltas[1:3]] == list(data[1:3])
    assert [own.example for own in deltas[[2, 0]]] == [data[2], data[0]]
    assert deltas[:2].provenance == deltas.provenance
    assert deltas.provenance["model"]["fingerprint"]["n_layers"] == 3
    with pytest.raises(IndexError):
        deltas[4]


def test_layers_and_tokens_are_those_of_the_whole(deltas):
    whole = deltas[0]
    n_layers, n_tokens, _ = whole.accumulated.shape
    for layers, tokens in (
        (1, -1),
        ([2, 0], [1, -1]),
        (slice(1, None), slice(-3, None)),
        ("all", 0),
    ):
        rows = range(n_layers)[layers] if isinstance(layers, slice) else layers
        rows = list(range(n_layers)) if layers == "all" else [rows] if rows == 1 else sorted(rows)
        columns = range(n_tokens)[tokens] if isinstance(tokens, slice) else tokens
        columns = [columns] if isinstance(columns, int) else columns
        columns = sorted(column % n_tokens for column in columns)
        part = deltas[0, layers, tokens]
        assert (part.layers, part.positions) == (tuple(rows), tuple(columns))
        assert part.tokens == tuple(whole.tokens[column] for column in columns)
        for kind in ("accumulated", "local"):
            expected = getattr(whole, kind)[rows][:, columns]
            assert torch.equal(getattr(part, kind), expected)
        many = deltas[:, layers, tokens]
        assert torch.equal(many[0].accumulated, part.accumulated)
    # Numbers stay what they were: layer 2 is layer 2 of what is left.
    assert torch.equal(deltas[:, 1:][0, 2].accumulated, whole.accumulated[2:])
    assert deltas[0, 1].token_values().layers == (1,)
    with pytest.raises(ValueError, match=r"layers=\[0\]: there are 1, 2"):
        deltas[:, 1:][0, 0]
    with pytest.raises(ValueError, match="4 axes: there are example, layer and token"):
        deltas[0, 0, 0, 0]


def test_tokens_are_chosen_by_what_they_are_a_part_of(deltas):
    for own in deltas:
        length, response = own.example.question_length, len(own.example.response_ids)
        expected = ["question"] * (length - 1) + ["last prompt token"] + ["response"] * response
        assert list(own.regions) == expected
    last = deltas[:, :, "last prompt token"]
    for own, part in zip(deltas, last, strict=True):
        place = own.example.question_length - 1
        assert torch.equal(part.accumulated, own.accumulated[:, place : place + 1])
        assert part.regions == ("last prompt token",)
    joined = [
        deltas[0, :, region].tokens for region in ("question", "last prompt token", "response")
    ]
    assert sum(joined, ()) == deltas[0].tokens


def test_the_table_has_every_norm(deltas):
    table = deltas.to_dataframe()
    assert list(table) == [*("example", "layer", "pos", "token", "region", "accumulated", "local")]
    assert len(table) == sum(own.accumulated.shape[:2].numel() for own in deltas)
    own = deltas[2]
    rows = table[(table.example == 2) & (table.layer == 1)]
    assert rows.token.tolist() == list(own.tokens)
    assert rows.region.tolist() == list(own.regions)
    assert rows.accumulated.tolist() == own.accumulated[1].norm(dim=-1).tolist()
    assert rows.local.tolist() == own.norms("local")[1].tolist()
    part = deltas[:, [2], -1].to_dataframe()
    assert part["pos"].tolist() == [len(own.tokens) - 1 for own in deltas]
    assert part.layer.unique().tolist() == [2]
    lean = replace(deltas, deltas=tuple(replace(own, local=None) for own in deltas))
    assert "local" not in lean.to_dataframe()
    assert deltas[:0].to_dataframe().empty


def test_coefficients_make_the_same_table(model, data):
    steering = ConstantSteering(torch.ones(1, model.d_model), [1])
    own = steering.coefficients(model, data[:1])[0]
    table = own.to_dataframe()
    assert list(table) == ["layer", "pos", "token", "region", "value"]
    assert table.token.tolist() == list(own.tokens)
    assert table.region.tolist() == ["last prompt token"] + ["response"] * (len(own.tokens) - 1)
    assert table.value.tolist() == own.values[0].tolist()
    assert set(table.layer) == {1}


def test_it_comes_back_exactly(deltas, tmp_path):
    for part in (deltas, deltas[:2, [1], "response"], deltas[:0]):
        path = part.save(tmp_path / "deltas")
        back = DeltaCollection.load(path)
        assert back.provenance == part.provenance
        assert len(back) == len(part)
        for own, was in zip(back, part, strict=True):
            assert own.example == was.example
            assert own.example.seen == was.example.seen is not None
            assert own.example.response_text == was.example.response_text
            assert (own.tokens, own.layers, own.positions) == (
                was.tokens,
                was.layers,
                was.positions,
            )
            for kind in ("accumulated", "local"):
                found, expected = getattr(own, kind), getattr(was, kind)
                assert found.dtype == expected.dtype
                assert torch.equal(found, expected)
        assert back.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_summary_says_how_long_they_are(deltas):
    said = deltas.summary()
    assert said.startswith("Deltas of 4 examples")
    n_tokens = sum(len(own.tokens) for own in deltas)
    assert f"{n_tokens} tokens (question+response), 3 layers." in said
    mean = sum(float(own.norms()[-1].sum()) for own in deltas) / n_tokens
    assert f"{mean:.3g} at layer 2." in said
    assert deltas[:0].summary() == "Deltas of 0 examples."
    assert "\n" not in repr(deltas)
    drawn = deltas.plot("tokens", example=1, kind="local").data[0]
    assert [list(row) for row in drawn.z] == deltas[1].norms("local").double().tolist()


def test_what_is_read_off_a_part_is_read_off_the_whole(model, deltas):
    whole = read_delta(model, deltas[0], [1, 2], -2, top=3)
    assert read_delta(model, deltas[0, 1:, -2:], "all", -2, top=3) == whole
    with pytest.raises(ValueError, match=r"layers=\[0\]: there are 1, 2"):
        read_delta(model, deltas[0, 1:], 0, -1)


def test_a_loaded_steering_knows_how_it_was_fitted(model, data, tmp_path):
    split = replace(data, split_of_group=dict.fromkeys(data.split_of_group, "train"))
    fitted = fit(model, split, method="psr", solver="layerwise")
    back = load_steering(fitted.save(tmp_path / "const"))
    assert back.fit_report == fitted.fit_report
    assert back.fit_report.stages
    total = load_steering(
        (0.5 * fitted + fit(model, split, method="ablation")).save(tmp_path / "sum")
    )
    assert total.weighted_parts()[0][1].fit_report == fitted.fit_report
    assert (
        load_steering(ConstantSteering(torch.ones(1, 4), [0]).save(tmp_path / "v")).fit_report
        is None
    )
