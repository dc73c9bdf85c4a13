"""What a user reads who passes the wrong thing, without the type checks that the tests run under."""

# Wrong types are what is passed here.
# pyright: reportArgumentType=false, reportCallIssue=false

from inspect import signature

import jaxtyping
import numpy as np
import pytest
import torch
import transformers

import psr_lens as pl
from psr_lens import plots

ANIMALS = ("fox", "otter", "whale", "bat", "crow")
WRONG = (
    (
        lambda model, data: pl.fit(model, data, tokens="q"),
        "tokens='q': fits and measures take place on",
    ),
    (
        lambda model, data: pl.collect_deltas(model, data, tokens="r"),
        "tokens='r': fits and measures",
    ),
    (
        lambda model, data, psr: pl.measure_faithfulness(model, [psr], data.test, tokens="x"),
        "tokens='x': fits and measures",
    ),
    (lambda model, data: pl.fit(model, data, layers=1.5), "layers=1.5: pass 'all', one index"),
    (lambda model, data: pl.fit(model, data, layers=True), "layers=True: pass 'all', one index"),
    (lambda model, data: pl.fit(model, data, layers=["a"]), "layers=['a']: pass 'all', one index"),
    (
        lambda model, psr: pl.transfer(psr, model, model, [(1, 2)]),
        "has no probes to carry over: pass a PSR",
    ),
    (lambda model, pairs: pl.fit(model, pairs), "pass what sample_responses returns"),
    (lambda model, data: pl.fit(model, data, seed=-1), "seed=-1: it must be a whole number"),
    (lambda model, data: pl.collect_deltas(model, data[0]), "pass [example]"),
    (lambda model, pairs: pl.collect_deltas(model, pairs), "pass what sample_responses returns"),
    (lambda model, data, psr: psr.coefficients(model, data[0]), "pass [example]"),
    (
        lambda model, data, psr: psr.coefficients(model, data, alpha=float("nan")),
        "alpha=nan: it must be a finite number",
    ),
    (
        lambda model, data, psr: pl.measure_faithfulness(model, [psr], data.test, alpha="x"),
        "alpha='x': it must be a finite",
    ),
    (
        lambda model, data, psr: pl.measure_faithfulness(model, {"no steering": psr}, data.test),
        "reference line: rename it",
    ),
    (
        lambda model, data, psr: pl.measure_faithfulness(model, [psr], data.test, oracle_ranks=4),
        "oracle_ranks=4: pass several",
    ),
    (
        lambda model, data, psr: pl.measure_faithfulness(model, [psr], data.test, n_bootstrap=-1),
        "n_bootstrap=-1: it must be",
    ),
    (
        lambda model, data: pl.measure_assumptions(model, data, kind="both"),
        "kind='both': choose 'accumulated' or 'local'",
    ),
    (
        lambda model, data: pl.measure_assumptions(model, data, tokens="x"),
        "tokens='x': fits and measures",
    ),
    (lambda model, data: pl.measure_assumptions(model, data[0]), "pass [example]"),
    (
        lambda model, data: pl.measure_assumptions(model, data, probe_data=data),
        "5 of the 5 examples are in probe_data too",
    ),
    (lambda assumptions: assumptions.verdicts("3.1"), "assumption='3.1': choose one of"),
    (
        lambda assumptions: assumptions.plot("all"),
        "what='all': choose one of overview, spectrum, strength",
    ),
    (lambda model: pl.sample_responses(model, ["a"]), "'a' is no PromptPair"),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, split=(0.5, 0.5)),
        "split=(0.5, 0.5): shares of train",
    ),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, split=0.8),
        "split=0.8: shares of train",
    ),
    (
        lambda model, pairs: pl.sample_responses(
            model, pairs, split={p.group: "training" for p in pairs}
        ),
        "'training'",
    ),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, seed=10**20),
        "seed=100000000000000000000: it must be",
    ),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, max_new_tokens="8"),
        "max_new_tokens='8': it must be a whole",
    ),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, temperature=None),
        "temperature=None: it must be 0",
    ),
    (
        lambda model, pairs: pl.sample_responses(model, pairs, batch_size=None),
        "batch_size=None: it must be a whole",
    ),
    (
        lambda deltas: plots.token_heatmap(deltas),
        "a DeltaCollection has no values over tokens: pass one of its el",
    ),
    (lambda: plots.layer_token_heatmap(torch.zeros(2, 3)), "a Tensor has no values over tokens"),
    (lambda deltas: plots.token_heatmaps([deltas[0]]), "pass a mapping from captions to values"),
    (lambda deltas: deltas[:, 9], "layers=[9]: there are 0, 1, 2, 3, 4, 5"),
    (lambda deltas: deltas[0, :, 99], "tokens=[99]: there are 0 to "),
    (lambda deltas: deltas[0, 1, 2, 3], "4 axes: there are example, layer and token"),
    (lambda deltas: deltas[:, "first"], "layers='first': it must be a whole number"),
    (lambda deltas: deltas[0].norms("locl"), "kind='locl': choose 'accumulated' or 'local'"),
    (lambda: pl.make_pairs(["a"], None), "instruction=None: it must be a string"),
    (lambda: pl.make_pairs("a", "b"), "questions='a': pass a list of questions, [question]"),
    (lambda: pl.make_pairs([], "b"), "questions=[]: pass at least one question"),
    (lambda: pl.make_pairs({"g": "a"}, "b"), "questions='a': pass a list of questions, [question]"),
    (lambda: pl.make_pairs({1: ["a"]}, "b"), "questions has the group 1: name each by a text"),
    (lambda: pl.make_pairs([3], "b"), "question=3: pass a string or a list of messages"),
    (
        lambda: pl.make_pairs([{"role": "user", "content": "a"}], "b"),
        "pass a list of questions, [question]",
    ),
    (
        lambda: pl.make_pairs({"role": "user", "content": "a"}, "b"),
        "pass a list of questions, [question]",
    ),
    (
        lambda: pl.make_pairs(["a"], "b", paraphrases="c"),
        "paraphrases='c': pass a list of strings, one for",
    ),
    (lambda: pl.make_pairs(["a"], "b", paraphrases=[3]), "paraphrases=3: it must be a string"),
    (lambda: pl.PromptPair("a", "b", response=3), "response=3: it must be a string"),
    (lambda: pl.PromptPair({"role": "user"}, "y"), "pass a string, a list of messages"),
    (
        lambda: pl.load_model(None),
        "a model of type NoneType was given: pass psr_lens.load_model(name_or",
    ),
    (
        lambda hf: pl.load_model(hf, backend="bridge"),
        "a model in memory runs as the transformers model that it",
    ),
    (
        lambda hf: pl.load_model(hf, dtype="float64"),
        "dtype='float64' but the model is in memory already",
    ),
    (lambda folder: pl.as_hooked_model(str(folder)), "pass psr_lens.load_model('"),
    (lambda model: pl.load_model(model.encoder.tokenizer), "a tokenizer of type "),
    (
        lambda model: pl.load_model(model),
        "which is loaded already: pass it wherever a model is taken",
    ),
    (
        lambda model: pl.load_model(model.raw),
        "which is loaded already: pass it wherever a model is taken",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(128), 2),
        "vectors has shape [128] and type float32: pass",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 128), 2),
        "layers=2: pass a list, [15], one layer per row",
    ),
    (
        lambda: pl.ConstantSteering({2: torch.zeros(128)}, [2]),
        "there are ConstantSteering.from_vector(vector",
    ),
    (lambda: pl.ConstantSteering(np.ones((1, 128)), [2]), "vectors of type ndarray: pass a tensor"),
    (
        lambda: pl.ConstantSteering(torch.ones(1, 128).long(), [2]),
        "type int64: pass floating-point numbers",
    ),
    (
        lambda: pl.ConstantSteering.from_vector("abc", layer=2),
        "of type str is not an array of numbers",
    ),
    (
        lambda: pl.ConstantSteering.from_vector(np.ones(3), layer=1.5),
        "layer=1.5: it must be a whole number",
    ),
    (
        lambda: pl.ConstantSteering.from_vector([True, False], layer=2),
        "values of type bool: a steering vec",
    ),
    (
        lambda: pl.ConstantSteering.from_vector([[1.0], [1.0, 2.0]], layer=2),
        "type list is not an array of n",
    ),
    (
        lambda: pl.ConstantSteering.from_file("v.pt", numbering="rows"),
        "choose 'blocks' or 'hidden_states'",
    ),
    (
        lambda: pl.ConstantSteering.from_vectors([np.ones(3)]),
        "type list: pass a mapping from layers to vec",
    ),
    (lambda: pl.load_model("demo", device="meta"), "device='meta' cannot be used here"),
    (lambda: pl.load_model("demo", device=3.5), "device='3.5' cannot be used here"),
    (lambda: pl.ConstantSteering(torch.zeros(2, 4), [3, 1]), "layers=[3, 1]: name each once"),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 4), [1.0]),
        "layers=1.0: it must be a whole number",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 4), [True]),
        "layers=True: it must be a whole number",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 4), "1"),
        "layers='1': pass a list, [15], one layer per row",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 4), [1.5]),
        "layers=1.5: it must be a whole number",
    ),
    (
        lambda model, data: pl.fit(model, data, tokens="all"),
        "tokens='all': fits and measures take place on the tokens",
    ),
    (
        lambda: pl.TokenIds([1], within="prompt"),
        "within='prompt': choose one of response, question+response, all",
    ),
    (
        lambda: pl.ConstantSteering(torch.zeros(1, 4), [1], tokens=None),
        "tokens=None: choose 'response'",
    ),
    (
        lambda: pl.ActAdd(torch.zeros(1, 2, 4), [1], tokens="end"),
        "tokens='end': choose 'response' (last prompt",
    ),
)


