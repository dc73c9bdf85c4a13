"""Runs on CUDA: the deltas of the CPU, the identities of the method, and nothing left behind.

In float32, both devices round at 6e-8 and add in another order; a tensor of TensorFloat-32, which rounds at
5e-4, would be seen. In bfloat16 a number is rounded at 4e-3, at every layer anew.
"""

import pytest
import torch

import psr_lens as pl
from psr_lens.deltas import aligned_residuals, example_batches
from psr_lens.models.generation import generate_tokens
from psr_lens.steering import OracleSteering
from tests.cuda.placed import (
    CASES,
    DEVICE,
    EXACT_CASES,
    ONE,
    data_of,
    demo_data,
    needs_device,
    same_place,
    size,
)
from tests.tiny_steerings import KINDS, made_up

pytestmark = needs_device

# In units of the largest number of its kind.
CLOSE = {"float32": 1e-5, "bfloat16": 0.03}
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_exact_case = pytest.mark.parametrize("case", EXACT_CASES, ids=str)


@every_case
def test_the_model_is_where_it_was_asked_for(case):
    model = case.on(DEVICE)
    tensors = [*model.raw.parameters(), *model.raw.buffers()]
    assert all(same_place(own.device) for own in tensors)
    assert {own.dtype for own in model.raw.parameters()} == {model.dtype}
    assert str(model.dtype) == f"torch.{case.dtype}"


@every_case
def test_deltas_are_those_of_the_cpu(case):
    data = data_of(case.name)[:6]
    there, here = (pl.collect_deltas(case.on(device), data) for device in (DEVICE, "cpu"))
    _, prompted = example_batches(case.on("cpu"), data)
    scale = size(aligned_residuals(case.on("cpu"), prompted, "response"))
    for own, other in zip(there, here, strict=True):
        for kind in ("accumulated", "local"):
            found, wanted = getattr(own, kind), getattr(other, kind)
            assert found.device.type == "cpu"
            assert found.dtype == torch.float32
            assert size(found - wanted) < CLOSE[case.dtype] * scale
            # They are not all rounding, or this would say nothing.
            assert size(wanted) > CLOSE[case.dtype] * scale


@every_case
def test_the_oracle_reproduces_the_prompted_logits(case):
    model, data = case.on(DEVICE), data_of(case.name)[:6]
    base, prompted = example_batches(model, data)
    with torch.no_grad():
        wanted = model.logits(prompted)[prompted.on("response")].float()
        plain = model.logits(base)[base.on("response")].float()
        with OracleSteering(range(model.n_layers)).applied(model, examples=data):
            found = model.logits(base)[base.on("response")].float()
    assert same_place(wanted.device)
    assert size(found - wanted) < CLOSE[case.dtype] * size(wanted)
    assert size(plain - wanted) > 2 * CLOSE[case.dtype] * size(wanted)


@every_exact_case
def test_batches_are_singles(case):
    model, data = case.on(DEVICE), data_of(case.name)[:6]
    together = pl.collect_deltas(model, data)
    alone = [pl.collect_deltas(model, [example])[0] for example in data]
    for own, other in zip(together, alone, strict=True):
        assert size(own.accumulated - other.accumulated) < 1e-5 * max(1, size(other.accumulated))
        assert size(own.local - other.local) < 1e-5 * max(1, size(other.accumulated))


@pytest.mark.parametrize("steered", [False, True])
@every_exact_case
def test_answers_are_the_same_with_a_cache_without_one_alone_and_on_the_cpu(case, steered):
    data = data_of(case.name)[:4]
    ids = [example.pair.base for example in data]
    options = {"max_new_tokens": 8, "temperature": 0.0}

    def said(device, **more):
        model = case.on(device)
        if not steered:
            return generate_tokens(model, ids, **options, **more)
        with made_up("psr", model, scale=0.1).applied(model):
            return generate_tokens(model, ids, **options, **more)

    wanted = said("cpu")
    assert said(DEVICE) == wanted
    assert said(DEVICE, use_cache=False) == wanted
    assert said(DEVICE, batch_size=1) == wanted


@every_case
def test_sampling_with_and_without_a_cache_and_its_seed(case):
    """In bfloat16 a draw can fall on the other side of a rounded probability, so that answers part."""
    model = case.on(DEVICE)
    prompts = [example.pair.base for example in data_of(case.name)[:4]] * 4

    def said(seed=5, **more):
        return generate_tokens(model, prompts, max_new_tokens=4, seed=seed, **more)

    found = said()
    torch.manual_seed(99)
    assert said() == found
    assert said(seed=6) != found
    firsts = [
        [own.tokens[:1] for own in run]
        for run in (found, said(use_cache=False), said(batch_size=3))
    ]
    least = {"float32": 1.0, "bfloat16": 0.75}[case.dtype]
    for others in firsts[1:]:
        same = sum(a == b for a, b in zip(firsts[0], others, strict=True)) / len(prompts)
        assert same >= least
    if case.dtype == "float32":
        assert said(use_cache=False) == found == said(batch_size=3)


@every_case
def test_a_steering_that_was_taken_off_leaves_no_trace(case):
    model, data = case.on(DEVICE), data_of(case.name)[:3]
    base, _ = example_batches(model, data)
    hooks = _hooks(model)
    with torch.no_grad():
        before = model.logits(base)
        with made_up("psr", model).applied(model):
            inside = model.logits(base)
        assert torch.equal(model.logits(base), before)
        with pytest.raises(KeyError):
            _interrupted(model, base)
        assert torch.equal(model.logits(base), before)
    assert not torch.equal(inside, before)
    assert _hooks(model) == hooks


def _interrupted(model, base):
    with made_up("constant", model).applied(model):
        model.logits(base)
        raise KeyError


def _hooks(model):
    modules = list(model.raw.modules())
    return sum(len(own._forward_hooks) + len(own._forward_pre_hooks) for own in modules)


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_every_kind_of_steering_acts_as_on_the_cpu(case, kind):
    """Made on the CPU in float32, and put onto a model wherever that is, whatever its number type."""
    data = data_of(case.name)[:3]

    def pushed(device):
        model = case.on(device)
        base, _ = example_batches(model, data)
        with torch.no_grad(), made_up(kind, model, scale=0.2).applied(model):
            logits = model.logits(base)
        assert logits.dtype == model.dtype
        assert logits.device == model.device
        return logits[base.on("response")].float().cpu()

    wanted = pushed("cpu")
    assert size(pushed(DEVICE) - wanted) < 3 * CLOSE[case.dtype] * size(wanted)


def test_parts_of_a_sum_may_be_on_different_devices():
    model = ONE.on(DEVICE)
    base, _ = example_batches(model, demo_data()[:3])
    one, other = made_up("psr", model, scale=0.2), made_up("constant", model, scale=0.2)
    with torch.no_grad():
        with (one + other).applied(model):
            wanted = model.logits(base)
        one.to(DEVICE)
        with (one + other).applied(model):
            assert torch.equal(model.logits(base), wanted)
        with (other + one).applied(model):
            assert size(model.logits(base) - wanted) < 1e-5 * size(wanted)
