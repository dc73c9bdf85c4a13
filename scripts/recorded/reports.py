"""Reports: faithfulness, comparison, assumptions, components, the lens."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

import psr_lens as pl
from scripts.recorded.given import Given
from scripts.recorded.names import round_trip
from scripts.recorded.record import Record

INTERVALS: Final = (
    *("relative_rmse", "spearman", "kl", "gap_direction"),
    *("share", "instruction_attention", "energy_share", "strength_variation", "relu_r2"),
)
"""Measures whose intervals are recorded; all come about in the same way."""


def add_table(
    record: Record,
    table: pd.DataFrame,
    by: Sequence[str],
    tolerance: str | Callable[[str], str],
    *,
    intervals: Container[str] = (),
) -> None:
    """A long table: the values of every group, and fingerprints of both ends of their intervals.

    Args:
        record: Where to add it.
        table: With columns `value`, `low`, `high`.
        by: Columns that name a group, the measure last.
        tolerance: One for all, or one for each measure.
        intervals: The measures whose intervals are recorded.
    """
    for names, rows in _groups(table, by):
        kind = tolerance if isinstance(tolerance, str) else tolerance(names[-1])
        part = record.within(", ".join(names))
        part.add("value", rows["value"].to_numpy(dtype=float), kind)
        if names[-1] in intervals:
            part.add_tensor("interval", _columns(rows, ("low", "high")), kind)


def add_fingerprints(
    record: Record,
    table: pd.DataFrame,
    by: Sequence[str],
    columns: Sequence[str],
) -> None:
    """A long table with many rows: fingerprints of some columns for every group."""
    for names, rows in _groups(table, by):
        record.add_tensor(", ".join(names), _columns(rows, columns))


def _groups(
    table: pd.DataFrame, by: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    for key, rows in table.groupby(list(by), sort=False, dropna=False):
        yield tuple(map(str, key)), rows


def _columns(table: pd.DataFrame, names: Sequence[str]) -> Tensor:
    """Columns as rows, 0 where there is no number."""
    numbers = table[list(names)].to_numpy(dtype=float, na_value=float("nan"))
    return torch.tensor(numbers.T).nan_to_num(0.0)


def record_faithfulness(given: Given, record: Record, found: Mapping[str, pl.Steering]) -> None:
    """All tables of `measure_faithfulness`, on both kinds of tokens."""
    on_r = {name: found[name] for name in ("psr layerwise", "dim best", "projection")}
    on_r["sum"] = 0.5 * found["psr layerwise"] + 0.25 * found["dim best"]
    on_qr = {name: found[name] for name in ("psr layerwise QR",) if name in found}
    for tokens, steerings, alpha in (("response", on_r, 0.9), ("question+response", on_qr, 1.0)):
        if not steerings:
            continue
        part = record.within(tokens)
        report = pl.measure_faithfulness(
            given.model,
            steerings,
            given.data.test,
            alpha=alpha,
            tokens=tokens,
            n_bootstrap=200,
            token_examples=2,
            oracle_ranks=(1, 3),
        )
        table = report.to_dataframe()
        if not given.setup.covers("most"):
            table = table[table["steering"].isin([*steerings, "oracle rank 3", "paraphrase"])]
        add_table(part, table, ("steering", "measure"), "share", intervals=INTERVALS)
        kept = ("delta", "effect", "error", "cosine", "kl")
        add_fingerprints(part.within("tokens"), report.tokens, ("steering",), kept)
        effect = report.provenance["prompt_effect"]
        part.add("prompt effect", effect["kl_per_token"], "share")
        first, *others = steerings
        for other in others:
            gained = report.difference(first, other)
            part.add(f"{first} minus {other}", [gained.values, gained.low, gained.high], "share")
        again = round_trip(report).to_dataframe()
        part.add_exact("saved and loaded alike", again.equals(report.to_dataframe()))


def record_comparison(given: Given, record: Record) -> None:
    """`compare`, with all that it tries."""
    found = pl.compare(given.model, given.data, ["dim", "projection", "const", "psr"], epochs=2)
    table = found.to_dataframe()
    record.add_exact(
        "chosen", table[["layers", "objective", "solver"]].reset_index().values.tolist()
    )
    columns = ["relative_rmse", "low", "high", "dev_relative_rmse"]
    for name, row in table.iterrows():
        record.add(str(name), row[columns].to_list(), "trained share")
        settings = found.steerings[name].fit_report.settings
        record.add(f"{name}, settings", [error for _, error in settings], "trained share")
    differences = found.differences()
    record.add_exact("further away", list(differences.index))
    record.add(
        "differences",
        differences[["difference", "low", "high"]].to_numpy(dtype=float),
        "trained share",
    )


def record_assumptions(given: Given, record: Record) -> None:
    """The assumption reports, of both kinds of delta."""

    def tolerance(name: str) -> str:
        plain = ("tokens", "mean_strength", "strength_variation")
        return "rounding" if name in plain else "share"

    settings: Sequence[dict[str, Any]] = (
        {"probe_data": given.data.train},
        {"kind": "accumulated", "tokens": "question+response", "layers": [1, 4]},
    )
    for options in settings:
        part = record.within(str(options.get("kind", "local")))
        report = pl.measure_assumptions(given.model, given.data.test, n_bootstrap=200, **options)
        table = report.to_dataframe()
        many = table["name"].isin(["singular_energy", "norm_quantile", "strength_quantile"])
        spread = table["token_class"] != "all"
        add_table(
            part, table[~many & ~spread], ("kind", "at", "name"), tolerance, intervals=INTERVALS
        )
        columns = ("value", "low", "high")
        add_fingerprints(part, table[many & ~spread], ("kind", "layer", "name"), columns)
        add_fingerprints(part.within("classes"), table[spread], ("kind", "name"), columns)
        for assumption in ("one direction", "same strength", "decodable"):
            part.add_exact(assumption, report.verdicts(assumption))
        sizes = [report.examples, report.probe_examples, report.held_out_examples]
        part.add_exact("examples", [*sizes, *report.token_classes])


def record_components(given: Given, record: Record) -> None:
    """What attention, heads and MLPs contribute."""
    report = pl.measure_components(given.model, given.data.test, n_bootstrap=200, token_examples=2)

    def tolerance(name: str) -> str:
        return "rounding" if name == "norm" else "share"

    table = report.to_dataframe()
    add_table(record, table, ("kind", "layer", "measure"), tolerance, intervals=INTERVALS)
    tokens = report.tokens_to_dataframe()
    add_fingerprints(record.within("tokens"), tokens, ("example",), ("norm", "share"))


def record_lens(given: Given, record: Record, found: Mapping[str, pl.Steering]) -> None:
    """What directions and deltas say in words."""
    model = given.model
    (deltas,) = pl.collect_deltas(model, given.data.test[:1])
    mean = deltas.accumulated[-1].mean(dim=0)
    readings = {
        "direction": pl.logit_lens(model, mean, top=5),
        "steering": pl.read_steering(model, found["psr layerwise"], top=3),
        "delta": pl.read_delta(model, deltas, [2, 5], 4, top=5),
    }
    for name, reading in readings.items():
        table = reading.to_dataframe()
        record.add_exact(f"{name}, tokens", table["token_id"].to_list())
        add_fingerprints(record.within(name), table, ("direction",), ("value", "standing"))
