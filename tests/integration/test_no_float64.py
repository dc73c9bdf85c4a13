"""On a device without float64, as Apple's GPUs are, sums in float64 are taken on the CPU."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import psr_lens as pl
from psr_lens._types import sum_device
from tests.tiny_models import BACKENDS, instructed, tiny_model
from tests.tiny_steerings import made_up

CPU = torch.device("cpu", 0)
"""What `sum_device` says in these tests: the model's device is called `cpu`, without a number."""


def on_cpu(value: Any) -> bool:
    return getattr(value, "is_on_the_cpu", False)


class WithoutFloat64(TorchFunctionMode):
    """A stand-in for such a device: what was not brought to the CPU never becomes float64.

    On the CPU is what was brought there, what was made without naming a device, and what comes of
    floating-point numbers that are all there. All else is on the device, the weights first.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        moved = func in (Tensor.cpu, Tensor.to, Tensor.double, Tensor.float)
        here = self._is_on_cpu(func, given)
        for own in tree_leaves(result):
            if not isinstance(own, Tensor) or not own.is_floating_point():
                continue
            if moved and any(own is other for other in given):
                # Nothing to do where all is the CPU; on a device it would be a copy.
                own = result = own.view_as(own)
            if any(own is other for other in given):
                continue
            if own.dtype == torch.float64 and not here:
                raise TypeError(f"float64 on a device that has none: by {func}")
            own.is_on_the_cpu = here
        return result

    def _is_on_cpu(self, func: Any, given: list[Any]) -> bool:
        devices = [value for value in given if isinstance(value, torch.device)]
        floats = [own for own in given if isinstance(own, Tensor) and own.is_floating_point()]
        if func is Tensor.cpu:
            return True
        if devices:
            return devices[0].index == CPU.index
        if func is Tensor.to and len(floats) == 2:
            return on_cpu(floats[1])
        return all(map(on_cpu, floats))


@pytest.fixture(scope="module")
def model():
    # What a backend computes it computes in its own number type: the sums are above it.
    return tiny_model("llama", BACKENDS[0])


@pytest.fixture(scope="module")
def data(model):
    pairs = [
        instructed(model, f"tell me about animal {i}", "be very kind", ["be nice"])
        for i in range(8)
    ]
    return pl.sample_responses(model, pairs, max_new_tokens=4, progress=False)


@pytest.fixture
def without_float64(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("psr_lens.") and getattr(module, "sum_device", None) is sum_device:
            monkeypatch.setattr(module, "sum_device", lambda device: CPU)
    with WithoutFloat64():
        yield


def test_apples_gpus_have_none_and_others_do():
    assert sum_device(torch.device("mps")) == torch.device("cpu")
    assert sum_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_the_stand_in_refuses(model, data, without_float64):
    delta = pl.collect_deltas(model, data[:1])[0].accumulated
    # Brought to the CPU, as its docstring says.
    assert on_cpu(delta)
    assert delta.double().dtype == torch.float64
    with pytest.raises(TypeError, match="float64 on a device that has none"):
        model("tell me about the otter").double()


USES = {
    "sampling": lambda m, d: m.generate(["tell me", "what does a fox eat"], max_new_tokens=3),
    "dim": lambda m, d: pl.fit(m, d, method="dim"),
    "pca": lambda m, d: pl.fit(m, d, method="pca"),
    "projection": lambda m, d: pl.fit(m, d, method="projection"),
    "oracle": lambda m, d: pl.fit(m, d, method="oracle", rank=2),
    "psr": lambda m, d: pl.fit(m, d, layers=1, epochs=1),
    "const": lambda m, d: pl.fit(m, d, method="const", objective="ll", solver="gradient", epochs=1),
    "reft_r1": lambda m, d: pl.fit(m, d, method="reft_r1", layers=1, epochs=1),
    "faithfulness": lambda m, d: pl.measure_faithfulness(m, made_up("psr", m), d.test),
    "components": lambda m, d: pl.measure_components(m, d.test),
    "assumptions": lambda m, d: pl.measure_assumptions(m, d, layers=1),
    "lens": lambda m, d: pl.read_steering(m, made_up("psr", m)),
    "strengths": lambda m, d: made_up("psr", m).coefficients(m, d.test, alpha=0.5),
}


@pytest.mark.parametrize("use", USES)
def test_sums_in_float64_are_taken_on_the_cpu(model, data, without_float64, use):
    USES[use](model, data)
