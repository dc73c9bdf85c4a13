"""Which residual stream it is: processed weights are refused, fingerprints tell models apart."""

import copy

import pytest
import torch

from psr_lens.models import as_hooked_model, load_model
from psr_lens.models.numerics import (
    check_interventions_bite,
    fingerprint,
    model_fingerprint,
    refuse_processed_weights,
)
from psr_lens.models.quiet import one_line, quiet
from tests.models.cases import every_backend, every_lens_backend, needs_hooked
from tests.tiny import FAMILIES, tiny_checkpoint
from tests.tiny_models import BACKENDS, checkpoint, tiny_model

PROCESSING = {
    "folded LayerNorm weights": {"fold_ln": True, "center_writing_weights": False},
    "centred writing weights": {"fold_ln": False, "center_writing_weights": True},
}


def processed(family, options):
    """A HookedTransformer whose weights TransformerLens has processed."""
    raw = copy.deepcopy(tiny_model(family, "hooked").raw)
    with quiet():
        raw.load_and_process_state_dict(
            raw.state_dict(), center_unembed=False, fold_value_biases=False, **options
        )
    return raw


@needs_hooked
@pytest.mark.parametrize(("found", "options"), PROCESSING.items(), ids=PROCESSING)
def test_processed_weights_are_refused_with_the_remedy(found, options):
    raw = processed("gpt2", options)
    with pytest.raises(ValueError, match=f"the model has {found}, and psr_lens takes") as caught:
        as_hooked_model(raw)
    for remedy in ("psr_lens.load_model", "from_pretrained_no_processing", "TransformerBridge"):
        assert remedy in str(caught.value)


@needs_hooked
def test_folded_rms_norm_is_refused():
    with pytest.raises(ValueError, match="folded LayerNorm weights"):
        as_hooked_model(processed("llama", PROCESSING["folded LayerNorm weights"]))


@pytest.mark.parametrize("no_processing", [True, False])
def test_compatibility_mode_is_refused(no_processing):
    raw = load_model(checkpoint("gpt2"), backend="bridge").raw
    with quiet():
        raw.enable_compatibility_mode(no_processing=no_processing)
    with pytest.raises(
        ValueError, match=r"compatibility mode on.*without enable_compatibility_mode"
    ):
        refuse_processed_weights(raw)


@pytest.mark.parametrize("family", FAMILIES)
@every_lens_backend
def test_untouched_weights_are_not_refused(family, backend):
    assert refuse_processed_weights(tiny_model(family, backend).raw) is None


# --- fingerprints -------------------------------------------------------------------------------


@needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fingerprint_is_the_same_on_both_backends_and_in_bfloat16(family):
    ours = fingerprint(tiny_model(family, "hooked"))
    assert ours.difference(fingerprint(tiny_model(family, "bridge"))) == ""
    assert ours.difference(fingerprint(tiny_model(family, "bridge", "bfloat16"))) == ""


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_other_weights_have_another_fingerprint(family):
    ours = fingerprint(tiny_model(family, BACKENDS[0]))
    other = fingerprint(tiny_model(family, BACKENDS[0], seed=1))
    assert "other weights, or processed ones" in ours.difference(other)


def test_other_shapes_are_named(tmp_path):
    ours = fingerprint(tiny_model("llama", BACKENDS[0]))
    deeper = load_model(tiny_checkpoint("llama", tmp_path, num_hidden_layers=4, template="llama3"))
    assert ours.difference(fingerprint(deeper)) == "n_layers is 4, not 3"


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_centred_weights_have_another_fingerprint(family, monkeypatch):
    monkeypatch.setattr("psr_lens.models.load.refuse_processed_weights", lambda raw: None)
    centred = as_hooked_model(processed(family, PROCESSING["centred writing weights"]))
    model = tiny_model(family, "hooked")
    # The trap: nobody can tell by the outputs.
    torch.testing.assert_close(
        centred("Hi").log_softmax(-1), model("Hi").log_softmax(-1), rtol=0, atol=1e-4
    )
    assert "processed ones" in fingerprint(model).difference(fingerprint(centred))


