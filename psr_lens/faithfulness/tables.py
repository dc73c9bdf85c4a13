"""A report's numbers as data frames, and its sums back from them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from psr_lens._types import check_whole
from psr_lens.faithfulness.curves import Kind, Run, curve_of
from psr_lens.faithfulness.measures import MEASURES
from psr_lens.faithfulness.references import NO_STEERING
from psr_lens.report_files import choice

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
            for layer, (value, low, high) in enumerate(
                zip(curve.values, curve.low, curve.high, strict=True)
            ):
                rows.append(
                    {
                        "steering": name,
                        "reference": run.kind != "steering",
                        "measure": measure.name,
                        "layer": layer if per_layer else pd.NA,
                        "value": value,
                        "low": low,
                        "high": high,
                        "examples": counts.shape[1]
                        if counting is None
                        else int((counting[:, layer] > 0).sum()),
                    }
                )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def sums_tables(runs: Mapping[str, Run]) -> "dict[str, pandas.DataFrame]":
    """All sums: `layers`, one row per run, example and layer, and `outputs`, one per run and example.

    A column that a run does not have is NaN in its rows.
    """
    import pandas as pd

    layers, outputs = [], []
    for name, run in runs.items():
        matrices = {key: own for key, own in run.sums.items() if own.ndim == 2}
        vectors = {key: own for key, own in run.sums.items() if own.ndim == 1}
        n_examples, n_layers = next(iter(matrices.values())).shape
        layers.append(
            pd.DataFrame(
                {
                    "run": name,
                    "example": torch.arange(n_examples).repeat_interleave(n_layers).numpy(),
                    "layer": torch.arange(n_layers).repeat(n_examples).numpy(),
                    **{key: own.flatten().numpy() for key, own in matrices.items()},
                }
            )
        )
        if vectors:
            columns = {key: own.numpy() for key, own in vectors.items()}
            outputs.append(pd.DataFrame({"run": name, "example": range(n_examples), **columns}))
    tables = {"layers": pd.concat(layers, ignore_index=True)}
    if outputs:
        tables["outputs"] = pd.concat(outputs, ignore_index=True)
    return tables


def runs_from_tables(
    described: Sequence[Mapping[str, Any]], tables: "Mapping[str, pandas.DataFrame]"
) -> dict[str, Run]:
    """The inverse of `sums_tables`.

    Args:
        described: Name, kind, layers and names of the sums of every run.
        tables: What `sums_tables` gave.

    Raises:
        ValueError: If they do not fit each other, or something in them is of the wrong kind.
        KeyError: If something is missing.
    """
    n_layers = len(tables["layers"]["layer"].unique())

    def sums_of(run: Mapping[str, Any]) -> dict[str, Tensor]:
        found = {}
        for key in run["sums"]:
            per_layer = key in tables["layers"]
            table = tables["layers" if per_layer else "outputs"]
            values = torch.tensor(table.loc[table["run"] == run["name"], key].to_numpy())
            found[key] = values.reshape(-1, n_layers) if per_layer else values
        return found

    runs = {
        run["name"]: Run(
            choice(run, "kind", get_args(Kind)),
            tuple(check_whole("layers", layer) for layer in run["layers"]),
            sums_of(run),
        )
        for run in described
    }
    shape = runs[NO_STEERING].sums["energy"].shape
    for name, run in runs.items():
        for key, sums in run.sums.items():
            if sums.shape not in (shape, shape[:1]):
                raise ValueError(
                    f"{key} of {name!r} has shape {tuple(sums.shape)}, and not that of the energy, "
                    f"{tuple(shape)}"
                )
    return runs
