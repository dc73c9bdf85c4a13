"""A steering goes to the hub and comes back; the hub is a stand-in on the loopback interface."""

import contextlib
import io
import re

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from psr_lens.cli import main
from psr_lens.cli.options import ModelOptions
from psr_lens.deploy.card import model_card
from psr_lens.deploy.hub import HubAddress, parse_address
from psr_lens.fitting import fit
from psr_lens.models import LastPromptToken, load_model
from psr_lens.prompts import make_pairs
from psr_lens.responses import sample_responses
from psr_lens.steering import PSR, ConstantSteering, load_steering
from psr_lens.steering.provenance import provenance
from tests.deploy.hub_server import hub_server
from tests.tiny_models import BACKENDS, checkpoint, tiny_model
from tests.tiny_reports import REPORTS


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()


def steering(**options):
    vectors = torch.linspace(-1, 1, 64).reshape(2, 32)
    return ConstantSteering(vectors, (0, 2), **options)


def test_round_trip(hub):
    one = steering(provenance=provenance(tiny_model("llama", BACKENDS[0])))
    address = one.push_to_hub("someone/kind", commit_message="First", token="hf_secret")
    assert address.startswith(f"{hub.url}/someone/kind/commit/")
    assert hub.messages == ["First"]
    assert hub.tokens == {"Bearer hf_secret"}
    assert hub.private == set()
    files = hub.repos["someone/kind"]["main"]
    assert set(files) == {"steering.safetensors", "README.md"}
    assert 'load_steering("hf://someone/kind")' in files["README.md"].decode()
    again = load_steering("hf://someone/kind", tiny_model("llama", BACKENDS[0]))
    assert torch.equal(again.state_dict()["vectors"], one.vectors)
    assert again.header() == one.header()
    with pytest.raises(ValueError, match="does not belong to"):
        load_steering("hf://someone/kind", tiny_model("llama", BACKENDS[0], seed=1))


def test_revisions_and_files(hub):
    steering().push_to_hub("someone/kind", private=True)
    assert hub.private == {"someone/kind"}
    other = steering(tokens="question+response")
    other.push_to_hub("someone/kind", revision="v2")
    other.push_to_hub("someone/kind", revision="v2")
    assert load_steering("hf://someone/kind").tokens == "response"
    assert load_steering("hf://someone/kind@v2").tokens == "question+response"
    files = hub.repos["someone/kind"]["v2"]
    files["deep/other.safetensors"] = files["steering.safetensors"]
    assert load_steering("hf://someone/kind/deep/other@v2").tokens == "question+response"
    with pytest.raises(FileNotFoundError, match=r"no such file: name it, as in hf://owner/name"):
        load_steering("hf://someone/kind/nothing")
    with pytest.raises(FileNotFoundError, match="no such revision: name a branch"):
        load_steering("hf://someone/kind@v3")
    files["steering.safetensors"] = b"nonsense"
    with pytest.raises(ValueError, match="was not written by psr_lens, or is damaged"):
        load_steering("hf://someone/kind@v2")


def test_the_command_line_takes_a_place_on_the_hub(hub, monkeypatch, capsys):
    steering().push_to_hub("someone/kind")
    monkeypatch.setattr(ModelOptions, "load", lambda *_: tiny_model("llama", BACKENDS[0]))
    ask = ["steer", "--model", "tiny", "--prompt", "hi", "--max-new-tokens", "2"]
    main([*ask, "--steering", "hf://someone/kind"])
    assert capsys.readouterr().out.strip()
    with pytest.raises(SystemExit):
        main([*ask, "--steering", "hf://some/one"])
    assert "hf://some/one: the hub has no such repository" in capsys.readouterr().err


def test_no_such_repository(hub):
    with pytest.raises(FileNotFoundError, match="hf://some/one: the hub has no such repository"):
        load_steering("hf://some/one")


@pytest.mark.parametrize(("status", "error"), [(403, PermissionError), (400, OSError)])
def test_a_hub_that_refuses(hub, status, error):
    hub.refuse = status
    with pytest.raises(error, match=r"hf://some/one: the hub (refuses|answers)") as raised:
        steering().push_to_hub("some/one")
    assert "\n" not in str(raised.value)


def test_offline_is_one_clear_line_and_the_cache_still_serves(hub, monkeypatch):
    steering().push_to_hub("someone/kind")
    load_steering("hf://someone/kind")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert load_steering("hf://someone/kind").layers == (0, 2)
    with pytest.raises(ConnectionError, match="hf://some/one: the hub cannot be reached") as raised:
        load_steering("hf://some/one")
    assert "\n" not in str(raised.value)
    with pytest.raises(ConnectionError, match="the hub cannot be reached"):
        steering().push_to_hub("some/one")


def test_a_dead_hub(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for act in (lambda: load_steering("hf://a/b"), lambda: steering().push_to_hub("a/b")):
        with pytest.raises(ConnectionError, match="hf://a/b: the hub cannot be reached"):
            act()


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("hf://a/b", ("a/b", "steering.safetensors", None)),
        ("hf://a/b/", ("a/b", "steering.safetensors", None)),
        ("hf://a-1/b.c@main", ("a-1/b.c", "steering.safetensors", "main")),
        ("hf://a/b/one.safetensors", ("a/b", "one.safetensors", None)),
        ("hf://a/b/two/one@refs/pr/1", ("a/b", "two/one.safetensors", "refs/pr/1")),
    ],
)
def test_addresses(address, place):
    assert parse_address(address) == HubAddress(*place)