@every_backend
def test_the_fingerprint_of_a_model_is_taken_without_its_edits(backend):
    model = load_model(checkpoint("llama"), backend=backend)
    untouched = model_fingerprint(model)
    with model.edited({0: lambda resid, columns: resid + 1}):
        assert model_fingerprint(model) == untouched
        assert untouched.difference(fingerprint(model)) == ""
    assert model_fingerprint(as_hooked_model(model.raw)) is untouched


@every_backend
def test_weights_that_were_written_to_have_another_fingerprint(backend):
    model = load_model(checkpoint("llama"), backend=backend)
    before = model_fingerprint(model)
    parameters = dict(model.raw.named_parameters())
    # The matrices between blocks and the unembedding; norms and zero biases say little.
    written = [own for own in parameters.values() if own.ndim > 1 and own.abs().max() > 0][1:]
    assert len(written) > 2
    for own in (written[0], written[-1]):
        kept = own.detach().clone()
        with torch.no_grad():
            own.mul_(1.05)
        assert before.difference(model_fingerprint(model)) != ""
        with torch.no_grad():
            own.copy_(kept)
        assert before.difference(model_fingerprint(model)) == ""


@every_backend
def test_so_have_those_that_were_written_to_where_torch_does_not_count(backend):
    model = load_model(checkpoint("llama"), backend=backend)
    before = model_fingerprint(model)
    weights = [own for own in model.raw.parameters() if own.ndim > 1 and own.abs().max() > 0]
    version = weights[-1]._version
    # As a LoRA is merged.
    weights[-1].data += 0.05 * weights[-1].data.norm()
    assert weights[-1]._version == version
    assert before.difference(model_fingerprint(model)) != ""


# --- do interventions act -----------------------------------------------------------------------


@every_backend
def test_a_model_that_does_not_hear_its_hooks_is_noticed(backend, monkeypatch):
    model = tiny_model("llama", backend)
    deaf = torch.nn.Identity()
    own = type(model).hook_point
    monkeypatch.setattr(
        type(model), "hook_point", lambda self, layer: deaf if layer == 1 else own(self, layer)
    )
    with pytest.raises(RuntimeError, match=r"adding to the residual stream after layers \[1\] "):
        check_interventions_bite(model)


@every_backend
def test_a_hook_that_stays_is_noticed(backend, monkeypatch):
    model = load_model(checkpoint("llama"), backend=backend)
    point = model.hook_point(2)
    calls = []

    def creep(module, args, resid):
        calls.append(1)
        return resid + 0.1 * len(calls)

    handle = point.register_forward_hook(creep)
    with pytest.raises(RuntimeError, match="logits after the removal of hooks differ from before"):
        check_interventions_bite(model)
    handle.remove()
    check_interventions_bite(model)


# --- silence ------------------------------------------------------------------------------------


def test_quiet_is_quiet_and_puts_everything_back(capfd, recwarn):
    import logging
    import sys
    import warnings

    root = logging.getLogger()
    before = (list(root.handlers), root.manager.disable, sys.stdout, sys.stderr)

    def chatter():
        with quiet():
            print("chatter")
            print("chatter", file=sys.stderr)
            logging.warning("chatter")
            warnings.warn("chatter", stacklevel=1)
            raise KeyError("still heard")

    with pytest.raises(KeyError, match="still heard"):
        chatter()
    assert (list(root.handlers), root.manager.disable, sys.stdout, sys.stderr) == before
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_download_bars_are_as_before():
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    def state():
        return (are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled())

    assert state() == (False, True)
    with quiet(downloads=True):
        assert state() == (False, False)
    assert state() == (False, True)


def test_one_line_of_an_error():
    assert one_line(ValueError("\n  first \nsecond")) == "first"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("long " * 200))) <= 300
