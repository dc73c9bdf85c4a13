"""A steering acts on the plain transformers model as it acts on the HookedModel."""

import contextlib
import copy
import json
import os
import subprocess
import sys
import threading
import warnings
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM

from psr_lens.models.batch import TokenRow
from psr_lens.steering import (
    PSR,
    ActAdd,
    ConstantSteering,
    DirectionalAblation,
    LoReFT,
    OracleSteering,
    ProjectionMatch,
    ReFTr1,
    Steering,
)
from psr_lens.steering.provenance import provenance
from tests.tiny import FAMILIES
from tests.tiny_models import BACKENDS, checkpoint, tiny_model

PROMPTS = ["the cat", "what is a dog like today", "tell me about the small old house in the wood"]
NEW = 7
# Not in float64: there, eager attention of transformers makes NaN of left padding.
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def hf_model(family, seed=0, attention="eager"):
    return AutoModelForCausalLM.from_pretrained(
        checkpoint(family, seed), attn_implementation=attention
    ).eval()


def hooked(family):
    return tiny_model(family, BACKENDS[0])


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def psr(model, tokens="response", **options):
    layers = (0, 2)
    w, b, z = draw(1, 2, 2, model.d_model) / 4, draw(2, 2, 2), draw(3, 2, 2, model.d_model)
    return PSR(w, b, 0.6 * z, layers, tokens=tokens, **options)


def steerings(model) -> dict[str, Steering]:
    d = model.d_model
    constant = ConstantSteering(draw(4, 3, d) / 2, (0, 1, 2))
    orthonormal = torch.linalg.qr(draw(5, d, 2))[0].T.unsqueeze(0)
    return {
        "psr": psr(model),
        "constant": constant,
        "projection": ProjectionMatch(draw(6, 1, d), torch.tensor([4.0]), (1,)),
        "ablation": DirectionalAblation(draw(7, 3, d), (0, 1, 2)),
        "reft_r1": ReFTr1(draw(8, 1, d), torch.tensor([3.0]), (1,)),
        "loreft": LoReFT(orthonormal, draw(9, 1, 2, d) / 3, draw(10, 1, 2), (1,)),
        "actadd": ActAdd(draw(11, 1, 3, d), (1,)),
        "actadd-start": ActAdd(draw(12, 1, 3, d), (1,), tokens="all"),
        "sum": psr(model) - 0.5 * constant,
    }


def expected_tokens(model, steering, alpha=1.5):
    with steering.applied(model, alpha=alpha):
        return model.generate(PROMPTS, max_new_tokens=NEW, temperature=0.0)