@pytest.mark.parametrize("address", ["hf://", "hf://a", "hf://a b/c", "hf:///a/b", "hf://a/b@"])
def test_no_addresses(address):
    with pytest.raises(ValueError, match="is no address on the hub: write hf://owner/name"):
        load_steering(address)


def test_no_name_of_a_repository():
    with pytest.raises(ValueError, match="repo_id='kind' is no name of a repository"):
        steering().push_to_hub("kind")


# --- the card -----------------------------------------------------------------------------------


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def code_blocks(card):
    return re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)


def printed(code):
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        exec(compile(code, "card", "exec"), {})
    return out.getvalue()


def test_the_card_of_a_fitted_steering_tells_and_runs(hub):
    model = load_model("demo")
    pairs = make_pairs([f"tell me about the {animal} ." for animal in ("fox", "owl")], "shout .")
    data = sample_responses(model, pairs, max_new_tokens=12, progress=False)
    psr = fit(model, data, method="psr", solver="layerwise", layers=[1, 4])
    psr.push_to_hub("someone/shout")
    card = hub.repos["someone/shout"]["main"]["README.md"].decode()
    head = front_matter(card)
    assert head["library_name"] == "psr_lens"
    assert "psr" in head["tags"]
    # No repository of the hub has the embedded model.
    assert "base_model" not in head
    assert r"\mathrm{ReLU}(w_{l,k} \cdot A + b_{l,k})" in card
    assert "arXiv 2605.03907" in card
    assert "| layers | 1, 4 (of 6) |" in card
    assert "| acts | on the residual stream after these layers (`resid_post`) |" in card
    inside = model_card(psr.at_hook_point("resid_mid"))
    assert "| acts | between attention and MLP of these layers (`resid_mid`) |" in inside
    assert "| tokens | the last prompt token and every response token |" in card
    assert f"| model.chat_template | {model.encoder.template_hash} |" in card
    assert "## Fit report" in card
    stages = card[card.index("### stages") :].splitlines()
    assert stages[2].startswith("| layer |")
    assert [row.split("|")[1].strip() for row in stages[4:6]] == ["1", "4"]
    assert "example_keys" not in card
    (code,) = code_blocks(card)
    assert printed(code).strip()


def test_a_card_says_where_every_part_acts():
    origin = {"provenance": {"model": {"name": "a/b", "chat_template": True}}}
    last = ConstantSteering(torch.ones(1, 4), [0], tokens=LastPromptToken(), **origin)
    whole = ConstantSteering(torch.ones(1, 4), [1], tokens="all", **origin)
    assert "| tokens | `LastPromptToken()` |" in model_card(last)
    card = model_card(last + whole)
    assert "| tokens | each part's own |" in card
    assert "layers 0, on `LastPromptToken()`:" in card
    assert "layers 1, on every token, the chat template's included:" in card
    assert "The same on the plain" in card
    # A plain model does not know where the question starts.
    asked = ConstantSteering(torch.ones(1, 4), [0], tokens="question+response", **origin)
    assert "The same on the plain" not in model_card(asked + whole)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_snippets_run_where_the_model_is_one_of_transformers(hub, family, monkeypatch):
    model = tiny_model(family, BACKENDS[0])
    origin = provenance(model)
    steering(provenance=origin).push_to_hub("someone/kind")
    card = hub.repos["someone/kind"]["main"]["README.md"].decode()
    assert "Fit report" not in card
    # The checkpoint's name is that of its directory.
    monkeypatch.chdir(checkpoint(family).parent)
    blocks = code_blocks(card)
    assert len(blocks) == 2
    assert "applied(" in blocks[1]
    assert ("apply_chat_template" in blocks[1]) == model.encoder.has_template
    for code in blocks:
        assert printed(code)


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", '"smollm2"'),
        ("tiny.Q8_0", "tiny.Q8_0.gguf", '"tiny.Q8_0.gguf"'),
        ("owner/x-GGUF", "q8/x.gguf", '"owner/x-GGUF", gguf_file="q8/x.gguf"'),
    ],
)
def test_a_model_that_was_made_of_a_gguf_file(name, file, expected):
    origin = provenance(tiny_model("llama", BACKENDS[0]))
    origin["model"] |= {"name": name, "gguf": {"file": file, "quantization": "Q8_0"}}
    # transformers by itself finds no model under these names, or another one.
    (code,) = code_blocks(model_card(steering(provenance=origin)))
    assert f"model = pl.load_model({expected})\n" in code


def test_a_model_on_the_hub_is_linked_and_no_value_breaks_the_table(hub):
    origin = provenance(tiny_model("llama", BACKENDS[0]), note="a | b\n<script>", texts=["x", "|"])
    origin["model"]["name"] = "owner/model"
    one = steering(provenance=origin, fit_report=REPORTS["fit"])
    other = PSR(torch.ones(1, 1, 32), torch.ones(1, 1), torch.ones(1, 1, 32), (1,))
    (one - 2.0 * other).push_to_hub("a/sum")
    one.push_to_hub("a/one")
    card = hub.repos["a/one"]["main"]["README.md"].decode()
    assert front_matter(card)["base_model"] == "owner/model"
    assert r"| note | a \| b &lt;script> |" in card
    assert r"| texts | x, \| |" in card
    card = hub.repos["a/sum"]["main"]["README.md"].decode()
    assert "**1 times** ConstantSteering" in card
    assert "**-2 times** PSR" in card
    assert load_steering("hf://a/sum").layers == (0, 1, 2)