@pytest.fixture(scope="module", autouse=True)
def _without_type_checks():
    """The checks would refuse most of it in words of their own, which no user has."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def given(_without_type_checks):
    """What the calls are made with, by the names of their parameters."""
    folder = pl.demo.checkpoint_path()
    model = pl.load_model("demo", progress=False)
    pairs = pl.make_pairs({a: [f"describe the {a} ."] for a in ANIMALS}, "be optimistic .")
    data = pl.sample_responses(model, pairs, max_new_tokens=20, progress=False)
    return {
        "hf": transformers.AutoModelForCausalLM.from_pretrained(folder),
        "folder": folder,
        "model": model,
        "pairs": pairs,
        "data": data,
        "psr": pl.fit(model, data, method="dim", layers=np.int64(2)),
        "deltas": pl.collect_deltas(model, data),
        "assumptions": pl.measure_assumptions(model, data, layers=0, n_bootstrap=0),
    }


@pytest.mark.parametrize(("call", "words"), WRONG, ids=[words for _, words in WRONG])
def test_the_error_is_one_clear_line(given, call, words):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        call(**{name: given[name] for name in signature(call).parameters})
    assert words in str(caught.value)


def test_a_layer_may_be_a_number_of_numpy(given):
    psr, model, data = given["psr"], given["model"], given["data"]
    assert psr.layers == (2,)
    curves = pl.measure_faithfulness(model, psr, data.test).relative_rmse
    assert list(curves) == ["difference in means, layer 2"]


def test_with_the_type_checks_the_message_would_be_theirs():
    jaxtyping.config.update("jaxtyping_disable", False)
    try:
        with pytest.raises(jaxtyping.TypeCheckError):
            pl.ConstantSteering.from_vector(np.ones(3), layer=1.5)
    finally:
        jaxtyping.config.update("jaxtyping_disable", True)
