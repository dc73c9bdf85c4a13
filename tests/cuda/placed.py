"""Models on the device under test and the same ones on the CPU, and one small data set for all of them.

The device is CUDA, and where there is none these tests are skipped. `PSR_LENS_TEST_DEVICE=cpu` runs them
on a machine without one: it shows that the tests are right, not that the device is.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import psr_lens as pl
from psr_lens.demo import animals
from psr_lens.models.load import hooked_available
from tests.tiny_models import checkpoint, instructed

DEVICE = os.environ.get("PSR_LENS_TEST_DEVICE", "cuda")
TRAIT = "pirate"

needs_device = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device"
)

BACKENDS = ("transformers", "hooked", "bridge") if hooked_available() else ("bridge",)
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """A model by name, or a tiny one by family, on a backend, in a number type."""

    name: str
    backend: str
    dtype: str

    def on(self, device: str) -> Any:
        """The model there, loaded once; tests leave it as they found it."""
        return _loaded(self.name, self.backend, self.dtype, device)

    def __str__(self) -> str:
        return f"{self.name}-{self.backend}-{self.dtype}"


# Learnt positions and local attention, beside the demo model's rotary ones.
TINY = (("gpt2", BACKENDS[0]), ("gemma2", "bridge"))
CASES = tuple(
    Case(name, backend, dtype)
    for name, backend in (*(("demo", own) for own in BACKENDS), *TINY)
    for dtype in DTYPES
)
EXACT_CASES = tuple(case for case in CASES if case.dtype == "float32")
DEMO_CASES = tuple(case for case in CASES if case.name == "demo")
ONE = Case("demo", BACKENDS[0], "float32")


def same_place(found: torch.device) -> bool:
    """Whether a tensor is on the device under test; one without a number is the current one."""
    return found.type == torch.device(DEVICE).type


def size(values: torch.Tensor) -> float:
    """The largest of the numbers."""
    return float(values.abs().max())


@cache
def demo_data() -> pl.SteeringDataset:
    """Twenty answers to fit and choose on and six to measure, of the demo model on the CPU."""
    known = animals.training_pairs(TRAIT)[::9]
    new = animals.held_out_pairs(TRAIT, 1)[::4][:6]
    split = {pair.group: "dev" if i % 4 == 0 else "train" for i, pair in enumerate(known)}
    split |= {pair.group: "test" for pair in new}
    model = Case("demo", BACKENDS[0], "float32").on("cpu")
    return pl.sample_responses(
        model, [*known, *new], max_new_tokens=32, split=split, progress=False
    )


@cache
def data_of(name: str) -> pl.SteeringDataset:
    """Data that a model of that name takes; a tiny one says anything."""
    if name == "demo":
        return demo_data()
    model = Case(name, "transformers" if hooked_available() else "bridge", "float32").on("cpu")
    questions = ("the cat", "what is a dog like today", "tell me about the small old house")
    pairs = [instructed(model, own, "always be very kind and answer") for own in questions]
    return pl.sample_responses(model, pairs, max_new_tokens=6, seed=3, progress=False)


@cache
def _loaded(name: str, backend: str, dtype: str, device: str) -> Any:
    source = "demo" if name == "demo" else checkpoint(name)
    return pl.load_model(source, backend=backend, device=device, dtype=dtype, progress=False)