def hf_texts(model, plain, prompts, **options):
    batch = model.to_batch(prompts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = plain.generate(
            batch.tokens,
            attention_mask=batch.attention_mask.long(),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=sorted(model.encoder.end_token_ids),
            pad_token_id=model.encoder.pad_token_id,
            **options,
        )
    texts = []
    for row in tokens[:, batch.tokens.shape[1] :].tolist():
        ends = [i for i, token in enumerate(row) if token in model.encoder.end_token_ids]
        texts.append(model.encoder.decode(tuple(row[: ends[0]] if ends else row)))
    return texts


def put_on(steering, model, **options):
    """Put a steering on and take it off again."""
    with steering.applied(model, **options):
        pass


def last_logits(plain):
    ids = torch.tensor([[3, 14, 15, 9, 2, 6]])
    with torch.no_grad():
        return plain(ids, use_cache=False).logits


@every_family
@pytest.mark.parametrize("kind", ["psr", "constant"])
def test_the_same_tokens_cached_uncached_batched_and_single(family, kind):
    model, plain = hooked(family), hf_model(family)
    steering = steerings(model)[kind]
    before = last_logits(plain)
    expected = expected_tokens(model, steering)
    with steering.applied(plain, alpha=1.5) as steered:
        assert steered.raw is plain
        assert hf_texts(model, plain, PROMPTS) == expected
        assert hf_texts(model, plain, PROMPTS, use_cache=False) == expected
        assert [hf_texts(model, plain, [p])[0] for p in PROMPTS] == expected
    assert hf_texts(model, plain, PROMPTS) != expected
    assert torch.equal(last_logits(plain), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.modules())
    assert "generate" not in plain.__dict__


@every_family
def test_the_logits_of_every_step_of_generate(family):
    """Sharper than tokens: what each step saw is what the whole sequence gives."""
    model, plain = hooked(family), hf_model(family)
    steering = steerings(model)["psr"]
    ids = model.encoder.encode(PROMPTS[1]).ids
    with steering.applied(plain, alpha=1.5):
        found = plain.generate(
            torch.tensor([ids]),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=True,
            temperature=3.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    batch = model.pad([TokenRow(tuple(found.sequences[0, :-1].tolist()), 0, len(ids) - 1)])
    with torch.no_grad(), steering.applied(model, alpha=1.5):
        expected = model.logits(batch)[0, -NEW:]
    torch.testing.assert_close(torch.cat(found.logits), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(steerings(tiny_model("llama", BACKENDS[0]))))
def test_every_kind_of_steering(kind):
    model, plain = hooked("llama"), hf_model("llama", attention="sdpa")
    steering = steerings(model)[kind]
    expected = expected_tokens(model, steering)
    with steering.applied(plain, alpha=1.5):
        assert hf_texts(model, plain, PROMPTS) == expected
        assert hf_texts(model, plain, PROMPTS, use_cache=False) == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("kind", ["psr", "actadd", "actadd-start", "sum"])
def test_the_logits_of_a_left_padded_forward_pass(family, kind):
    model, plain = hooked(family), hf_model(family)
    steering = steerings(model)[kind]
    batch = model.to_batch(PROMPTS)
    with torch.no_grad(), steering.applied(model):
        expected = model.logits(batch)[:, -1]
    positions = (batch.attention_mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad(), steering.applied(plain):
        found = plain(
            batch.tokens, attention_mask=batch.attention_mask.long(), position_ids=positions
        ).logits[:, -1]
        if family != "gpt2":  # which takes the cache as its second argument
            mask = batch.attention_mask[:1].long()
            alone = plain(batch.tokens[:1], mask, position_ids=positions[:1])
            torch.testing.assert_close(alone.logits[:, -1], expected[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("call", ["model", "decoder"])
def test_right_padding_steers_the_last_real_token(call):
    model, plain = hooked("llama"), hf_model("llama")
    steering = steerings(model)["psr"]
    rows = [model.encoder.encode(p).ids for p in PROMPTS]
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with torch.no_grad(), steering.applied(model):
        expected = model(PROMPTS)[:, -1]
    with torch.no_grad(), steering.applied(plain):
        if call == "model":
            logits = plain(ids, attention_mask=mask).logits
        else:
            hidden = plain.model(input_ids=ids, attention_mask=mask).last_hidden_state
            logits = plain.lm_head(hidden)
    last = torch.stack([row[len(own) - 1] for row, own in zip(logits, rows, strict=True)])
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)


def test_whole_sequences_with_a_prompt_length():
    model, plain = hooked("qwen2"), hf_model("qwen2")
    steering = steerings(model)["psr"]
    tokens = tuple(range(5, 25))
    batch = model.pad([TokenRow(tokens, 0, 8)])
    with torch.no_grad(), steering.applied(model):
        expected = model.logits(batch)
    with torch.no_grad(), steering.applied(plain, prompt_length=9):
        torch.testing.assert_close(plain(batch.tokens).logits, expected, rtol=1e-4, atol=1e-4)
        first = plain(batch.tokens[:, :12], use_cache=True)
        then = plain(batch.tokens[:, 12:], past_key_values=first.past_key_values)
    pieces = torch.cat([first.logits, then.logits], dim=1)
    torch.testing.assert_close(pieces, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_question_is_among_the_aligned_tokens_where_it_is_asked_for(family):
    model, plain = hooked(family), hf_model(family)
    steering = psr(model, "question+response")
    starts = [model.encoder.encode(p).question_start for p in PROMPTS]
    expected = expected_tokens(model, steering)
    with steering.applied(plain, alpha=1.5, question_start=starts):
        assert hf_texts(model, plain, PROMPTS) == expected
        assert hf_texts(model, plain, PROMPTS, use_cache=False) == expected
    assert expected != expected_tokens(model, psr(model))
    with (
        steering.applied(plain),
        pytest.raises(ValueError, match=r"tokens='question\+response'.*question_start="),
    ):
        hf_texts(model, plain, PROMPTS)
    with (
        steering.applied(plain, question_start=[0, 1]),
        pytest.raises(ValueError, match="2 rows were described but the batch has 3"),
    ):
        hf_texts(model, plain, PROMPTS)
    assert torch.equal(last_logits(plain), last_logits(hf_model(family)))


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static", "disable_compile": True},
        {"prefill_chunk_size": 4},
        {"num_beams": 3},
    ],
    ids=["static-cache", "chunked-prefill", "beams"],
)
@pytest.mark.parametrize("kind", ["psr", "actadd-start"])
def test_other_ways_to_generate(options, kind):
    """Finished masks, a prompt in pieces, rows that are repeated: the columns are known all the same."""
    model, plain = hooked("llama"), hf_model("llama")
    steering = steerings(model)[kind]
    with steering.applied(plain, alpha=1.5):
        if "num_beams" in options:
            found = hf_texts(model, plain, PROMPTS, **options)
            uncached = hf_texts(model, plain, PROMPTS, use_cache=False, **options)
            assert found == uncached
            assert [hf_texts(model, plain, [p], **options)[0] for p in PROMPTS] == found
        else:
            assert hf_texts(model, plain, PROMPTS, **options) == expected_tokens(model, steering)


def test_two_steerings_at_once_and_removal_in_any_order():
    model, plain = hooked("llama"), hf_model("llama")
    one, two = steerings(model)["psr"], steerings(model)["constant"]
    only_two = expected_tokens(model, two)
    with one.applied(model, alpha=1.5):
        both = expected_tokens(model, two)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(one.applied(plain, alpha=1.5))
    second.enter_context(two.applied(plain, alpha=1.5))
    assert hf_texts(model, plain, PROMPTS) == both
    first.close()
    assert hf_texts(model, plain, PROMPTS) == only_two
    second.close()
    assert "generate" not in plain.__dict__


def test_alpha_zero_changes_nothing_and_an_exception_leaves_nothing():
    plain = hf_model("gemma2")
    steering = steerings(hooked("gemma2"))["psr"]
    before = last_logits(plain)
    with steering.applied(plain, alpha=0.0):
        assert torch.equal(last_logits(plain), before)
    with contextlib.suppress(IndexError, RuntimeError), steering.applied(plain):
        plain(torch.tensor([[10**6]]))
    assert torch.equal(last_logits(plain), before)
    with steering.applied(plain):
        with contextlib.suppress(IndexError, RuntimeError):
            plain(torch.tensor([[10**6]]))
        assert not torch.equal(last_logits(plain), before)
    assert torch.equal(last_logits(plain), before)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma3"])
def test_it_belongs_to_the_model_it_was_fitted_on(family):
    model, plain = hooked(family), hf_model(family)
    steering = psr(model, provenance=provenance(model))
    put_on(steering, plain)
    put_on(steering + steering, plain)
    for stranger, reason in [
        (hf_model(family, seed=1), "residual stream"),
        (hf_model("qwen3"), ""),
    ]:
        with pytest.raises(ValueError, match=f"does not belong to .*{reason}"):
            put_on(steering, stranger)
        with pytest.raises(ValueError, match="does not belong to"):
            put_on(steering + steering, stranger)
        assert "generate" not in stranger.__dict__


def test_the_fingerprint_is_not_disturbed_by_steering_or_dropout():
    model = hooked("gpt2")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("gpt2")).train()
    unnamed, named = steerings(model)["constant"], psr(model, provenance=provenance(model))
    with unnamed.applied(plain, alpha=30.0):
        put_on(named, plain)
    assert plain.training
    assert all(module.training for module in plain.modules())


# --- the fingerprint follows the weights --------------------------------------------------------


def scaled(weight):
    with torch.no_grad():
        weight.mul_(1.3)


def merged(weight):
    weight.data += 0.3 * weight.data.flip(0)


def exchanged(weight):
    weight.data = 1.3 * weight.data


@pytest.mark.parametrize("write", [scaled, merged, exchanged])
def test_weights_that_were_written_to_after_the_first_look(write):
    model = hooked("llama")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    steering = psr(model, provenance=provenance(model))
    put_on(steering, plain)
    weight = plain.model.layers[1].mlp.down_proj.weight
    kept = weight.detach().clone()
    write(weight)
    with pytest.raises(ValueError, match=r"does not belong to .*residual stream"):
        put_on(steering, plain)
    # Also where the second look is the first after a fold.
    with steerings(model)["constant"].fold_into(plain), pytest.raises(ValueError, match="belong"):
        put_on(steering, plain)
    weight.data = kept
    put_on(steering, plain)


def test_what_is_folded_in_or_undone_is_not_another_model():
    model = hooked("llama")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    unnamed, named = steerings(model)["constant"], psr(model, provenance=provenance(model))
    first = unnamed.fold_into(plain, alpha=20.0)
    with unnamed.fold_into(plain, alpha=20.0):
        put_on(named, plain)
    put_on(named, plain)
    first.undo()
    put_on(named, plain)


# --- threads, order, copies ---------------------------------------------------------------------


def in_thread(call):
    """What a call gives, or raises, in a thread of its own."""
    found = []

    def work():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return lambda: (thread.join(60), found[0])[1]


def test_threads_steer_one_model_each_in_its_own_way():
    model, plain = hooked("llama"), hf_model("llama")
    three = [(steerings(model)[name], 1.5) for name in ("psr", "constant")]
    # Also one that asks for the plain model.
    three.append((three[0][0], 0.0))
    barrier = threading.Barrier(3, timeout=60)

    def run(steering, alpha, wait=lambda: None):
        with steering.applied(plain, alpha):
            wait()
            found = last_logits(plain), hf_texts(model, plain, PROMPTS)
            wait()
        return found

    before = last_logits(plain)
    alone = [run(*own) for own in three]
    together = [in_thread(lambda own=own: run(*own, barrier.wait)) for own in three]
    for ours, (logits, texts) in zip([wait() for wait in together], alone, strict=True):
        assert torch.equal(ours[0], logits)
        assert ours[1] == texts
    assert torch.equal(alone[2][0], before)
    assert not torch.equal(alone[0][0], alone[1][0])
    assert torch.equal(last_logits(plain), before)


def test_a_thread_that_put_nothing_on_is_refused_or_steered_on_request():
    model, plain = hooked("llama"), hf_model("llama")
    steering = steerings(model)["psr"]
    before = last_logits(plain)
    with steering.applied(plain):
        steered = last_logits(plain)
        error = in_thread(lambda: last_logits(plain))()
        assert isinstance(error, RuntimeError)
        assert str(error).startswith(
            "PSR(psr, 2 layers of an unnamed model, response tokens) was put on"
        )
        assert "applied(..., all_threads=True)" in str(error)
        assert "alpha=0.0" in str(error)
        assert torch.equal(last_logits(plain), steered)
    assert torch.equal(in_thread(lambda: last_logits(plain))(), before)
    with steering.applied(plain, all_threads=True):
        assert torch.equal(in_thread(lambda: last_logits(plain))(), steered)
    assert torch.equal(last_logits(plain), before)


def test_the_fingerprint_may_be_taken_while_another_thread_steers():
    model = hooked("llama")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    named = psr(model, provenance=provenance(model))
    with steerings(model)["constant"].applied(plain, alpha=30.0):
        assert in_thread(lambda: put_on(named, plain))() is None


def test_a_copy_that_is_made_inside_is_plain():
    model, plain = hooked("llama"), hf_model("llama")
    before, texts = last_logits(plain), hf_texts(model, plain, PROMPTS)
    steering = steerings(model)["psr"]
    with steering.applied(plain, alpha=1.5):
        steered = last_logits(plain)
        twin = copy.deepcopy(plain)
        assert torch.equal(last_logits(twin), before)
        assert hf_texts(model, twin, PROMPTS) == texts
        with steering.applied(twin, alpha=1.5):
            assert torch.equal(last_logits(twin), steered)
    # Its generate runs the copy, and not the original.
    with torch.no_grad():
        twin.lm_head.weight.mul_(-1)
    assert hf_texts(model, twin, PROMPTS) != texts
    assert hf_texts(model, plain, PROMPTS) == texts


def test_a_generate_that_the_user_gave_the_model_is_the_user_s():
    model = hooked("llama")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    calls = []

    def counted(original):
        def generate(*args, **kwargs):
            calls.append(1)
            return original(*args, **kwargs)

        return generate

    steering = steerings(model)["psr"]
    expected = expected_tokens(model, steering)
    plain.generate = mine = counted(plain.generate)
    with steering.applied(plain, alpha=1.5):
        assert hf_texts(model, plain, PROMPTS) == expected
    assert plain.generate is mine
    assert len(calls) == 1
    with steering.applied(plain, alpha=1.5):
        plain.generate = inside = counted(plain.generate)
        assert hf_texts(model, plain, PROMPTS) == expected
    assert plain.generate is inside
    assert hf_texts(model, plain, PROMPTS) != expected
    assert len(calls) == 5


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_a_pass_that_was_interrupted_says_nothing_about_the_next(call):
    model, plain = hooked("llama"), hf_model("llama")
    steering = steerings(model)["psr"]
    with steering.applied(plain):
        expected = last_logits(plain)
        handle = plain.model.layers[1].register_forward_pre_hook(interrupt)
        batch = model.to_batch(PROMPTS)
        with contextlib.suppress(KeyboardInterrupt):
            if call == "forward":
                plain(batch.tokens, attention_mask=batch.attention_mask.long())
            else:
                hf_texts(model, plain, PROMPTS)
        handle.remove()
        assert torch.equal(last_logits(plain), expected)


def interrupt(module, args):
    raise KeyboardInterrupt


# --- compiled -----------------------------------------------------------------------------------


def compiled_by_generate(plain):
    # What generate does with a static cache on a GPU.
    plain._compiled_call = torch.compile(plain.__call__, backend="eager")
    return plain


@pytest.mark.parametrize(
    ("way", "where"),
    [
        (lambda m: (m.compile(backend="eager"), m)[1], ""),
        (
            lambda m: (m.model.layers[1].mlp.compile(backend="eager"), m)[1],
            r" \(model\.layers\.1\.mlp\)",
        ),
        (lambda m: torch.compile(m, backend="eager"), ""),
        (compiled_by_generate, ""),
    ],
    ids=["compile", "submodule", "torch.compile", "generate"],
)
def test_a_compiled_model_is_refused(way, where):
    model = hooked("llama")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    message = f"^this LlamaForCausalLM is compiled{where}, and .*disable_compile=True"
    with pytest.raises(ValueError, match=message) as error:
        put_on(steerings(model)["psr"], way(plain))
    assert "\n" not in str(error.value)
    assert not any(module._forward_hooks for module in plain.modules())


@pytest.mark.parametrize(
    ("steering", "target", "message"),
    [
        (lambda m: psr(m), lambda: torch.nn.Linear(2, 2), "a model of type Linear was given: pass"),
        (
            lambda m: ConstantSteering(draw(1, 1, m.d_model), (7,)),
            lambda: hf_model("llama"),
            "covers layer 7 but .* has 3 layers",
        ),
        (lambda m: OracleSteering((0,)), lambda: hf_model("llama"), "pass examples="),
    ],
)
def test_one_clear_line(steering, target, message):
    with pytest.raises(ValueError, match=message):
        put_on(steering(hooked("llama")), target())


def test_alpha_must_be_finite():
    with pytest.raises(ValueError, match="alpha=nan: it must be a finite number"):
        put_on(psr(hooked("llama")), hf_model("llama"), alpha=float("nan"))


# What conversions, tables, pictures and notebooks need, and no steering does.
HEAVY = ["IPython", "circuitsvis", "datasets", "pandas", "plotly", "pyarrow", "transformer_lens"]


def test_nothing_heavy_is_imported_to_steer_a_plain_model(tmp_path):
    model = hooked("llama")
    steering = psr(model, provenance=provenance(model))
    path = steering.save(tmp_path / "one")
    batch = model.to_batch(PROMPTS[:1])
    (expected,) = expected_tokens(model, steering)[:1]
    program = f"""
import json, sys

def imported(*names):
    return sorted({{*names, *{HEAVY!r}}} & sys.modules.keys())

found = {{}}
import torch
import psr_lens as pl
steering = pl.load_steering({str(path)!r})
found["load_steering"] = imported("transformers", "huggingface_hub", "gguf")

# What transformers finds installed it may import for itself.
from transformers import AutoModelForCausalLM
hf_model = AutoModelForCausalLM.from_pretrained({str(checkpoint("llama"))!r})
prompt = torch.tensor({batch.tokens.tolist()!r})
hf_model.generate(prompt, max_new_tokens={NEW}, do_sample=False)
theirs = imported()

with steering.applied(hf_model, alpha=1.5):
    tokens = hf_model.generate(prompt, max_new_tokens={NEW}, do_sample=False)
found["applied"] = sorted(set(imported()) - set(theirs))
print(json.dumps([found, tokens[0, prompt.shape[1]:].tolist()]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    found, tokens = json.loads(done.stdout)
    assert found == {"load_steering": [], "applied": []}
    ends = [i for i, token in enumerate(tokens) if token in model.encoder.end_token_ids]
    assert model.encoder.decode(tuple(tokens[: ends[0]] if ends else tokens)) == expected
