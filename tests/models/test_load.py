"""What `load_model` takes, what it refuses, and in which words."""

import shutil
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from psr_lens.models import TokenRow, load_model, sources
from psr_lens.models import checkpoint as checkpoints
from psr_lens.models.checkpoint import end_token_ids
from psr_lens.models.conversion import own_tokenizer
from psr_lens.models.load import resolve_device, resolve_dtype
from psr_lens.models.sources import find_source
from tests.models.cases import every_backend, every_lens_backend
from tests.tiny import tiny_checkpoint, tiny_tokenizer
from tests.tiny_models import BACKENDS, checkpoint, tiny_model


def refusal(*args, **options):
    """The message of the ValueError, which has to be one line without a chain behind it."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        load_model(*args, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# --- arguments ----------------------------------------------------------------------------------


def test_unknown_backend():
    expected = "backend='jax': choose 'auto', 'hooked', 'bridge' or 'transformers'"
    assert refusal("demo", backend="jax") == expected


def test_unknown_dtype():
    message = "choose one of float64, float32, bfloat16, float16"
    assert refusal("demo", dtype="int8") == f"dtype='int8': {message}"
    assert refusal("demo", dtype=torch.int64) == f"dtype='torch.int64': {message}"


def test_dtype_by_name_or_by_type():
    assert resolve_dtype(None) is torch.float32
    assert resolve_dtype("bfloat16") is resolve_dtype(torch.bfloat16) is torch.bfloat16


def test_unknown_device():
    for device in ("fridge", "xla"):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
            resolve_device(device)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_directory_has_no_revision():
    message = refusal(checkpoint("llama"), revision="main")
    assert message.startswith("revision='main' but 'llama-0' is a directory")


# --- where a checkpoint lies --------------------------------------------------------------------


def test_directories_by_path_and_by_string(tmp_path, monkeypatch):
    directory = tmp_path / "owner" / "some-llama"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for name in (directory, str(directory), "owner/some-llama", "./owner/some-llama"):
        source = find_source(name)
        assert (source.local, source.name) == (True, "some-llama")
    monkeypatch.chdir(directory)
    assert find_source(".").name == "some-llama"


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-70m", "owner/some.model_2"])
def test_hub_names(name):
    source = find_source(name)
    assert (source.local, source.location, source.name) == (False, name, name)


@pytest.mark.parametrize("name", ["", "two words", "owner/model?", "a:b"])
def test_what_is_neither(name):
    assert refusal(name).startswith(f"model {name!r} is neither a directory nor a hub name: pass ")


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", Path("nowhere"), "~/nowhere", "a/b/c"]
)
def test_a_path_without_anything(name):
    assert refusal(name).endswith("does not exist")


def test_a_directory_without_a_checkpoint(tmp_path):
    assert refusal(tmp_path) == (
        f"{str(tmp_path)!r} is no checkpoint, it has no config.json: "
        "pass a directory that save_pretrained wrote"
    )


@pytest.mark.parametrize("name", sources.EMBEDDED_MODELS)
def test_embedded_models_are_never_shadowed_in_silence(name, tmp_path, monkeypatch):
    tiny = checkpoint("llama")
    shutil.copytree(tiny, tmp_path / name)
    embedded = tmp_path / "package" / "checkpoints" / name
    shutil.copytree(tiny, embedded)
    monkeypatch.setattr(sources.resources, "files", lambda package: tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=f"'{name}' is the embedded model; write './{name}'"):
        source = find_source(name)
    assert (source.location, source.name) == (str(embedded), name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_source(f"./{name}").location == name
        assert find_source(Path(name)).location == name
        (tmp_path / name).rename(tmp_path / "moved")
        assert find_source(name).location == str(embedded)


def test_the_path_text_does_not_choose_the_architecture(tmp_path):
    # TransformerLens takes any path with "llama" or "gemma" in it for one of those.
    directory = tiny_checkpoint("qwen2", tmp_path / "llama-vs-gemma-2-on-gpt2")
    for backend in BACKENDS:
        assert load_model(directory, backend=backend).name == "llama-vs-gemma-2-on-gpt2"


# --- damaged checkpoints ------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """A checkpoint of one's own to break."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "damaged"))


def test_config_that_is_no_json(damaged):
    (damaged / "config.json").write_text("{")
    assert refusal(damaged).startswith(f"the config.json of {str(damaged)!r} cannot be read: ")


def test_config_of_an_unknown_architecture(damaged):
    (damaged / "config.json").write_text('{"model_type": "abacus"}')
    assert "abacus" in refusal(damaged)


def test_no_weights(damaged):
    (damaged / "model.safetensors").unlink()
    assert refusal(damaged).startswith("the weights of model 'damaged' cannot be loaded: ")


def test_torn_weights(damaged):
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refusal(damaged).startswith("the weights of model 'damaged' cannot be loaded: ")


