"""What a user reads who passes the wrong thing, without the type checks that the tests run under."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
import numpy as np, torch
import psr_lens as pl
from psr_lens import plots
import transformers

folder = pl.demo.checkpoint_path()
hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
model = pl.load_model("demo")
animals = ("fox", "otter", "whale", "bat", "crow")
pairs = pl.make_pairs({a: [f"describe the {a} ."] for a in animals}, "be optimistic .")
data = pl.sample_responses(model, pairs, max_new_tokens=20, progress=False)
psr = pl.fit(model, data, method="dim", layers=np.int64(2))
deltas = pl.collect_deltas(model, data)
assert psr.layers == (2,)
assert list(pl.measure_faithfulness(model, psr, data.test).relative_rmse) == ["difference in means, layer 2"]
assumptions = pl.measure_assumptions(model, data, layers=0, n_bootstrap=0)
found = {}
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        found[call] = "nothing"
    except BaseException as error:
        found[call] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

EXPECTED = {
    "pl.fit(model, data, tokens='q')": "tokens='q': fits and measures take place on",
    "pl.collect_deltas(model, data, tokens='r')": "tokens='r': fits and measures",
    "pl.measure_faithfulness(model, [psr], data.test, tokens='x')": "tokens='x': fits and measures",
    "pl.fit(model, data, layers=1.5)": "layers=1.5: pass 'all', one index",
    "pl.fit(model, data, layers=True)": "layers=True: pass 'all', one index",
    "pl.fit(model, data, layers=['a'])": "layers=['a']: pass 'all', one index",
    "pl.transfer(psr, model, model, [(1, 2)])": "has no probes to carry over: pass a PSR",
    "pl.fit(model, pairs)": "pass what sample_responses returns",
    "pl.fit(model, data, seed=-1)": "seed=-1: it must be a whole number",
    "pl.collect_deltas(model, data[0])": "pass [example]",
    "pl.collect_deltas(model, pairs)": "pass what sample_responses returns",
    "psr.coefficients(model, data[0])": "pass [example]",
    "psr.coefficients(model, data, alpha=float('nan'))": "alpha=nan: it must be a finite number",
    "pl.measure_faithfulness(model, [psr], data.test, alpha='x')": "alpha='x': it must be a finite",
    "pl.measure_faithfulness(model, {'no steering': psr}, data.test)": "reference line: rename it",
    "pl.measure_faithfulness(model, [psr], data.test, oracle_ranks=4)": "oracle_ranks=4: pass several",
    "pl.measure_faithfulness(model, [psr], data.test, n_bootstrap=-1)": "n_bootstrap=-1: it must be",
    "pl.measure_assumptions(model, data, kind='both')": "kind='both': choose 'accumulated' or 'local'",
    "pl.measure_assumptions(model, data, tokens='x')": "tokens='x': fits and measures",
    "pl.measure_assumptions(model, data[0])": "pass [example]",
    "pl.measure_assumptions(model, data, probe_data=data)": "5 of the 5 examples are in probe_data too",
    "assumptions.verdicts('3.1')": "assumption='3.1': choose one of",
    "assumptions.plot('all')": "what='all': choose one of overview, spectrum, strength",
    "pl.sample_responses(model, ['a'])": "'a' is no PromptPair",
    "pl.sample_responses(model, pairs, split=(0.5, 0.5))": "split=(0.5, 0.5): shares of train",
    "pl.sample_responses(model, pairs, split=0.8)": "split=0.8: shares of train",
    "pl.sample_responses(model, pairs, split={p.group: 'training' for p in pairs})": "'training'",
    "pl.sample_responses(model, pairs, seed=10**20)": "seed=100000000000000000000: it must be",
    "pl.sample_responses(model, pairs, max_new_tokens='8')": "max_new_tokens='8': it must be a whole",
    "pl.sample_responses(model, pairs, temperature=None)": "temperature=None: it must be 0",
    "pl.sample_responses(model, pairs, batch_size=None)": "batch_size=None: it must be a whole",
    "plots.token_heatmap(deltas)": "a DeltaCollection has no values over tokens: pass one of its el",
    "plots.layer_token_heatmap(torch.zeros(2, 3))": "a Tensor has no values over tokens",
    "plots.token_heatmaps([deltas[0]])": "pass a mapping from captions to values",
    "deltas[:, 9]": "layers=[9]: there are 0, 1, 2, 3, 4, 5",
    "deltas[0, :, 99]": "tokens=[99]: there are 0 to ",
    "deltas[0, 1, 2, 3]": "4 axes: there are example, layer and token",
    "deltas[:, 'first']": "layers='first': it must be a whole number",
    "deltas[0].norms('locl')": "kind='locl': choose 'accumulated' or 'local'",
    "pl.make_pairs(['a'], None)": "instruction=None: it must be a string",
    "pl.make_pairs('a', 'b')": "questions='a': pass a list of questions, [question]",
    "pl.make_pairs([], 'b')": "questions=[]: pass at least one question",
    "pl.make_pairs({'g': 'a'}, 'b')": "questions='a': pass a list of questions, [question]",
    "pl.make_pairs({1: ['a']}, 'b')": "questions has the group 1: name each by a text",
    "pl.make_pairs([3], 'b')": "question=3: pass a string or a list of messages",
    "pl.make_pairs([{'role': 'user', 'content': 'a'}], 'b')": "pass a list of questions, [question]",
    "pl.make_pairs({'role': 'user', 'content': 'a'}, 'b')": "pass a list of questions, [question]",
    "pl.make_pairs(['a'], 'b', paraphrases='c')": "paraphrases='c': pass a list of strings, one for",
    "pl.make_pairs(['a'], 'b', paraphrases=[3])": "paraphrases=3: it must be a string",
    "pl.PromptPair('a', 'b', response=3)": "response=3: it must be a string",
    "pl.PromptPair({'role': 'user'}, 'y')": "pass a string, a list of messages",
    "pl.load_model(None)": "a model of type NoneType was given: pass psr_lens.load_model(name_or",
    "pl.load_model(hf, backend='bridge')": "a model in memory runs as the transformers model that it",
    "pl.load_model(hf, dtype='float64')": "dtype='float64' but the model is in memory already",
    "pl.as_hooked_model(str(folder))": "pass psr_lens.load_model('",
    "pl.load_model(model.encoder.tokenizer)": "a tokenizer of type ",
    "pl.load_model(model)": "which is loaded already: pass it wherever a model is taken",
    "pl.load_model(model.raw)": "which is loaded already: pass it wherever a model is taken",
    "pl.ConstantSteering(torch.zeros(128), 2)": "vectors has shape [128] and type float32: pass",
    "pl.ConstantSteering(torch.zeros(1, 128), 2)": "layers=2: pass a list, [15], one layer per row",
    "pl.ConstantSteering({2: torch.zeros(128)}, [2])": "there are ConstantSteering.from_vector(vector",
    "pl.ConstantSteering(np.ones((1, 128)), [2])": "vectors of type ndarray: pass a tensor",
    "pl.ConstantSteering(torch.ones(1, 128).long(), [2])": "type int64: pass floating-point numbers",
    "pl.ConstantSteering.from_vector('abc', layer=2)": "of type str is not an array of numbers",
    "pl.ConstantSteering.from_vector(np.ones(3), layer=1.5)": "layer=1.5: it must be a whole number",
    "pl.ConstantSteering.from_vector([True, False], layer=2)": "values of type bool: a steering vec",
    "pl.ConstantSteering.from_vector([[1.0], [1.0, 2.0]], layer=2)": "type list is not an array of n",
    "pl.ConstantSteering.from_file('v.pt', numbering='rows')": "choose 'blocks' or 'hidden_states'",
    "pl.ConstantSteering.from_vectors([np.ones(3)])": "type list: pass a mapping from layers to vec",
    "pl.load_model('demo', device='meta')": "device='meta' cannot be used here",
    "pl.load_model('demo', device=3.5)": "device='3.5' cannot be used here",
    "pl.ConstantSteering(torch.zeros(2, 4), [3, 1])": "layers=[3, 1]: name each once",
    "pl.ConstantSteering(torch.zeros(1, 4), [1.0])": "layers=1.0: it must be a whole number",
    "pl.ConstantSteering(torch.zeros(1, 4), [True])": "layers=True: it must be a whole number",
    "pl.ConstantSteering(torch.zeros(1, 4), '1')": "layers='1': pass a list, [15], one layer per row",
    "pl.ConstantSteering(torch.zeros(1, 4), [1.5])": "layers=1.5: it must be a whole number",
    "pl.fit(model, data, tokens='all')": "tokens='all': fits and measures take place on the tokens",
    "pl.TokenIds([1], within='prompt')": "within='prompt': choose one of response, question+response, all",
    "pl.ConstantSteering(torch.zeros(1, 4), [1], tokens=None)": "tokens=None: choose 'response'",
    "pl.ActAdd(torch.zeros(1, 2, 4), [1], tokens='end')": "tokens='end': choose 'response' (last prompt",
}


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(EXPECTED))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("call", EXPECTED)
def test_the_error_is_one_clear_line(found, call):
    assert found[call].startswith("ValueError: ")
    assert EXPECTED[call] in found[call]
    assert "\n" not in found[call]
