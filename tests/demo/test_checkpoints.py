"""The shipped checkpoints: the right files, and prompting really works in them."""

import hashlib
import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from psr_lens.demo import CHECKPOINTS, checkpoint_path
from scripts.demo_training.acceptance import MIN_COHERENCE, format_table, measure_prompting

ROOT = CHECKPOINTS["demo"].parent
checkpoints = pytest.mark.parametrize("name", sorted(CHECKPOINTS))


def test_the_files_are_the_recorded_ones():
    recorded = {
        path: digest
        for digest, path in (
            line.split() for line in (ROOT / "SHA256SUMS").read_text().splitlines()
        )
    }
    found = {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for directory in CHECKPOINTS.values()
        for path in directory.iterdir()
    }
    assert found == recorded


@checkpoints
def test_a_checkpoint_is_complete_and_small(name):
    files = {path.name: path.stat().st_size for path in CHECKPOINTS[name].iterdir()}
    assert set(files) == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert sum(files.values()) <= 6 * 2**20


@checkpoints
def test_nothing_drops_out_and_other_tools_find_their_fields(name):
    config = json.loads((CHECKPOINTS[name] / "config.json").read_text())
    dropouts = [value for key, value in config.items() if key.endswith(("dropout", "pdrop"))]
    assert dropouts
    assert not any(dropouts)
    if name == "demo-gpt2":
        assert config["n_ctx"] == config["n_positions"] == 256
        assert config["activation_function"] == "gelu_new"
    tokenizer_config = json.loads((CHECKPOINTS[name] / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "PreTrainedTokenizerFast"


@checkpoints
def test_prompting_works_on_held_out_animals(name):
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS[name]).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS[name])
    unprompted_coherence, measured = measure_prompting(model, tokenizer)
    table = format_table(unprompted_coherence, measured)
    assert unprompted_coherence >= MIN_COHERENCE, table
    assert [row.name for row in measured if not row.passes] == [], table


def test_an_unknown_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no demo checkpoint 'gpt2'; there are demo, demo-gpt2"):
        checkpoint_path("gpt2")