def test_missing_weights_are_not_drawn_at_random(damaged):
    from safetensors.torch import load_file, save_file

    weights = load_file(damaged / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    message = refusal(damaged)
    assert message.startswith(
        "model 'damaged' lacks weights (1, such as model.layers.1.mlp.up_proj"
    )
    assert message.endswith("its files are incomplete, or of another architecture")


def test_no_tokenizer(damaged):
    for file in (*damaged.glob("tokenizer*"), *damaged.glob("*.jinja")):
        file.unlink()
    assert refusal(damaged).startswith("model 'damaged' has no tokenizer that can be read")


def test_weights_that_overflow_a_narrow_type(damaged):
    from safetensors.torch import load_file, save_file

    weights = load_file(damaged / "model.safetensors")
    weights["lm_head.weight"] *= 1e5
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert refusal(damaged, dtype="float16") == (
        "model 'damaged' gives infinite or undefined logits in torch.float16: "
        "choose dtype='bfloat16' or 'float32'"
    )
    assert load_model(damaged, dtype="bfloat16").n_layers == 3


def test_a_weight_that_is_not_finite_is_named(damaged):
    from safetensors.torch import load_file, save_file

    weights = load_file(damaged / "model.safetensors")
    weights["lm_head.weight"][0, 0] = torch.nan
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert refusal(damaged) == (
        "model 'damaged' gives infinite or undefined logits in torch.float32: its weight "
        "lm_head.weight holds NaN or infinity: load it from sound files"
    )


def test_encoder_decoders(damaged):
    from transformers import T5Config

    T5Config(num_layers=1, d_model=8, num_heads=1).save_pretrained(damaged)
    assert refusal(damaged).startswith("model 'damaged' (t5) is an encoder-decoder")


# --- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A hub cache that holds `owner/tiny` at a commit and a tag, with nothing to be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(checkpoint("llama"), model / "snapshots" / commit)
    (model / "refs").mkdir()
    for ref in ("main", "v1"):
        (model / "refs" / ref).write_text(commit)
    return tmp_path


@every_backend
def test_a_hub_model_from_the_cache(backend, hub_cache, capfd):
    model = load_model("owner/tiny", backend=backend, revision="v1", progress=False)
    assert capfd.readouterr() == ("", "")
    assert (model.name, model.revision, model.backend) == ("owner/tiny", "v1", backend)
    other = tiny_model("llama", backend)
    assert model.generate("Hi", max_new_tokens=5) == other.generate("Hi", max_new_tokens=5)


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_model_that_is_not_in_the_cache(hub_cache, monkeypatch, offline):
    """The hub's client would ask again and again, and wait between; it is asked once, if at all."""
    from huggingface_hub import constants

    asked = []

    def unplugged(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unplugged)
    monkeypatch.setattr(time, "sleep", lambda seconds: asked.append(f"in {seconds} seconds"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert refusal("owner/another") == (
        "model 'owner/another' is no directory, is not in the local cache of the hub, and the hub "
        "cannot be reached: go online once, or pass a checkpoint directory"
    )
    assert len(asked) == (0 if offline else 1), asked


def test_an_unknown_revision(hub_cache):
    assert "is not in the local cache of the hub" in refusal("owner/tiny", revision="v2")


def test_without_a_network_the_hub_is_given_up_at_once(monkeypatch):
    import huggingface_hub

    class Unplugged:
        def head(self, url, timeout):
            assert timeout <= 10
            raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Unplugged)
    assert checkpoints.hub_reachable() is False
    monkeypatch.setattr(Unplugged, "head", lambda self, url, timeout: None)
    assert checkpoints.hub_reachable() is True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert checkpoints.hub_reachable() is False


def test_a_hub_that_answers_but_has_no_such_model(hub_cache, monkeypatch):
    monkeypatch.setattr(checkpoints, "hub_reachable", lambda: True)
    message = refusal("owner/another")
    assert message.startswith("model 'owner/another' is neither a directory nor a model that")


# --- tokenizers and end tokens ------------------------------------------------------------------


def test_end_tokens_of_a_generation_config():
    class Config:
        eos_token_id = None

    assert end_token_ids(None) == end_token_ids(Config()) == ()
    Config.eos_token_id = 7
    assert end_token_ids(Config()) == (7,)
    Config.eos_token_id = [7, 3]
    assert end_token_ids(Config()) == (7, 3)


@every_backend
def test_every_end_of_the_generation_config_ends_a_response(backend):
    model = tiny_model("qwen2", backend)
    ends = model.encoder.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.encoder.end_token_ids == frozenset(ends)
    assert model.encoder.pad_token_id == ends[0]


@every_lens_backend
def test_the_tokenizer_stays_as_the_checkpoint_has_it(backend):
    # TransformerLens makes up a BOS for the tokenizer that it is given.
    model = tiny_model("qwen2", backend)
    assert model.encoder.tokenizer.bos_token is None
    assert model.raw.tokenizer.bos_token is not None
    assert model.raw.tokenizer is not model.encoder.tokenizer


def test_own_tokenizer_is_not_loaded_again():
    tokenizer = tiny_tokenizer()
    copied = own_tokenizer(tokenizer)
    assert copied is not tokenizer
    assert copied("Hi there")["input_ids"] == tokenizer("Hi there")["input_ids"]
    assert "add_bos_token" not in tokenizer.init_kwargs


@every_backend
def test_context_length_is_the_checkpoints(backend):
    # TransformerLens itself caps these two at 2048.
    assert tiny_model("mistral", backend).n_ctx == 256
    model = tiny_model("qwen3", backend)
    with pytest.raises(ValueError, match="has 300 tokens but qwen3-0 takes 256"):
        model.pad([TokenRow((5,) * 300, 0, 299)])


def test_importing_the_models_imports_no_model_library():
    code = (
        "import sys, psr_lens.models\n"
        "from psr_lens.models.load import hooked_available\n"
        f"assert hooked_available() is {'hooked' in BACKENDS}\n"
        "assert not {'transformer_lens', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
