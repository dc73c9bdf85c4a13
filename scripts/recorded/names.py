"""Calls of the library by other than its usual public names: all that a renaming would touch."""

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import psr_lens as pl


def tensors_of(steering: Any) -> Mapping[str, Tensor]:
    """A steering's tensors; for a subspace its projector, since the basis is arbitrary."""
    found = {name.removeprefix("steerings."): own for name, own in steering.state_dict().items()}
    if "change" in found:
        found["weight"] = found.pop("change") + found["rotation"]
    basis = found.pop("basis", None)
    return found if basis is None else {**found, "projector": basis.mT @ basis}


def needs_examples(steering: Any) -> bool:
    """Whether it is the oracle, which cannot generate."""
    return steering.depends_on_examples


def round_trip(thing: Any) -> Any:
    """A steering or report, saved and loaded."""
    load = pl.load_steering if isinstance(thing, pl.Steering) else type(thing).load
    with tempfile.TemporaryDirectory() as folder:
        return load(thing.save(Path(folder) / "saved"))


def responses_of(data: Sequence[Any]) -> list[Any]:
    """Tokens of every response, and whether the model ended it."""
    return [[*example.response_ids, "end" if example.finished else "cut off"] for example in data]


def run_command(*arguments: str) -> None:
    """The command line, quietly."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pl.cli.main([*arguments])


def residuals_in(cache: Any, model: pl.HookedModel) -> Tensor:
    """The residual stream after every block, from TransformerLens' cache."""
    names = [f"blocks.{layer}.hook_out" for layer in range(model.n_layers)]
    if names[0] not in cache:
        names = [name.replace("hook_out", "hook_resid_post") for name in names]
    return torch.stack([cache[name][0] for name in names])
