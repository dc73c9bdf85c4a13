"""A report's measures as a data frame, and its sums as what a file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from psr_lens.faithfulness.curves import Kind, Run, curve_of
from psr_lens.faithfulness.measures import MEASURES, OUTPUT_SUMS
from psr_lens.faithfulness.references import NO_STEERING
from psr_lens.storage.fields import choice, listed, only, take, text, whole

if TYPE_CHECKING:
    import pandas


def measures_table(
    runs: Mapping[str, Run], counts: Float[Tensor, "n_bootstrap example"]
) -> "pandas.DataFrame":
    """Every measure of every run in tidy long form; see `FaithfulnessReport.to_dataframe`."""
    import pandas as pd

    rows = []
    for name, run in runs.items():
        for measure in MEASURES.values():
            if not run.has(measure):
                continue
            curve = curve_of(run, measure, counts)
            per_layer = run.sums[measure.sums[0]].ndim == 2
            counting = run.sums[measure.count or measure.sums[0]] if measure.count else None
            for layer, estimate in enumerate(curve.estimates):
                rows.append(
                    {
                        "steering": name,
                        "reference": run.kind != "steering",
                        "measure": measure.name,
                        "layer": layer if per_layer else pd.NA,
                        **asdict(estimate),
                        "examples": counts.shape[1]
                        if counting is None
                        else int((counting[:, layer] > 0).sum()),
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def pack_runs(runs: Mapping[str, Run]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """All sums as tensors, and the rest of the runs as JSON values."""
    tensors = {
        f"{i}.{key}": sums for i, run in enumerate(runs.values()) for key, sums in run.sums.items()
    }
    return tensors, [
        {
            "name": name,
            "kind": run.kind,
            "layers": list(run.layers),
            "sums": list(run.sums),
            "acts_on": run.acts_on,
        }
        for name, run in runs.items()
    ]


def unpack_runs(
    tensors: dict[str, Shaped[Tensor, "..."]], described: Sequence[Mapping[str, Any]]
) -> dict[str, Run]:
    """The inverse of `pack_runs`: takes its tensors out of those given.

    Raises:
        ValueError: If they do not fit each other, or something in them is missing or of the wrong kind.
    """
    runs: dict[str, Run] = {}
    for i, run in enumerate(described):
        only(run, "name", "kind", "layers", "sums", "acts_on")
        name, keys = text(run, "name"), listed(run, "sums", text)
        if name in runs:
            raise ValueError(f"there are two runs {name!r}")
        sums = {
            key: take(tensors, f"{i}.{key}", torch.float64, 1 if key in OUTPUT_SUMS else 2)
            for key in keys
        }
        runs[name] = Run(
            choice(run, "kind", get_args(Kind)),
            tuple(listed(run, "layers", whole)),
            sums,
            text(run, "acts_on"),
        )
    if NO_STEERING not in runs or "energy" not in runs[NO_STEERING].sums:
        raise ValueError(f"the energy of {NO_STEERING!r} is missing")
    shape = runs[NO_STEERING].sums["energy"].shape
    if 0 in shape:
        raise ValueError(f"energy has shape {list(shape)}: there are no examples, or no layers")
    for name, run in runs.items():
        if any(layer >= shape[1] for layer in run.layers):
            raise ValueError(
                f"layers={list(run.layers)} of {name!r}, but there are {shape[1]} layers"
            )
        for key, sums in run.sums.items():
            if sums.shape != shape[: sums.ndim]:
                raise ValueError(
                    f"{key} of {name!r} has shape {list(sums.shape)}, not that of the energy, "
                    f"{list(shape)}"
                )
    return runs
